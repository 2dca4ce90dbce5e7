"""The geometry of an encoder, of whichever modality, from its definition."""

from pathlib import Path
from typing import Any

from ..files.paths import read_users_json
from ..language.geometry import t5_geometry, t5_shapes
from ..vision.geometry import clip_geometry, image_tower_shapes
from .definitions import AnyEncoder, Encoder
from .experiment import Experiment

Geometry = dict[str, Any]


def read_geometry(name: str, encoder: AnyEncoder) -> Geometry:
    """An encoder's geometry: as `clip_geometry` gives it or, of a T5, as t5.logits takes it.

    Raises:
        UserError: it is no plain CLIP ViT, or no plain T5; see `clip_geometry`.
    """
    if isinstance(encoder, Encoder):
        return clip_geometry(name, encoder.given())
    config: dict[str, Any] = encoder.architecture.given() if encoder.architecture else {}
    if encoder.path is not None:
        config = {**read_users_json(name, Path(encoder.path) / "config.json"), **config}
    return t5_geometry(name, config)


def of_texts(geometry: Geometry) -> bool:
    """Whether a geometry is a T5's."""
    return "d_model" in geometry


def shapes_of(geometry: Geometry) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor of an encoder."""
    return t5_shapes(geometry) if of_texts(geometry) else image_tower_shapes(geometry)


def geometries_of(experiment: Experiment) -> dict[str, Geometry]:
    """Encoder → its geometry. Raises UserError as read_geometry."""
    encoders = experiment.definitions.encoders
    return {name: read_geometry(name, encoder) for name, encoder in encoders.items()}
