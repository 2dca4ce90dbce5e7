"""Accuracies of one task: pretrained, of an individual model, and through f_lin."""

import sys
from typing import Any

import torch

from ..core.encoder import CPU, Encoder
from ..core.vectors import TaskVector
from ..files.leaks import leak
from ..files.metrics import write_rows
from ..files.paths import PathLike
from ..progress import SILENT, Progress
from .evaluate import EvaluationSettings, Splits, accuracies, load, vector_of


def pretrained(
    encoder_dir: PathLike,
    head: PathLike,
    data_dir: PathLike,
    *,
    encoder: str,
    task: str,
    settings: dict[str, Any],
    output: PathLike,
    device: torch.device = CPU,
    progress: Progress = SILENT,
) -> None:
    """Zero-shot accuracy of θ0 on one task, validation and test: `pretrained_accuracy`; and what
    the modality has to say of the task's examples."""
    how = EvaluationSettings.of(settings)
    model, splits = load(encoder_dir, {task: (head, data_dir)}, how, device)
    rows = model.modality.remarks(head)
    for split, value in _on_both(model, TaskVector({}), splits, how).items():
        rows.append({"split": split, "value": value})
    shared = {"encoder": encoder, "mode": "pretrained", "task": task}
    write_rows(output, rows, **shared, metric="pretrained_accuracy")


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
    said = leak(task, found["test"], f"{mode}, {encoder},")
    if said and metric == "single_task_accuracy":
        print(said, file=sys.stderr)
    rows = [{"split": split, "alpha": 1.0, "value": value} for split, value in found.items()]
    write_rows(output, rows, encoder=encoder, mode=mode, seed=seed, task=task, metric=metric)


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
) -> dict[str, float]:
    """split → accuracy of θ0 + τ on the one task that was loaded."""
    parts = {split: examples for split, each in splits.items() for examples in each.values()}
    found = accuracies(model, tau, [1.0], parts, settings)
    return {split: values[0] for split, values in found.items()}
