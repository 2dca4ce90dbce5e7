"""Tensors written one at a time, as models of other libraries are."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from .paths import PathLike


def write_one_by_one(
    path: PathLike,
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Iterable[tuple[str, Any]],
    metadata: Mapping[str, str],
) -> str:
    """Write float32 tensors (torch) as safetensors, with the memory of one of them, into a folder
    that gets its own name later; returns the file's SHA-256.

    Args:
        shapes: name → shape of all, in the order in which `tensors` gives them.
    """
    about: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        about[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(about, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    found = hashlib.sha256()
    with open(path, "wb") as file:
        for data in (len(text).to_bytes(8, "little"), text):
            file.write(data)
            found.update(data)
        for (name, shape), (given, tensor) in zip(shapes.items(), tensors, strict=True):
            assert (given, tuple(tensor.shape)) == (name, shape)
            data = tensor.detach().cpu().contiguous().numpy().reshape(-1).view("u1")
            file.write(data)
            found.update(data)
    return found.hexdigest()
