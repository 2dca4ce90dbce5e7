"""Task addition (paper, section 3.4); α is chosen from validation rows alone."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..core.addition import choose_alpha, normalized
from ..core.alpha import alpha_values, end_of_grid
from ..core.encoder import CPU, Encoder
from ..core.vectors import TaskVector
from ..errors import UserError
from ..files.metrics import read_rows
from ..files.outcomes import Answers
from ..files.paths import PathLike, mend
from ..merging.sum import total
from ..progress import SILENT, Progress
from .evaluate import EvaluationSettings, Splits, accuracies, load, merged_of, vector_of
from .evaluate import outcomes as evaluated


@dataclass(frozen=True, kw_only=True)
class AdditionSettings(EvaluationSettings):
    """alphas: start, stop and step of the grid. reference_selection: α is the one with the largest
    mean accuracy on the test split itself, as published code for language has it."""

    alphas: Mapping[str, float]
    reference_selection: bool = False


def addition(
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
    outcomes: PathLike | None = None,
    method: str | None = None,
    device: torch.device = CPU,
    progress: Progress = SILENT,
) -> None:
    """Task addition θ0 + α Σ τ_t (paper, section 3.4 and appendix A), or θ0 + A + α B of a vector
    that was merged by another method.

    α is chosen on validation by the largest mean normalized accuracy; the test split is read only
    at the chosen α. Writes `unified_accuracy` and `normalized_accuracy`: validation over the whole
    grid, test at the chosen α. A text's individual model may have no accuracy above 0 (no answer is
    right, or ρ is negative): then there is no normalized accuracy of its task, and α is chosen by
    those of the others; if there are none, by accuracy itself.

    Args:
        single_task: metrics of the mode's own single-task accuracy, one file for each task, which
            normalize.
        vectors: of each task its vector; or the merged one alone.
        outcomes: where the answers to single examples are written, see files.outcomes; None: not.
        method: what merged them, in the rows' column `method`; None: they are summed.
        settings: see AdditionSettings.
    """
    files = dict(zip(tasks, zip(heads, data_dirs, strict=True), strict=True))
    how = AdditionSettings.of(settings)
    model, splits = load(encoder_dir, files, how, device)
    own = own_accuracy(single_task, tasks, splits, model.modality.may_fail)
    if method:
        offset, tau = merged_of(vectors[0], model)
    else:
        offset, tau = None, total(vector_of(path, model) for path in vectors)
    answers = Answers(dict(zip(tasks, data_dirs, strict=True)), how.limit)
    added = add(model, tau, offset, splits, own, how, answers)
    if added.end:
        print(
            f"α = {added.alpha:g} is the {added.end} of the grid: one beyond may be better; give "
            "`alphas` that go on.",
            file=sys.stderr,
        )
    answers.write(output, outcomes, encoder=encoder, mode=mode, seed=seed, method=method)


class Added(NamedTuple):
    """The chosen α of task addition, and which end of its grid it is, as end_of_grid says."""

    alpha: float
    end: str


def add(
    model: Encoder,
    tau: TaskVector,
    offset: TaskVector | None,
    splits: Splits,
    own: Mapping[str, Mapping[str, float]],
    how: AdditionSettings,
    answers: Answers,
) -> Added:
    """What `addition` says, of θ0 + offset + α τ and the tasks of `splits`.

    Args:
        own: what own_accuracy gives. answers: gets what `addition` writes.
    """
    alphas, tasks = alpha_values(**how.alphas), [*splits["test"]]

    def record(split: str, grid: Sequence[float]) -> np.ndarray:
        found = evaluated(model, tau, grid, splits[split], how, offset)
        for task in tasks:
            answers.add(found[task], "unified_accuracy", split, task, grid)
            if own[split][task] > 0:
                at = {"metric": "normalized_accuracy", "task": task, "split": split}
                values = found[task].accuracy() / own[split][task]
                pairs = zip(grid, values, strict=True)
                answers.rows += [{**at, "alpha": alpha, "value": value} for alpha, value in pairs]
        every = [found[task].accuracy() for task in tasks]
        return normalized(every, [own[split][task] for task in tasks])

    chosen = choose_alpha(alphas, record("validation", alphas))
    if how.reference_selection:
        on_test = accuracies(model, tau, alphas, splits["test"], how, offset)
        chosen = choose_alpha(alphas, np.stack([on_test[task] for task in tasks], axis=1))
    record("test", [alphas[chosen]])
    return Added(alphas[chosen], end_of_grid(alphas[chosen], alphas))


def own_accuracy(
    paths: list[PathLike], tasks: list[str], splits: Splits, may_fail: bool
) -> dict[str, dict[str, float]]:
    """split → task → the mode's own single-task accuracy. Zero cannot normalize, and is an error
    where no task may fail."""
    own: dict[str, dict[str, float]] = {"validation": {}, "test": {}}
    for task, path in zip(tasks, paths, strict=True):
        found = {row.split: row.value for row in read_rows(path) if row.task == task}
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
