"""The modality of an encoder: found by the name of its room, vision or language; a third is a third
room, whose `modality` reads an encoder as core.encoder.Encoder."""

from importlib import import_module

import torch

from ..core.encoder import Encoder
from ..files.paths import PathLike


def read_encoder(
    encoder_dir: PathLike, modality: str = "vision", device: torch.device | str = "cpu"
) -> Encoder:
    """An encoder at θ0, from the encoder stage's folder. Raises UserError as the modality's."""
    room = import_module(f"..{modality}.modality", __package__)
    encoder: Encoder = room.read_encoder(encoder_dir, device)
    return encoder
