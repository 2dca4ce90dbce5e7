"""Texts: T5, tokens, and a task of texts as it is stored.

modality.py is what training and evaluation call."""
