"""A run's cells in bootstrap samples of the test images (or texts) and, of several seeds, of the
seeds: an interval of anything that is computed of cells is the spread of the same function over the
samples.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from ..analysis.uncertainty import over_seeds, resampled
from ..config.view import SUM
from ..errors import UserError
from ..files.outcomes import Answered, Named
from ..files.paths import PathLike, atomic_path, mend
from ..files.tensors import header, read_made_by, read_tensors
from .cells import Measured, Names, OverGrid, Region

NORMALIZED = "normalized_accuracy"


class Key(NamedTuple):
    """A cell with outcomes: what names it in metrics.csv, texts all."""

    metric: str
    encoder: str
    mode: str
    method: str
    task: str
    other_task: str
    split: str
    seed: str


Draws = dict[Key, np.ndarray]  # cell → its values in all samples (draws,); of a grid (draws, A)


def key_of(cell: Answered) -> Key:
    seed = "" if cell.seed is None else str(cell.seed)
    whose = cell.metric, cell.encoder, cell.mode, cell.method, cell.task, cell.other_task
    return Key(*whose, cell.split, seed)


def draws_of(found: Iterable[Named]) -> Draws:
    """Bootstrap values of all cells. Outcomes of the same examples share their samples."""
    together: dict[str, list[Named]] = defaultdict(list)
    for cell, outcomes in found:
        together[cell.sample].append((cell, outcomes))
    drawn: Draws = {}
    for sample, named in together.items():
        values = resampled([outcomes for _, outcomes in named], int(sample, 16))
        for (cell, _), each in zip(named, values, strict=True):
            drawn[key_of(cell)] = each[:, 0] if cell.split == "test" else each
    return drawn | normalized_of(drawn)


def normalized_of(values: Draws) -> Draws:
    """The unified model's accuracy over that of the task's own model."""
    found = {}
    for key, each in values.items():
        own = key._replace(metric="single_task_accuracy", method="")
        if key.mode == "posthoc":
            own = own._replace(metric="posthoc_accuracy", mode="nonlinear")
        if key.metric == "unified_accuracy" and own in values and key.split == "test":
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.where(values[own] > 0, each / values[own], np.nan)
            found[key._replace(metric=NORMALIZED)] = ratio
    return found


@dataclass(frozen=True)
class Resampled(Measured):
    """The cells of a part in every bootstrap sample: as Measured gives them, with samples in place
    of seeds, each a mean over drawn seeds (over_seeds). What has no outcomes is as measured.
    """

    draws: Draws = field(default_factory=dict)

    def _drawn(
        self, of: tuple[str, str, str, str], tasks: Names, other: str, split: str, seeds: Names
    ) -> Any:
        """Values (draws, T, …) of a metric, encoder, mode and method; None: they have none."""
        keys = [[Key(*of, task, other, split, seed) for task in tasks] for seed in seeds]
        if any(key not in self.draws for row in keys for key in row):
            return None
        values = np.array([[self.draws[key] for key in row] for row in keys])
        return over_seeds(np.moveaxis(values, 2, 1))

    def of_seeds(self) -> list["Resampled"]:
        """The same of each seed by itself, of which nothing is drawn."""
        parts = [replace(self.part, seeds=(seed,)) for seed in self.part.seeds]
        return [Resampled(self.metrics, part, draws=self.draws) for part in parts]

    def normalizable(self, encoder: str, mode: str) -> tuple[str, ...]:
        """The tasks that have a normalized accuracy as measured: those of a sample may be fewer."""
        return Measured(self.metrics, self.part).normalizable(encoder, mode)

    def cells(
        self,
        metric: str,
        encoder: str,
        mode: str,
        tasks: Names | None = None,
        split: str = "test",
        other_task: str | None = None,
        seeds: Names | None = None,
        column: str = "value",
        method: str = SUM,
    ) -> np.ndarray:
        """Values (draws, T), each the mean over the seeds of its sample."""
        if column == "value":
            names, seeds = tasks or self.part.tasks, seeds or self.part.seeds
            of = metric, encoder, mode, "" if method == SUM else method
            found: np.ndarray | None = self._drawn(of, names, other_task or "", split, seeds)
            if found is not None:
                return found
        rest = tasks, split, other_task, seeds, column, method
        return super().cells(metric, encoder, mode, *rest)

    def curve(
        self,
        metric: str,
        encoder: str,
        mode: str,
        tasks: Names | None = None,
        method: str = SUM,
    ) -> OverGrid:
        """A metric (draws, T, A) on validation."""
        grid, measured = super().curve(metric, encoder, mode, tasks, method)
        of = metric, encoder, mode, "" if method == SUM else method
        names = tasks or self.part.tasks
        found = self._drawn(of, names, "", "validation", self.part.seeds)
        return OverGrid(grid, measured if found is None else found)

    def mean_error(self, mode: str, of: Region) -> np.ndarray:
        """The mean disentanglement error (draws,) over a region, as measured where it has none."""
        (a, b), where = of.pair, (self.part.focus, mode, "")
        metric = f"{of.module}_disentanglement{'_inside' * of.inside}"
        parts = [
            self._drawn((metric, *where), [task], other, "test", self.part.seeds)
            for task, other in ((a, b), (b, a))
        ]
        if any(part is None for part in parts):
            return super().mean_error(mode, of)
        total: np.ndarray = sum(parts)[:, 0]
        return total


# ---------------------------------------------------------------- files


def write_draws(path: PathLike, draws: Draws) -> None:
    """Write them as safetensors, float64; normalized accuracies follow from the others."""
    from safetensors.numpy import save_file

    draws = {key: each for key, each in draws.items() if key.metric != NORMALIZED}
    tensors = {str(i): np.ascontiguousarray(each) for i, each in enumerate(draws.values())}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, header({"stage": "resample", "cells": list(draws)}))


def read_draws(path: PathLike) -> Draws:
    """Read them. Raises UserError: it is no such file."""
    made_by = read_made_by(path)
    if made_by.get("stage") != "resample":
        raise UserError(f"{path} holds no bootstrap samples: {mend(path)}.")
    tensors = read_tensors(path, framework="np")
    draws = {Key(*key): tensors[str(place)] for place, key in enumerate(made_by["cells"])}
    return draws | normalized_of(draws)
