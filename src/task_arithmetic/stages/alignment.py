"""How far each task vector lies in the subspace of what it was merged into."""

from collections import defaultdict
from typing import Any

import numpy as np
import torch

from ..analysis.alignment import alignment as ratio
from ..analysis.alignment import subspace
from ..core.encoder import CPU
from ..files.metrics import write_rows
from ..files.paths import PathLike
from ..progress import SILENT, Progress
from .updates import Updates


def alignment(
    *,
    encoder: str,
    mode: str,
    seed: int,
    tasks: list[str],
    vectors: list[PathLike],
    methods: list[str] | None = None,
    merged: list[PathLike] | None = None,
    unified: list[PathLike] | None = None,
    output: PathLike,
    device: torch.device = CPU,
    progress: Progress = SILENT,
) -> None:
    """`subspace_alignment` of each task with what the vectors were merged into, by the sum and by
    each other method: the mean over weight matrices of ‖U_k U_kᵀ τ_t‖ / ‖τ_t‖ (see
    analysis.alignment). A matrix in which τ_t is zero does not count. `alignment_matrices`: how
    many there are.

    Args:
        methods, merged, unified: see Updates.
    """
    files = Updates(vectors, methods or (), merged or (), unified or (), device)
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    names = files.names
    for done, matrix in enumerate(files.of(names), 1):
        for method, each in matrix.merged:
            basis = subspace(each)
            for task, delta in zip(tasks, matrix.deltas, strict=True):
                if (own := ratio(basis, delta)) is not None:
                    found[method, task].append(own)
        progress.at(done, len(names), "matrix")
    rows: list[dict[str, Any]] = [
        {"metric": "subspace_alignment", "method": method, "task": task, "value": np.mean(own)}
        for (method, task), own in found.items()
    ]
    rows.append({"metric": "alignment_matrices", "value": len(names)})
    write_rows(output, rows, encoder=encoder, mode=mode, seed=seed)
