"""One self-contained HTML page of a run: findings, tables, figures, configuration, versions.

page.html says how it looks; here is what it shows.
"""

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd

from ..config.available import figure_names, left_out, table_names, title_of
from ..config.view import View, view_of
from ..errors import UserError
from ..files import records
from ..files.hashes import versions
from ..files.paths import PathLike, atomic_path
from .captions import figure_caption, suite_note, table_caption
from .cells import load_metrics
from .drawing import save
from .findings import beside_published, claims, sentences
from .printing import Printed, printed
from .tables import make_table, read_reference, read_targets
from .timeline import timeline

CLAIMS = ["Claim of the paper", "Where", "This run", "Holds here"]
TIMELINE = (
    "Every attempt of every job, on the GPU that it held or, without one, beside the other jobs of "
    "its node; what this run found finished is where it ran before. Hatched: failed or killed."
)


class Grid(NamedTuple):
    """A table of text: of each column its heading and CSS class ("text", "paper", "answer" or ""),
    of each row its CSS classes and its texts."""

    headings: Sequence[str]
    kinds: Sequence[str]
    rows: list[tuple[str, list[str]]]


class Shown(NamedTuple):
    """A table with its title and caption."""

    title: str
    caption: str
    grid: Grid


class Picture(NamedTuple):
    """A figure as PNG in base64, with its width on the page in pixels."""

    name: str
    title: str
    caption: str
    width: int
    png: str


class About(NamedTuple):
    """What a run is."""

    facts: dict[str, str]
    notes: list[str]


def grid(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    kinds: Sequence[str],
    group: int | None = None,
    once: bool = False,
) -> Grid:
    """Rows of text as a table.

    Args:
        group: a line is drawn where this column's text changes.
        once: leave that column empty where it repeats the row above.
    """
    marked: list[tuple[str, list[str]]] = []
    above: Sequence[str] | None = None
    for row in rows:
        same = above is None or group is None or row[group] == above[group]
        texts = list(row)
        if once and group is not None and same and above is not None:
            texts[group] = ""
        marked.append((" ".join(["next"] * (not same) + ["paper"] * ("paper" in row[:2])), texts))
        above = row
    return Grid(headings, kinds, marked)


def about(view: View) -> About:
    """What this run is."""
    suite = f" ({view.suite} suite)" if view.suite else ""
    facts, notes = {"Run": view.run + suite}, []
    for part in view.parts:
        of = " of texts" if part.of_texts else ""
        facts[f"Tasks{of}"] = ", ".join(part.tasks)
        if not of:
            facts["Control task"] = part.control or "none"
        facts[f"Encoders{of}"] = "; ".join(
            f"{name} (the paper's {paper} beside it)" if paper and part.paper_beside else name
            for name, paper in part.encoders.items()
        )
        facts[f"Modes{of}"] = "; ".join(map(part.label, part.modes))
        if not of:
            ablations = "; ".join(map(part.label, part.ablations)) or "none"
            facts["Ablations"] = f"{ablations} (encoder {part.focus})"
        notes += [suite_note(part, part.encoders)] * (part.suite == "embedded")
    several = ": numbers are mean ± sample standard deviation" * (len(view.seeds) > 1)
    return About(facts | {"Seeds": ", ".join(view.seeds) + several}, notes)


def recipes(view: View) -> dict[str, Grid]:
    """Of each kind of data the recipes of fine-tuning, and what each was used for."""
    found = {}
    for modality, rows in view.recipes.items():
        part, title = (view, "images") if modality == "vision" else (view.language, "texts")
        keys, lines = list(dict.fromkeys(key for row in rows for key in row["recipe"])), []
        for row in rows:
            modes = row["modes"]
            modes = modes if modes == "all" else [part.label(mode) for mode in modes]
            used = [row["encoders"], modes, row["tasks"]]
            lines.append([*map(_listed, used), *(_listed(row["recipe"].get(k, "–")) for k in keys)])
        headings = ["Encoders", "Modes", "Tasks", *(key.replace("_", " ") for key in keys)]
        found[title] = grid(headings, lines, ["prose"] * 3 + [""] * len(keys))
    return found


def _listed(value: Any) -> str:
    """A value of a recipe, or names, as a cell of a table."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)


def shown(name: str, table: Printed, view: View) -> Shown:
    """A table of tables.make_table, as it is printed."""
    kinds = ["text"] * table.texts
    for heading in table.headings[table.texts :]:
        kinds.append("paper" if heading.startswith(("Paper", "Published")) else "")
    if name == "targets":
        kinds[-1] = "answer"
    group = 1 if name.startswith(("tasks", "targets")) else 0
    return Shown(title_of(name), table_caption(name, view), grid(*table[:2], kinds, group))


def picture(figures_dir: PathLike, name: str, title: str, caption: str) -> Picture:
    """One figure, embedded as PNG, with its caption. Raises UserError if it is not there."""
    path = Path(figures_dir) / f"{name}.png"
    try:
        png = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: make the figures first.") from None
    pixels = int.from_bytes(png[16:20], "big")  # width, in the header of a PNG
    return Picture(name, title, caption, round(pixels * 0.62), base64.b64encode(png).decode())


def timings(rows: list[records.Row]) -> Grid:
    """Per stage, for how long its jobs ran and in how much memory.

    Args:
        rows: what records.rows returns, at least one.
    """
    headings = ["Stage", "Jobs", "Attempts", "Seconds", "Peak memory (MiB)", "GPU memory (MiB)"]
    lines = records.summary(rows) + records.summary([row._replace(stage="all") for row in rows])
    columns = 5 + any(line.gpu_memory_bytes for line in lines)
    texts = [
        [
            line.stage,
            f"{line.jobs:,}",
            f"{line.attempts:,}",
            f"{line.seconds:,.1f}",
            *(f"{size / 2**20:,.0f}" for size in (line.peak_memory_bytes, line.gpu_memory_bytes)),
        ][:columns]
        for line in lines
    ]
    return grid(headings[:columns], texts, ["text", *[""] * (columns - 1)])


def page(
    metrics: pd.DataFrame,
    paper: pd.DataFrame,
    targets: pd.DataFrame,
    figures_dir: PathLike,
    view: View,
    config_text: str,
    rows: list[records.Row],
) -> str:
    """The whole page as HTML; writes timeline.png and .pdf beside the other figures.

    Args:
        metrics: what load_metrics returns. paper, targets: published numbers, as tables.py reads
            them.
        figures_dir: where the figures are.
        config_text: the resolved configuration.
        rows: what records.rows returns.
    Raises:
        UserError: a figure is not there, or a cell of the metrics.
    """
    tables = {
        name: make_table(name, metrics, targets if name == "targets" else paper, view)
        for name in table_names(view)
    }
    tested = claims(metrics, view, tables["table4"])
    content: dict[str, Any] = {
        "view": view,
        "about": about(view),
        "recipes": recipes(view),
        "paper_beside": any(part.suite in ("paper", "embedded") for part in view.parts),
        "findings": sentences(metrics, view),
        "claims": grid(CLAIMS, tested, ["prose", "prose", "prose", "answer"], group=0, once=True),
        "tables": {name: shown(name, printed(name, t, view), view) for name, t in tables.items()},
        "figures": [
            picture(figures_dir, name, title_of(name), figure_caption(name, view))
            for name in figure_names(view)
        ],
        "left_out": left_out(view),
        "config_text": config_text,
        "versions": grid(["Package", "Version"], versions().items(), ["text", "text"]),
    }
    if "targets" in tables:
        content["findings"].append(beside_published(tables["targets"], view))
        every = content["tables"].pop("targets")
        task, rows_of_all = every.grid.headings.index("Task"), every.grid.rows
        chosen = [x for _, x in rows_of_all if x[task] == "average" or x[-1] == "yes"]
        flagged = grid(every.grid.headings, chosen, every.grid.kinds, group=1)
        content |= {"published": every, "flagged": flagged}
    if rows:
        save(timeline(rows), figures_dir, "timeline")
        content["timeline"] = picture(figures_dir, "timeline", "Timeline", TIMELINE)
        content["timings"] = timings(rows)
    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    templates = jinja2.Environment(loader=folder, autoescape=True, trim_blocks=True,
                                   lstrip_blocks=True, keep_trailing_newline=True)  # fmt: skip
    return templates.get_template("page.html").render(content)


def write(
    metrics: PathLike,
    paper: PathLike,
    targets: PathLike,
    figures_dir: PathLike,
    settings: dict[str, Any],
    config_text: str,
    run_dir: PathLike | None,
    output: PathLike,
) -> None:
    """Write the report, and beside it the configuration (config.yaml) and the trace of the run's
    jobs (trace.csv); timeline.png and .pdf beside the other figures.

    Args:
        metrics: the run's metrics.csv. paper, targets: the files of published numbers.
        figures_dir: what figures.write made.
        settings: what settings.report_settings gives.
        config_text: the resolved configuration.
        run_dir: results/NAME; None, or without run.json: no jobs are shown.
    Raises:
        UserError: a figure or a cell of the metrics is missing; run.json is damaged.
    """
    rows = []
    if run_dir and (Path(run_dir) / "run.json").exists():
        rows = records.rows(run_dir, records.read_run(run_dir).jobs)
    published = read_reference(paper), read_targets(targets)
    view = view_of(settings)
    text = page(load_metrics(metrics), *published, figures_dir, view, config_text, rows)
    with atomic_path(Path(output).with_name("config.yaml")) as temporary:
        temporary.write_text(config_text, encoding="utf-8")
    if run_dir:
        records.write_trace(rows, Path(output).with_name("trace.csv"))
    with atomic_path(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
