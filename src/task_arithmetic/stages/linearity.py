"""How linear an encoder is in each part of its task vectors."""

from typing import Any

import torch

from ..core.encoder import CPU
from ..core.linearity import linearity_errors
from ..files.metrics import write_rows
from ..files.paths import PathLike
from ..progress import SILENT, Progress
from ..vision.parts import parts_of
from .sampled import SampledSettings, read_sampled


def linearity(
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
    """Distance of f from f_lin in each part of every task's τ, see core.linearity, over random test
    images of the task: f's own linearity, of a linearized mode too.

    Writes `linearity_error` rows: of each task and layer, a part as vision.parts names it.

    Args:
        settings: see SampledSettings.
    """
    how = SampledSettings.of(settings)
    model, taus, samples = read_sampled(encoder_dir, heads, data_dirs, vectors, how, device)
    rows = []
    for done, (task, read, sample) in enumerate(zip(tasks, taus, samples, strict=True), 1):
        tau = read()
        found = linearity_errors(model, tau, sample().images, *parts_of(tau.keys()))
        rows += [{"task": task, "layer": part, "value": value} for part, value in found.items()]
        progress.at(done, len(tasks), "task")
    at = {"split": "test", "metric": "linearity_error", "alpha": 1.0}
    write_rows(output, rows, encoder=encoder, mode=mode, seed=seed, **at)
