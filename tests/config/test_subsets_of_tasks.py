"""Which subsets of the tasks a configuration asks for, and by which methods they are merged."""

import json

import pytest

from task_arithmetic.config.available import figure_names
from task_arithmetic.config.reading import ROOT, merge, read_yaml, validate_config
from task_arithmetic.config.settings import subset_settings, view
from task_arithmetic.errors import UserError
from task_arithmetic.planning.work import by_stage, jobs


def read(**subsets):
    """config/mini.yaml with what is said of number_of_tasks, or other analyses."""
    overlay = {"analyses": {"number_of_tasks": subsets} if subsets else {}}
    config = merge(read_yaml(ROOT / "config.yaml"), read_yaml(ROOT / "config/mini.yaml"))
    return validate_config(merge(config, overlay), ROOT)


def slices(config, label, mode="attention"):
    return json.loads(subset_settings(config, mode, "embedded-small", label))


def test_options_are_those_of_the_run_and_else_the_defaults():
    found = read(methods=["sum", "ties", "sum_lines"]).part("vision").subsets
    assert [merger.label for merger in found.mergers] == ["sum", "ties", "sum_lines"]
    config = read(methods=["ties"])
    assert slices(config, "ties")["merging"] == {"method": "ties", "options": {"keep": 0.2}}
    scaled = {"method": "sum", "options": {}, "layer_scaled": True}
    assert slices(read(methods=["sum_lines"]), "sum_lines")["merging"] == scaled
    config = merge(read_yaml(ROOT / "config.yaml"), read_yaml(ROOT / "config/mini.yaml"))
    config = merge(config, {"merging": {"methods": {"tsv": None}, "layer_scale": []}})
    config = validate_config(config, ROOT)  # tsv is not among merging.methods
    assert slices(config, "tsv")["merging"] == {"method": "tsv", "options": {}}
    assert view(config).subsets.methods == {"sum": "Task arithmetic", "tsv": "TSV-M"}


def test_the_grid_is_the_runs_or_the_methods_own_or_the_one_that_is_given():
    config = read(methods=["sum", "tsv"], alphas=None)
    assert slices(config, "sum")["alphas"] == config.alphas.given()
    assert slices(config, "tsv")["alphas"] == {"start": 0.3, "stop": 1.8, "step": 0.3}
    given = {"start": 0.0, "stop": 2.0, "step": 0.5}
    config = read(methods=["sum", "tsv"], alphas=given)
    assert slices(config, "sum")["alphas"] == slices(config, "tsv")["alphas"] == given


@pytest.mark.parametrize(
    "subsets, says",
    [
        ({"sizes": [2, 9]}, r"sizes has 9, where 2 to 8 of the 8 tasks can be merged; remove it"),
        ({"sizes": [1]}, r"number_of_tasks.sizes has 1, where 2 to 8 "),
        ({"methods": ["sum", "regmean"]}, "'regmean', which needs unlabelled examples of the task"),
        ({"methods": ["per_task"]}, "'per_task', which needs labelled examples"),
        ({"methods": ["tvs"]}, r"number_of_tasks.methods: There is no merging method 'tvs'"),
        ({"alphas": {"start": 0, "stop": 1, "step": 0.3}}, r"number_of_tasks.alphas.step \(0.3\)"),
    ],
)
def test_what_cannot_be_merged_is_refused_in_a_sentence(subsets, says):
    with pytest.raises(UserError, match=says):
        read(**subsets)


def test_what_must_agree_in_more_tasks_than_the_smallest_subset_has_is_refused():
    config = merge(read_yaml(ROOT / "config.yaml"), read_yaml(ROOT / "config/mini.yaml"))
    overlay = {"merging": {"methods": {"consensus": {"agree": 3}}}}
    asked = {"methods": ["consensus"], "sizes": [2, 4]}
    with pytest.raises(UserError, match=r"number_of_tasks.methods.consensus: consensus keeps"):
        validate_config(merge(config, {**overlay, "analyses": {"number_of_tasks": asked}}), ROOT)


def test_what_is_null_is_neither_planned_nor_drawn():
    config = merge(read_yaml(ROOT / "config.yaml"), read_yaml(ROOT / "config/mini.yaml"))
    there = validate_config(config, ROOT)
    names = ("number_of_tasks", "retention", "robustness")
    gone = validate_config(merge(config, {"analyses": dict.fromkeys(names)}), ROOT)
    every, fewer = by_stage(jobs(there)), by_stage(jobs(gone))
    for name in names[:2]:
        assert every[name] and not fewer[name]
    for name in (*names, "robustness_language"):
        assert name in figure_names(view(there)) and name not in figure_names(view(gone))
    without = validate_config(merge(config, {"negation": None}), ROOT)
    assert not by_stage(jobs(without))["retention"]  # there is no control task


def test_one_merging_method_more_touches_no_other_job():
    config = merge(read_yaml(ROOT / "config.yaml"), read_yaml(ROOT / "config/mini.yaml"))
    more = merge(config, {"merging": {"methods": {"mine": {"method": "ties", "keep": 0.5}}}})
    before, after = (
        {job.output: job for stage in ("retention", "number_of_tasks") for job in found[stage]}
        for found in (by_stage(jobs(validate_config(each, ROOT))) for each in (config, more))
    )
    assert {job.method for output, job in after.items() if output not in before} == {"mine"}
    assert before.items() <= after.items()
