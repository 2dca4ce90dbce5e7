"""Tables on paper: from a DataFrame to headings and cells of text, and these as CSV, Markdown and
LaTeX; the report shows the same cells."""

import re
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..config.available import part_of, title_of
from ..config.published import TOLERANCE
from ..config.view import View
from .captions import table_caption


class Column(NamedTuple):
    """A column's heading, and of which kind (FORMATS) its numbers are."""

    heading: str
    kind: str


COLUMNS = {
    "encoder": Column("Encoder", "text"),
    "task": Column("Task", "text"),
    "mode": Column("Mode", "text"),
    "method": Column("Method", "text"),
    "individual": Column("Individual (%)", "percent"),
    "single_task": Column("Single-task (%)", "percent"),
    "pretrained": Column("Pre-trained (%)", "percent"),
    "posthoc": Column("Post-hoc (%)", "percent"),
    "unified": Column("Unified (%)", "percent"),
    "absolute": Column("Absolute (%)", "percent"),
    "normalized": Column("Normalized (%)", "percent"),
    "target": Column("Target (%)", "percent"),
    "control": Column("Control (%)", "percent"),
    "control_kept": Column("Control kept (%)", "percent"),
    "alpha": Column("α", "alpha"),
    "delta": Column("To the sum (points)", "points"),
    "data": Column("Data", "text"),
    "seconds": Column("Merging (s)", "seconds"),
    "held_parameters": Column("Held", "count"),
    "trained_parameters": Column("Trained", "count"),
    "size_mb": Column("Size (MB)", "size"),
    "peak_memory_mb": Column("Peak memory (MB)", "memory"),
    "step_seconds": Column("Step (s)", "seconds"),
    "training_minutes": Column("Training (min:s)", "minutes"),
    "measured": Column("Measured (%)", "percent"),
    "published": Column("Published (%)", "percent"),
    "published_normalized": Column("Published: normalized (%)", "percent"),
    "checkpoints": Column("Of checkpoints", "text"),
    "difference": Column("Difference (points)", "points"),
    "flag": Column(f"More than {TOLERANCE} points", "flag"),
}
DIGITS = {"alpha": 2, "seconds": 3, "memory": 0}  # beside a spread; of the other kinds one
FORMATS = {  # kind of number → in CSV, on paper ("": see number)
    "percent": (".2f", ".2f"),
    "points": (".2f", "+.2f"),
    "alpha": (".4g", ""),
    "count": (".0f", ""),
    "size": (".3f", ",.3f"),
    "memory": (".1f", ",.0f"),
    "seconds": (".5g", ".3f"),
    "minutes": (".2f", ""),
}


class Printed(NamedTuple):
    """A table as text: its headings, its rows, and which of the columns are words, not numbers."""

    headings: list[str]
    rows: list[list[str]]
    words: list[bool]


def number(value: float | str, kind: str, spread: float | None = None) -> str:
    """A number as printed, – where there is none, with ± its spread where that is given."""
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return "–"
    if pd.notna(spread):
        digits = DIGITS.get(kind, 1)
        mean = f"{value:,.{digits}f}" if kind != "points" else f"{value:+.1f}".replace("-", "−")
        return f"{mean} ± {spread:,.{digits}f}"
    if kind == "alpha":
        return f"{value:.2f}" if abs(value - round(value, 2)) < 1e-9 else f"{value:.3f}"
    if kind == "count":
        return f"{value / 1e6:.4g} M"
    if kind == "minutes":
        minutes, seconds = divmod(round(60 * value), 60)
        return f"{minutes}:{seconds:02d}"
    text = format(value, FORMATS[kind][1])
    return text.replace("-", "−") if kind == "points" else text


def kind_of(name: str, column: str) -> str:
    """The kind of the numbers of a table's column; of Table 3 each task has a column."""
    if name == "table3":
        return "text" if column == "mode" else "percent"
    return COLUMNS[own(column).removeprefix("paper_")].kind


BESIDE = ("_std", "_low", "_high")  # what stands beside a column: its spread, its 95 % interval


def own(column: str) -> str:
    """The column that another one stands beside; of others themselves."""
    ends = [end for end in BESIDE if column.endswith(end)]
    return column.removesuffix(ends[0]) if ends else column


def has_paper(name: str, view: View) -> bool:
    """Whether the paper's numbers belong beside a table's. Table 4 compares modes, Table 3 goes by
    the definitions of its tasks (tables.make_table)."""
    return view.suite in ("paper", "embedded") if name == "table4" else view.paper_beside


def printed(name: str, table: pd.DataFrame, view: View, intervals: bool = False) -> Printed:
    """A table of tables.make_table as text: modes by their labels, merging methods by their titles,
    spreads as ±, the paper's columns where they belong; with or without intervals."""
    table = table.assign(mode=table["mode"].map(view.label))
    if "method" in table:
        table = table.assign(method=table["method"].map(part_of(name, view).method_title))
    rows = table.to_dict("records")
    if name == "table3":
        return _printed_table3(rows, view, intervals)
    columns = [column for column in table if own(column) == column]
    if not has_paper(name, view):
        columns = [column for column in columns if not column.startswith("paper_")]
    kinds = {column: kind_of(name, column) for column in columns}
    headings = []
    for column in columns:
        heading = COLUMNS[column.removeprefix("paper_")].heading
        paper = column.startswith("paper_")
        headings.append(f"Paper: {heading[0].lower()}{heading[1:]}" if paper else heading)
    texts = [[_with_ends(row, c, kinds[c], intervals) for c in columns] for row in rows]
    return Printed(headings, texts, [kind == "text" for kind in kinds.values()])


def _with_ends(row: dict[str, Any], column: str, kind: str, intervals: bool) -> str:
    """A number with its spread and, if asked for and there is one, its interval."""
    text = number(row[column], kind, row.get(f"{column}_std"))
    low, high = (row.get(f"{column}_{end}", np.nan) for end in ("low", "high"))
    if not intervals or pd.isna(low):
        return text
    return f"{text} [{number(low, kind)}, {number(high, kind)}]"


def _printed_table3(rows: list[dict[str, Any]], view: View, intervals: bool) -> Printed:
    """Of each mode a row of this run and, if the paper has any of its numbers, one of the paper."""
    tasks = [c for c in rows[0] if c != "mode" and not c.startswith("paper_") and own(c) == c]
    found = []
    for row in rows:
        for source, prefix in (("this run", ""), ("paper", "paper_")):
            if any(pd.notna(row[prefix + c]) for c in tasks):
                numbers = [_with_ends(row, prefix + c, "percent", intervals) for c in tasks]
                found.append([row["mode"], source, *numbers])
    headings = ["Mode", "", *view.language.tasks, "average"]
    return Printed(headings, found, [True, True, *[False] * len(tasks)])


def to_csv(table: pd.DataFrame, name: str) -> str:
    """Numbers in percent with two decimals, empty where there is none."""
    text = table.astype(object)
    for column in table:
        if form := FORMATS.get(kind_of(name, column)):
            numbers = table[column]
            text[column] = ["" if pd.isna(x) else format(round(x, 9), form[0]) for x in numbers]
    return text.to_csv(index=False, lineterminator="\n")


def to_markdown(name: str, table: pd.DataFrame, view: View) -> str:
    """Caption and table."""
    headings, rows, words = printed(name, table, view)
    ruler = [":--" if word else "--:" for word in words]
    lines = [
        "| " + " | ".join(text.replace("|", r"\|") for text in row) + " |"
        for row in (headings, ruler, *rows)
    ]
    return f"**{title_of(name)}.** {table_caption(name, view)}\n\n" + "\n".join(lines) + "\n"


LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {"α": r"$\alpha$", "θ0": r"$\theta_0$", "θ": r"$\theta$", "τ": r"$\tau$", "Σ": r"$\sum$"}
LATEX |= {"±": r"$\pm$", "−": "$-$", "–": "--", "10⁶": "$10^6$", **{c: "\\" + c for c in "&%_#${}"}}
LATEX_PATTERN = re.compile("|".join(map(re.escape, sorted(LATEX, key=len, reverse=True))))


def to_latex(name: str, table: pd.DataFrame, view: View) -> str:
    """A table environment with caption and label, for the package booktabs."""

    def escape(text: str) -> str:
        return LATEX_PATTERN.sub(lambda found: LATEX[found[0]], text)

    headings, rows, words = printed(name, table, view)
    body, above = [], rows[0][0]
    for row in rows:
        body += [r"\midrule"] * (row[0] != above)
        body.append(" & ".join(map(escape, row)) + r" \\")
        above = row[0]
    return "\n".join([
        r"\begin{table}", r"\centering",
        rf"\caption{{{escape(table_caption(name, view))}}}", rf"\label{{tab:{name}}}",
        rf"\begin{{tabular}}{{{''.join('l' if word else 'r' for word in words)}}}", r"\toprule",
        " & ".join(map(escape, headings)) + r" \\", r"\midrule", *body,
        r"\bottomrule", r"\end{tabular}", r"\end{table}", "",
    ])  # fmt: skip
