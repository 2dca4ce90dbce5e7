"""Task negation (paper, appendix A); α is chosen from validation rows alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..core.alpha import alpha_values
from ..core.encoder import CPU
from ..core.negation import choose_negation
from ..errors import UserError
from ..files.metrics import read_rows
from ..files.outcomes import Answers
from ..files.paths import PathLike
from ..progress import SILENT, Progress
from .evaluate import EvaluationSettings, load, vector_of
from .evaluate import outcomes as evaluated


@dataclass(frozen=True, kw_only=True)
class NegationSettings(EvaluationSettings):
    """alphas: start, stop and step of the grid. keep: the share of the pretrained control accuracy
    that is to be kept."""

    alphas: Mapping[str, float]
    keep: float


def negation(
    encoder_dir: PathLike,
    head: PathLike,
    data_dir: PathLike,
    *,
    encoder: str,
    mode: str,
    task: str,
    seed: int,
    vector: PathLike,
    pretrained: PathLike,
    control: str,
    control_head: PathLike,
    control_data_dir: PathLike,
    settings: dict[str, Any],
    output: PathLike,
    outcomes: PathLike | None = None,
    device: torch.device = CPU,
    progress: Progress = SILENT,
) -> None:
    """Task negation θ0 − α τ_t (paper, appendix A).

    α is chosen on validation: the lowest target accuracy whose control accuracy keeps
    `keep` of the pretrained model's. Writes `negated_accuracy` (target) and
    `control_accuracy`: validation over the whole grid, test at the chosen α.

    Args:
        pretrained: metrics of the pretrained model's accuracy on the control task.
    """
    files = {task: (head, data_dir), control: (control_head, control_data_dir)}
    how = NegationSettings.of(settings)
    model, splits = load(encoder_dir, files, how, device)
    alphas = alpha_values(**how.alphas)
    before = [
        row.value
        for row in read_rows(pretrained)
        if (row.task, row.split) == (control, "validation")
    ]
    if len(before) != 1:
        raise UserError(f"{pretrained} has no validation accuracy of {control}: make it again.")
    tau = -vector_of(vector, model)
    answers = Answers({task: data_dir, control: control_data_dir}, how.limit)

    def record(split: str, grid: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        found = evaluated(model, tau, grid, splits[split], how)
        for metric, of in (("negated_accuracy", task), ("control_accuracy", control)):
            answers.add(found[of], metric, split, task, grid, of, other_task=control)
        return found[task].accuracy(), found[control].accuracy()

    target, kept = record("validation", alphas)
    chosen = choose_negation(target, kept, before[0], how.keep)
    record("test", [alphas[chosen]])
    answers.write(output, outcomes, encoder=encoder, mode=mode, seed=seed)
