"""Task addition of subsets of the tasks: what merging more of them costs."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..analysis.subsets import label_of, subsets_of
from ..core.encoder import CPU
from ..core.vectors import TaskVector
from ..files.metrics import write_rows
from ..files.outcomes import Answers
from ..files.paths import PathLike
from ..progress import SILENT, Progress
from .addition import AdditionSettings, add, own_accuracy
from .evaluate import load
from .merge import MergeSettings, Sources, merge_tensors, offsets_and_directions

METRICS = {  # of a subset → of each of its tasks
    "subset_accuracy": "unified_accuracy",
    "subset_normalized_accuracy": "normalized_accuracy",
}


@dataclass(frozen=True, kw_only=True)
class SubsetSettings(AdditionSettings):
    """sizes: of subsets. draws: subsets of each size, at most. merging: see MergeSettings."""

    sizes: Sequence[int]
    draws: int
    merging: Mapping[str, Any]


def number_of_tasks(
    encoder_dir: PathLike,
    *,
    encoder: str,
    mode: str,
    seed: int,
    tasks: list[str],
    heads: list[PathLike],
    data_dirs: list[PathLike],
    vectors: list[PathLike],
    single_task: list[PathLike],
    settings: dict[str, Any],
    output: PathLike,
    method: str | None = None,
    device: torch.device = CPU,
    progress: Progress = SILENT,
) -> None:
    """Task addition, as `addition` has it, of random subsets of the tasks, each merged in memory
    by a method that needs vectors alone: α is chosen on validation of the subset's tasks.

    Writes for each subset, on test at its α, `subset_accuracy` and `subset_normalized_accuracy`,
    means over its tasks. The rows' task is the subset: its tasks, joined by "+".

    Args:
        single_task: metrics of the mode's own single-task accuracy, one file for each task, which
            normalize.
        method: what the rows call the method; None: it is the sum.
        settings: see SubsetSettings.
    """
    how = SubsetSettings.of(settings)
    merging = MergeSettings.of(how.merging)
    files = dict(zip(tasks, zip(heads, data_dirs, strict=True), strict=True))
    model, splits = load(encoder_dir, files, how, device)
    own = own_accuracy(single_task, tasks, splits, model.modality.may_fail)
    folders = dict(zip(tasks, data_dirs, strict=True))
    of_task = dict(zip(tasks, vectors, strict=True))
    first = Sources(encoder, mode, seed, tasks, vectors).check()
    subsets = [each for size in how.sizes for each in subsets_of(tasks, size, how.draws)]
    rows, at_end = list[dict[str, Any]](), 0
    for number, subset in enumerate(subsets):
        sources = Sources(encoder, mode, seed, list(subset), [of_task[task] for task in subset])
        merged = merge_tensors(sources, merging, device=device, names=model.theta0)
        offset, tau = (
            TaskVector(tensors, first.mode, first.linearized, first.base)
            for tensors in offsets_and_directions(merged)
        )
        part = {split: {task: each[task] for task in subset} for split, each in splits.items()}
        answers = Answers(folders, how.limit)
        added = add(model, tau, offset if offset.tensors else None, part, own, how, answers)
        at_end += bool(added.end)
        for metric, of_tasks in METRICS.items():
            test = (row for row in answers.rows if row["split"] == "test")
            found = [row["value"] for row in test if row["metric"] == of_tasks]
            at = {"task": label_of(subset), "split": "test", "alpha": added.alpha}
            rows.append({**at, "metric": metric, "value": np.mean(found)})
        progress.at(number + 1, len(subsets), "subset")
    if at_end:
        print(
            f"α is an end of its grid for {at_end} of {len(subsets)} subsets: one beyond may be "
            "better; give `alphas` that go on.",
            file=sys.stderr,
        )
    write_rows(output, rows, encoder=encoder, mode=mode, seed=seed, method=method)
