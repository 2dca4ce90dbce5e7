"""Accuracies of one task: pretrained, of an individual model, and through f_lin."""

import sys
from typing import Any

import torch

from ..core.encoder import CPU, Encoder
from ..core.outcomes import Outcomes
from ..core.vectors import TaskVector
from ..files.leaks import leak
from ..files.outcomes import Answers
from ..files.paths import PathLike
from ..progress import SILENT, Progress
from .evaluate import EvaluationSettings, Splits, load, vector_of
from .evaluate import outcomes as evaluated


def pretrained(
    encoder_dir: PathLike,
    head: PathLike,
    data_dir: PathLike,
    *,
    encoder: str,
    task: str,
    settings: dict[str, Any],
    output: PathLike,
    outcomes: PathLike | None = None,
    device: torch.device = CPU,
    progress: Progress = SILENT,
) -> None:
    """Zero-shot accuracy of θ0 on one task, validation and test: `pretrained_accuracy`; and what
    the modality has to say of the task's examples."""
    how = EvaluationSettings.of(settings)
    model, splits = load(encoder_dir, {task: (head, data_dir)}, how, device)
    answers = Answers({task: data_dir}, how.limit)
    answers.rows += [{**row, "task": task} for row in model.modality.remarks(head)]
    for split, found in _on_both(model, TaskVector({}), splits, how).items():
        answers.add(found, "pretrained_accuracy", split, task, [None])
    answers.write(output, outcomes, encoder=encoder, mode="pretrained")


def single_task(
    encoder_dir: PathLike,
    head: PathLike,
    data_dir: PathLike,
    *,
    encoder: str,
    mode: str,
    task: str,
    seed: int,
    vector: PathLike,
    settings: dict[str, Any],
    output: PathLike,
    outcomes: PathLike | None = None,
    device: torch.device = CPU,
    progress: Progress = SILENT,
    metric: str = "single_task_accuracy",
) -> None:
    """Accuracy of an individual model θ0 + τ_t on its own task, validation and test.

    Through f_lin if settings["linearized"]; the kernel behaviour test (paper, section 3.2) asks
    for it with a non-linearly trained τ, under the metric `posthoc_accuracy`.
    """
    how = EvaluationSettings.of(settings)
    model, splits = load(encoder_dir, {task: (head, data_dir)}, how, device)
    found = _on_both(model, vector_of(vector, model), splits, how)
    said = leak(task, float(found["test"].accuracy()[0]), f"{mode}, {encoder},")
    if said and metric == "single_task_accuracy":
        print(said, file=sys.stderr)
    answers = Answers({task: data_dir}, how.limit)
    for split, each in found.items():
        answers.add(each, metric, split, task, [1.0])
    answers.write(output, outcomes, encoder=encoder, mode=mode, seed=seed)


def kernel(
    encoder_dir: PathLike,
    head: PathLike,
    data_dir: PathLike,
    *,
    settings: dict[str, Any],
    **arguments: Any,
) -> None:
    """Post-hoc linearized accuracy of an individual model (paper, section 3.2 and Figure 3)."""
    settings = {**settings, "linearized": True}
    files = encoder_dir, head, data_dir
    single_task(*files, settings=settings, metric="posthoc_accuracy", **arguments)


def _on_both(
    model: Encoder, tau: TaskVector, splits: Splits, settings: EvaluationSettings
) -> dict[str, Outcomes]:
    """split → outcomes of θ0 + τ on the one task that was loaded."""
    parts = {split: examples for split, each in splits.items() for examples in each.values()}
    return evaluated(model, tau, [1.0], parts, settings)
