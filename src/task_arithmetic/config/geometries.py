"""The geometry of an encoder, of whichever modality, from its definition."""

from pathlib import Path
from typing import Any

from ..files.paths import read_users_json
from ..language.geometry import T5, t5_geometry
from ..vision.geometry import ViT, clip_geometry
from .definitions import AnyEncoder, Encoder
from .experiment import Experiment

Geometry = ViT | T5


def read_geometry(name: str, encoder: AnyEncoder) -> Geometry:
    """An encoder's geometry.

    Raises:
        UserError: it is no plain CLIP ViT, or no plain T5; see `clip_geometry`.
    """
    if isinstance(encoder, Encoder):
        return clip_geometry(name, encoder.given())
    config: dict[str, Any] = encoder.architecture.given() if encoder.architecture else {}
    if encoder.path is not None:
        config = {**read_users_json(name, Path(encoder.path) / "config.json"), **config}
    return t5_geometry(name, config)


def geometries_of(experiment: Experiment) -> dict[str, Geometry]:
    """Encoder → its geometry. Raises UserError as read_geometry."""
    encoders = experiment.definitions.encoders
    return {name: read_geometry(name, encoder) for name, encoder in encoders.items()}
