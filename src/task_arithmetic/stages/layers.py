"""How task vectors lie to each other, and how long they are, in each layer. Needs no torch."""

import math
import sys
from pathlib import Path
from typing import Any

from ..analysis.layers import by_layer, cosines, layers_of
from ..files.hashes import read_sealed
from ..files.metrics import write_rows
from ..files.paths import PathLike
from ..files.tensors import open_tensors
from .vector import inner_products


def layers(
    encoder_dir: PathLike,
    *,
    encoder: str,
    mode: str,
    seed: int,
    tasks: list[str],
    vectors: list[PathLike],
    output: PathLike,
) -> None:
    """Of each layer, which is the weight matrices of one kind in one block: `cosine_similarity` of
    every pair of task vectors, and `relative_norm` ‖τ_t‖ / ‖θ0‖ over the matrices that moved. Of
    the whole `layer_matrices`: how many moved.

    A pair in which a vector is zero in a layer has no cosine there: no row, and a sentence on
    stderr. Vectors are read once, in slices of all of them.

    Raises:
        UserError: vectors of different encoders or modes.
    """
    weights = weights_of(encoder_dir)
    known = layers_of(names_in(weights))
    products = inner_products(vectors, known)
    base = by_layer(inner_products([weights], products), known)
    rows: list[dict[str, Any]] = [{"metric": "layer_matrices", "value": len(products)}]
    without = []
    for layer, own in by_layer(products, known).items():
        found, size, at = cosines(own), math.sqrt(base[layer][0, 0]), {"layer": layer}
        rows += [
            {
                "metric": "cosine_similarity",
                "task": tasks[i],
                "other_task": tasks[j],
                **at,
                "value": v,
            }
            for (i, j), v in found.items()
        ]
        rows += [
            {"metric": "relative_norm", "task": task, **at, "value": norm}
            for task, norm in zip(tasks, own.diagonal() ** 0.5 / size, strict=True)
        ]
        without += [f"{task} ({layer})" for t, task in enumerate(tasks) if own[t, t] == 0]
    if without:
        print(f"Zero, so that they have no cosine there: {', '.join(without)}.", file=sys.stderr)
    write_rows(output, rows, encoder=encoder, mode=mode, seed=seed)


def weights_of(encoder_dir: PathLike) -> Path:
    """The file of an encoder's pretrained weights."""
    return Path(encoder_dir) / read_sealed(Path(encoder_dir) / "encoder.json")["theta0"]


def names_in(path: PathLike) -> list[str]:
    """The names of a file's tensors."""
    with open_tensors(path) as file:
        return list(file.keys())
