"""Tables on paper: from a DataFrame to headings and cells of text, and these as CSV, Markdown and
LaTeX; the report shows the same cells."""

import re
from typing import NamedTuple

import pandas as pd

from ..config.available import title_of
from ..config.targets import TOLERANCE
from ..config.view import View
from .captions import table_caption

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
CSV_FORMAT = {"percent": ".2f", "points": ".2f", "alpha": ".4g", "count": ".0f", "size": ".3f",
              "memory": ".1f", "seconds": ".5g", "minutes": ".2f"}  # fmt: skip
FORMAT = {"percent": ".2f", "points": "+.2f", "size": ",.3f", "memory": ",.0f", "seconds": ".3f"}


class Printed(NamedTuple):
    """A table as text: its headings, its rows, and how many of the columns, the first, are words,
    not numbers."""

    headings: list[str]
    rows: list[list[str]]
    texts: int


def number(value: float | str, kind: str, spread: float | None = None) -> str:
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
    text = format(value, FORMAT[kind])
    return text.replace("-", "−") if kind == "points" else text


def kind_of(column: str) -> str:
    """The kind of a column's numbers, as HEADINGS has it; percent, of a task's own column."""
    bare = column.removeprefix("paper_").removesuffix("_std")
    return HEADINGS[bare][1] if bare in HEADINGS else "percent"


def has_paper(name: str, view: View, column: str = "") -> bool:
    """Whether the paper's numbers belong beside a table's, or in a column of Table 3: there the
    definitions of tasks say so. Table 4 compares modes."""
    if name == "table3":
        asked = [*filter(None, view.language.paper_tasks.values()), "average"]
        return not column or column.removeprefix("paper_") in asked
    return view.suite in ("paper", "embedded") if name == "table4" else view.paper_beside


def printed(name: str, table: pd.DataFrame, view: View) -> Printed:
    """A table of tables.make_table as text: modes by their labels, spreads as ±, the paper's
    columns where they belong."""
    if name == "table3":
        return _printed_table3(table, view)
    columns = [c for c in table if not c.endswith("_std")]
    if not has_paper(name, view):
        columns = [c for c in columns if not c.startswith("paper_")]
    headings = []
    for column in columns:
        heading = HEADINGS[column.removeprefix("paper_")][0]
        paper = column.startswith("paper_")
        headings.append(f"Paper: {heading[0].lower()}{heading[1:]}" if paper else heading)
    rows = [
        [
            view.label(row[column])
            if column == "mode"
            else number(row[column], kind_of(column), row.get(f"{column}_std"))
            for column in columns
        ]
        for row in table.to_dict("records")
    ]
    return Printed(headings, rows, sum(kind_of(column) == "text" for column in columns))


def _printed_table3(table: pd.DataFrame, view: View) -> Printed:
    """Table 3: of each mode a row of this run and, if the paper has any of its numbers, one of the
    paper."""
    own = [c for c in table if c != "mode" and not c.startswith("paper_") and c[-4:] != "_std"]
    headings = ["Mode", "", *view.language.tasks, "average"]
    rows = []
    for row in table.to_dict("records"):
        for source, prefix in (("this run", ""), ("paper", "paper_")):
            if prefix and all(pd.isna(row[prefix + c]) for c in own):
                continue
            numbers = [number(row[prefix + c], "percent", row.get(f"{prefix}{c}_std")) for c in own]
            rows.append([view.label(row["mode"]), source, *numbers])
    return Printed(headings, rows, 2)


def to_csv(table: pd.DataFrame, name: str = "") -> str:
    """Numbers in percent with two decimals, empty where there is none."""
    text = table.astype(object)
    for column in table:
        kind = "percent" if name == "table3" and column != "mode" else kind_of(column)
        if kind not in ("text", "flag"):
            form = CSV_FORMAT[kind]
            text[column] = ["" if pd.isna(x) else format(round(x, 9), form) for x in table[column]]
    return text.to_csv(index=False, lineterminator="\n")


def to_markdown(name: str, table: pd.DataFrame, view: View) -> str:
    """Caption and table."""
    headings, rows, texts = printed(name, table, view)
    ruler = [":--"] * texts + ["--:"] * (len(headings) - texts)
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

    headings, rows, texts = printed(name, table, view)
    body, above = [], rows[0][0]
    for row in rows:
        body += [r"\midrule"] * (row[0] != above)
        body.append(" & ".join(map(escape, row)) + r" \\")
        above = row[0]
    return "\n".join([
        r"\begin{table}", r"\centering",
        rf"\caption{{{escape(table_caption(name, view))}}}", rf"\label{{tab:{name}}}",
        rf"\begin{{tabular}}{{{'l' * texts}{'r' * (len(headings) - texts)}}}", r"\toprule",
        " & ".join(map(escape, headings)) + r" \\", r"\midrule", *body,
        r"\bottomrule", r"\end{tabular}", r"\end{table}", "",
    ])  # fmt: skip
