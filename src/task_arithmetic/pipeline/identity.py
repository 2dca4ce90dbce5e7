"""What a result depends on: code, settings, the content of its inputs, packages, kind of device."""

import os
from pathlib import Path
from typing import Any

from ..files.hashes import read_sha256, sha256_of, sha256_of_file, versions
from ..files.paths import read_json
from ..stages.declaration import Declared, Input
from . import gpu


def identities(stage: Declared, arguments: dict[str, Any]) -> dict[str, str]:
    """Input path → what identifies its content, see `identity`."""
    names = stage.of_kind(Input)
    return {path: identity(path) for name in names for path in stage.paths(arguments, name)}


def identity(path: Path | str) -> str:
    """What identifies the content of a file or folder: its recorded SHA-256, else that of its
    bytes; empty if it is missing."""
    path = Path(path)
    if (path / "manifest.json").is_file():
        about = read_json(path / "manifest.json")
        return sha256_of([about.get(key) for key in ("task", "classes", "files")])
    if (path / "encoder.json").is_file():
        about = read_json(path / "encoder.json")
        return sha256_of({key: value for key, value in about.items() if key != "seal"})
    recorded = read_sha256(path).get(path.name)
    return recorded or (sha256_of_file(path) if path.is_file() else "")


def fingerprint_of(
    stage: Declared, arguments: dict[str, Any], code: str, inputs: dict[str, str]
) -> str:
    """A hash of all that a stage's outputs depend on: code, settings and inputs, not places; and
    the packages and the kind of device, which Snakemake does not see change."""
    names = stage.of_kind(Input)
    found = {name: [inputs[path] for path in stage.paths(arguments, name)] for name in names}
    kind = "cuda" if gpu.choices(device()) else "cpu"
    used = packages(stage.modality(arguments))
    return sha256_of([stage.command, code, stage.computed(arguments), found, used, kind])


def packages(modality: str | None = None) -> dict[str, str]:
    """Versions of what learning stages compute with, in this process."""
    names = ["python", "torch", "open_clip_torch", "numpy", "safetensors"]
    names += ["tokenizers"] * (modality == "language")
    return {name: versions()[name] for name in names}


def device() -> str:
    """The configuration's `device`."""
    return os.environ.get("TASK_ARITHMETIC_DEVICE", "auto")
