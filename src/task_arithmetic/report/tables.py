"""The paper's tables as views of metrics.csv: what is in their rows, and published numbers beside.

Every number is a mean over tasks within one seed, then a mean over seeds; with several seeds the
sample standard deviation over seeds (ddof=1) stands beside it. Metrics hold fractions, tables
percent.
"""

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..config.available import part_of
from ..config.targets import MODES, TASKS, TOLERANCE, encoders_with_targets, tasks_with_targets
from ..config.view import Part, View, view_of
from ..errors import UserError
from ..files.paths import PathLike, atomic_path
from .cells import Measured, load_metrics, missing, percent
from .printing import has_paper, to_csv, to_latex, to_markdown

Row = dict[str, Any]  # texts, and arrays (S,) of one number a seed; (1,): no seed
Rows = Iterator[Row]

# ---------------------------------------------------------------- the rows of each table


def _unified(run: Measured, encoder: str, mode: str) -> Row:
    """Absolute and normalized accuracy of the unified model in percent, and its α."""
    return {
        "encoder": encoder,
        "mode": mode,
        "absolute": percent(run.unified(encoder, mode)),
        "normalized": percent(run.cells("normalized_accuracy", encoder, mode)[0]),
        "alpha": run.chosen_alpha(encoder, mode),
    }


def _table1(run: Measured) -> Rows:
    focus = run.part.focus
    for mode in run.part.modes:
        yield _unified(run, focus, mode) | {"individual": percent(run.individual(focus, mode))}


def _table2(run: Measured) -> Rows:
    for encoder in run.part.encoders:
        zero_shot = percent(run.pretrained(encoder))
        yield {"encoder": encoder, "mode": "pretrained", "absolute": zero_shot}
        for mode in run.part.unified_modes:
            yield _unified(run, encoder, mode)


def _table3(run: Measured) -> Rows:
    texts = run.part
    for mode in texts.modes:
        found = 100 * run.unified(texts.focus, mode)
        own = {column_of(task, texts): found[:, t] for t, task in enumerate(texts.tasks)}
        yield {"mode": mode} | own | {"average": found.mean(axis=1)}


def column_of(task: str, texts: Part) -> str:
    """Table 3's column of a task: the paper's task that it stands beside, else itself."""
    return texts.paper_tasks.get(task) or task


def _table4(run: Measured) -> Rows:
    for encoder, mode in product(run.part.encoders, run.part.modes):

        def read(metric: str, encoder: str = encoder, mode: str = mode) -> np.ndarray:
            found = run.rows(metric, encoder, mode)["value"]
            if len(found) != 1:
                missing(metric, " (one row is expected)", encoder=encoder, mode=mode)
            return found.to_numpy()

        yield {
            "encoder": encoder,
            "mode": mode,
            "held_parameters": read("held_parameters"),
            "trained_parameters": read("trained_parameters"),
            "size_mb": read("held_parameters") * 4 / 1e6,  # float32; the paper's MB are 10⁶ bytes
            "peak_memory_mb": read("peak_memory_bytes") / 1e6,
            "step_seconds": read("step_seconds"),
            "training_minutes": read("training_seconds") / 60,
        }


def _table5(run: Measured) -> Rows:
    focus, attention = run.part.focus, [mode for mode in run.part.modes if mode == "attention"]
    for mode in [*attention, *run.part.ablations]:
        yield _unified(run, focus, mode) | {"single_task": percent(run.individual(focus, mode))}


def _negation(run: Measured) -> Rows:
    for encoder in run.part.encoders:
        kept = percent(run.pretrained(encoder, [str(run.part.control)]))
        yield {
            "encoder": encoder,
            "mode": "pretrained",
            "target": percent(run.pretrained(encoder)),
            "control": kept,
            "control_kept": np.array([100.0]),
        }
        for mode in run.part.modes:
            target, control, alphas = run.negated(encoder, mode)
            yield {
                "encoder": encoder,
                "mode": mode,
                "target": percent(target),
                "control": percent(control),
                "alpha": alphas.mean(axis=1),  # each task has its own
                "control_kept": 100 * percent(control) / kept,
            }


def _tasks(run: Measured) -> Rows:
    part = run.part
    for encoder in part.encoders:
        modes = part.unified_modes + list(part.ablations) * (encoder == part.focus)
        columns, alphas = {}, {}  # mode → column → (S, T), fractions; mode → (S, T)
        for mode in modes:
            where = encoder, mode
            columns[mode] = {
                "pretrained": run.pretrained(encoder),
                "single_task": run.individual(*where),
                "normalized": np.full((len(part.seeds), len(part.tasks)), np.nan),
            }
            columns[mode]["unified"], alphas[mode] = run.cells("unified_accuracy", *where)
            for task in run.normalizable(*where):
                own = run.cells("normalized_accuracy", *where, [task])[0]
                columns[mode]["normalized"][:, [part.tasks.index(task)]] = own
            if mode in (*part.kernel_modes, "posthoc"):
                columns[mode]["posthoc"] = run.through_f_lin(*where)
        for (t, task), mode in product(enumerate(part.tasks), modes):
            found = {column: 100 * values[:, t] for column, values in columns[mode].items()}
            keys = {"encoder": encoder, "task": task, "mode": mode}
            yield keys | found | {"alpha": alphas[mode][:, t]}


def _targets(run: Measured) -> Rows:
    """Zero-shot and single-task accuracies that have a published number, and their average."""
    tasks = tasks_with_targets(run.part)
    modes = [mode for mode in MODES if mode == "pretrained" or mode in run.part.modes]
    for encoder, mode in product(encoders_with_targets(run.part), modes):
        if mode == "pretrained":
            measured = 100 * run.pretrained(encoder, tasks)
        else:
            measured = 100 * run.individual(encoder, mode, tasks)
        numbers = [*zip(tasks, measured.T, strict=True), ("average", measured.mean(axis=1))]
        for task, values in numbers:
            yield {"encoder": encoder, "mode": mode, "task": task, "measured": values}


ROWS: dict[str, tuple[Callable[[Measured], Rows], str]] = {
    "table1": (_table1, "encoder mode individual normalized absolute paper_absolute"),
    "table2": (_table2, "encoder mode absolute normalized alpha paper_absolute paper_normalized"),
    "table3": (_table3, ""),  # a column for each task, see columns_of
    "table4": (
        _table4,
        """encoder mode held_parameters trained_parameters size_mb peak_memory_mb step_seconds
        training_minutes paper_held_parameters paper_trained_parameters paper_size_mb
        paper_training_minutes""",
    ),
    "table5": (
        _table5,
        """encoder mode single_task absolute normalized paper_single_task paper_absolute
        paper_normalized""",
    ),
    "negation": (
        _negation,
        "encoder mode target control alpha control_kept paper_target paper_control",
    ),
    "tasks": (_tasks, "encoder task mode pretrained single_task posthoc unified normalized"),
    "tasks_language": (_tasks, "encoder task mode pretrained single_task unified normalized alpha"),
    "targets": (_targets, "encoder mode task measured published difference flag"),
}


def columns_of(name: str, view: View) -> list[str]:
    """The columns of a table."""
    if name != "table3":
        return ROWS[name][1].split()
    own = [*(column_of(task, view.language) for task in view.language.tasks), "average"]
    return ["mode", *own, *(f"paper_{column}" for column in own)]


# ---------------------------------------------------------------- one table as a DataFrame


PUBLISHED = {"table3": "Flan-T5-base", "table4": "T5-base"}  # the one encoder of a paper's table


def make_table(
    name: str, metrics: pd.DataFrame, reference: pd.DataFrame, view: View
) -> pd.DataFrame:
    """One table, unrounded.

    Args:
        name: a key of ROWS.
        metrics: what load_metrics returns.
        reference: what read_reference, or read_targets for `targets`, returns: published numbers.
    Returns:
        the columns of columns_of(name, view); with several seeds a `_std` column for each that
        varies.
    Raises:
        UserError: unknown table, a cell that is missing or not unique, a table without a row.
    """
    if name not in ROWS:
        raise UserError(f"There is no table {name}: take one of {', '.join(ROWS)}.")
    rows, columns = ROWS[name][0], columns_of(name, view)
    published = reference[reference["table"] == name].drop(columns="table")
    paper = {tuple(key): value for *key, value in published.itertuples(False)}
    table = []
    shown = view.parts if name == "table4" else [part_of(name, view)]
    for measured in (row for part in shown for row in rows(Measured(metrics, part))):
        row: dict[str, Any] = {}
        for column, numbers in measured.items():
            row[column] = numbers if isinstance(numbers, str) else numbers.mean()
            if not isinstance(numbers, str) and len(numbers) > 1:
                row[f"{column}_std"] = numbers.std(ddof=1)
        encoder = PUBLISHED.get(name) or view.encoders.get(row.get("encoder", ""))
        for column in columns:
            if column == "paper_training_minutes" and has_paper(name, view):
                row[column] = paper.get((encoder, row["mode"], "training_seconds"), np.nan) / 60
            elif column.startswith("paper_") and has_paper(name, view, column):
                key = encoder, row["mode"], column.removeprefix("paper_")
                row[column] = paper.get(key, np.nan)
        if name == "table3" and set(published["column"]) != set(measured) - {"mode"}:
            row["paper_average"] = np.nan  # the published average is that of all
        if name == "targets":
            row |= _compared(row, encoder, paper, view)
        table.append(row)
    if not table:
        raise UserError(f"{name} would have no row: give the configuration a mode that it shows.")
    spreads = [f"{c}_std" for c in columns if any(f"{c}_std" in row for row in table)]
    return pd.DataFrame(table).reindex(columns=columns + spreads)


def _compared(row: Row, encoder: str | None, paper: dict[tuple, float], view: View) -> Row:
    """A row's published accuracy, the difference to it in points, and whether that is flagged."""
    wanted, tasks = [row["task"]], tasks_with_targets(view)
    if wanted == ["average"] and len(tasks) < len(TASKS):
        wanted = tasks  # the published average is that of all
    try:
        values = [paper[encoder, row["mode"], task] for task in wanted]
    except KeyError as error:
        where = ", ".join(error.args[0])
        raise UserError(f"The published accuracies lack {where}: restore the file.") from None
    value = float(np.mean(values))
    difference = round(row["measured"] - value, 9)
    flag = "yes" if abs(difference) > TOLERANCE else "no"
    return {"published": value, "difference": difference, "flag": flag}


# ---------------------------------------------------------------- files


def read_targets(path: PathLike) -> pd.DataFrame:
    """Published accuracies of every task, in the columns of read_reference.

    Raises:
        UserError: the file or a column is missing.
    """
    columns = ["encoder", "mode", "source", *TASKS, "average"]
    wide = _read(path, columns, "the published accuracies")
    wide["mode"] = wide["mode"].replace("zeroshot", "pretrained")
    long = wide.melt(["encoder", "mode"], columns[3:], var_name="column")
    return long.assign(table="targets")[["table", "encoder", "mode", "column", "value"]]


def read_reference(path: PathLike) -> pd.DataFrame:
    """The paper's published numbers. Raises UserError if the file or a column is missing."""
    return _read(path, ["table", "encoder", "mode", "column", "value"], "the paper's numbers")


def _read(path: PathLike, columns: list[str], what: str) -> pd.DataFrame:
    try:
        found = pd.read_csv(path)
    except FileNotFoundError:
        raise UserError(f"{path}, {what}, does not exist: restore it.") from None
    if list(found.columns) != columns:
        raise UserError(f"{path} needs the columns {', '.join(columns)}: restore it.")
    return found


def write(
    name: str,
    metrics: PathLike,
    reference: PathLike,
    settings: dict[str, Any],
    output_dir: PathLike,
) -> None:
    """Write output_dir/NAME.csv, .md and .tex.

    Args:
        metrics: the run's metrics.csv. settings: what settings.view_settings gives.
        reference: paper.csv, or targets.csv for `targets`.
    Raises:
        UserError: as make_table does.
    """
    view = view_of(settings)
    published = (read_targets if name == "targets" else read_reference)(reference)
    table = make_table(name, load_metrics(metrics), published, view)
    contents = {
        "csv": to_csv(table, name),
        "md": to_markdown(name, table, view),
        "tex": to_latex(name, table, view),
    }
    for suffix, content in contents.items():
        with atomic_path(Path(output_dir) / f"{name}.{suffix}") as temporary:
            temporary.write_text(content, encoding="utf-8")
