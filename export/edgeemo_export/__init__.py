"""Trains the models of edgeemo on a workstation and writes them as bundles."""
