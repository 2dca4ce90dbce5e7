"""The embedded suite: small tasks, small CLIP encoders and the corpus that pretrained them."""
