"""Images: CLIP's towers, heads, pixels, and a task of images as it is stored.

modality.py is what training and evaluation call."""
