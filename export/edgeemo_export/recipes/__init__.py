"""Recipes: what is trained on what, one module each."""
