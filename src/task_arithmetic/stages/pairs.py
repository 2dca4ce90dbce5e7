"""Disentanglement error of all pairs of tasks at the chosen α."""

from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from ..core.encoder import CPU
from ..core.pairs import pair_errors
from ..errors import UserError
from ..files.metrics import read_rows, write_rows
from ..files.paths import PathLike, mend
from ..progress import SILENT, Progress
from .sampled import SampledSettings, read_sampled


def pairs(
    encoder_dir: PathLike,
    *,
    encoder: str,
    mode: str,
    seed: int,
    tasks: list[str],
    heads: list[PathLike],
    data_dirs: list[PathLike],
    vectors: list[PathLike],
    addition: PathLike,
    settings: dict[str, Any],
    output: PathLike,
    device: torch.device = CPU,
    progress: Progress = SILENT,
) -> None:
    """ξ_ij of every two tasks at α1 = α2 = α, of the representation and of the classification
    module, see core.pairs. Always in float32, as the heatmaps.

    Writes `representation_pair_error` and `classification_pair_error` rows, one for each pair:
    task i, other_task j, in the order of the tasks; alpha = other_alpha = α.

    Args:
        addition: metrics of task addition, whose α is taken.
        settings: see SampledSettings.
    """
    how = SampledSettings.of(settings)
    of = {row.alpha for row in read_rows(addition) if (row.split, row.method) == ("test", "")}
    if len(of) != 1:
        raise UserError(f"{Path(addition)} does not have one α on test: {mend(addition)}.")
    (alpha,) = of
    model, taus, samples = read_sampled(encoder_dir, heads, data_dirs, vectors, how, device)
    found = pair_errors(model, taus, samples, alpha, how.linearized, progress)
    rows = [
        {
            "metric": f"{module}_pair_error",
            "task": tasks[i],
            "other_task": tasks[j],
            "value": of[i, j],
        }
        for module, of in found._asdict().items()
        for i, j in combinations(range(len(tasks)), 2)
    ]
    at = {"split": "test", "alpha": alpha, "other_alpha": alpha}
    write_rows(output, rows, encoder=encoder, mode=mode, seed=seed, **at)
