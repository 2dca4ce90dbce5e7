"""Accuracies: pretrained, single-task, kernel behaviour, task addition and task negation.

All of them are one computation, the modality's `accuracies`: the model at θ0 + α·τ, for each α of
a grid, on one or more splits, through f or through f_lin. α is chosen from validation rows alone.
"""

from pathlib import Path

import numpy as np

from . import jobs, modality
from .artifacts import UserError, check_tensors
from .config import alpha_grid
from .device import torch_device
from .metrics import read_rows, write_rows
from .vector import TaskVector, total

# --- Choosing α ----------------------------------------------------------------------------------


def choose_alpha(alphas, normalized) -> int:
    """Index of the α with the largest mean normalized accuracy; the first wins a tie.

    Args:
        normalized: (alphas, tasks), validation split only (paper, appendix A).
    """
    return int(np.argmax(np.mean(normalized, axis=1)))


def choose_negation(target, control, pretrained_control: float, keep: float) -> int:
    """Index of the α with the lowest target accuracy among those whose control accuracy is at
    least keep × the pretrained model's (paper, appendix A); the first wins a tie.

    Args:
        target, control: accuracies on validation, one for each α.
    Raises:
        UserError: no α keeps the control accuracy (α = 0 always does).
    """
    target, control = np.asarray(target), np.asarray(control)
    kept = control >= keep * pretrained_control - 1e-9  # "at least" includes rounded equality
    if not kept.any():
        raise UserError(
            f"No α of the grid keeps {keep:.0%} of the pretrained control accuracy: let `alphas` "
            "start at 0."
        )
    return int(np.argmin(np.where(kept, target, np.inf)))


# --- The stages ----------------------------------------------------------------------------------


def load(encoder_dir, tasks, heads, data_dirs, settings, names=("validation", "test")):
    """θ0, its description, and for each split the tasks' examples, as the modality reads them.

    Returns:
        theta0, about, {split: {task: examples}}.
    """
    device, form = torch_device(), modality.form(settings.get("modality", "vision"))
    theta0, about = form.read_encoder(encoder_dir, device)
    splits = {name: {} for name in names}
    for task, head, data_dir in zip(tasks, heads, data_dirs, strict=True):
        for name in names:
            limit = settings["limit"]
            splits[name][task] = form.read_examples(head, data_dir, name, limit, about, device)
    return theta0, about, splits


def _accuracies(theta0, about, tau, alphas, splits, settings: dict) -> dict:
    """The modality's `accuracies` as a stage's settings say: linearized (default: not) and
    precision."""
    form = modality.form(settings.get("modality", "vision"))
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


def pretrained(encoder_dir, *, encoder, tasks, heads, data_dirs, settings, output) -> None:
    """Zero-shot accuracy of θ0 on every task, validation and test: `pretrained_accuracy`; and what
    the modality has to say of the tasks' examples."""
    theta0, about, splits = load(encoder_dir, tasks, heads, data_dirs, settings)
    form, rows = modality.form(settings.get("modality", "vision")), []
    for task, head in zip(tasks, heads, strict=True):
        rows += [{"task": task, **row} for row in form.remarks(head)]
    for split, parts in splits.items():
        found = _accuracies(theta0, about, TaskVector({}), [0.0], parts, settings)
        rows += [{"task": task, "split": split, "value": v[0]} for task, v in found.items()]
    write_rows(output, rows, encoder=encoder, mode="pretrained", metric="pretrained_accuracy")


def single_task(
    encoder_dir,
    *,
    encoder,
    mode,
    seed,
    tasks,
    heads,
    data_dirs,
    vectors,
    settings,
    output,
    metric="single_task_accuracy",
) -> None:
    """Accuracy of each individual model θ0 + τ_t on its own task, validation and test.

    Through f_lin if settings["linearized"]; the kernel behaviour test (paper, section 3.2) asks
    for it with a non-linearly trained τ, under the metric `posthoc_accuracy`.
    """
    theta0, about, splits = load(encoder_dir, tasks, heads, data_dirs, settings)
    rows = []
    jobs.progress(0, len(tasks), "task")
    for task, path in zip(tasks, vectors, strict=True):
        tau = read_vector(path, theta0)
        for split, parts in splits.items():
            found = _accuracies(theta0, about, tau, [1.0], {task: parts[task]}, settings)
            rows.append({"task": task, "split": split, "alpha": 1.0, "value": found[task][0]})
        jobs.progress(len(rows) // len(splits), len(tasks), "task")
    write_rows(output, rows, encoder=encoder, mode=mode, seed=seed, metric=metric)


def kernel(encoder_dir, *, settings, **arguments) -> None:
    """Post-hoc linearized accuracy of each individual model (paper, section 3.2 and Figure 3)."""
    settings = {**settings, "linearized": True}
    single_task(encoder_dir, settings=settings, metric="posthoc_accuracy", **arguments)


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
        single_task: metrics of the mode's own single-task accuracy, which normalizes.
        settings: with `reference_selection`, α is the one with the largest mean accuracy on the
            test split itself, as published code for language has it.
    """
    theta0, about, splits = load(encoder_dir, tasks, heads, data_dirs, settings)
    form = modality.form(settings.get("modality", "vision"))
    own = _own_accuracy(single_task, tasks, form.MAY_FAIL)
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


def _own_accuracy(path, tasks, may_fail: bool) -> dict:
    """split → task → the mode's own single-task accuracy. Zero cannot normalize, and is an error
    where no task may fail."""
    own: dict[str, dict[str, float]] = {}
    for row in read_rows(path):
        own.setdefault(row["split"], {})[row["task"]] = row["value"]
    for split in ("validation", "test"):
        for task in tasks:
            known = task in own.get(split, {})
            if not known or not (may_fail or own[split][task] > 0):
                raise UserError(
                    f"{Path(path)} has no {split} accuracy above 0 for {task}: normalized accuracy "
                    "is undefined; train longer, or make the file again."
                )
    return own


def negation(
    encoder_dir,
    *,
    encoder,
    mode,
    seed,
    tasks,
    heads,
    data_dirs,
    vectors,
    pretrained,
    control,
    control_head,
    control_data_dir,
    settings,
    output,
) -> None:
    """Task negation θ0 − α τ_t, for each task by itself (paper, appendix A).

    α is chosen on validation: the lowest target accuracy whose control accuracy keeps
    settings["keep"] of the pretrained model's. Writes `negated_accuracy` (target) and
    `control_accuracy`: validation over the whole grid, test at the chosen α.
    """
    every = [*tasks, control], [*heads, control_head], [*data_dirs, control_data_dir]
    theta0, about, splits = load(encoder_dir, *every, settings)
    alphas = alpha_grid(settings["alphas"])
    before = [
        row["value"]
        for row in read_rows(pretrained)
        if (row["task"], row["split"]) == (control, "validation")
    ]
    if len(before) != 1:
        raise UserError(f"{pretrained} has no validation accuracy of {control}: make it again.")
    rows = []
    jobs.progress(0, len(tasks), "task")
    for task, path in zip(tasks, vectors, strict=True):
        tau = -read_vector(path, theta0)

        def record(split, grid, task=task, tau=tau):
            parts = {name: splits[split][name] for name in (task, control)}
            found = _accuracies(theta0, about, tau, grid, parts, settings)
            for i, alpha in enumerate(grid):
                at = {"task": task, "other_task": control, "split": split, "alpha": alpha}
                rows.append({**at, "metric": "negated_accuracy", "value": found[task][i]})
                rows.append({**at, "metric": "control_accuracy", "value": found[control][i]})
            return found[task], found[control]

        target, kept = record("validation", alphas)
        chosen = choose_negation(target, kept, before[0], settings["keep"])
        record("test", [alphas[chosen]])
        jobs.progress(tasks.index(task) + 1, len(tasks), "task")
    write_rows(output, rows, encoder=encoder, mode=mode, seed=seed)
