"""Encoders that turn pixels and samples into tokens, preprocessing included."""
