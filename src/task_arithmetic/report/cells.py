"""Cells of metrics.csv, which tables, figures and findings show.

A cell is one number of one encoder, mode, seed and task. What a view promises and the metrics lack
is an error, never a blank and never a mean over fewer tasks. Arrays have the axes S: the seeds of
the part, T: its tasks or those asked for, A: the α of a grid.

What several vectors were merged into belongs to a merging method, by its label. Rows of the sum,
and of what is not merged, have none: nothing here mixes them with another method's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..analysis.subsets import label_of, subsets_of
from ..config.view import SUM, Part
from ..errors import UserError
from ..files.hashes import check_file
from ..files.paths import PathLike

Names = Sequence[str]
Axes = Mapping[str, Names | np.ndarray]  # column → its keys along an axis
NUMBERS = ["alpha", "value", "other_alpha"]
KEYS = ["encoder", "mode", "seed", "method", "task", "split", "metric", "other_task"]
KEYS += ["alpha", "other_alpha", "layer"]


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
        if "layer" not in metrics:  # of an older version
            metrics["layer"] = ""
        if lacking := [key for key in [*KEYS, "value"] if key not in metrics]:
            raise UserError(f"{path} lacks the column {lacking[0]}: make it again.")
        metrics[NUMBERS] = metrics[NUMBERS].astype(float).round(9)
        metrics["seed"] = metrics["seed"].map(lambda seed: str(int(float(seed))) if seed else "")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run the metrics stage first.") from None
    except ValueError as error:
        raise UserError(
            f"{path} is no table of metrics or has text for a number ({error}): make it again."
        ) from None
    twice = metrics[metrics.duplicated(KEYS)]
    if len(twice):
        cell = _in_words(twice.iloc[0])
        raise UserError(f"{path} has two rows for {cell}: make it again from distinct inputs.")
    return metrics


def _in_words(cell: Mapping[str, Any]) -> str:
    """Which cell it is; keys that it lacks, or that are "" or NaN, do not apply."""
    keys = {key: cell[key] for key in KEYS if key in cell and cell[key] not in ("", None)}
    return ", ".join(
        f"{key.replace('_', ' ')} {value if isinstance(value, str) else f'{value:g}'}"
        for key, value in keys.items()
        if pd.notna(value)
    )


def percent(values: np.ndarray) -> np.ndarray:
    """Means (S,) over tasks of accuracies (S, T), in percent."""
    return 100 * values.mean(axis=1)


class OverGrid(NamedTuple):
    """What was measured at every α of a grid (A,)."""

    alphas: np.ndarray
    values: np.ndarray


class Region(NamedTuple):
    """Of the disentanglement error of a module (representation or classification) and a pair of
    tasks: its cells in [0, 1]², or the whole grid."""

    module: str
    pair: tuple[str, str]
    inside: bool


@dataclass(frozen=True)
class Measured:
    """The cells of a part of a run. Every method raises UserError where a cell is missing.

    Attributes:
        metrics: what load_metrics returns.
        taken: labels of the rows whose cells were asked for.
    """

    metrics: pd.DataFrame
    part: Part
    taken: set[int] = field(default_factory=set, init=False, repr=False, compare=False)

    def rows_taken(self) -> pd.DataFrame:
        """The rows of the metrics whose cells were asked for until now, in their order."""
        return self.metrics[self.metrics.index.isin(list(self.taken))]

    @cached_property
    def _of_metric(self) -> dict[str, pd.DataFrame]:
        """Metric → its rows that have a value."""
        there = self.metrics[np.isfinite(self.metrics["value"])]
        return {str(metric): rows for metric, rows in there.groupby("metric", sort=False)}

    def _rows(self, metric: str, method: str = "", **keys: str | None) -> pd.DataFrame:
        """All rows of a metric and method that have a value, with these keys; None: any. Of a layer
        only if one is asked for, by `layer` or along an axis."""
        rows = self._of_metric.get(metric, self.metrics[:0])
        chosen = rows["method"] == method
        for key, value in {"layer": "", **keys}.items():
            if value is not None:
                chosen &= rows[key] == value
        return rows[chosen]

    def _array(
        self, axes: Axes, metric: str, column: str = "value", method: str = "", **keys: str | None
    ) -> np.ndarray:
        """The cells with these keys along axes. Raises UserError if one has not exactly one row."""
        cells = pd.MultiIndex.from_product(axes.values(), names=list(axes))
        any_layer = {"layer": None} if "layer" in axes else {}
        found = self._rows(metric, method, **any_layer, **keys)
        rows = found.set_index(list(axes))
        inside = rows.index.isin(cells)
        self.taken.update(found.index[inside])
        rows = rows[inside]
        counts = rows.index.value_counts().reindex(cells, fill_value=0)
        wrong = counts[counts != 1]
        if len(wrong) or not len(cells):
            cell, count = (wrong.index[0], wrong.iloc[0]) if len(wrong) else ([], 0)
            of = dict(zip(axes, cell, strict=False))
            raise UserError(
                f"The metrics hold {f'{count} values of' if count else 'no'} {metric} "
                f"for {_in_words(keys | {'method': method} | of)}, where one is "
                "expected: run the stage that measures it, or take what it belongs to out of the "
                "configuration."
            )
        return rows[column].reindex(cells).to_numpy().reshape([len(keys) for keys in axes.values()])

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
        """One value (S, T) per seed and task; those of the part by default.

        Args:
            method: label of a merging method; the sum's is also that of what is not merged.
            column: "value", or "alpha": the α that it has, NaN where that does not apply.
        """
        axes = {"seed": seeds or self.part.seeds, "task": tasks or self.part.tasks}
        keys = {"encoder": encoder, "mode": mode, "split": split}
        method = "" if method == SUM else method
        return self._array(axes, metric, column, method, **keys, other_task=other_task)

    def pretrained(self, encoder: str, tasks: Names | None = None) -> np.ndarray:
        """Zero-shot test accuracies (1, T)."""
        return self.cells("pretrained_accuracy", encoder, "pretrained", tasks, seeds=[""])

    def individual(self, encoder: str, mode: str, tasks: Names | None = None) -> np.ndarray:
        """Test accuracies (S, T) of the individual models; posthoc: nonlinear's through f_lin."""
        if mode == "posthoc":
            return self.through_f_lin(encoder, mode)
        return self.cells("single_task_accuracy", encoder, mode, tasks)

    def through_f_lin(self, encoder: str, mode: str) -> np.ndarray:
        """Test accuracies (S, T) of task vectors through f_lin; posthoc: nonlinear's."""
        mode = "nonlinear" if mode == "posthoc" else mode
        return self.cells("posthoc_accuracy", encoder, mode)

    def unified(self, encoder: str, mode: str, method: str = SUM) -> np.ndarray:
        """Test accuracies (S, T) of the unified model."""
        return self.cells("unified_accuracy", encoder, mode, method=method)

    def normalized(
        self, encoder: str, mode: str, tasks: Names | None = None, method: str = SUM
    ) -> np.ndarray:
        """Test accuracies (S, T) of the unified model relative to those of its individual ones."""
        return self.cells("normalized_accuracy", encoder, mode, tasks, method=method)

    def normalizable(self, encoder: str, mode: str) -> tuple[str, ...]:
        """The tasks that have a normalized accuracy: all of images; of texts those whose individual
        models have an accuracy above 0 in every seed."""
        if not self.part.of_texts:
            return self.part.tasks

        def above(split: str) -> np.ndarray:
            return self.cells("single_task_accuracy", encoder, mode, split=split).min(axis=0) > 0

        both = above("validation") & above("test")
        return tuple(task for task, is_above in zip(self.part.tasks, both, strict=True) if is_above)

    def negated(
        self, encoder: str, mode: str, metric: str = "negated_accuracy", column: str = "value"
    ) -> np.ndarray:
        """Of negating each task by itself, test accuracies (S, T) on the task; control_accuracy: on
        the control task."""
        return self.cells(metric, encoder, mode, other_task=self.part.control, column=column)

    def chosen_alpha(self, encoder: str, mode: str, method: str = SUM) -> np.ndarray:
        """The α (S,) of the unified model. Raises UserError if tasks differ in it."""
        alphas = self.cells("unified_accuracy", encoder, mode, column="alpha", method=method)
        merged = "" if method == SUM else f", method {method}"
        for seed, row in zip(self.part.seeds, alphas, strict=True):
            if not (row == row[0]).all():
                raise UserError(
                    f"The unified model of encoder {encoder}, mode {mode}{merged}, seed {seed} has "
                    "another α for some tasks: make the addition's metrics again."
                )
        return alphas[:, 0]

    def retained(self, mode: str, method: str = SUM) -> np.ndarray:
        """Test accuracy (S,) of a unified model of the encoder `focus` on the control task."""
        where = self.part.focus, mode, [self.part.control or ""]
        return self.cells("retained_accuracy", *where, method=method)[:, 0]

    def of_subsets(self, mode: str, size: int, method: str) -> np.ndarray:
        """Normalized test accuracies (S, draws) of merging subsets of so many tasks, means over
        theirs, of the encoder `focus`."""
        assert self.part.subsets
        drawn = subsets_of(self.part.tasks, size, self.part.subsets.draws)
        where = self.part.focus, mode, [label_of(subset) for subset in drawn]
        return self.cells("subset_normalized_accuracy", *where, method=method)

    def of_merge(self, metric: str, encoder: str, mode: str, method: str) -> np.ndarray:
        """What merging itself took (S,): merge_seconds, or merge_peak_memory_bytes."""
        return self.cells(metric, encoder, mode, tasks=[""], split="", method=method)[:, 0]

    def norms(self, encoder: str, mode: str) -> np.ndarray:
        """Norms ‖τ_t‖ (S, T) of the task vectors."""
        return self.cells("vector_norm", encoder, mode, split="")

    def curve(
        self,
        metric: str,
        encoder: str,
        mode: str,
        tasks: Names | None = None,
        method: str = SUM,
    ) -> OverGrid:
        """A metric (S, T, A) on validation; the grid is that of all modes."""
        keys = {"encoder": encoder, "split": "validation"}
        method = "" if method == SUM else method
        grid = np.unique(self._rows(metric, method, **keys)["alpha"])
        axes: Axes = {"seed": self.part.seeds, "task": tasks or self.part.tasks, "alpha": grid}
        return OverGrid(grid, self._array(axes, metric, method=method, **keys, mode=mode))

    def surface(self, module: str, mode: str, pair: tuple[str, str]) -> OverGrid:
        """The disentanglement error ξ(α₁, α₂), Equation 2, of a pair of tasks, as `plane` gives it.

        Args:
            module: representation or classification.
        """
        return self.plane(f"{module}_disentanglement", mode, pair)

    def plane(self, metric: str, mode: str, pair: tuple[str, str]) -> OverGrid:
        """A metric of θ0 + α₁τ₁ + α₂τ₂ of a pair of tasks and the encoder `focus`: (S, A, A), the
        first index after the seed α₁, the second α₂."""
        keys = {"metric": metric, "encoder": self.part.focus, "mode": mode}
        keys |= {"task": pair[0], "split": "test", "other_task": pair[1]}
        grid = np.unique(self._rows(**keys)[["alpha", "other_alpha"]])
        axes: Axes = {"seed": self.part.seeds, "alpha": grid, "other_alpha": grid}
        return OverGrid(grid, self._array(axes, **keys))

    def cells_inside(self, pair: tuple[str, str]) -> int:
        """How many cells of a pair's grid are in [0, 1]²."""
        grid, _ = self.surface("representation", next(iter(self.part.modes)), pair)
        return int(_inside(grid).sum()) ** 2

    def mean_error(self, mode: str, of: Region) -> np.ndarray:
        """The mean disentanglement error (S,) over a region."""
        grid, errors = self.surface(of.module, mode, of.pair)
        chosen = np.flatnonzero(_inside(grid) | (not of.inside))
        return errors[:, chosen][:, :, chosen].mean(axis=(1, 2))

    def step_ratio(self, encoder: str, mode: str, other: str) -> tuple[float, float] | None:
        """Between which ratios the medians of both modes' steps are, by their 95 % intervals; None:
        these were not measured."""
        ends = [f"step_seconds_{end}" for end in ("low", "high")]
        if ends[0] not in self._of_metric:
            return None
        (low, high), (other_low, other_high) = (
            [float(self.cells(end, encoder, m, [""], "", seeds=[""])[0, 0]) for end in ends]
            for m in (mode, other)
        )
        return low / other_high, high / other_low

    def cosines(self, mode: str) -> np.ndarray:
        """Cosine similarities (S, T, T) of the task vectors of a mode of the encoder `focus`."""
        axes = {"seed": self.part.seeds, "task": self.part.tasks, "other_task": self.part.tasks}
        return self._array(axes, metric="cosine_similarity", encoder=self.part.focus, mode=mode)

    def layers(self, metric: str, mode: str) -> list[str]:
        """The layers in which a metric of a mode of the encoder `focus` stands, block by block."""
        rows = self._rows(metric=metric, encoder=self.part.focus, mode=mode, layer=None)
        named = (layer.split(".") for layer in rows["layer"].unique() if layer)
        return [f"{block}.{kind}" for block, kind in sorted((int(b), k) for b, k in named)]

    def in_layers(
        self, metric: str, mode: str, layers: Names, tasks: Names = ("",), method: str = SUM
    ) -> np.ndarray:
        """A metric (S, L, T) of the encoder `focus` in these layers."""
        axes = {"seed": self.part.seeds, "layer": layers, "task": tasks}
        method = "" if method == SUM else method
        return self._array(axes, method=method, metric=metric, encoder=self.part.focus, mode=mode)

    def layer_cosines(self, mode: str, layers: Names) -> np.ndarray:
        """Cosine similarities (S, L, P) of all pairs of task vectors of the encoder `focus` in
        these layers; NaN where one of the two is zero."""
        tasks, focus = self.part.tasks, self.part.focus
        rows = self._rows(metric="cosine_similarity", encoder=focus, mode=mode, layer=None)
        pairs = [*combinations(range(len(tasks)), 2)]
        cells = [
            (seed, layer, tasks[i], tasks[j])
            for seed in self.part.seeds
            for layer in layers
            for i, j in pairs
        ]
        found = rows.set_index(["seed", "layer", "task", "other_task"])["value"]
        self.taken.update(rows.index[found.index.isin(cells)])
        values = found.reindex(cells)
        norms = self.in_layers("relative_norm", mode, layers, tasks)
        both = [(norms[..., i] > 0) & (norms[..., j] > 0) for i, j in pairs]
        lacking = values.index[values.isna() & np.stack(both, axis=-1).ravel()]
        if len(lacking):
            raise UserError(
                f"The metrics hold no cosine similarity of {focus}, {mode}, for "
                f"{', '.join(lacking[0])}: run the stage that measures it."
            )
        return values.to_numpy().reshape(len(self.part.seeds), len(layers), len(pairs))

    def pair_errors(self, module: str, mode: str) -> np.ndarray:
        """ξ_ij (S, T, T) of every two tasks at the chosen α, symmetric; NaN on the diagonal.

        Args:
            module: representation or classification.
        """
        tasks, metric = self.part.tasks, f"{module}_pair_error"
        found = np.full((len(self.part.seeds), len(tasks), len(tasks)), np.nan)
        for j in range(1, len(tasks)):
            column = self.cells(metric, self.part.focus, mode, tasks[:j], other_task=tasks[j])
            found[:, :j, j] = found[:, j, :j] = column
        return found

    def interference(self, mode: str) -> np.ndarray:
        """What τ_s does to the accuracy on task t (S, T, T): the first index after the seed s."""
        axes = {"seed": self.part.seeds, "other_task": self.part.tasks, "task": self.part.tasks}
        return self._array(axes, metric="interference", encoder=self.part.focus, mode=mode)

    def linearity(self, mode: str) -> dict[str, np.ndarray]:
        """Layer → how far f is from f_lin in this part of τ (S, T)."""
        keys = {"metric": "linearity_error", "encoder": self.part.focus, "mode": mode}
        layers = sorted(set(self._rows(**keys, layer=None)["layer"]))
        axes = {"seed": self.part.seeds, "task": self.part.tasks, "layer": layers}
        found = self._array(axes, **keys)
        return {layer: found[:, :, i] for i, layer in enumerate(layers)}


def _inside(grid: np.ndarray) -> np.ndarray:
    """Which coefficients are in [0, 1]."""
    inside: np.ndarray = (grid >= -1e-9) & (grid <= 1 + 1e-9)
    return inside
