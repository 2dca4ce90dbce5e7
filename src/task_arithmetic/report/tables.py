"""The paper's tables as views of metrics.csv: a function for each, which gives its rows.

Every number is a mean over tasks within one seed, then a mean over seeds; with several seeds the
sample standard deviation over seeds (ddof=1) stands beside it. Metrics hold fractions, tables
percent.

A column of a table is named in its @table, computed in its function, and has a heading in
printing.COLUMNS; its caption is in captions.TABLES.
"""

from collections.abc import Callable, Iterator
from itertools import product, repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..analysis.uncertainty import DRAWS, interval
from ..config.available import MERGING, part_of
from ..config.published import (
    MODES,
    TASKS,
    TOLERANCE,
    has_published_merging,
    tasks_with_targets,
)
from ..config.view import Part, View, view_of
from ..errors import UserError
from ..files.paths import PathLike, atomic_path
from . import merging
from .cells import Measured, load_metrics, percent
from .printing import BESIDE, has_paper, to_csv, to_latex, to_markdown
from .reference import read_merging, read_reference, read_targets
from .resampled import Draws, Resampled, read_draws

Row = dict[str, str | np.ndarray]  # column → text, or numbers (S,), one a seed; (1,): no seed;
# of Resampled (draws,)
Rows = Iterator[Row]
RowsOf = Callable[[Measured], Rows]


class Table(NamedTuple):
    """The rows of a table, its columns, and those of them that have the paper's beside them."""

    rows: RowsOf
    columns: list[str]
    paper: list[str]


TABLES: dict[str, Table] = {}


def table(name: str, columns: str, paper: str = "") -> Callable[[RowsOf], RowsOf]:
    """Declare a function as the rows of a table with these columns."""

    def declare(rows: RowsOf) -> RowsOf:
        TABLES[name] = Table(rows, columns.split(), paper.split())
        return rows

    return declare


# ---------------------------------------------------------------- the rows of each table


@table("table1", "encoder mode individual normalized absolute", paper="absolute")
def table1(run: Measured) -> Rows:
    """Performance of the encoder `focus`."""
    focus = run.part.focus
    for mode in run.part.modes:
        yield _unified(run, focus, mode) | {"individual": percent(run.individual(focus, mode))}


@table("table2", "encoder mode absolute normalized alpha", paper="absolute normalized")
def table2(run: Measured) -> Rows:
    """Task addition with every encoder."""
    for encoder in run.part.encoders:
        zero_shot = percent(run.pretrained(encoder))
        yield {"encoder": encoder, "mode": "pretrained", "absolute": zero_shot}
        for mode in run.part.unified_modes:
            yield _unified(run, encoder, mode)


def _unified(run: Measured, encoder: str, mode: str) -> Row:
    """Absolute and normalized accuracy of the unified model in percent, and its α."""
    return {
        "encoder": encoder,
        "mode": mode,
        "absolute": percent(run.unified(encoder, mode)),
        "normalized": percent(run.normalized(encoder, mode)),
        "alpha": run.chosen_alpha(encoder, mode),
    }


@table("table3", "")  # a column for each task
def table3(run: Measured) -> Rows:
    """Task addition on texts: of each mode the accuracy on every task."""
    for mode in run.part.modes:
        found = 100 * run.unified(run.part.focus, mode)
        numbers = [*found.T, found.mean(axis=1)]
        yield {"mode": mode} | dict(zip(table3_columns(run.part), numbers, strict=True))


def table3_columns(texts: Part) -> list[str]:
    """Table 3's columns of numbers: of a task the name of the paper's task that it stands beside,
    else its own."""
    return [*(texts.paper_tasks.get(task) or task for task in texts.tasks), "average"]


EFFICIENCY = "held_parameters trained_parameters peak_memory_bytes step_seconds training_seconds"


@table(
    "table4",
    "encoder mode held_parameters trained_parameters size_mb peak_memory_mb step_seconds "
    "training_minutes",
    paper="held_parameters trained_parameters size_mb training_minutes",
)
def table4(run: Measured) -> Rows:
    """Efficiency."""
    for encoder, mode in product(run.part.encoders, run.part.modes):
        held, trained, memory, step, training = (
            run.cells(metric, encoder, mode, tasks=[""], split="", seeds=[""])[0]
            for metric in EFFICIENCY.split()
        )
        yield {
            "encoder": encoder,
            "mode": mode,
            "held_parameters": held,
            "trained_parameters": trained,
            "size_mb": held * 4 / 1e6,  # float32; the paper's MB are 10⁶ bytes
            "peak_memory_mb": memory / 1e6,
            "step_seconds": step,
            "training_minutes": training / 60,
        }


ABLATION = "single_task absolute normalized"


@table("table5", f"encoder mode {ABLATION}", paper=ABLATION)
def table5(run: Measured) -> Rows:
    """Ablation of what is fine-tuned besides the attention weights."""
    focus, attention = run.part.focus, [mode for mode in run.part.modes if mode == "attention"]
    for mode in [*attention, *run.part.ablations]:
        yield _unified(run, focus, mode) | {"single_task": percent(run.individual(focus, mode))}


@table("negation", "encoder mode target control alpha control_kept", paper="target control")
def negation(run: Measured) -> Rows:
    """Task negation."""
    for encoder in run.part.encoders:
        before = percent(run.pretrained(encoder, [str(run.part.control)]))
        yield {
            "encoder": encoder,
            "mode": "pretrained",
            "target": percent(run.pretrained(encoder)),
            "control": before,
            "control_kept": np.array([100.0]),
        }
        for mode in run.part.modes:
            control = percent(run.negated(encoder, mode, "control_accuracy"))
            alphas = run.negated(encoder, mode, column="alpha")  # each task has its own
            yield {
                "encoder": encoder,
                "mode": mode,
                "target": percent(run.negated(encoder, mode)),
                "control": control,
                "alpha": alphas.mean(axis=1),
                "control_kept": 100 * control / before,
            }


@table("tasks_language", "encoder task mode pretrained single_task unified normalized alpha")
@table("tasks", "encoder task mode pretrained single_task posthoc unified normalized")
def every_task(run: Measured) -> Rows:
    """The accuracies of every task by itself."""
    part = run.part
    for encoder in part.encoders:
        modes = part.unified_modes + list(part.ablations) * (encoder == part.focus)
        numbers = {mode: _of_tasks(run, encoder, mode) for mode in modes}
        for (t, task), mode in product(enumerate(part.tasks), modes):
            keys = {"encoder": encoder, "task": task, "mode": mode}
            yield keys | {column: values[:, t] for column, values in numbers[mode].items()}


def _of_tasks(run: Measured, encoder: str, mode: str) -> dict[str, np.ndarray]:
    """Column → its numbers (S, T) of each task."""
    part = run.part
    unified = run.unified(encoder, mode)
    normalized = np.full(unified.shape, np.nan)
    if tasks := run.normalizable(encoder, mode):
        normalized[:, np.isin(part.tasks, tasks)] = 100 * run.normalized(encoder, mode, tasks)
    numbers = {
        "pretrained": 100 * run.pretrained(encoder),
        "single_task": 100 * run.individual(encoder, mode),
        "unified": 100 * unified,
        "normalized": normalized,
        "alpha": run.cells("unified_accuracy", encoder, mode, column="alpha"),
    }
    if mode in (*part.kernel_modes, "posthoc"):
        numbers["posthoc"] = 100 * run.through_f_lin(encoder, mode)
    return numbers


for each in MERGING:
    table(each, merging.COLUMNS)(merging.rows)


@table("targets", "encoder mode task measured published difference flag")
def targets(run: Measured) -> Rows:
    """Zero-shot and single-task accuracies that have a published number, and their average; what is
    published follows in make_table."""
    modes = [mode for mode in MODES if mode == "pretrained" or mode in run.part.modes]
    for encoder, mode in product(run.part.encoders, modes):
        tasks = tasks_with_targets(run.part, run.part.encoders[encoder], mode)
        if not tasks:
            continue
        if mode == "pretrained":
            measured = 100 * run.pretrained(encoder, tasks)
        else:
            measured = 100 * run.individual(encoder, mode, tasks)
        numbers = [*zip(tasks, measured.T, strict=True), ("average", measured.mean(axis=1))]
        for task, values in numbers:
            yield {"encoder": encoder, "mode": mode, "task": task, "measured": values}


# ---------------------------------------------------------------- one table as a DataFrame


ENCODERS = {"table3": "Flan-T5-base", "table4": "T5-base"}  # the one encoder of a paper's table


def make_table(
    name: str,
    metrics: pd.DataFrame,
    reference: pd.DataFrame,
    view: View,
    draws: Draws | None = None,
) -> pd.DataFrame:
    """One table, unrounded.

    Args:
        name: a key of TABLES.
        metrics: what load_metrics returns.
        reference: what reader_of(name) reads: published numbers.
        draws: what read_draws returns.
    Returns:
        its columns, `paper_…` for each that the paper has too, with several seeds `…_std` for each
        that varies and, of what comes from single examples, the 95 % interval `…_low`, `…_high`.
    Raises:
        UserError: unknown table, a cell that is missing or not unique, a table without a row.
    """
    if name not in TABLES:
        raise UserError(f"There is no table {name}: take one of {', '.join(TABLES)}.")
    published = reference[reference["table"] == name].drop(columns="table")
    numbers = {tuple(key): value for *key, value in published.itertuples(False)}
    rows, columns, paper = TABLES[name]
    beside_merging = name in MERGING and has_published_merging(part_of(name, view))
    columns = [*columns, *(merging.PUBLISHED if beside_merging else [])]
    beside = paper if has_paper(name, view) else []
    if name == "table3":
        paper = table3_columns(view.language)
        columns = ["mode", *paper]
        beside = [column for column in paper if column in view.language.paper_tasks.values()]
        beside += ["average"] * ({*paper} == {*published["column"]})  # its average is that of all
    found = []
    for part in view.parts if name == "table4" else [part_of(name, view)]:
        drawn = rows(Resampled(metrics, part, draws=draws)) if draws else repeat(Row())
        for measured, samples in zip(rows(Measured(metrics, part)), drawn, strict=False):
            row = _over_seeds(measured) | _ends(samples)
            encoder = ENCODERS.get(name) or view.encoders.get(row.get("encoder", ""))
            for column in beside:
                row[f"paper_{column}"] = numbers.get((encoder, row["mode"], column), np.nan)
            if name == "targets":
                row |= _compared(row, encoder, numbers, view)
            if beside_merging:
                row |= merging.beside(
                    published, len(part.tasks), encoder, row["mode"], row["method"]
                )
            found.append(row)
    if not found:
        raise UserError(f"{name} would have no row: give the configuration a mode that it shows.")
    made = pd.DataFrame(found)
    columns = [*columns, *(f"paper_{column}" for column in paper)]
    beside = [f"{c}{end}" for c in columns for end in BESIDE if f"{c}{end}" in made]
    return made.reindex(columns=columns + sorted(beside, key=lambda c: not c.endswith("_std")))


def _ends(samples: Row) -> dict[str, float]:
    """The ends of the intervals of what was resampled."""
    found: dict[str, float] = {}
    for column, each in samples.items():
        if not isinstance(each, str) and len(each) == DRAWS and np.isfinite(each).any():
            low, high = interval(each)
            if np.isfinite(low):
                found |= {f"{column}_low": low, f"{column}_high": high}
    return found


def _over_seeds(row: Row) -> dict[str, Any]:
    """Texts as they are; of numbers the mean over seeds and, of several, the standard deviation."""
    numbers = {column: each for column, each in row.items() if not isinstance(each, str)}
    means = {column: each.mean() for column, each in numbers.items()}
    spreads = {f"{c}_std": each.std(ddof=1) for c, each in numbers.items() if len(each) > 1}
    return row | means | spreads


def _compared(
    row: dict[str, Any], encoder: str | None, numbers: dict[tuple[str, ...], float], view: View
) -> dict[str, Any]:
    """A row's published accuracy, the difference to it in points, and whether that is flagged."""
    wanted, tasks = [row["task"]], tasks_with_targets(view, encoder, row["mode"])
    if wanted == ["average"] and set(tasks) != set(TASKS):
        wanted = tasks  # the published average is that of the eight
    try:
        value = float(np.mean([numbers[encoder or "", row["mode"], task] for task in wanted]))
    except KeyError as error:
        where = ", ".join(error.args[0])
        raise UserError(f"The published accuracies lack {where}: restore the file.") from None
    difference = round(row["measured"] - value, 9)
    flag = "yes" if abs(difference) > TOLERANCE else "no"
    return {"published": value, "difference": difference, "flag": flag}


# ---------------------------------------------------------------- files


def reader_of(name: str) -> Callable[[PathLike], pd.DataFrame]:
    """What reads the published numbers of a table."""
    if name in MERGING:
        return read_merging
    return read_targets if name == "targets" else read_reference


def write(
    name: str,
    metrics: PathLike,
    reference: PathLike,
    settings: dict[str, Any],
    output_dir: PathLike,
    draws: PathLike | None = None,
) -> None:
    """Write output_dir/NAME.csv, .md and .tex.

    Args:
        metrics: the run's metrics.csv. settings: what settings.view_settings gives.
        draws: the run's draws.safetensors; None: no intervals beside the numbers of the CSV.
        reference: paper.csv; targets.csv for `targets`; merging.csv for MERGING.
    Raises:
        UserError: as make_table does.
    """
    view = view_of(settings)
    drawn = read_draws(draws) if draws else None
    made = make_table(name, load_metrics(metrics), reader_of(name)(reference), view, drawn)
    contents = {
        "csv": to_csv(made, name),
        "md": to_markdown(name, made, view),
        "tex": to_latex(name, made, view),
    }
    for suffix, content in contents.items():
        with atomic_path(Path(output_dir) / f"{name}.{suffix}") as temporary:
            temporary.write_text(content, encoding="utf-8")
