"""What the report answers to its questions on the analyses."""

import numpy as np
import pandas as pd
import pytest
import views

from task_arithmetic.config.view import view_of
from task_arithmetic.report import answers
from task_arithmetic.report.cells import Measured, load_metrics

NAMES = ["interference", "number_of_tasks", "retention", "layers", "spectra", "alignment"]
NAMES += ["linearity", "pairs", "robustness"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    subsets = {"sizes": [2, 4], "draws": 2, "methods": {"sum": "Task arithmetic"}}
    settings = views.make_settings(
        tasks=4, analyses=NAMES, merging=views.make_merging("ties"), subsets=subsets
    )
    path = tmp_path_factory.mktemp("answers") / "metrics.csv"
    views.write_metrics(path, views.make_rows(settings, points=3, alphas=5))
    return Measured(load_metrics(path), view_of(settings))


@pytest.mark.parametrize("name", answers.ANSWERS)
def test_every_analysis_has_a_sentence_with_a_number_for_each_mode(run, name):
    text = answers.answer(name, [run])
    assert text.endswith(".") and "nan" not in text
    for label in run.part.modes.values():
        assert label in text
    assert answers.answer(name, []) == ""


def rows_of(run, metric, mode):
    rows = run.metrics
    return rows[(rows["metric"] == metric) & (rows["mode"] == mode)]


def test_interference_is_that_of_other_tasks_in_points(run):
    rows = rows_of(run, "interference", "ntk")
    others = rows[rows["task"] != rows["other_task"]]
    mean = f"{100 * others['value'].mean():.1f}".replace("-", "−")
    assert f"NTK linearization {mean}" in answers.on_interference(run).split("By merging")[0]


def test_few_tasks_and_all_are_compared_on_the_same_tasks(run):
    few = rows_of(run, "subset_normalized_accuracy", "attention")
    few = few[few["task"].str.count(r"\+") == 1]
    unified = rows_of(run, "normalized_accuracy", "attention")
    unified = unified[(unified["split"] == "test") & (unified["method"] == "")]
    unified = unified[unified["encoder"] == run.part.focus].set_index("task")["value"]
    same = np.mean([unified[task] for subset in few["task"] for task in subset.split("+")])
    expected = f"{100 * few['value'].mean():.1f} % and {100 * same:.1f} %"
    assert expected in answers.on_number_of_tasks(run)


def test_ranks_are_of_layers_that_all_modes_move(run):
    rows = rows_of(run, "stable_rank", "nonlinear")
    common = rows[~rows["layer"].str.endswith("mlp")]["value"].mean()
    assert len(rows) > (~rows["layer"].str.endswith("mlp")).sum(), "attention moves no MLP"
    assert f"Non-linear fine-tuning {common:.1f} and" in answers.on_spectra(run)


def test_layers_without_a_cosine_are_left_out(run):
    rows = run.metrics[
        ~((run.metrics["metric"] == "cosine_similarity") & (run.metrics["layer"] != ""))
    ]
    zero = rows["metric"] == "relative_norm"
    rows = rows.assign(value=rows["value"].where(~zero, 0.0))
    assert "no layer moves" in answers.on_layers(Measured(pd.DataFrame(rows), run.part))
