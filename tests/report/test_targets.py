"""The table of published accuracies beside those of a run, and what is flagged."""

import csv
import json
from itertools import product

import pandas as pd
import pytest
import views
from test_tables import OTHERS, REFERENCE, TARGETS, row_of, values

from task_arithmetic.config import available, published
from task_arithmetic.config.reading import ROOT, read_config, read_yaml, validate_config
from task_arithmetic.config.settings import report_settings, view_settings
from task_arithmetic.config.view import view_of
from task_arithmetic.errors import UserError
from task_arithmetic.report import page, tables
from task_arithmetic.report.captions import table_caption
from task_arithmetic.report.cells import load_metrics
from task_arithmetic.report.printing import has_paper

OTHER_TASKS = published.MORE + published.MOST


def paper_settings(tasks=("cars", "dtd", "mnist", "sun397"), **changes):
    """Settings of a run of the paper's suite."""
    tasks = list(tasks)
    pairs = {"fig6": tasks[:2], "fig8": tasks[1::-1]}
    return views.make_settings(suite="paper", **changes) | {"tasks": tasks, "pairs": pairs}


def make_targets(settings, rows, tmp_path):
    metrics = load_metrics(views.write_metrics(tmp_path / "metrics.csv", rows))
    return tables.make_table("targets", metrics, tables.read_targets(TARGETS), view_of(settings))


def test_targets_stand_beside_zero_shot_and_single_task_accuracies(tmp_path):
    settings = paper_settings(encoders=3)  # small: ViT-B-32, base: ViT-B-16, large: none
    rows = views.make_rows(settings, points=3, alphas=3)
    table = make_targets(settings, rows, tmp_path)
    assert list(table) == "encoder mode task measured published difference flag".split()
    modes = ["pretrained", "nonlinear", "ntk", "attention"]
    wanted = [(e, m, t) for e in ("small", "base") for m in modes
              for t in [*settings["tasks"], "average"]]  # fmt: skip
    assert list(table[["encoder", "mode", "task"]].itertuples(False, None)) == wanted
    row = row_of(table, encoder="base", mode="pretrained", task="dtd")
    zero = values(rows, "pretrained_accuracy", "base", "pretrained", tasks=["dtd"])[0]
    assert (row["measured"], row["published"]) == (pytest.approx(100 * zero), 45.1)
    row = row_of(table, encoder="small", mode="ntk", task="sun397")
    alone = values(rows, "single_task_accuracy", "small", "ntk", 0, tasks=["sun397"])[0]
    assert (row["measured"], row["published"]) == (pytest.approx(100 * alone), 76.4)
    assert row["difference"] == pytest.approx(100 * alone - 76.4)
    row = row_of(table, encoder="small", mode="attention", task="average")
    assert row["published"] == pytest.approx((74.3 + 78.6 + 99.7 + 74.7) / 4)  # of these tasks
    alone = values(rows, "single_task_accuracy", "small", "attention", 0)
    assert row["measured"] == pytest.approx(100 * alone.mean())


def test_the_average_of_all_eight_tasks_is_the_published_one(tmp_path):
    settings = paper_settings(published.TASKS, encoders=1)
    table = make_targets(settings, views.make_rows(settings, points=3, alphas=3), tmp_path)
    assert row_of(table, mode="nonlinear", task="average")["published"] == 90.5
    assert row_of(table, mode="attention", task="average")["published"] == 89.55


@pytest.mark.parametrize(
    ("accuracy", "flag"), [(0.803, "no"), (0.80301, "yes"), (0.763, "no"), (0.76299, "yes")]
)
def test_more_than_two_points_either_way_are_flagged(accuracy, flag, tmp_path):
    settings = paper_settings(encoders=1)
    keys = {"metric": "single_task_accuracy", "mode": "nonlinear", "task": "cars", "split": "test"}
    rows = [
        row | {"value": accuracy} if all(row[k] == v for k, v in keys.items()) else row
        for row in views.make_rows(settings, points=3, alphas=3)
    ]
    table = make_targets(settings, rows, tmp_path)  # 78.3 is published
    assert row_of(table, mode="nonlinear", task="cars")["flag"] == flag


def test_targets_are_written_like_any_table(tmp_path):
    settings = paper_settings(encoders=2, seeds=3)
    rows = views.make_rows(settings, points=3, alphas=3)
    rows = views.near_published(rows, settings, tables.read_targets(TARGETS))
    path = views.write_metrics(tmp_path / "metrics.csv", rows)
    tables.write("targets", path, TARGETS, settings, tmp_path)
    text, markdown, latex = [(tmp_path / f"targets.{k}").read_text() for k in ("csv", "md", "tex")]
    heading = "encoder,mode,task,measured,published,difference,flag,measured_std"
    assert text.splitlines()[0] == heading
    headings, rows, texts = views.read_markdown(tmp_path / "targets.md")
    assert (headings[-1], texts) == ("More than 2 points", 3)
    assert rows[0][:2] == ["small", "Pre-trained"] and rows[0][-1] in ("yes", "no")
    assert all(row[5][0] in "+−" for row in rows) and "±" in rows[5][3]
    assert {row[-1] for row in rows} == {"yes", "no"}
    assert "Difference (points)" in latex and "$-$" in latex
    table = pd.read_csv(tmp_path / "targets.csv")
    assert [row[-1] for row in rows] == list(table["flag"])
    assert (table["difference"] - (table["measured"] - table["published"])).abs().max() < 0.011
    assert "more than 2 points is flagged" in markdown


def test_only_a_run_with_published_accuracies_has_targets():
    assert available.table_names(view_of(paper_settings())) == [*OTHERS, "targets"]
    assert available.table_names(view_of(paper_settings(["cars", "my-task"]))) == [
        *OTHERS,
        "targets",
    ]
    assert available.table_names(view_of(paper_settings(["boats", "my-task"]))) == OTHERS
    assert (
        available.table_names(view_of(paper_settings() | {"encoders": {"large": None}})) == OTHERS
    )
    assert available.table_names(view_of(paper_settings() | {"suite": "embedded"})) == OTHERS


def test_tasks_encoders_and_modes_without_published_accuracies_are_left_out(tmp_path):
    settings = paper_settings(["cars", "my-task"], encoders=3)
    settings["modes"] = {"mine": "Mine", **settings["modes"]}
    del settings["modes"]["ntk"]
    table = make_targets(settings, views.make_rows(settings, points=3, alphas=3), tmp_path)
    assert set(table["task"]) == {"cars", "average"} and "large" not in set(table["encoder"])
    assert set(table["mode"]) == {"pretrained", "nonlinear", "attention"}
    assert row_of(table, encoder="base", mode="nonlinear", task="average")["published"] == 87.1


def test_a_missing_accuracy_or_published_number_is_an_error(tmp_path):
    settings = paper_settings(encoders=1)
    rows = views.make_rows(settings, points=3, alphas=3)
    gone = {"metric": "single_task_accuracy", "mode": "ntk", "task": "dtd"}
    rest = [row for row in rows if any(row[k] != v for k, v in gone.items())]
    with pytest.raises(UserError, match="single_task_accuracy.*ntk.*dtd"):
        make_targets(settings, rest, tmp_path)
    metrics = load_metrics(views.write_metrics(tmp_path / "metrics.csv", rows))
    every = tables.read_targets(TARGETS)
    lacking = every[(every["mode"] != "ntk") | (every["column"] != "dtd")]
    with pytest.raises(UserError, match="lack ViT-B-32, ntk, dtd"):
        tables.make_table("targets", metrics, lacking, view_of(settings))
    with pytest.raises(UserError, match="does not exist"):
        tables.read_targets(tmp_path / "no.csv")
    with pytest.raises(UserError, match="needs the columns encoder, mode, source, cars"):
        tables.read_targets(REFERENCE)


def test_the_published_accuracies_are_complete_and_agree_with_their_averages():
    with open(TARGETS, newline="") as file:
        rows = list(csv.DictReader(file))
    modes = ["zeroshot", *published.MODES[1:]]
    of_eight, of_others = rows[:12], rows[12:]
    assert {(r["encoder"], r["mode"]) for r in of_eight} == {
        (encoder, mode) for encoder in published.ENCODERS for mode in modes
    }
    assert not any(row[task] for row in of_eight for task in OTHER_TASKS)
    for row in of_eight:
        numbers = [float(row[task]) for task in published.TASKS]
        assert all(30 < number < 100 for number in numbers)
        assert sum(numbers) / 8 == pytest.approx(float(row["average"]), abs=0.08)
    assert [(row["encoder"], row["mode"]) for row in of_others] == [
        ("ViT-B-32", "zeroshot"), *((encoder, "nonlinear") for encoder in published.ENCODERS)
    ]  # fmt: skip
    assert not any(row[task] for row in of_others for task in [*published.TASKS, "average"])
    # the mean over 20 tasks as printed with them, of the same zero-shot accuracies of the eight
    zero = [float(of_others[0][task]) for task in OTHER_TASKS]
    eight = [59.73, 43.99, 46.50, 32.60, 48.26, 60.67, 31.63, 63.16]
    assert sum(zero + eight) / 20 == pytest.approx(56.13, abs=0.005)
    for row, mean in zip(of_others[1:], (89.61, 91.65, 93.32), strict=True):  # of 14, as printed
        alone = [float(row[task]) for task in published.MORE]
        eight = next(
            r for r in of_eight if (r["encoder"], r["mode"]) == (row["encoder"], "nonlinear")
        )
        alone += [float(eight[task]) for task in published.TASKS]
        assert sum(alone) / 14 == pytest.approx(mean, abs=0.15)  # the eight are of another source
    rows = tables.read_targets(TARGETS)
    assert len(rows) == 12 * 9 + 4 * 12 and set(rows["mode"]) == set(published.MODES)
    assert not rows.duplicated(["encoder", "mode", "column"]).any()  # each from one source


def test_the_papers_tasks_and_encoders_have_targets():
    """Those of config.yaml, by the names that its definitions give them."""
    config = validate_config(read_yaml(ROOT / "config.yaml"))
    view = view_of(json.loads(view_settings(config)))
    assert published.has_targets(view)
    for encoder, mode in product(published.ENCODERS, published.MODES):
        assert published.tasks_with_targets(view, encoder, mode) == published.TASKS
    assert published.tasks_with_targets(view, None, "ntk") == []
    assert published.tasks_with_targets(view, "ViT-B-32", "attention_bias") == []


# ---------------------------------------------------------------- suites of 14 and 20 tasks


@pytest.fixture(scope="module", params=["clip14", "clip20"])
def suite(request):
    """Settings of a run of a suite's overlay, as the workflow gives them, and their view."""
    config = read_config(ROOT / f"config/suites/{request.param}.yaml")
    settings = json.loads(report_settings(config))
    return settings, view_of(settings)


def test_a_suites_targets_are_the_eight_in_every_mode_and_the_others_where_they_are_published(
    suite, tmp_path
):
    settings, view = suite
    table = make_targets(settings, views.make_rows(settings, points=3, alphas=3), tmp_path)
    count = len(settings["tasks"])
    shown = table[table["task"] != "average"].groupby(["encoder", "mode"])["task"].agg(list)
    for encoder, mode in product(published.ENCODERS, published.MODES):
        whole = mode == "nonlinear" or (encoder, mode) == ("ViT-B-32", "pretrained")
        assert shown[encoder, mode] == settings["tasks"][: count if whole else 8]
    row = row_of(table, encoder="ViT-B-16", mode="nonlinear", task="pcam")
    assert row["published"] == 89.18
    row = row_of(table, encoder="ViT-B-32", mode="pretrained", task="fer2013")
    assert row["published"] == 39.01
    # the average is that of the tasks above it, of the eight alone the printed one
    row = row_of(table, encoder="ViT-B-32", mode="attention", task="average")
    assert row["published"] == 89.55
    of_all = table[(table["encoder"] == "ViT-L-14") & (table["mode"] == "nonlinear")]
    alone, average = of_all.iloc[:-1], of_all.iloc[-1]
    assert average["published"] == pytest.approx(alone["published"].mean())
    assert average["measured"] == pytest.approx(alone["measured"].mean())
    assert len(alone) == count


def test_the_papers_numbers_stand_not_beside_more_than_its_eight_tasks(suite, tmp_path):
    settings, view = suite
    assert not view.paper_beside
    metrics = load_metrics(
        views.write_metrics(tmp_path / "metrics.csv", views.make_rows(settings, 3, 3))
    )
    paper = tables.read_reference(REFERENCE)
    for name in ("table1", "table2", "table5"):
        assert not has_paper(name, view)
        made = tables.make_table(name, metrics, paper, view)
        assert not [column for column in made if made[column].notna().any() and "paper" in column]
        assert "paper" not in table_caption(name, view)
    table4 = tables.make_table("table4", metrics, paper, view)
    assert table4[[column for column in table4 if "paper" in column]].isna().all(None)
    assert "the paper's" not in str(page.about(view))


def test_a_suite_of_the_users_own_has_no_targets(suite):
    settings, _ = suite
    view = view_of(settings | {"suite": "mine"})
    assert not published.has_targets(view) and not published.has_published_merging(view)
    only = {"modes": {"ntk": "NTK"}, "tasks": ["pcam"], "encoders": {"L": "ViT-L-14"}, "pairs": {}}
    assert not published.has_targets(view_of(settings | only))
    assert published.has_targets(view_of(settings | only | {"encoders": {"B": "ViT-B-32"}}))
