"""What training costs in each mode, measured (paper, Table 4)."""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch

from ..core.encoder import CPU
from ..core.schedule import learning_rate_at
from ..core.training import batches
from ..files.metrics import write_rows
from ..files.paths import PathLike
from ..progress import SILENT, Progress
from . import modalities
from .finetune import TrainingSettings, start
from .memory import peak_memory, start_memory, wait

WARM_UP = 3  # steps before the clock starts


@dataclass(frozen=True, kw_only=True)
class EfficiencySettings(TrainingSettings):
    """efficiency: `steps` to measure."""

    efficiency: Mapping[str, int]


def efficiency(
    encoder_dir: PathLike,
    *,
    encoder: str,
    mode: str,
    head: PathLike,
    data_dir: PathLike,
    settings: dict[str, Any],
    output: PathLike,
    device: torch.device = CPU,
    progress: Progress = SILENT,
) -> None:
    """Run real training steps alone on the machine and write what they cost.

    Rows: `step_seconds` (median, of the training step; `step_seconds_low` and `_high`: its 95 %
    interval), `training_seconds` (the whole run: the
    median with reading the batch, × finetune.steps), `peak_memory_bytes` (CUDA:
    allocated; CPU: resident memory, without what was there before and what is mapped from files),
    `trained_parameters`, `held_parameters` (all tensors that training needs; a linearized mode
    holds θ0 beside θ).

    Args:
        settings: see EfficiencySettings.
    """
    before = start_memory(device)
    how = EfficiencySettings.of(settings)
    model = modalities.read_encoder(encoder_dir, how.modality, device)
    modality = model.modality
    examples = modality.read_examples(head, data_dir, "train", how.limit, device)
    run = start(model, examples, how, mode)
    del model  # θ0 is held by the training alone, if at all
    alone, whole = [], []  # seconds of each step, without and with its batch
    numbers = range(WARM_UP + how.efficiency["steps"])
    ahead = batches(modality, examples, numbers, 0, run.recipe, device)
    for _ in numbers:
        began = time.perf_counter()
        batch = next(ahead)
        wait(device)
        ready = time.perf_counter()
        run.step(*batch, learning_rate_at(0, run.recipe))
        wait(device)
        alone.append(time.perf_counter() - ready)
        whole.append(time.perf_counter() - began)
    seconds = statistics.median(whole[WARM_UP:]) * run.recipe.steps
    low, high = median_interval(alone[WARM_UP:])
    measured = {
        "step_seconds": statistics.median(alone[WARM_UP:]),
        "step_seconds_low": low,
        "step_seconds_high": high,
        "training_seconds": seconds,
        "peak_memory_bytes": peak_memory(device) - before,
        "trained_parameters": _count(run.theta),
        "held_parameters": _count(run.theta) + _count(run.base),
    }
    rows = [{"metric": metric, "value": value} for metric, value in measured.items()]
    write_rows(output, rows, encoder=encoder, mode=mode)


def _count(tensors: dict[str, torch.Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


def median_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """An interval of the median between two of the values, as narrow as one may be that has the
    chance `level` or more; of fewer than six values between the smallest and the largest.
    """
    n, ordered = len(values), sorted(values)
    # of at most k values below the median
    chances = accumulate(math.comb(n, k) / 2**n for k in range(n))
    outside = max(sum(chance <= (1 - level) / 2 for chance in chances) - 1, 0)
    return ordered[outside], ordered[-1 - outside]
