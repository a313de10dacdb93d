"""Readers for corpora in the layouts in which people receive them."""
