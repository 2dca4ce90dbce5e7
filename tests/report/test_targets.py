"""The table of published accuracies beside those of a run, and what is flagged."""

import csv
import json

import pandas as pd
import pytest
import views
from test_tables import OTHERS, REFERENCE, TARGETS, row_of, values

from task_arithmetic.config import available, published
from task_arithmetic.config.reading import ROOT, read_yaml, validate_config
from task_arithmetic.config.settings import view_settings
from task_arithmetic.config.view import view_of
from task_arithmetic.errors import UserError
from task_arithmetic.report import tables
from task_arithmetic.report.cells import load_metrics


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
    assert {(r["encoder"], r["mode"]) for r in rows} == {
        (encoder, mode) for encoder in published.ENCODERS for mode in modes
    }
    assert len(rows) == 12
    for row in rows:
        numbers = [float(row[task]) for task in published.TASKS]
        assert all(30 < number < 100 for number in numbers)
        assert sum(numbers) / 8 == pytest.approx(float(row["average"]), abs=0.08)
    rows = tables.read_targets(TARGETS)
    assert len(rows) == 12 * 9 and set(rows["mode"]) == set(published.MODES)


def test_the_papers_tasks_and_encoders_have_targets():
    """Those of config.yaml, by the names that its definitions give them."""
    config = validate_config(read_yaml(ROOT / "config.yaml"))
    view = view_of(json.loads(view_settings(config)))
    assert published.has_targets(view)
    assert published.tasks_with_targets(view) == published.TASKS
    assert published.encoders_with_targets(view) == published.ENCODERS
