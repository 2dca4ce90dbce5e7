"""What each task vector does to the accuracies of all tasks."""

from typing import Any

import numpy as np
import torch

from ..core.encoder import CPU
from ..files.metrics import write_rows
from ..files.paths import PathLike
from ..progress import SILENT, Progress
from .evaluate import accuracies
from .sampled import SampledSettings, read_sampled


def interference(
    encoder_dir: PathLike,
    *,
    encoder: str,
    mode: str,
    seed: int,
    tasks: list[str],
    heads: list[PathLike],
    data_dirs: list[PathLike],
    vectors: list[PathLike],
    settings: dict[str, Any],
    output: PathLike,
    device: torch.device = CPU,
    progress: Progress = SILENT,
) -> None:
    """D_st = acc_t(θ0 + τ_s) − acc_t(θ0) for all tasks s and t, both accuracies of the same random
    test images of t; through f_lin if the mode is linearized.

    Writes `interference` rows: task t, other_task s.

    Args:
        settings: see SampledSettings.
    """
    how = SampledSettings.of(settings)
    model, taus, samples = read_sampled(encoder_dir, heads, data_dirs, vectors, how, device)
    after, before = np.zeros((len(tasks), len(tasks))), np.zeros(len(tasks))
    for s, read in enumerate(taus):
        tau = read()
        for t, sample in enumerate(samples):
            alphas = [1.0, 0.0] if s == t else [1.0]
            found = accuracies(model, tau, alphas, {"": sample()}, how)[""]
            after[s, t] = found[0]
            if s == t:
                before[t] = found[1]
            progress.at(s * len(taus) + t + 1, len(taus) ** 2, "accuracy")
    rows = [
        {"task": tasks[t], "other_task": tasks[s], "value": value}
        for (s, t), value in np.ndenumerate(after - before)
    ]
    at = {"split": "test", "metric": "interference", "alpha": 1.0}
    write_rows(output, rows, encoder=encoder, mode=mode, seed=seed, **at)
