"""Cells of metrics.csv, which tables, figures and report show.

A cell is one number of one encoder, mode, seed and task. What a view promises and the metrics lack
is an error, never a blank and never a mean over fewer tasks. Arrays have the axes S: the seeds of
the part, T: its tasks or those asked for, A: the α of a grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from ..config.view import Part
from ..errors import UserError
from ..files.hashes import check_file
from ..files.paths import PathLike

Names = Sequence[str]
NUMBERS = ["alpha", "value", "other_alpha"]
KEYS = ["encoder", "mode", "seed", "task", "split", "metric", "alpha", "other_task", "other_alpha"]


def load_metrics(path: PathLike) -> pd.DataFrame:
    """metrics.csv with text keys ("" where one does not apply), float alphas and values.

    Raises:
        UserError: missing or damaged file, missing column, a row that stands there twice.
    """
    try:
        check_file(path)
        metrics = pd.read_csv(
            path,
            dtype={key: str for key in KEYS if key not in NUMBERS},
            keep_default_na=False,
            na_values={key: [""] for key in NUMBERS},
        )
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run the metrics stage first.") from None
    except ValueError as error:
        raise UserError(f"{path} is no table of metrics ({error}): make it again.") from None
    if missing := [key for key in [*KEYS, "value"] if key not in metrics]:
        raise UserError(f"{path} lacks the column {missing[0]}: make it again.")
    try:
        metrics[NUMBERS] = metrics[NUMBERS].astype(float).round(9)
        metrics["seed"] = metrics["seed"].map(lambda seed: str(int(float(seed))) if seed else "")
    except ValueError as error:
        raise UserError(f"{path} has text for a number ({error}): make it again.") from None
    twice = metrics[metrics.duplicated(KEYS)]
    if len(twice):
        keys = {k: v for k, v in twice.iloc[0][KEYS].items() if not (pd.isna(v) or v == "")}
        row = ", ".join(f"{key} {value}" for key, value in keys.items())
        raise UserError(f"{path} has two rows for {row}: make it again from distinct inputs.")
    return metrics


def percent(values: np.ndarray) -> np.ndarray:
    """Means (S,) over tasks of accuracies (S, T), in percent."""
    return 100 * values.mean(axis=1)


def missing(metric: str, more: str = "", **keys: str | float) -> NoReturn:
    """Refuse a cell that a view promises and the metrics lack. Raises UserError.

    Args:
        more: said behind the keys.
        keys: columns that say which cell; those that are "" do not apply.
    """
    where = ", ".join(
        f"{key.replace('_', ' ')} {keys[key] if isinstance(keys[key], str) else f'{keys[key]:g}'}"
        for key in "encoder mode seed task split other_task alpha other_alpha".split()
        if keys.get(key, "") != ""
    )
    raise UserError(
        f"The metrics hold no {metric} for {where}{more}: run the stage that measures it, or take "
        "what it belongs to out of the configuration."
    )


@dataclass(frozen=True)
class Measured:
    """The cells of a part of a run. Every method raises UserError where a cell is missing.

    Attributes:
        metrics: what load_metrics returns.
    """

    metrics: pd.DataFrame
    part: Part

    def rows(self, metric: str, encoder: str, mode: str, **keys: str | None) -> pd.DataFrame:
        """All rows with a value of a metric; keys: of further columns, None: any."""
        chosen = np.isfinite(self.metrics["value"])
        for key, value in {"metric": metric, "encoder": encoder, "mode": mode, **keys}.items():
            if value is not None:
                chosen &= self.metrics[key] == value
        return self.metrics[chosen]

    def _rows_of_each(
        self, seeds: Names, tasks: Names, metric: str, split: str, encoder: str, mode: str,
        other_task: str | None = None,
    ) -> pd.DataFrame:  # fmt: skip
        """The rows of these seeds and tasks, of each one at least."""
        rows = self.rows(metric, encoder, mode, split=split, other_task=other_task)
        there = set(zip(rows["seed"], rows["task"], strict=True))
        for seed, task in product(seeds, tasks):
            if (seed, task) not in there:
                missing(metric, encoder=encoder, mode=mode, seed=seed, task=task, split=split)
        return rows[rows["seed"].isin(seeds) & rows["task"].isin(tasks)]

    def cells(
        self,
        metric: str,
        encoder: str,
        mode: str,
        tasks: Names | None = None,
        split: str = "test",
        other_task: str | None = None,
        seeds: Names | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """One value and its α per seed and task; those of the part by default.

        Returns:
            values (S, T) and alphas (S, T), NaN where α does not apply.
        Raises:
            UserError: a cell is missing, or has rows for several α.
        """
        tasks = self.part.tasks if tasks is None else tasks
        seeds = self.part.seeds if seeds is None else seeds
        rows = self._rows_of_each(seeds, tasks, metric, split, encoder, mode, other_task)
        if len(rows) > len(seeds) * len(tasks):
            (seed, task), own = max(rows.groupby(["seed", "task"]), key=lambda group: len(group[1]))
            raise UserError(
                f"The metrics hold {len(own)} values of {metric} for encoder {encoder}, mode "
                f"{mode}, seed {seed}, task {task}, split {split} where one is expected (α "
                f"{', '.join(f'{a:g}' for a in own.alpha[:4])} …): make them again."
            )
        found = rows.set_index(["seed", "task"]).reindex(list(product(seeds, tasks)))
        shape = len(seeds), len(tasks)
        return found["value"].to_numpy().reshape(shape), found["alpha"].to_numpy().reshape(shape)

    def pretrained(self, encoder: str, tasks: Names | None = None) -> np.ndarray:
        """Zero-shot test accuracies (1, T)."""
        return self.cells("pretrained_accuracy", encoder, "pretrained", tasks, seeds=[""])[0]

    def individual(self, encoder: str, mode: str, tasks: Names | None = None) -> np.ndarray:
        """Test accuracies (S, T) of the individual models; posthoc: nonlinear's through f_lin."""
        if mode == "posthoc":
            return self.through_f_lin(encoder, mode)
        return self.cells("single_task_accuracy", encoder, mode, tasks)[0]

    def through_f_lin(self, encoder: str, mode: str) -> np.ndarray:
        """Test accuracies (S, T) of task vectors through f_lin; posthoc: nonlinear's."""
        mode = "nonlinear" if mode == "posthoc" else mode
        return self.cells("posthoc_accuracy", encoder, mode)[0]

    def unified(self, encoder: str, mode: str) -> np.ndarray:
        """Test accuracies (S, T) of the unified model."""
        return self.cells("unified_accuracy", encoder, mode)[0]

    def negated(self, encoder: str, mode: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of negating each task by itself, test accuracies (S, T) on the task and on the control
        task, and α (S, T)."""
        where = encoder, mode, None, "test", self.part.control
        target, alphas = self.cells("negated_accuracy", *where)
        return target, self.cells("control_accuracy", *where)[0], alphas

    def chosen_alpha(self, encoder: str, mode: str, tasks: Names | None = None) -> np.ndarray:
        """The α (S,) of the unified model. Raises UserError if tasks differ in it."""
        alphas = self.cells("unified_accuracy", encoder, mode, tasks)[1]
        for seed, row in zip(self.part.seeds, alphas, strict=True):
            if not (row == row[0]).all():
                raise UserError(
                    f"The unified model of encoder {encoder}, mode {mode}, seed {seed} has another "
                    "α for some tasks: make the addition's metrics again."
                )
        return alphas[:, 0]

    def curve(
        self,
        metric: str,
        encoder: str,
        mode: str,
        tasks: Names | None = None,
        grid: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """A metric over the α grid on validation.

        Args:
            grid: the α that every cell must have; by default all that any cell of these has.
        Returns:
            alphas (A,), values (S, T, A).
        """
        tasks, seeds = self.part.tasks if tasks is None else tasks, self.part.seeds
        rows = self._rows_of_each(seeds, tasks, metric, "validation", encoder, mode)
        grid = np.unique(rows["alpha"]) if grid is None else grid
        axes = {"seed": seeds, "task": tasks, "alpha": grid}
        keys = {"encoder": encoder, "mode": mode, "split": "validation"}
        return grid, _array(rows, axes, metric, **keys)

    def surface(
        self, metric: str, mode: str, pair: tuple[str, str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The disentanglement error ξ(α₁, α₂), Equation 2, of a pair of tasks and the encoder
        `focus`.

        Returns:
            alphas (P,), values (S, P, P): first index after the seed α₁, second α₂.
        """
        (first, second), seeds, focus = pair, self.part.seeds, self.part.focus
        rows = self._rows_of_each(seeds, [first], metric, "test", focus, mode, second)
        grid = np.unique([*rows["alpha"], *rows["other_alpha"]])
        axes = {"seed": seeds, "alpha": grid, "other_alpha": grid}
        keys = {"encoder": focus, "mode": mode, "task": first, "split": "test"}
        return grid, _array(rows, axes, metric, **keys, other_task=second)

    def cosines(self, mode: str) -> np.ndarray:
        """Cosine similarities (S, T, T) of the task vectors of a mode of the encoder `focus`."""
        metric, focus, tasks = "cosine_similarity", self.part.focus, self.part.tasks
        axes = {"seed": self.part.seeds, "task": tasks, "other_task": tasks}
        return _array(self.rows(metric, focus, mode), axes, metric, encoder=focus, mode=mode)

    def normalizable(self, encoder: str, mode: str) -> tuple[str, ...]:
        """The tasks that have a normalized accuracy: all of images; of texts those whose individual
        models have an accuracy above 0 in every seed."""
        if not self.part.of_texts:
            return self.part.tasks
        both = [
            self.cells("single_task_accuracy", encoder, mode, split=split)[0] > 0
            for split in ("validation", "test")
        ]
        return tuple(np.array(self.part.tasks)[np.concatenate(both).all(axis=0)].tolist())


def _array(rows: pd.DataFrame, axes: Mapping[str, Any], metric: str, **keys: str) -> np.ndarray:
    """The values of rows along axes: column → its keys. Raises UserError if one is missing; keys:
    what it says besides."""
    wanted = pd.MultiIndex.from_product(axes.values(), names=list(axes))
    values = rows.set_index(list(axes))["value"].reindex(wanted)
    if values.isna().any():
        missing(metric, **keys, **dict(zip(axes, wanted[values.isna().argmax()], strict=True)))
    return values.to_numpy().reshape([len(axis) for axis in axes.values()])
