"""What tables, figures and report share: names and their order, and cells of metrics.csv.

A cell is one number of one encoder, mode, seed and task. What the settings promise and the metrics
lack is an error, never a blank and never a mean over fewer tasks.
"""

from itertools import product

import numpy as np
import pandas as pd

from ..config.available import PAPER_MODES, is_language
from ..errors import UserError
from ..files.hashes import check_file

# ---------------------------------------------------------------- names, labels, their order

LABELS = {"pretrained": "Pre-trained", "posthoc": "Post-hoc linearization"}


def modes_of(settings) -> list[str]:
    """Names of the fine-tuned modes in the paper's order, without ablations."""
    known = [mode for mode in PAPER_MODES if mode in settings["modes"]]
    return known + [mode for mode in settings["modes"] if mode not in known]


def unified_modes_of(settings) -> list[str]:
    """The modes, and of images `posthoc` (a nonlinear task vector through f_lin) where there is
    nonlinear."""
    posthoc = "nonlinear" in settings["modes"] and not is_language(settings)
    return modes_of(settings) + ["posthoc"] * posthoc


def kernel_modes_of(settings) -> list[str]:
    """Modes with a kernel behaviour test; of texts none has one."""
    tested = [] if is_language(settings) else settings["kernel_modes"]
    return [mode for mode in modes_of(settings) if mode in tested]


def label_of(mode, settings) -> str:
    """What tables and figures call a mode."""
    language = (settings["language"] or {}).get("modes", {})
    return {**LABELS, **language, **settings["modes"], **settings["ablations"]}.get(mode, mode)


# ---------------------------------------------------------------- reading metrics

NUMBERS = ["alpha", "value", "other_alpha"]
KEYS = ["encoder", "mode", "seed", "task", "split", "metric", "alpha", "other_task", "other_alpha"]


def load_metrics(path) -> pd.DataFrame:
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
        row = ", ".join(
            f"{k} {v}" for k, v in twice.iloc[0][KEYS].items() if not (pd.isna(v) or v == "")
        )
        raise UserError(f"{path} has two rows for {row}: make it again from distinct inputs.")
    return metrics


def seeds_of(settings) -> list[str]:
    """Seeds as they stand in the metrics' seed column."""
    return [str(seed) for seed in settings["seeds"]]


def _groups(metrics, metric, encoder, mode, seeds, tasks, split, other_task=None) -> dict:
    """(seed, task) → that cell's rows, for every seed and task. Raises UserError on a gap."""
    rows = metrics[
        (metrics["metric"] == metric)
        & (metrics["encoder"] == encoder)
        & (metrics["mode"] == mode)
        & (metrics["split"] == split)
    ]
    if other_task is not None:
        rows = rows[rows["other_task"] == other_task]
    rows = rows[np.isfinite(rows["value"])]
    groups = dict(tuple(rows.groupby(["seed", "task"])))
    for seed, task in product(seeds, tasks):
        if (seed, task) not in groups:
            raise missing_cell(metric, encoder, mode, seed, task, split)
    return {key: groups[key] for key in product(seeds, tasks)}


def missing_cell(metric, encoder, mode, seed, task, split="", extra="") -> UserError:
    """The error for a cell that the settings promise and the metrics lack."""
    keys = {"encoder": encoder, "mode": mode, "seed": seed, "task": task, "split": split}
    where = ", ".join(f"{key} {value}" for key, value in keys.items() if value != "")
    return UserError(
        f"The metrics hold no {metric} for {where}{extra}: run the stage that measures it, or "
        "take what it belongs to out of the configuration."
    )


def cells(metrics, metric, encoder, mode, seeds, tasks, split="test", other_task=None):
    """One value and its α per seed and task.

    Returns:
        values (S, T) and alphas (S, T), NaN where α does not apply.
    Raises:
        UserError: a cell is missing, or has rows for several α.
    """
    groups = _groups(metrics, metric, encoder, mode, seeds, tasks, split, other_task)
    for (seed, task), rows in groups.items():
        if len(rows) > 1:
            raise UserError(
                f"The metrics hold {len(rows)} values of {metric} for encoder {encoder}, mode "
                f"{mode}, seed {seed}, task {task}, split {split} where one is expected (α "
                f"{', '.join(f'{a:g}' for a in rows.alpha[:4])} …): make them again."
            )
    shape = len(seeds), len(tasks)
    values, alphas = (
        np.array([rows[column].iloc[0] for rows in groups.values()]).reshape(shape)
        for column in ("value", "alpha")
    )
    return values, alphas


def chosen_alpha(metrics, encoder, mode, seeds, tasks) -> np.ndarray:
    """The α (S,) of the unified model. Raises UserError if tasks differ in it."""
    alphas = cells(metrics, "unified_accuracy", encoder, mode, seeds, tasks)[1]
    for seed, row in zip(seeds, alphas, strict=True):
        if not (row == row[0]).all():
            raise UserError(
                f"The unified model of encoder {encoder}, mode {mode}, seed {seed} has another α "
                "for some tasks: make the addition's metrics again."
            )
    return alphas[:, 0]


def curve(metrics, metric, encoder, mode, seeds, tasks, grid=None):
    """A metric over the α grid on validation.

    Args:
        grid: the α that every cell must have; by default all that any cell of these has.
    Returns:
        alphas (A,), values (S, T, A).
    Raises:
        UserError: a cell is missing for some α.
    """
    groups = _groups(metrics, metric, encoder, mode, seeds, tasks, "validation")
    if grid is None:
        grid = np.unique(np.concatenate([rows.alpha for rows in groups.values()]))
    values = []
    for (seed, task), rows in groups.items():
        found = rows.set_index("alpha")["value"]
        for alpha in grid:
            if alpha not in found.index:
                extra = f", alpha {alpha:g}"
                raise missing_cell(metric, encoder, mode, seed, task, "validation", extra)
        values.append(found.loc[grid].to_numpy())
    return np.asarray(grid), np.array(values).reshape(len(seeds), len(tasks), len(grid))


def surface(metrics, metric, encoder, mode, seeds, pair):
    """The disentanglement error ξ(α₁, α₂), Equation 2, of a pair of tasks.

    Returns:
        alphas (P,), values (S, P, P): first index after the seed α₁, second α₂.
    """
    first, second = pair
    groups = _groups(metrics, metric, encoder, mode, seeds, [first], "test", second)
    tables = [
        rows.pivot(index="alpha", columns="other_alpha", values="value").sort_index(axis=1)
        for rows in groups.values()
    ]
    grid = np.unique(np.concatenate([[*table.index, *table.columns] for table in tables]))
    for seed, table in zip(seeds, tables, strict=True):
        table = table.reindex(index=grid, columns=grid)
        if table.isna().any(axis=None):
            a, b = (grid[i] for i in np.argwhere(table.isna().to_numpy())[0])
            extra = f", other task {second}, alpha {a:g}, other alpha {b:g}"
            raise missing_cell(metric, encoder, mode, seed, first, "test", extra)
    return grid, np.array([table.to_numpy() for table in tables])


def cosines(metrics, encoder, mode, seeds, tasks) -> np.ndarray:
    """Cosine similarities (S, T, T) of the task vectors of a mode."""
    rows = metrics[metrics["metric"] == "cosine_similarity"]
    rows = rows[(rows["encoder"] == encoder) & (rows["mode"] == mode)]
    found = rows.set_index(["seed", "task", "other_task"])["value"]
    for seed, task, other in product(seeds, tasks, tasks):
        if not np.isfinite(found.get((seed, task, other), np.nan)):
            extra = f", other task {other}"
            raise missing_cell("cosine_similarity", encoder, mode, seed, task, "", extra)
    values = [found[key] for key in product(seeds, tasks, tasks)]
    return np.array(values).reshape(len(seeds), len(tasks), len(tasks))


def normalizable(metrics, settings, encoder, mode) -> list[str]:
    """The tasks that have a normalized accuracy: all of images; of texts those whose individual
    models have an accuracy above 0 in every seed."""
    if not is_language(settings):
        return settings["tasks"]

    def positive(task, split):
        where = encoder, mode, seeds_of(settings), [task], split
        return bool((cells(metrics, "single_task_accuracy", *where)[0] > 0).all())

    splits = ("validation", "test")
    return [task for task in settings["tasks"] if all(positive(task, split) for split in splits)]


def pretrained(metrics, encoder, tasks) -> np.ndarray:
    """Zero-shot test accuracies (1, T)."""
    return cells(metrics, "pretrained_accuracy", encoder, "pretrained", [""], tasks)[0]


def individual(metrics, encoder, mode, seeds, tasks) -> np.ndarray:
    """Test accuracies (S, T) of the individual models; of posthoc: nonlinear's through f_lin."""
    if mode == "posthoc":
        return cells(metrics, "posthoc_accuracy", encoder, "nonlinear", seeds, tasks)[0]
    return cells(metrics, "single_task_accuracy", encoder, mode, seeds, tasks)[0]
