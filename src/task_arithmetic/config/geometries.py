"""The geometry of an encoder, of whichever modality, from its definition."""

from pathlib import Path

from ..files.paths import read_users_json
from ..language.geometry import t5_geometry, t5_shapes
from ..vision.geometry import clip_geometry, image_tower_shapes


def read_geometry(name: str, definition: dict) -> dict:
    """An encoder's geometry: as `clip_geometry` gives it or, of a T5, as t5.logits takes it.

    Raises:
        UserError: it is no plain CLIP ViT, or no plain T5; see `clip_geometry`.
    """
    if "prompts" not in definition:
        return clip_geometry(name, definition)
    local = "path" in definition
    config = read_users_json(name, Path(definition["path"]) / "config.json") if local else {}
    return t5_geometry(name, {**config, **definition.get("architecture", {})})


def shapes_of(geometry: dict) -> dict[str, tuple]:
    """Name → shape of every tensor of an encoder."""
    return t5_shapes(geometry) if "d_model" in geometry else image_tower_shapes(geometry)
