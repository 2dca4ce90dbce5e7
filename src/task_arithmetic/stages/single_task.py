"""Accuracies of one task: pretrained, of an individual model, and through f_lin."""

from ..core.vectors import TaskVector
from ..files.metrics import write_rows
from ..progress import SILENT
from . import modalities
from .evaluate import CPU, accuracies, load, read_vector


def pretrained(
    encoder_dir, head, data_dir, *, encoder, task, settings, output, device=CPU, progress=SILENT
) -> None:
    """Zero-shot accuracy of θ0 on one task, validation and test: `pretrained_accuracy`; and what
    the modality has to say of the task's examples."""
    theta0, about, splits = load(encoder_dir, {task: (head, data_dir)}, settings, device)
    rows = list(modalities.form(settings.get("modality", "vision")).remarks(head))
    for split, value in _on_both(theta0, about, TaskVector({}), splits, settings).items():
        rows.append({"split": split, "value": value})
    shared = {"encoder": encoder, "mode": "pretrained", "task": task}
    write_rows(output, rows, **shared, metric="pretrained_accuracy")


def single_task(
    encoder_dir,
    head,
    data_dir,
    *,
    encoder,
    mode,
    task,
    seed,
    vector,
    settings,
    output,
    device=CPU,
    progress=SILENT,
    metric="single_task_accuracy",
) -> None:
    """Accuracy of an individual model θ0 + τ_t on its own task, validation and test.

    Through f_lin if settings["linearized"]; the kernel behaviour test (paper, section 3.2) asks
    for it with a non-linearly trained τ, under the metric `posthoc_accuracy`.
    """
    theta0, about, splits = load(encoder_dir, {task: (head, data_dir)}, settings, device)
    found = _on_both(theta0, about, read_vector(vector, theta0), splits, settings)
    rows = [{"split": split, "alpha": 1.0, "value": value} for split, value in found.items()]
    write_rows(output, rows, encoder=encoder, mode=mode, seed=seed, task=task, metric=metric)


def kernel(encoder_dir, head, data_dir, *, settings, **arguments) -> None:
    """Post-hoc linearized accuracy of an individual model (paper, section 3.2 and Figure 3)."""
    settings = {**settings, "linearized": True}
    files = encoder_dir, head, data_dir
    single_task(*files, settings=settings, metric="posthoc_accuracy", **arguments)


def _on_both(theta0, about, tau, splits, settings: dict) -> dict:
    """split → accuracy of θ0 + τ on the one task that was loaded."""
    parts = {split: examples for split, each in splits.items() for examples in each.values()}
    found = accuracies(theta0, about, tau, [1.0], parts, settings)
    return {split: values[0] for split, values in found.items()}
