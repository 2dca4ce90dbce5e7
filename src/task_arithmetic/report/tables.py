"""The paper's tables as views of metrics.csv: CSV, Markdown and LaTeX.

Every number is a mean over tasks within one seed, then a mean over seeds; with several seeds the
sample standard deviation over seeds (ddof=1) stands beside it. Metrics hold fractions, tables
percent.
"""

import re
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from ..config.available import encoders_of, language_of, title_of, view_of
from ..config.targets import MODES, TASKS, TOLERANCE, encoders_with_targets, tasks_with_targets
from ..errors import UserError
from ..files.paths import atomic_path
from .captions import table_caption
from .cells import (
    cells,
    chosen_alpha,
    individual,
    kernel_modes_of,
    label_of,
    load_metrics,
    missing_cell,
    modes_of,
    normalizable,
    pretrained,
    seeds_of,
    unified_modes_of,
)

# ---------------------------------------------------------------- the rows of each table
# Every function returns dicts: keys, and arrays (S,) of one number a seed ((1,): no seed).


def _unified(metrics, encoder, mode, seeds, tasks) -> dict:
    """Absolute and normalized accuracy of the unified model in percent, and its α."""
    where = encoder, mode, seeds, tasks
    return {
        "encoder": encoder,
        "mode": mode,
        "absolute": 100 * cells(metrics, "unified_accuracy", *where)[0].mean(axis=1),
        "normalized": 100 * cells(metrics, "normalized_accuracy", *where)[0].mean(axis=1),
        "alpha": chosen_alpha(metrics, *where),
    }


def _table1(metrics, settings):
    seeds, tasks, focus = seeds_of(settings), settings["tasks"], settings["focus"]
    for mode in modes_of(settings):
        alone = 100 * individual(metrics, focus, mode, seeds, tasks).mean(axis=1)
        yield _unified(metrics, focus, mode, seeds, tasks) | {"individual": alone}


def _table2(metrics, settings):
    seeds, tasks = seeds_of(settings), settings["tasks"]
    for encoder in encoders_of(settings):
        zero_shot = 100 * pretrained(metrics, encoder, tasks).mean(axis=1)
        yield {"encoder": encoder, "mode": "pretrained", "absolute": zero_shot}
        for mode in unified_modes_of(settings):
            yield _unified(metrics, encoder, mode, seeds, tasks)


def _table3(metrics, settings):
    settings = language_of(settings)
    seeds, tasks, focus = seeds_of(settings), settings["tasks"], settings["focus"]
    for mode in modes_of(settings):
        found = 100 * cells(metrics, "unified_accuracy", focus, mode, seeds, tasks)[0]
        own = {column_of(task, settings): found[:, t] for t, task in enumerate(tasks)}
        yield {"mode": mode} | own | {"average": found.mean(axis=1)}


def column_of(task, settings) -> str:
    """Table 3's column of a task: the paper's task that it stands beside, else itself."""
    return settings["paper_tasks"].get(task) or task


def _table4(metrics, settings):
    parts = settings, language_of(settings)
    for encoder, mode in (pair for p in parts for pair in product(encoders_of(p), modes_of(p))):

        def read(metric, encoder=encoder, mode=mode):
            found = metrics[(metrics["metric"] == metric) & (metrics["encoder"] == encoder)]
            found = found[(found["mode"] == mode) & np.isfinite(found["value"])]["value"]
            if len(found) != 1:
                raise missing_cell(metric, encoder, mode, "", "", "", " (one row is expected)")
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


def _table5(metrics, settings):
    seeds, tasks, focus = seeds_of(settings), settings["tasks"], settings["focus"]
    for mode in ["attention"] * ("attention" in settings["modes"]) + sorted(settings["ablations"]):
        alone = 100 * individual(metrics, focus, mode, seeds, tasks).mean(axis=1)
        yield _unified(metrics, focus, mode, seeds, tasks) | {"single_task": alone}


def _negation(metrics, settings):
    seeds, tasks, control = seeds_of(settings), settings["tasks"], settings["control"]
    for encoder in encoders_of(settings):
        kept = 100 * pretrained(metrics, encoder, [control]).mean(axis=1)
        zero_shot = 100 * pretrained(metrics, encoder, tasks).mean(axis=1)
        yield {
            "encoder": encoder,
            "mode": "pretrained",
            "target": zero_shot,
            "control": kept,
            "control_kept": np.array([100.0]),
        }
        for mode in modes_of(settings):
            where = encoder, mode, seeds, tasks, "test", control
            target, alphas = cells(metrics, "negated_accuracy", *where)
            on_control = 100 * cells(metrics, "control_accuracy", *where)[0].mean(axis=1)
            yield {
                "encoder": encoder,
                "mode": mode,
                "target": 100 * target.mean(axis=1),
                "control": on_control,
                "alpha": alphas.mean(axis=1),  # each task has its own
                "control_kept": 100 * on_control / kept,
            }


def _tasks(metrics, settings):
    seeds, tasks = seeds_of(settings), settings["tasks"]
    for encoder in encoders_of(settings):
        modes = unified_modes_of(settings)
        modes += sorted(settings["ablations"]) * (encoder == settings["focus"])
        columns, alphas = {}, {}  # mode → column → (S, T), percent; mode → (S, T)
        for mode in modes:
            where = encoder, mode, seeds, tasks
            columns[mode] = {
                "pretrained": pretrained(metrics, encoder, tasks),
                "single_task": individual(metrics, *where),
                "normalized": np.full((len(seeds), len(tasks)), np.nan),
            }
            columns[mode]["unified"], alphas[mode] = cells(metrics, "unified_accuracy", *where)
            for task in normalizable(metrics, settings, encoder, mode):
                own = cells(metrics, "normalized_accuracy", encoder, mode, seeds, [task])[0]
                columns[mode]["normalized"][:, [tasks.index(task)]] = own
            if mode in kernel_modes_of(settings) or mode == "posthoc":
                source = "nonlinear" if mode == "posthoc" else mode
                through = cells(metrics, "posthoc_accuracy", encoder, source, seeds, tasks)[0]
                columns[mode]["posthoc"] = through
        for (t, task), mode in product(enumerate(tasks), modes):
            found = {column: 100 * values[:, t] for column, values in columns[mode].items()}
            keys = {"encoder": encoder, "task": task, "mode": mode}
            yield keys | found | {"alpha": alphas[mode][:, t]}


def _targets(metrics, settings):
    """Zero-shot and single-task accuracies that have a published number, and their average."""
    seeds, tasks = seeds_of(settings), tasks_with_targets(settings)
    modes = [mode for mode in MODES if mode == "pretrained" or mode in settings["modes"]]
    for encoder, mode in product(encoders_with_targets(settings), modes):
        if mode == "pretrained":
            measured = 100 * pretrained(metrics, encoder, tasks)
        else:
            measured = 100 * individual(metrics, encoder, mode, seeds, tasks)
        for task, values in zip(tasks, measured.T, strict=True):
            yield {"encoder": encoder, "mode": mode, "task": task, "measured": values}
        average = measured.mean(axis=1)
        yield {"encoder": encoder, "mode": mode, "task": "average", "measured": average}


ROWS = {
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


def columns_of(name, settings) -> list[str]:
    """The columns of a table."""
    if name != "table3":
        return ROWS[name][1].split()
    settings = language_of(settings)
    own = [*(column_of(task, settings) for task in settings["tasks"]), "average"]
    return ["mode", *own, *(f"paper_{column}" for column in own)]


# ---------------------------------------------------------------- one table as a DataFrame


PUBLISHED = {"table3": "Flan-T5-base", "table4": "T5-base"}  # the one encoder of a paper's table


def make_table(name, metrics, reference, settings) -> pd.DataFrame:
    """One table, unrounded.

    Args:
        name: a key of ROWS.
        metrics: what load_metrics returns.
        reference: what read_reference, or read_targets for `targets`, returns: published numbers.
        settings: tasks, encoders, modes, seeds …, as the configuration gives them to the views.
    Returns:
        the columns of columns_of(name, settings); with several seeds a `_std` column for each that
        varies.
    Raises:
        UserError: unknown table, a cell that is missing or not unique, a table without a row.
    """
    if name not in ROWS:
        raise UserError(f"There is no table {name}: take one of {', '.join(ROWS)}.")
    rows, columns = ROWS[name][0], columns_of(name, settings)
    paper = reference[reference["table"] == name]
    paper = {tuple(key): value for *key, value in paper.drop(columns="table").itertuples(False)}
    paper_columns = {column for *_, column in paper}
    table = []
    for measured in rows(metrics, view_of(name, settings)[1]):
        row = {}
        for column, numbers in measured.items():
            row[column] = numbers if isinstance(numbers, str) else numbers.mean()
            if not isinstance(numbers, str) and len(numbers) > 1:
                row[f"{column}_std"] = numbers.std(ddof=1)
        published = PUBLISHED.get(name) or settings["encoders"].get(row.get("encoder"))
        for column in (
            c for c in columns if c.startswith("paper_") and has_paper(name, settings, c)
        ):
            key = published, row["mode"], column.removeprefix("paper_")
            if column == "paper_training_minutes":
                row[column] = paper.get((*key[:2], "training_seconds"), np.nan) / 60
            else:
                row[column] = paper.get(key, np.nan)
        if name == "table3" and paper_columns != set(measured) - {"mode"}:
            row["paper_average"] = np.nan  # the published average is that of all
        if name == "targets":
            row |= _compared(row, published, paper, settings)
        table.append(row)
    if not table:
        raise UserError(f"{name} would have no row: give the configuration a mode that it shows.")
    spreads = [f"{c}_std" for c in columns if any(f"{c}_std" in row for row in table)]
    return pd.DataFrame(table).reindex(columns=columns + spreads)


def has_paper(name, settings, column="") -> bool:
    """Whether the paper's numbers belong beside a table's, or in a column of Table 3: there the
    definitions of tasks say so. Table 4 compares modes."""
    if name == "table3":
        asked = [*filter(None, settings["language"]["paper_tasks"].values()), "average"]
        return not column or column.removeprefix("paper_") in asked
    own = {"table4": settings["suite"] in ("paper", "embedded")}
    return own.get(name, settings["paper_beside"])


def _compared(row, published, paper, settings) -> dict:
    """A row's published accuracy, the difference to it in points, and whether that is flagged."""
    wanted, tasks = [row["task"]], tasks_with_targets(settings)
    if wanted == ["average"] and len(tasks) < len(TASKS):
        wanted = tasks  # the published average is that of all
    try:
        values = [paper[published, row["mode"], task] for task in wanted]
    except KeyError as error:
        where = ", ".join(error.args[0])
        raise UserError(f"The published accuracies lack {where}: restore the file.") from None
    value = float(np.mean(values))
    difference = round(row["measured"] - value, 9)
    flag = "yes" if abs(difference) > TOLERANCE else "no"
    return {"published": value, "difference": difference, "flag": flag}


def read_targets(path) -> pd.DataFrame:
    """Published accuracies of every task, in the columns of read_reference.

    Raises:
        UserError: the file or a column is missing.
    """
    try:
        wide = pd.read_csv(path)
    except FileNotFoundError:
        raise UserError(f"{path}, the published accuracies, does not exist: restore it.") from None
    columns = ["encoder", "mode", "source", *TASKS, "average"]
    if list(wide.columns) != columns:
        raise UserError(f"{path} needs the columns {', '.join(columns)}: restore it.")
    wide["mode"] = wide["mode"].replace("zeroshot", "pretrained")
    long = wide.melt(["encoder", "mode"], columns[3:], var_name="column")
    return long.assign(table="targets")[["table", "encoder", "mode", "column", "value"]]


def read_reference(path) -> pd.DataFrame:
    """The paper's published numbers. Raises UserError if the file or a column is missing."""
    columns = ["table", "encoder", "mode", "column", "value"]
    try:
        reference = pd.read_csv(path, dtype={key: str for key in columns[:4]})
    except FileNotFoundError:
        raise UserError(f"{path}, the paper's numbers, does not exist: restore it.") from None
    if list(reference.columns) != columns:
        raise UserError(f"{path} needs the columns {', '.join(columns)}: restore it.")
    return reference


def read_table(path) -> pd.DataFrame:
    """A table's CSV as write made it, percent to two decimals. Raises UserError if missing."""
    try:
        return pd.read_csv(path, dtype={key: str for key in TEXTS})
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: make the tables first.") from None


# ---------------------------------------------------------------- words and numbers on paper

HEADINGS = {  # column → heading, kind of number
    "encoder": ("Encoder", "text"),
    "task": ("Task", "text"),
    "mode": ("Mode", "text"),
    "individual": ("Individual (%)", "percent"),
    "single_task": ("Single-task (%)", "percent"),
    "pretrained": ("Pre-trained (%)", "percent"),
    "posthoc": ("Post-hoc (%)", "percent"),
    "unified": ("Unified (%)", "percent"),
    "absolute": ("Absolute (%)", "percent"),
    "normalized": ("Normalized (%)", "percent"),
    "target": ("Target (%)", "percent"),
    "control": ("Control (%)", "percent"),
    "control_kept": ("Control kept (%)", "percent"),
    "alpha": ("α", "alpha"),
    "held_parameters": ("Held", "count"),
    "trained_parameters": ("Trained", "count"),
    "size_mb": ("Size (MB)", "size"),
    "peak_memory_mb": ("Peak memory (MB)", "memory"),
    "step_seconds": ("Step (s)", "seconds"),
    "training_minutes": ("Training (min:s)", "minutes"),
    "measured": ("Measured (%)", "percent"),
    "published": ("Published (%)", "percent"),
    "difference": ("Difference (points)", "points"),
    "flag": (f"More than {TOLERANCE} points", "flag"),
}
TEXTS = [column for column, (_, kind) in HEADINGS.items() if kind == "text"]
CSV_FORMAT = {"percent": ".2f", "points": ".2f", "alpha": ".4g", "count": ".0f", "size": ".3f",
              "memory": ".1f", "seconds": ".5g", "minutes": ".2f"}  # fmt: skip


def number(value, kind, spread=None) -> str:
    """A number as printed, – where there is none, with ± its spread where that is given."""
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return "–"
    if spread is not None and not pd.isna(spread):
        digits = 2 if kind == "alpha" else 1
        return f"{value:.{digits}f} ± {spread:.{digits}f}"
    if kind == "alpha":
        return f"{value:.2f}" if abs(value - round(value, 2)) < 1e-9 else f"{value:.3f}"
    if kind == "count":
        return f"{value / 1e6:.4g} M"
    if kind == "minutes":
        seconds = round(60 * value)
        return f"{seconds // 60}:{seconds % 60:02d}"
    if kind == "points":
        return f"{value:+.2f}".replace("-", "−")
    return format(
        value, {"percent": ".2f", "size": ",.3f", "memory": ",.0f", "seconds": ".3f"}[kind]
    )


def kind_of(column) -> str:
    """The kind of a column's numbers, as HEADINGS has it; percent, of a task's own column."""
    bare = column.removeprefix("paper_").removesuffix("_std")
    return HEADINGS[bare][1] if bare in HEADINGS else "percent"


def printed_table3(table, settings) -> tuple[list[str], list[list[str]]]:
    """Table 3 as headings and rows of text: of each mode a row of this run and, if the paper has
    any of its numbers, one of the paper."""
    own = [c for c in table if c != "mode" and not c.startswith("paper_") and c[-4:] != "_std"]
    names = {column_of(task, settings["language"]): task for task in settings["language"]["tasks"]}
    rows = []
    for row in table.to_dict("records"):
        for source, prefix in (("this run", ""), ("paper", "paper_")):
            if prefix and all(pd.isna(row[prefix + c]) for c in own):
                continue
            numbers = [number(row[prefix + c], "percent", row.get(f"{prefix}{c}_std")) for c in own]
            rows.append([label_of(row["mode"], settings), source, *numbers])
    return ["Mode", "", *(names.get(column, column) for column in own)], rows


def printed(name, table, settings) -> tuple[list[str], list[list[str]]]:
    """A table as headings and rows of text, modes by their labels, spreads as ±."""
    if name == "table3":
        return printed_table3(table, settings)
    columns = [c for c in table if not c.endswith("_std")]
    if not has_paper(name, settings):
        columns = [c for c in columns if not c.startswith("paper_")]
    headings, rows = [], []
    for column in columns:
        heading = HEADINGS[column.removeprefix("paper_")][0]
        paper = column.startswith("paper_")
        headings.append(f"Paper: {heading[0].lower()}{heading[1:]}" if paper else heading)
    for row in table.to_dict("records"):
        texts = []
        for column in columns:
            kind = kind_of(column)
            if kind == "text":
                mode = column == "mode"
                texts.append(label_of(row[column], settings) if mode else row[column])
            else:
                texts.append(number(row[column], kind, row.get(f"{column}_std")))
        rows.append(texts)
    return headings, rows


# ---------------------------------------------------------------- files


def to_csv(table, name="") -> str:
    """Numbers in percent with two decimals, empty where there is none."""
    text = table.astype(object)
    for column in table:
        kind = "percent" if name == "table3" and column != "mode" else kind_of(column)
        if kind not in ("text", "flag"):
            form = CSV_FORMAT[kind]
            text[column] = ["" if pd.isna(x) else format(round(x, 9), form) for x in table[column]]
    return text.to_csv(index=False, lineterminator="\n")


def to_markdown(name, table, settings) -> str:
    """Caption and table."""
    headings, rows = printed(name, table, settings)
    texts = 2 if name == "table3" else sum(column in TEXTS for column in table)
    ruler = [":--"] * texts + ["--:"] * (len(headings) - texts)
    table_rows = [headings, ruler, *rows]
    lines = ["| " + " | ".join(x.replace("|", r"\|") for x in row) + " |" for row in table_rows]
    return f"**{title_of(name)}.** {table_caption(name, settings)}\n\n" + "\n".join(lines) + "\n"


def read_printed(path) -> tuple[list[str], list[list[str]], int]:
    """Headings, rows and number of text columns of a table's Markdown, as to_markdown made it.

    Raises:
        UserError: no such file, or no table in it.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: make the tables first.") from None
    table = [re.split(r" \| ", line[2:-2]) for line in lines if line.startswith("| ")]
    if len(table) < 3:
        raise UserError(f"{path} holds no table: make it again.")
    headings, ruler, *rows = [[x.replace(r"\|", "|") for x in line] for line in table]
    return headings, rows, ruler.count(":--")


LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {"α": r"$\alpha$", "θ0": r"$\theta_0$", "θ": r"$\theta$", "τ": r"$\tau$", "Σ": r"$\sum$"}
LATEX |= {"±": r"$\pm$", "−": "$-$", "–": "--", "10⁶": "$10^6$", **{c: "\\" + c for c in "&%_#${}"}}
LATEX_PATTERN = re.compile("|".join(map(re.escape, sorted(LATEX, key=len, reverse=True))))


def to_latex(name, table, settings) -> str:
    """A table environment with caption and label, for the package booktabs."""

    def escape(text):
        return LATEX_PATTERN.sub(lambda found: LATEX[found[0]], text)

    headings, rows = printed(name, table, settings)
    texts = 2 if name == "table3" else sum(column in TEXTS for column in table)
    body, above = [], None
    for row in rows:
        if above is not None and row[0] != above[0]:
            body.append(r"\midrule")
        body.append(" & ".join(map(escape, row)) + r" \\")
        above = row
    return "\n".join([
        r"\begin{table}", r"\centering",
        rf"\caption{{{escape(table_caption(name, settings))}}}", rf"\label{{tab:{name}}}",
        rf"\begin{{tabular}}{{{'l' * texts}{'r' * (len(headings) - texts)}}}", r"\toprule",
        " & ".join(map(escape, headings)) + r" \\", r"\midrule", *body,
        r"\bottomrule", r"\end{tabular}", r"\end{table}", "",
    ])  # fmt: skip


def write(name, metrics, reference, settings: dict, output_dir) -> None:
    """Write output_dir/NAME.csv, .md and .tex; the reference is paper.csv, or targets.csv for
    `targets`. Raises UserError as make_table does."""
    published = (read_targets if name == "targets" else read_reference)(reference)
    table = make_table(name, load_metrics(metrics), published, settings)
    contents = {
        "csv": to_csv(table, name),
        "md": to_markdown(name, table, settings),
        "tex": to_latex(name, table, settings),
    }
    for suffix, content in contents.items():
        with atomic_path(Path(output_dir) / f"{name}.{suffix}") as temporary:
            temporary.write_text(content, encoding="utf-8")
