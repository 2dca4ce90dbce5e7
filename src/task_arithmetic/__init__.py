"""Task arithmetic on CLIP image encoders: task vectors, unified models, weight disentanglement."""

__version__ = "0.1.0"
