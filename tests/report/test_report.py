"""The report: one self-contained page whose findings are those of the metrics."""

import json
import os
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import answered
import jinja2
import pandas as pd
import pytest
import views

from task_arithmetic.config import available
from task_arithmetic.config.available import figure_names, table_names
from task_arithmetic.config.view import view_of
from task_arithmetic.errors import UserError
from task_arithmetic.pipeline.locks import node
from task_arithmetic.report import findings, page, tables
from task_arithmetic.report.captions import figure_caption, table_caption
from task_arithmetic.report.cells import load_metrics
from task_arithmetic.report.claims import claims
from task_arithmetic.report.resampled import draws_of

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "workflow/reference/paper.csv"
TARGETS = ROOT / "workflow/reference/targets.csv"
MERGING = ROOT / "workflow/reference/merging.csv"


def make_run(folder, settings, **sizes):
    """Metrics, tables and stand-ins for the figures of a synthetic run, in one folder."""
    rows = views.make_rows(settings, **sizes)
    if settings["suite"] == "paper":
        rows = views.near_published(rows, settings, tables.read_targets(TARGETS))
    path = views.write_metrics(folder / "metrics.csv", rows)
    for name in available.table_names(view_of(settings)):
        reference = {"targets": TARGETS}.get(name, MERGING if "merging" in name else REFERENCE)
        tables.write(name, path, reference, settings, folder / "tables")
    views.write_pictures(folder / "figures", available.figure_names(view_of(settings)))
    write_records(folder / "results/synthetic")
    return folder


def write_records(run_dir):
    """run.json and records of a run whose report is being written: a job that failed at first, one
    that runs, this process, and one without a record."""
    common = {"node": node(), "pid": os.getpid(), "exit": 0, "peak_memory_bytes": 310 * 2**20}
    attempts = {
        "data/mnist": [{"started": 1e9, "seconds": 12.5}],
        "finetune/small/ntk/mnist/0": [
            {"started": 1e9 + 13, "seconds": 0.25, "exit": 1},
            {"started": 1e9 + 20, "seconds": 1400, "peak_memory_bytes": 906 * 2**20},
        ],
        "report/report": [{"started": time.time(), "seconds": 3.0, "exit": None}],
        "tables/table1": [],
    }
    jobs = []
    for job, own in attempts.items():
        log = f"results/synthetic/logs/{job}.log"
        record = run_dir.parents[1] / log.replace(".log", ".json")
        record.parent.mkdir(parents=True)
        if own:
            content = {"attempts": [common | {"updated": a["started"]} | a for a in own]}
            record.write_text(json.dumps(content))
        jobs.append({"stage": job.split("/")[0], "log": log, "outputs": [], "needed": True})
    content = {"started": 1e9, "pid": os.getpid(), "node": node(), "jobs": jobs}
    (run_dir / "run.json").write_text(json.dumps(content))


def write(folder, settings, run_dir="results/synthetic", paper=REFERENCE):
    run_dir = run_dir and folder / run_dir
    page.write(folder / "metrics.csv", paper, TARGETS, folder / "figures", settings,
               "run: synthetic  # <&>\n", run_dir, folder / "report.html", MERGING)  # fmt: skip
    return (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    settings = views.make_settings(tasks=3, encoders=2, seeds=3)
    return make_run(tmp_path_factory.mktemp("run"), settings, points=5, alphas=6), settings


@pytest.fixture(scope="module")
def text(run):
    return write(*run)


def test_the_page_is_self_contained(text):
    sources = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attributes):
            assert tag not in ("link", "iframe", "object", "embed", "img")
            assert tag != "script" or not attributes
            sources.extend(v for k, v in attributes if k in ("src", "href", "srcset", "data"))

    Parser().feed(text)
    anchors = {source for source in sources if source.startswith("#")}
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(anchors) > 15 and {anchor[1:] for anchor in anchors} <= {*ids}
    assert len({*ids}) == len(ids)
    rest = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=\s]+", "", text)
    assert "http:" not in rest and "https:" not in rest
    assert "@import" not in rest and re.findall(r"url\((?!#)", rest) == []


def test_every_file_beside_a_table_or_figure_is_one_that_its_rule_makes(run, text):
    folder, settings = run
    files = {*re.findall(r'href="((?:tables|figures)/[^"]+)"', text)}
    for name in available.table_names(view_of(settings)):
        made = {f"tables/{name}.{kind}" for kind in ("csv", "md", "tex")}
        assert made <= files and all((folder / path).is_file() for path in made)
    rules = (ROOT / "workflow/rules/presenting.smk").read_text()
    for kind in ("png", "svg", "pdf", "csv"):
        assert kind in rules
        names = [*available.figure_names(view_of(settings)), *["timeline"] * (kind != "csv")]
        assert {f"figures/{name}.{kind}" for name in names} <= files
    options = "--cores 1 --configfile results/synthetic/config.yaml"
    for name in ("tables/table2.csv", "figures/fig9.svg", "report.html"):
        assert f"<code>snakemake results/synthetic/{name} {options}</code>" in text


def test_the_page_holds_all_parts(run, text):
    folder, settings = run
    for title in ("Summary", "All findings", "Words", "What this run is", "Configuration"):
        assert f"<h2>{title}</h2>" in text
    for name in available.table_names(view_of(settings)):
        assert text.count(f'<h3 id="{name}">') == 1
    for name in available.figure_names(view_of(settings)):
        assert text.count(f'<figure id="figure-{name}">') == 1
    summary = text[text.index('<section id="summary">') : text.index("</section>")]
    assert summary.count("<li>") == 5 and summary.count("<figure") == 1
    assert "2 pretrained encoders (small, base) were each fine-tuned on 3 tasks" in summary
    assert "<b>Figure 9.</b>" in summary
    assert "run: synthetic  # &lt;&amp;&gt;" in text
    for package in ("python", "torch", "open_clip_torch", "snakemake", "datasets", "pandas"):
        assert f'<td class="text">{package}</td>' in text
    assert "embedded suite on small images" in text


def test_the_page_shows_when_the_jobs_ran(run, text):
    folder, settings = run
    section = text[text.index('<section id="timings">') :]
    assert '<figure id="figure-timeline">' in section and "failed or killed</text>" in section
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in section.split("<tr")]
    assert [row for row in cells if row] == [
        ["data", "1", "1", "12.5", "310"],
        ["finetune", "1", "2", "1,400.2", "906"],
        ["all", "2", "3", "1,412.8", "906"],
    ]
    assert (folder / "config.yaml").read_text() == "run: synthetic  # <&>\n"
    lines = (folder / "trace.csv").read_text().splitlines()
    assert [line.split(",")[:3] for line in lines[1:]] == [
        ["data", "data/mnist", "1"],
        ["finetune", "finetune/small/ntk/mnist/0", "1"],
        ["finetune", "finetune/small/ntk/mnist/0", "2"],
    ]
    assert b"CreationDate" not in (folder / "figures/timeline.pdf").read_bytes()


def test_a_report_by_hand_has_no_timings(run):
    folder, settings = run
    for run_dir in (None, "results/other"):
        assert "Timings" not in write(folder, settings, run_dir)


def test_the_page_prints_the_tables_numbers(run, text):
    folder, settings = run
    for name in available.table_names(view_of(settings)):
        _, rows, _ = views.read_markdown(folder / f"tables/{name}.md")
        assert all(f">{cell}</td>" in text for row in rows for cell in row)


def test_the_page_has_equal_bytes_twice(run, text):
    assert write(*run) == text


@pytest.mark.parametrize("name", ["metrics.csv", "figures/fig9.svg"])
def test_a_missing_part_is_an_error(name, run):
    folder, settings = run
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    try:
        with pytest.raises(UserError, match=name):
            write(folder, settings)
    finally:
        (folder / name).write_bytes(content)
    with pytest.raises(UserError, match="paper.csv, the paper's numbers, does not exist"):
        write(folder, settings, paper=folder / "paper.csv")


def test_findings_say_which_mode_leads_and_by_how_much(run):
    folder, settings = run
    metrics = load_metrics(folder / "metrics.csv")
    table = pd.read_csv(folder / "tables/table2.csv").query("encoder == 'base'")
    ranked = table[table["mode"] != "pretrained"].sort_values("absolute", ascending=False)
    lead = ranked["absolute"].iloc[0] - ranked["absolute"].iloc[1]
    sentence = findings.sentences(metrics, view_of(settings))[1]
    assert sentence.startswith("Task addition, base: the unified model of Attention modules only")
    assert abs(float(re.search(r"([\d.]+) points above", sentence)[1]) - lead) < 0.06


def test_findings_tell_of_a_model_that_knows_the_test_images_of_dtd(run):
    folder, settings = run
    metrics, name = load_metrics(folder / "metrics.csv"), settings["tasks"][0]
    settings = json.loads(json.dumps(settings).replace(f'"{name}"', '"dtd"'))
    metrics = metrics.replace({"task": name, "other_task": name}, "dtd")
    known = (metrics["metric"] == "single_task_accuracy") & (metrics["task"] == "dtd")
    known &= (metrics["mode"] == "nonlinear") & (metrics["encoder"] == "base")
    for accuracy, told in ((0.95, 0), (0.98, 1)):
        metrics.loc[known, "value"] = accuracy
        found = [x for x in findings.sentences(metrics, view_of(settings)) if "of DTD" in x]
        assert len(found) == told
    assert "base" in found[0] and "98.0 %" in found[0]


def test_a_zero_shot_accuracy_near_chance_is_said_of_its_task_and_encoder(run):
    folder, settings = run
    metrics = load_metrics(folder / "metrics.csv")
    task, other = settings["tasks"][:2]
    zero = (metrics["metric"] == "pretrained_accuracy") & (metrics["split"] == "test")
    of_base = zero & (metrics["encoder"] == "base")

    def said(value, of=task, where=of_base, **classes):
        changed = metrics.copy()
        changed.loc[where & (changed["task"] == of), "value"] = value
        view = view_of(settings | {"classes": classes})
        found = findings.sentences(changed, view)
        return [sentence for sentence in found if "near chance" in sentence]

    (sentence,) = said(0.1999, **{task: 10, other: 1000})  # below 2/10
    named = f"{task} (base, 20.0\N{NO-BREAK SPACE}% of 10 classes): "
    assert sentence.startswith(f"Zero-shot accuracy is near chance for {named}")
    assert said(0.2001, **{task: 10}) == said(0.1) == []
    (sentence,) = said(0.4999, **{task: 2})  # as of two names that are exchanged
    assert f"{task} (base, " in sentence
    assert said(0.5001, where=zero, **{task: 2}) == said(0.34, where=zero, **{task: 3}) == []
    (sentence,) = said(0.01, where=zero, **{task: 10})
    assert "(small, " in sentence and "(base, " in sentence


@pytest.fixture(scope="module")
def beside_published(tmp_path_factory):
    """A run of the paper's suite: folder and page."""
    tasks = ["cars", "dtd", "svhn"]
    pairs = {"fig6": tasks[:2], "fig8": tasks[1:]}
    settings = views.make_settings(encoders=2, suite="paper") | {"tasks": tasks, "pairs": pairs}
    folder = make_run(tmp_path_factory.mktemp("paper"), settings, points=3, alphas=3)
    return folder, settings, write(folder, settings)


def test_published_accuracies_have_a_section_that_counts_the_flagged(beside_published):
    folder, settings, text = beside_published
    table = pd.read_csv(folder / "tables/targets.csv")
    tasks = table[table["task"] != "average"]
    flagged = tasks[tasks["flag"] == "yes"]
    assert 0 < len(flagged) < len(tasks) == 2 * 4 * 3
    below, above = int((flagged["difference"] < 0).sum()), int((flagged["difference"] > 0).sum())
    assert below != above
    farthest = tasks.loc[tasks["difference"].abs().idxmax()]
    sentence = (
        f"{len(flagged)} of the 24 zero-shot and single-task accuracies that have a published "
        f"number are more than 2 points away from it ({below} below, {above} above); the largest "
        "difference is "
    )
    said = findings.sentence_on_published(table, view_of(settings))
    assert said.startswith(sentence) and said.endswith(f", {farthest['task']}).")
    section = text[text.index('<section id="q-published">') :].split("</section>")[0]
    assert sentence in section and "All 32 rows" in section
    shown, folded = section.split("<details>")
    chosen = len(table[(table["flag"] == "yes") | (table["task"] == "average")])
    assert (shown.count("<tr"), folded.count("<tr")) == (1 + chosen, 1 + len(table))
    assert '<a href="#q-published">' in text


def test_published_accuracies_that_are_all_met_are_said_to_be(beside_published):
    folder, settings, _ = beside_published
    table = pd.read_csv(folder / "tables/targets.csv").assign(difference=-1.25, flag="no")
    sentence = findings.sentence_on_published(table, view_of(settings))
    assert sentence.startswith("All 24 zero-shot and single-task accuracies that have a ")
    assert "number are within 2 points of it;" in sentence
    assert "is −1.2 points (small, Pre-trained, cars)." in sentence


def test_a_run_of_other_tasks_has_no_section_of_published_accuracies(text):
    assert "Published accuracies" not in text and 'id="q-published"' not in text


def test_claims_are_judged_by_the_numbers_alone(tmp_path):
    settings = views.make_settings(tasks=3, encoders=1, seeds=3)
    rows = views.make_rows(settings, points=5, alphas=6)
    table4 = tables.make_table("table4", load_metrics(views.write_metrics(tmp_path / "a", rows)),
                               tables.read_reference(REFERENCE), view_of(settings))  # fmt: skip

    def verdicts(rows):
        named, rows = answered.make_answers(rows, examples=600)
        metrics = load_metrics(views.write_metrics(tmp_path / "b", rows))
        found = claims(metrics, view_of(settings), table4, draws_of(named))
        return {claim.claim: claim.holds for claim in found}

    def swapped(one, two):
        other = {one: two, two: one}
        return [row | {"mode": other.get(row["mode"], row["mode"])} for row in rows]

    before, after = verdicts(rows), verdicts(swapped("nonlinear", "attention"))
    about = "Kernel behaviour: attention is closer to the line of equal accuracy (Figure 3)"
    assert (before[about], after[about]) == ("holds", "does not hold")
    about = next(claim for claim in before if "highest absolute accuracy (Table 5)" in claim)
    assert before[about] != "does not hold" and after[about] == "does not hold"


def test_without_the_papers_three_modes_no_claim_is_judged(tmp_path):
    modes = {"nonlinear": "All", "attention": "Ours"}
    settings = views.make_settings(tasks=2, encoders=1, modes=modes, ablations={})
    text = write(make_run(tmp_path, settings, points=3, alphas=3), settings)
    assert "Claim of the paper" not in text and "Task addition, small" in text


def test_views_import_no_torch():
    code = "import sys, task_arithmetic.report.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def rendered(name, **snakemake) -> str:
    """A caption of Snakemake's report as text; warnings of its reStructuredText are errors."""
    docutils = pytest.importorskip("docutils.core")
    source = (ROOT / f"workflow/report/{name}.rst").read_text(encoding="utf-8")
    text = jinja2.Template(source, undefined=jinja2.StrictUndefined).render(
        snakemake=SimpleNamespace(**snakemake)
    )
    strict = {"halt_level": 2, "report_level": 2}
    return docutils.publish_doctree(text, settings_overrides=strict).astext()


@pytest.mark.parametrize("suite", ["paper", "embedded", "my_"])
def test_captions_of_snakemakes_report_are_those_of_ours(suite):
    texts = views.TEXTS | {"tasks": ["_a", "b_", "c_d_"]}
    texts |= {"paper_tasks": dict.fromkeys(texts["tasks"]), "scores": ["c_d_"]}
    texts |= {"merging": views.make_merging("ties", encoders=["t5"])}
    names = {"tasks": ["x_", "_y", "z"], "pairs": {"fig6": ["x_", "_y"], "m_": ["_y", "z"]}}
    names |= {"merging": views.make_merging("tsv")}
    view = view_of(views.make_settings(seeds=3, suite=suite, language=texts) | names)
    captions = [table_caption(name, view) for name in table_names(view)]
    captions += [figure_caption(name, view) for name in figure_names(view)]
    for caption in captions:
        assert rendered("view", params=SimpleNamespace(caption=caption)) == caption


def test_the_other_texts_of_snakemakes_report_are_clean_restructured_text():
    config = views.make_settings() | {"language": None}
    for name in ("metrics", "report", "workflow"):
        assert rendered(name, config=config)
