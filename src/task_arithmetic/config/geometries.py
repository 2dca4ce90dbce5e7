"""The geometry of an encoder, of whichever modality, from its definition."""

from pathlib import Path
from typing import Any

from ..files.paths import read_users_json
from ..language.geometry import T5, t5_geometry
from ..vision.geometry import ViT, clip_geometry

Geometry = ViT | T5


def read_geometry(name: str, definition: dict[str, Any]) -> Geometry:
    """An encoder's geometry.

    Raises:
        UserError: it is no plain CLIP ViT, or no plain T5; see `clip_geometry`.
    """
    if "prompts" not in definition:
        return clip_geometry(name, definition)
    local = "path" in definition
    config = read_users_json(name, Path(definition["path"]) / "config.json") if local else {}
    return t5_geometry(name, {**config, **definition.get("architecture", {})})
