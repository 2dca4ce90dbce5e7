"""One self-contained HTML page of a run: findings, tables, figures, configuration, versions.

Figures are embedded, styles are inline; there is no script, and nothing is fetched.
"""

import base64
from html import escape
from pathlib import Path

import matplotlib

from ..config.available import (
    encoders_of,
    figure_names,
    language_of,
    left_out,
    table_names,
    title_of,
)
from ..errors import UserError
from ..files import records
from ..files.hashes import versions
from ..files.paths import atomic_path
from ..files.records import read_run
from .captions import figure_caption, suite_note, table_caption
from .cells import label_of, load_metrics, modes_of
from .figures import STYLE as FIGURE_STYLE
from .findings import beside_published, claims, sentences
from .tables import read_printed, read_table
from .timeline import timeline

STYLE = """
body { font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #1c1c1c; background: #fff;
       max-width: 68rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .8rem; padding-bottom: .2rem;
     border-bottom: 2px solid #ddd; }
h3 { font-size: 1.02rem; margin: 1.8rem 0 .3rem; }
a { color: #00527a; }
nav a { margin-right: 1rem; white-space: nowrap; }
.note { background: #f4f1e8; border-left: 4px solid #b59a4c; padding: .5rem .9rem; margin: 1rem 0; }
.caption { color: #444; font-size: .9rem; margin: .2rem 0 .6rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .55rem; text-align: right; vertical-align: top; }
td { white-space: nowrap; }
td.prose { white-space: normal; }
thead th { border-top: 2px solid #222; border-bottom: 1px solid #222; vertical-align: bottom; }
tbody tr:last-child td { border-bottom: 2px solid #222; }
tbody tr.next td { border-top: 1px solid #bbb; }
th.text, td.text, .prose, .answer { text-align: left; }
th.paper, td.paper, tr.paper td { color: #6b6b6b; }
td.answer { font-weight: 600; }
figure { margin: 1.8rem 0; break-inside: avoid; }
figure img { max-width: 100%; height: auto; }
figcaption { color: #444; font-size: .9rem; margin-top: .4rem; }
pre { background: #f6f6f6; padding: .9rem; overflow-x: auto; font-size: .82rem; line-height: 1.4; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; margin: 1rem 0; }
dt { font-weight: 600; } dd { margin: 0; }
summary { cursor: pointer; font-weight: 600; }
li { margin: .35rem 0; }
@media print { body { max-width: none; } nav { display: none; } .wide { overflow: visible; } }
"""


def html_table(headings, rows, kinds, group=None, once=False) -> str:
    """A table of text.

    Args:
        kinds: a CSS class per column: "text", "paper", "answer" or "".
        group: a line is drawn where this column's text changes.
        once: leave that column empty where it repeats the row above.
    """

    def line(cell, texts, attributes=""):
        marked = "".join(
            f"<{cell}{f' class={kind!r}' if kind else ''}>{escape(text)}</{cell}>"
            for text, kind in zip(texts, kinds, strict=True)
        )
        return f"<tr{attributes}>{marked}</tr>\n"

    body, above = "", None
    for row in rows:
        changed = group is not None and above is not None and row[group] != above[group]
        repeats = once and above is not None and not changed
        texts = ["" if repeats and i == group else text for i, text in enumerate(row)]
        marks = ["next"] * changed + ["paper"] * ("paper" in row[:2])
        body += line("td", texts, f' class="{" ".join(marks)}"' if marks else "")
        above = row
    head = line("th", headings)
    return (
        f'<div class="wide"><table><thead>\n{head}</thead><tbody>\n{body}</tbody></table></div>\n'
    )


def about(settings) -> str:
    """What this run is."""
    seeds = ", ".join(map(str, settings["seeds"]))
    several = len(settings["seeds"]) > 1
    suite = f" ({settings['suite']} suite)" * bool(settings["suite"])
    facts, notes = {"Run": settings["run"] + suite}, []
    for part, of in ((settings, ""), (language_of(settings), " of texts")):
        encoders = encoders_of(part)
        if not encoders:
            continue
        beside = [
            f"{name} (the paper's {paper} beside it)" if paper and part["paper_beside"] else name
            for name, paper in ((name, part["encoders"][name]) for name in encoders)
        ]
        ablations = [label_of(mode, part) for mode in sorted(part["ablations"])]
        facts[f"Tasks{of}"] = ", ".join(part["tasks"])
        if not of:
            facts["Control task"] = part["control"] or "none"
        facts[f"Encoders{of}"] = "; ".join(beside)
        facts[f"Modes{of}"] = "; ".join(label_of(mode, part) for mode in modes_of(part))
        if not of:
            facts["Ablations"] = ("; ".join(ablations) or "none") + f" (encoder {part['focus']})"
        notes += [suite_note(part, encoders)] * (part["suite"] == "embedded")
    facts["Seeds"] = seeds + (": numbers are mean ± sample standard deviation" if several else "")
    listed = "".join(f"<dt>{key}</dt><dd>{escape(text)}</dd>\n" for key, text in facts.items())
    text = (
        "Every encoder was fine-tuned on every task in every mode; what moved is the task vector "
        "τ. The tables and figures below are those of <i>Fine-Tuning Attention Modules Only</i>, "
        "computed from this run's task vectors"
    )
    suites = {part["suite"] for part in (settings, language_of(settings)) if encoders_of(part)}
    text += (
        ", beside the paper's numbers where it prints them."
        if suites & {"paper", "embedded"}
        else "."
    )
    shown = "".join(f'<p class="note">{escape(note)}</p>\n' for note in notes)
    return f"<p>{text}</p>\n{shown}\n<dl>\n{listed}</dl>\n"


def recipes(settings) -> str:
    """The recipes of fine-tuning, and what each was used for."""
    parts, shown = {"vision": settings, "language": language_of(settings)}, ""
    for modality, rows in settings["recipes"].items():
        keys, lines = list(dict.fromkeys(key for row in rows for key in row["recipe"])), []
        for row in rows:
            modes = (
                row["modes"]
                if row["modes"] == "all"
                else [label_of(mode, parts[modality]) for mode in row["modes"]]
            )
            lines.append([_listed(each) for each in (row["encoders"], modes, row["tasks"])])
            lines[-1] += [_listed(row["recipe"].get(key, "–")) for key in keys]
        headings = ["Encoders", "Modes", "Tasks", *(key.replace("_", " ") for key in keys)]
        kinds = ["prose"] * 3 + [""] * len(keys)
        title = {"vision": "images", "language": "texts"}[modality]
        shown += f"<h3>Recipes, {title}</h3>\n{html_table(headings, lines, kinds)}"
    return shown


def _listed(value) -> str:
    """A value of a recipe, or names, as a cell of a table."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)


def findings(metrics, settings, tables_dir) -> str:
    """Headlines and the paper's claims on this run."""
    texts = sentences(metrics, settings)
    if "targets" in table_names(settings):
        texts.append(beside_published(read_table(Path(tables_dir) / "targets.csv"), settings))
    headlines = "".join(f"<li>{escape(text)}</li>\n" for text in texts)
    rows = claims(metrics, settings, read_table(Path(tables_dir) / "table4.csv"))
    if not rows:
        return f"<ul>\n{headlines}</ul>\n"
    kinds = ["prose", "prose", "prose", "answer"]
    headings = ["Claim of the paper", "Where", "This run", "Holds here"]
    table = html_table(headings, rows, kinds, group=0, once=True)
    several = len(settings["seeds"]) > 1
    how = "A claim holds if the numbers are in the claimed order" + (
        ", on the mean over seeds; in brackets, in how many seeds they are. " if several else ". "
    )
    how += "No test of significance is made" + ("." if several else ", and this is one seed.")
    return f'<ul>\n{headlines}</ul>\n<h3>Claims</h3>\n<p class="caption">{how}</p>\n{table}'


def tables(settings, tables_dir) -> str:
    """All tables but that of published accuracies; the long one, of every task, folded."""
    parts = []
    for name in table_names(settings):
        if name == "targets":
            continue
        headings, rows, texts = read_printed(Path(tables_dir) / f"{name}.md")
        kinds = ["text"] * texts + [
            "paper" if heading.startswith("Paper") else "" for heading in headings[texts:]
        ]
        long = name.startswith("tasks")
        content = html_table(headings, rows, kinds, group=1 if long else 0)
        if long:
            content = f"<details><summary>{len(rows)} rows</summary>\n{content}</details>\n"
        caption = f'<p class="caption">{escape(table_caption(name, settings))}</p>'
        parts.append(f'<h3 id="{name}">{title_of(name)}</h3>\n{caption}\n{content}')
    return "".join(parts)


def published(settings, tables_dir) -> str:
    """Accuracies beside published ones: the averages and what is flagged; every row folded."""
    headings, rows, texts = read_printed(Path(tables_dir) / "targets.md")
    kinds = ["text"] * texts + [
        "paper" if heading.startswith("Published") else "" for heading in headings[texts:]
    ]
    task, flag = headings.index("Task"), len(headings) - 1
    chosen = [row for row in rows if row[task] == "average" or row[flag] == "yes"]
    kinds[flag] = "answer"
    sentence = beside_published(read_table(Path(tables_dir) / "targets.csv"), settings)
    caption = f"{table_caption('targets', settings)} Shown: averages, and what is flagged."
    every = html_table(headings, rows, kinds, group=1)
    return (
        f'<p>{escape(sentence)}</p>\n<p class="caption">{escape(caption)}</p>\n'
        f"{html_table(headings, chosen, kinds, group=1)}"
        f"<details><summary>All {len(rows)} rows</summary>\n{every}</details>\n"
    )


def figures(settings, figures_dir) -> str:
    """All figures, embedded as PNG."""
    return "".join(
        figure(figures_dir, name, title_of(name), figure_caption(name, settings))
        for name in figure_names(settings)
    )


def listed_out(settings) -> str:
    """The paper's tables and figures that this run's configuration does not give, and why."""
    lines = "".join(f"<li>{escape(line)}</li>\n" for line in left_out(settings))
    return f"<ul>\n{lines}</ul>\n" if lines else "<p>Nothing.</p>\n"


def figure(figures_dir, name, title, caption) -> str:
    """One figure, embedded as PNG, with its caption."""
    path = Path(figures_dir) / f"{name}.png"
    try:
        image = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: make the figures first.") from None
    pixels = int.from_bytes(image[16:20], "big")  # width, in the header of a PNG
    caption = escape(caption)
    data = base64.b64encode(image).decode()
    return (
        f'<figure id="{name}"><img width="{round(pixels * 0.62)}" alt="{caption}" '
        f'src="data:image/png;base64,{data}">\n'
        f"<figcaption><b>{title}.</b> {caption}</figcaption></figure>\n"
    )


TIMELINE = (
    "Every attempt of every job, on the GPU that it held or, without one, beside the other jobs of "
    "its node; what this run found finished is where it ran before. Hatched: failed or killed."
)


def timings(rows, figures_dir) -> str:
    """When each job ran; per stage, for how long and in how much memory.

    Args:
        rows: what records.rows returns, at least one.
        figures_dir: where timeline.png and timeline.pdf are written.
    """
    drawn = timeline(rows)
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **FIGURE_STYLE}):
        for suffix, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
            with atomic_path(Path(figures_dir) / f"timeline.{suffix}") as temporary:
                options = {"dpi": 200, "metadata": metadata, "bbox_inches": "tight"}
                drawn.savefig(temporary, format=suffix, pad_inches=0.04, **options)
    headings = ["Stage", "Jobs", "Attempts", "Seconds", "Peak memory (MiB)", "GPU memory (MiB)"]
    lines = [*records.summary(rows), *records.summary([row | {"stage": "all"} for row in rows])]
    cells = [
        [
            line["stage"],
            f"{line['jobs']:,}",
            f"{line['attempts']:,}",
            f"{line['seconds']:,.1f}",
            *(f"{line[key] / 2**20:,.0f}" for key in ("peak_memory_bytes", "gpu_memory_bytes")),
        ]
        for line in lines
    ]
    columns = 5 + any(line["gpu_memory_bytes"] for line in lines)
    table = html_table(
        headings[:columns], [row[:columns] for row in cells], ["text", *[""] * (columns - 1)]
    )
    note = '<p class="caption">Wall-clock time of all attempts, added up; jobs may overlap.</p>\n'
    return figure(figures_dir, "timeline", "Timeline", TIMELINE) + note + table


def page(metrics, tables_dir, figures_dir, settings, config_text, rows) -> str:
    """The whole page as HTML; rows: what records.rows returns."""
    packages = [[name, version] for name, version in versions().items()]
    sections = {
        "What this run is": about(settings) + recipes(settings),
        "Findings": findings(metrics, settings, tables_dir),
        "Tables": tables(settings, tables_dir),
    }
    if "targets" in table_names(settings):
        sections["Published accuracies"] = published(settings, tables_dir)
    sections |= {
        "Figures": figures(settings, figures_dir),
        "Left out": listed_out(settings),
        "Configuration": f"<pre>{escape(config_text)}</pre>\n",
        "Versions": html_table(["Package", "Version"], packages, ["text", "text"]),
    }
    if rows:
        sections["Timings"] = timings(rows, figures_dir)
    anchors = {title: title.split()[0].lower() for title in sections}
    links = " ".join(f'<a href="#{anchors[title]}">{title}</a>' for title in sections)
    body = "".join(
        f'<section id="{anchors[title]}"><h2>{title}</h2>\n{content}</section>\n'
        for title, content in sections.items()
    )
    title = f"Task arithmetic: {escape(settings['run'])}"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style></head>\n"
        f"<body><h1>{title}</h1>\n<nav>{links}</nav>\n{body}</body></html>\n"
    )


def write(
    metrics, tables_dir, figures_dir, settings: dict, config_text: str, run_dir, output
) -> None:
    """Write the report, and beside it the configuration (config.yaml) and the trace of the run's
    jobs (trace.csv); timeline.png and .pdf beside the other figures.

    Args:
        tables_dir, figures_dir: what tables.write and figures.write made.
        config_text: the resolved configuration.
        run_dir: results/NAME; None, or without run.json: no jobs are shown.
    Raises:
        UserError: a table, a figure or a cell of the metrics is missing; run.json is damaged.
    """
    rows = []
    if run_dir and (Path(run_dir) / "run.json").exists():
        rows = records.rows(run_dir, read_run(run_dir)["jobs"])
    text = page(load_metrics(metrics), tables_dir, figures_dir, settings, config_text, rows)
    with atomic_path(Path(output).with_name("config.yaml")) as temporary:
        temporary.write_text(config_text, encoding="utf-8")
    if run_dir:
        records.write_trace(rows, Path(output).with_name("trace.csv"))
    with atomic_path(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
