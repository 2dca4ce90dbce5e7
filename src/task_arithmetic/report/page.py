"""One self-contained HTML page of a run: a summary, then questions with the tables and figures that
answer them, all findings, configuration, versions.

page.html says how it looks, and questions.py what is asked; here is what it shows.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd
from markupsafe import Markup

from ..config.available import MERGING, figure_names, left_out, table_names, title_of
from ..config.published import has_published_merging
from ..config.view import View, view_of
from ..errors import UserError
from ..files import records
from ..files.hashes import versions
from ..files.paths import PathLike, atomic_path
from .captions import figure_caption, suite_note, table_caption
from .cells import load_metrics
from .claims import claims
from .drawing import save
from .findings import sentences
from .inline import inline, variables
from .printing import printed
from .questions import asked, counted
from .reference import read_merging, read_reference, read_targets
from .resampled import Draws, read_draws
from .tables import make_table
from .timeline import timeline

SCALE = 1.72  # pixels on the page for each point of a figure: text of 8 points becomes 14 pixels
FINDINGS = 5  # in the summary
SHOWN_FIRST = ("fig9", "fig9_language")  # in the summary, where it is there; else the first figure
TIMELINE = (
    "Every attempt of every job, on the GPU that it held or, without one, beside the other jobs of "
    "its node; what this run found finished is where it ran before. Hatched: failed or killed."
)


class Grid(NamedTuple):
    """A table of text.

    Attributes:
        kinds: CSS class of each column: "text", "prose", "paper", "answer" or "".
        group: a line is drawn where this column's text changes.
        once: whether that column is left empty where it repeats the row above.
    """

    headings: Sequence[str]
    kinds: Sequence[str]
    rows: Sequence[Sequence[str]]
    group: int | None = None
    once: bool = False


class Picture(NamedTuple):
    """A figure as an <svg> element, its width on the page in pixels, and its exchanged colours."""

    name: str
    title: str
    caption: str
    width: int
    svg: Markup
    colors: frozenset[str]


class About(NamedTuple):
    """What a run is."""

    facts: dict[str, str]
    notes: list[str]


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
        if part.methods:
            titles = "; ".join(map(part.method_title, part.compared_methods))
            encoders = ", ".join(part.merged_encoders)
            facts[f"Merging methods{of}"] = f"{titles} (encoder {encoders})"
        if not of:
            ablations = "; ".join(map(part.label, part.ablations)) or "none"
            facts["Ablations"] = f"{ablations} (encoder {part.focus})"
        notes += [suite_note(part, part.encoders)] * (part.suite == "embedded")
    for encoder, mode in dict.fromkeys(
        (each["encoder"], each["mode"]) for each in view.checkpoints
    ):
        taken = [x for x in view.checkpoints if (x["encoder"], x["mode"]) == (encoder, mode)]
        listed = ", ".join(f"{each['task']} ({each['source']})" for each in taken)
        notes.append(
            f"{view.label(mode)}, {encoder}: others have fine-tuned and published the weights of "
            f"{listed}. How they were trained is not known here; where modes differ, this may be "
            "why."
        )
    several = ": numbers are mean ± sample standard deviation" * (len(view.seeds) > 1)
    return About(facts | {"Seeds": ", ".join(view.seeds) + several}, notes)


def recipes(view: View) -> dict[str, Grid]:
    """Of each kind of data the recipes of fine-tuning, and what each was used for."""
    found = {}
    for modality, uses in view.recipes.items():
        if not uses:  # all was published by others
            continue
        part, title = (view, "images") if modality == "vision" else (view.language, "texts")
        keys, rows = list(dict.fromkeys(key for use in uses for key in use["recipe"])), []
        for use in uses:
            modes = use["modes"]
            modes = modes if modes == "all" else [part.label(mode) for mode in modes]
            values = [use["recipe"].get(key, "–") for key in keys]
            rows.append([*map(_listed, [use["encoders"], modes, use["tasks"], *values])])
        headings = ["Encoders", "Modes", "Tasks", *(key.replace("_", " ") for key in keys)]
        found[title] = Grid(headings, ["prose"] * 3 + [""] * len(keys), rows)
    return found


def _listed(value: Any) -> str:
    """A value of a recipe, or names, as a cell of a table."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)


def grid_of(name: str, table: pd.DataFrame, view: View) -> Grid:
    """A table of tables.make_table, as it is printed."""
    headings, rows, words = printed(name, table, view, intervals=True)
    kinds = [
        "text" if word else "paper" * heading.startswith(("Paper", "Published"))
        for heading, word in zip(headings, words, strict=True)
    ]
    if name == "targets":
        kinds[-1] = "answer"
    group = 1 if name.startswith(("tasks", "targets", "merging")) else 0
    return Grid(headings, kinds, rows, group)


def picture(figures_dir: PathLike, name: str, title: str, caption: str, id: str = "") -> Picture:
    """One figure, with its caption.

    Args:
        id: on the page; the name by default.
    Raises:
        UserError: it is not there.
    """
    path = Path(figures_dir) / f"{name}.svg"
    try:
        svg, points, colors = inline(path.read_text(encoding="utf-8"), id or f"figure-{name}")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: make the figures first.") from None
    return Picture(name, title, caption, round(points * SCALE), svg, colors)


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
    return Grid(headings[:columns], ["text", *[""] * (columns - 1)], texts)


def page(
    metrics: pd.DataFrame,
    paper: pd.DataFrame,
    targets: pd.DataFrame,
    figures_dir: PathLike,
    view: View,
    config_text: str,
    rows: list[records.Row],
    merging: pd.DataFrame | None = None,
    draws: Draws | None = None,
) -> str:
    """The whole page as HTML; writes timeline.png, .pdf and .svg beside the other figures.

    Args:
        metrics, paper, targets: what load_metrics, read_reference and read_targets return.
        rows: what records.rows returns. figures_dir, config_text: as for write.
        merging: what read_merging returns; for a run beside which these numbers stand.
        draws: what read_draws returns; None: there are no intervals.
    Raises:
        UserError: a figure is not there, or a cell of the metrics, or `merging`, which is needed.
    """
    if merging is None and has_published_merging(view):
        raise UserError(
            "The report lacks the published numbers of merging methods: give --merging."
        )
    beside = {"targets": targets}
    beside |= {} if merging is None else dict.fromkeys(MERGING, merging)
    tables = {
        name: make_table(name, metrics, beside.get(name, paper), view, draws)
        for name in table_names(view)
    }
    grids = {name: grid_of(name, table, view) for name, table in tables.items()}
    flagged, judged = None, claims(metrics, view, tables["table4"], draws)
    if published := grids.get("targets"):
        task = published.headings.index("Task")
        chosen = [row for row in published.rows if row[task] == "average" or row[-1] == "yes"]
        flagged = published._replace(rows=chosen)
    found = sentences(metrics, view, draws)
    questions = asked(view, judged, tables, metrics)
    findings = [each for each in questions if each.answer][:FINDINGS]
    names = figure_names(view)
    if rows:
        save(timeline(rows), figures_dir, "timeline")
    figures = {
        name: picture(figures_dir, name, title_of(name), figure_caption(name, view))
        for name in names
    }
    first = next((name for name in (*SHOWN_FIRST, *names) if name in figures), None)
    summary = None
    if first:
        about_first = title_of(first), figure_caption(first, view)
        summary = picture(figures_dir, first, *about_first, "summary")
    of_jobs = picture(figures_dir, "timeline", "Timeline", TIMELINE) if rows else None
    every = [*figures.values(), *([of_jobs] if of_jobs else [])]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html").render(
        view=view,
        about=about(view),
        recipes=recipes(view),
        merges=any(name in tables for name in MERGING),
        paper_beside=any(part.suite in ("paper", "embedded") for part in view.parts),
        findings=findings,
        more_findings=found[: FINDINGS - len(findings)],
        sentences=found,
        counted=counted(judged),
        judged=judged,
        questions=questions,
        claims={each.question.name: claim_grid(each.claims) for each in questions},
        tables=grids,
        sampled={name for name, made in tables.items() if any("_low" in c for c in made)},
        title_of=title_of,
        table_caption=table_caption,
        flagged=flagged,
        figures=figures,
        summary=summary,
        colors=variables(frozenset().union(*(each.colors for each in every))),
        left_out=left_out(view),
        config_text=config_text,
        versions=Grid(["Package", "Version"], ["text", "text"], [*versions().items()]),
        timeline=of_jobs,
        timings=timings(rows) if rows else None,
    )


def claim_grid(judged: Sequence[Sequence[str]]) -> Grid:
    """Claims as a table."""
    headings = ["Claim of the paper", "Where", "This run", "Holds here"]
    return Grid(headings, ["prose", "prose", "prose", "answer"], judged, group=0, once=True)


def write(
    metrics: PathLike,
    paper: PathLike,
    targets: PathLike,
    figures_dir: PathLike,
    settings: dict[str, Any],
    config_text: str,
    run_dir: PathLike | None,
    output: PathLike,
    merging: PathLike | None = None,
    draws: PathLike | None = None,
) -> None:
    """Write the report, and beside it the configuration (config.yaml) and the trace of the run's
    jobs (trace.csv); timeline.png, .pdf and .svg beside the other figures.

    Args:
        metrics: the run's metrics.csv. paper, targets, merging: the files of published numbers;
            merging's only for a run that merges with other methods than the sum.
        draws: the run's draws.safetensors. figures_dir: what figures.write made.
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
    of_merging = read_merging(merging) if merging else None
    view = view_of(settings)
    measured = load_metrics(metrics)
    drawn = read_draws(draws) if draws else None
    text = page(measured, *published, figures_dir, view, config_text, rows, of_merging, drawn)
    with atomic_path(Path(output).with_name("config.yaml")) as temporary:
        temporary.write_text(config_text, encoding="utf-8")
    if run_dir:
        records.write_trace(rows, Path(output).with_name("trace.csv"))
    with atomic_path(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
