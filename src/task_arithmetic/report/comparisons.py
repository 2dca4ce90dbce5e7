"""Intervals of a run's accuracies, and comparisons of its modes and merging methods."""

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..analysis.uncertainty import interval, sign_test
from ..config.view import SUM, Part, View, view_of
from ..errors import UserError
from ..files.outcomes import Answered, Named, read_outcomes
from ..files.paths import PathLike, atomic_path
from .cells import Measured, load_metrics
from .resampled import Draws, Key, Resampled, draws_of, key_of, normalized_of, write_draws

OF_MERGED = ("unified_accuracy", "normalized_accuracy")
NEGATED = ("negated_accuracy", "control_accuracy")


class Model(NamedTuple):
    """Models of all tasks and seeds: single ones of a mode, or merged ones of a mode and method."""

    mode: str
    method: str = SUM

    @property
    def label(self) -> str:
        return self.mode if self.method == SUM else f"{self.mode}/{self.method}"


def models_of(part: Part, encoder: str, metric: str) -> list[Model]:
    """The models that a part has a metric of."""
    if metric in NEGATED:
        return [Model(mode) for mode in part.modes if part.control]
    ablations = [mode for mode in part.ablations if encoder == part.focus]
    if metric not in OF_MERGED:
        return [Model(mode) for mode in [*part.modes, *ablations]]
    methods = part.methods if encoder in part.merged_encoders else ()
    merged = [Model(mode, method) for method in methods for mode in part.modes]
    return [*(Model(mode) for mode in [*part.unified_modes, *ablations]), *merged]


class Cells:
    """The metrics of a part's models: each is read once.

    Args:
        run: as measured, or Resampled.
    """

    def __init__(self, run: Measured) -> None:
        self.run, self.part = run, run.part
        self.cells = cache(self._cells)

    def _cells(self, metric: str, encoder: str, model: Model, tasks: tuple[str, ...]) -> np.ndarray:
        """A metric (S, T), of Resampled (draws, T); all have it of all tasks but normalized
        accuracy."""
        run, (mode, method) = self.run, model
        if metric in NEGATED:
            return run.negated(encoder, mode, metric)
        if metric == "normalized_accuracy":
            return run.normalized(encoder, mode, tasks, method)
        if metric == "unified_accuracy":
            return run.unified(encoder, mode, method)
        return run.individual(encoder, mode)

    def tasks(self, metric: str, encoder: str, *models: Model) -> tuple[str, ...]:
        """The tasks of which all models have a metric."""
        if metric != "normalized_accuracy":
            return self.part.tasks
        have = [self.run.normalizable(encoder, model.mode) for model in models]
        return tuple(task for task in self.part.tasks if all(task in each for each in have))


def write(
    answers: list[PathLike],
    metrics: PathLike,
    settings: dict[str, Any],
    output: PathLike,
    comparisons: PathLike,
    draws: PathLike,
) -> None:
    """Write 95 % intervals, comparisons, and the bootstrap samples that they are of.

    Args:
        answers: files of outcomes. metrics: the run's metrics.csv.
        settings: what settings.view_settings gives.
        output: intervals.csv: metrics' columns, low and high; a row for each test accuracy and,
            without a task, for each mean over tasks and seeds.
        comparisons: comparisons.csv, see `compared`. draws: for tables and report.
    Raises:
        UserError: a file of outcomes is damaged, or a cell of the metrics is missing.
    """
    view, measured = view_of(settings), load_metrics(metrics)
    every = [named for path in answers for named in read_outcomes(path)]
    found = {key_of(cell): (cell, each) for cell, each in every if _is_shown(cell, view)}
    drawn = draws_of(found.values())
    write_draws(draws, drawn)
    test = {key: named for key, named in found.items() if key.split == "test"}
    rows, lines = list(_of_cells(test, drawn)), list[dict[str, Any]]()
    for part in view.parts:
        run = Cells(Measured(measured, part))
        samples = Cells(Resampled(measured, part, draws=drawn))
        for encoder in part.encoders:
            for metric in ("single_task_accuracy", *OF_MERGED, *NEGATED):
                models = models_of(part, encoder, metric)
                for model in models:
                    rows += _mean(run, samples, metric, encoder, model)
                for pair in pairs_of(models):
                    lines += compared(run, samples, test, metric, encoder, *pair)
    for path, written in ((output, rows), (comparisons, lines)):
        with atomic_path(path) as temporary:
            made = pd.DataFrame(
                written
            ).convert_dtypes()  # counts are whole, also where some have none
            made.to_csv(temporary, index=False, lineterminator="\n")


def _is_shown(cell: Answered, view: View) -> bool:
    """Test; and the curves over α that a claim is about."""
    curve = cell.metric == "unified_accuracy" and not cell.method and cell.encoder == view.focus
    return cell.split == "test" or (curve and cell.mode in view.modes)


def _of_cells(test: dict[Key, Named], drawn: Draws) -> Iterator[dict[str, Any]]:
    values = {key: each.accuracy()[0] for key, (_, each) in test.items()}
    for key, value in (values | normalized_of(values)).items():
        if np.isfinite(value):
            low, high = interval(drawn[key])
            yield {**key._asdict(), "value": value, "low": low, "high": high}


def _mean(
    run: Cells, samples: Cells, metric: str, encoder: str, model: Model
) -> Iterator[dict[str, Any]]:
    if tasks := run.tasks(metric, encoder, model):
        of = metric, encoder, model, tasks
        low, high = interval(samples.cells(*of).mean(axis=1))
        method = "" if model.method == SUM else model.method
        key = Key(metric, encoder, model.mode, method, "", "", "test", "")
        yield {**key._asdict(), "value": run.cells(*of).mean(), "low": low, "high": high}


def pairs_of(models: list[Model]) -> Iterator[tuple[Model, Model]]:
    """Two modes of one method, and a method and the sum of one mode."""
    for first, second in combinations(models, 2):
        if first.method == second.method:
            yield first, second
        elif SUM in (first.method, second.method) and first.mode == second.mode:
            yield second, first


def compared(
    run: Cells,
    samples: Cells,
    test: dict[Key, Named],
    metric: str,
    encoder: str,
    first: Model,
    second: Model,
) -> Iterator[dict[str, Any]]:
    """How much larger a metric is for the first than for the second model.

    `difference` is of the means over tasks and seeds, `low` and `high` its paired 95 % interval. Of
    images (or texts; by the sum over seeds of right answers), tasks (means over seeds) and seeds
    (means over tasks): how many are for the first, how many for the second model, and the p of the
    exact sign test. Scores and normalized accuracies have no right answers to count.
    """
    models = first, second
    if not (tasks := run.tasks(metric, encoder, *models)):
        return
    found, drawn = (
        [table.cells(metric, encoder, model, tasks) for model in models] for table in (run, samples)
    )
    difference, gap = found[0] - found[1], (drawn[0] - drawn[1]).mean(axis=1)
    row: dict[str, Any] = {"encoder": encoder, "metric": metric}
    row |= {"first": first.label, "second": second.label, "difference": difference.mean()}
    row |= dict(zip(("low", "high"), interval(gap), strict=True))
    counted = {"tasks": difference.mean(axis=0), "seeds": difference.mean(axis=1)}
    if metric != "normalized_accuracy":
        counted = {"images": _of_images(run.part, test, metric, encoder, models), **counted}
    for what, differences in counted.items():
        counts = sign_test(np.round(differences, 12))
        names = (f"{what}_for", f"{what}_against", f"{what}_p")
        row |= dict(zip(names, counts, strict=True))
    yield row


def _of_images(
    part: Part, test: dict[Key, Named], metric: str, encoder: str, models: Iterable[Model]
) -> np.ndarray:
    """Right answers of the first less those of the second model to each example, summed over seeds
    and, of the control task's, over the models that forget each task: (N,)."""
    other, found = str(part.control) if metric in NEGATED else "", []
    for task in [task for task in part.tasks if task not in part.scores]:
        totals, samples = [], set()
        for mode, method in models:
            whose = metric, encoder, mode, "" if method == SUM else method, task, other, "test"
            named = [test[Key(*whose, seed)] for seed in part.seeds]
            totals.append(sum(each.found[0].astype(int) for _, each in named))
            samples |= {cell.sample for cell, _ in named}
        if len(samples) > 1:
            raise UserError(
                f"The answers to {task} of {' and '.join(m.label for m in models)} ({encoder}) are "
                "to different examples: run the same snakemake command again."
            )
        found.append(totals[0] - totals[1])
    if metric == "control_accuracy":
        return np.sum(found, axis=0)
    return np.concatenate(found) if found else np.zeros(0)
