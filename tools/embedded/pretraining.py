"""What the two pretrainings share: the rate's schedule, and the record beside the weights."""

import hashlib
import json
import math
import platform
from importlib import metadata
from pathlib import Path

from task_arithmetic import embedded

ENCODERS_FOLDER = Path(embedded.__file__).parent / "encoders"


def scheduled(step: int, rate: float, warmup: int, end: int) -> float:
    """The learning rate of a step: linear warm-up to `rate`, then a cosine to zero at `end`."""
    if step < warmup:
        return rate * (step + 1) / warmup
    return rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, end - warmup)))


def machine(*packages: str) -> dict:
    """What a record says of where an encoder was made."""
    versions = {name: metadata.version(name) for name in packages}
    return {
        "device": f"cpu, 1 thread, {platform.machine()}",
        "versions": versions | {"python": platform.python_version()},
    }


def write_json(path: Path, content: dict) -> None:
    """Write readable JSON, its keys in the order given."""
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def write_record(folder: Path, record: dict, names: tuple[str, ...]) -> None:
    """Write provenance.json: the record, and the SHA-256 of each of these files of the folder."""
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    write_json(folder / "provenance.json", {**record, "sha256": hashes})
