"""Accuracies: pretrained, single-task, kernel behaviour, task addition and task negation.

All of them are one computation, the modality's `accuracies`: the model at θ0 + α·τ, for each α of
a grid, on one or more splits, through f or through f_lin. α is chosen from validation rows alone.
"""

from pathlib import Path

import numpy as np

from ..core.arithmetic import alpha_grid, choose_alpha, choose_negation
from ..core.vectors import TaskVector, total
from ..errors import UserError
from ..files.metrics import read_rows, write_rows
from ..files.paths import mend
from ..files.tensors import check_tensors
from ..pipeline.gpu import torch_device
from . import modalities

# --- The stages ----------------------------------------------------------------------------------


def load(encoder_dir, files: dict, settings: dict):
    """θ0, its description, and for each split the tasks' examples, as the modality reads them.

    Args:
        files: task → its head and its data folder.
    Returns:
        theta0, about, {split: {task: examples}}, of the splits validation and test.
    """
    device, form = torch_device(), modalities.form(settings.get("modality", "vision"))
    theta0, about = form.read_encoder(encoder_dir, device)
    splits = {
        split: {
            task: form.read_examples(head, data_dir, split, settings["limit"], about, device)
            for task, (head, data_dir) in files.items()
        }
        for split in ("validation", "test")
    }
    return theta0, about, splits


def _accuracies(theta0, about, tau, alphas, splits, settings: dict) -> dict:
    """The modality's `accuracies` as a stage's settings say: linearized (default: not) and
    precision."""
    form = modalities.form(settings.get("modality", "vision"))
    linearized = settings.get("linearized", False)
    precision = settings.get("precision", "float32")
    return form.accuracies(theta0, about, tau, alphas, splits, linearized, precision)


def read_vector(path, theta0: dict) -> TaskVector:
    """A task vector, on θ0's device, held to θ0's names and shapes.

    Raises:
        UserError: a file of another encoder, or no safetensors.
    """
    vector = TaskVector.read(path, next(iter(theta0.values())).device)
    known = {name: theta0[name].shape for name in vector.tensors if name in theta0}
    check_tensors(path, vector.tensors, known)
    return vector


def pretrained(encoder_dir, head, data_dir, *, encoder, task, settings, output) -> None:
    """Zero-shot accuracy of θ0 on one task, validation and test: `pretrained_accuracy`; and what
    the modality has to say of the task's examples."""
    theta0, about, splits = load(encoder_dir, {task: (head, data_dir)}, settings)
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
    metric="single_task_accuracy",
) -> None:
    """Accuracy of an individual model θ0 + τ_t on its own task, validation and test.

    Through f_lin if settings["linearized"]; the kernel behaviour test (paper, section 3.2) asks
    for it with a non-linearly trained τ, under the metric `posthoc_accuracy`.
    """
    theta0, about, splits = load(encoder_dir, {task: (head, data_dir)}, settings)
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
    found = _accuracies(theta0, about, tau, [1.0], parts, settings)
    return {split: values[0] for split, values in found.items()}


def addition(
    encoder_dir,
    *,
    encoder,
    mode,
    seed,
    tasks,
    heads,
    data_dirs,
    vectors,
    single_task,
    settings,
    output,
) -> None:
    """Task addition θ0 + α Σ τ_t (paper, section 3.4 and appendix A).

    α is chosen on validation by the largest mean normalized accuracy; the test split is read only
    at the chosen α. Writes `unified_accuracy` and `normalized_accuracy`: validation over the whole
    grid, test at the chosen α. A text's individual model may have no accuracy above 0 (no answer is
    right, or ρ is negative): then there is no normalized accuracy of its task, and α is chosen by
    those of the others; if there are none, by accuracy itself.

    Args:
        single_task: metrics of the mode's own single-task accuracy, one file for each task, which
            normalize.
        settings: with `reference_selection`, α is the one with the largest mean accuracy on the
            test split itself, as published code for language has it.
    """
    files = dict(zip(tasks, zip(heads, data_dirs, strict=True), strict=True))
    theta0, about, splits = load(encoder_dir, files, settings)
    form = modalities.form(settings.get("modality", "vision"))
    own = _own_accuracy(single_task, tasks, splits, form.MAY_FAIL)
    alphas = alpha_grid(settings["alphas"])
    tau = total(read_vector(path, theta0) for path in vectors)
    rows = []

    def record(split, grid):
        found = _accuracies(theta0, about, tau, grid, splits[split], settings)
        for i, alpha in enumerate(grid):
            for task in tasks:
                at = {"task": task, "split": split, "alpha": alpha}
                value = found[task][i]
                rows.append({**at, "metric": "unified_accuracy", "value": value})
                if own[split][task] > 0:
                    normalized = {
                        "metric": "normalized_accuracy",
                        "value": value / own[split][task],
                    }
                    rows.append({**at, **normalized})
        defined = [found[task] / own[split][task] for task in tasks if own[split][task] > 0]
        return np.stack(defined or [found[task] for task in tasks], axis=1)

    chosen = choose_alpha(alphas, record("validation", alphas))
    if settings.get("reference_selection", False):
        on_test = _accuracies(theta0, about, tau, alphas, splits["test"], settings)
        chosen = choose_alpha(alphas, np.stack([on_test[task] for task in tasks], axis=1))
    record("test", [alphas[chosen]])
    write_rows(output, rows, encoder=encoder, mode=mode, seed=seed)


def _own_accuracy(paths, tasks, splits: dict, may_fail: bool) -> dict:
    """split → task → the mode's own single-task accuracy. Zero cannot normalize, and is an error
    where no task may fail."""
    own: dict[str, dict[str, float]] = {"validation": {}, "test": {}}
    for task, path in zip(tasks, paths, strict=True):
        found = {row["split"]: row["value"] for row in read_rows(path) if row["task"] == task}
        for split, values in own.items():
            if split not in found or not (may_fail or found[split] > 0):
                why, how = "no row of it", mend(path)
                if split in found:
                    why = f"0 of {len(splits[split][task][1]):,} {split} images right"
                    how = "train longer, or give the task more images of that split"
                raise UserError(
                    f"{Path(path)} has no {split} accuracy above 0 for {task} ({why}), so that "
                    f"normalized accuracy is undefined: {how}."
                )
            values[task] = found[split]
    return own


def negation(
    encoder_dir,
    head,
    data_dir,
    *,
    encoder,
    mode,
    task,
    seed,
    vector,
    pretrained,
    control,
    control_head,
    control_data_dir,
    settings,
    output,
) -> None:
    """Task negation θ0 − α τ_t (paper, appendix A).

    α is chosen on validation: the lowest target accuracy whose control accuracy keeps
    settings["keep"] of the pretrained model's. Writes `negated_accuracy` (target) and
    `control_accuracy`: validation over the whole grid, test at the chosen α.

    Args:
        pretrained: metrics of the pretrained model's accuracy on the control task.
    """
    files = {task: (head, data_dir), control: (control_head, control_data_dir)}
    theta0, about, splits = load(encoder_dir, files, settings)
    alphas = alpha_grid(settings["alphas"])
    before = [
        row["value"]
        for row in read_rows(pretrained)
        if (row["task"], row["split"]) == (control, "validation")
    ]
    if len(before) != 1:
        raise UserError(f"{pretrained} has no validation accuracy of {control}: make it again.")
    tau, rows = -read_vector(vector, theta0), []

    def record(split, grid):
        found = _accuracies(theta0, about, tau, grid, splits[split], settings)
        for i, alpha in enumerate(grid):
            at = {"split": split, "alpha": alpha}
            rows.append({**at, "metric": "negated_accuracy", "value": found[task][i]})
            rows.append({**at, "metric": "control_accuracy", "value": found[control][i]})
        return found[task], found[control]

    target, kept = record("validation", alphas)
    chosen = choose_negation(target, kept, before[0], settings["keep"])
    record("test", [alphas[chosen]])
    shared = {"encoder": encoder, "mode": mode, "seed": seed, "task": task}
    write_rows(output, rows, **shared, other_task=control)
