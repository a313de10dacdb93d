"""Readers of the corpora, their splits by speaker and the augmentation of what they give."""
