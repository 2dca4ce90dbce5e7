"""compare: in what two runs differ, of configurations and numbers computed here by hand."""

import json
import statistics

import pytest

from task_arithmetic.commands import compare as module


def unified(*values, task="one", mode="attention", method="", metric="unified_accuracy"):
    keys = {"metric": metric, "mode": mode, "task": task, "method": method}
    return [{**keys, "seed": seed, "value": value} for seed, value in enumerate(values)]


def heat(value, alpha, other):
    return {"metric": "ξ", "mode": "ntk", "task": "one", "other_task": "two", "seed": 0,
            "alpha": alpha, "other_alpha": other, "value": value}  # fmt: skip


def test_means_spreads_and_differences_are_those_of_the_rows(make_run, says):
    equal, few = unified(0.5, 0.75, task="two"), [heat(0.1, 0.0, 1.0), heat(0.2, 1.0, 1.0)]
    ties = unified(0.9, method="ties")
    make_run("a", [*unified(0.1, 0.3, 0.8), *equal, *few, *ties])
    make_run("b", [*unified(0.2, 0.4), *equal, few[0], heat(0.25, 1.0, 1.0)], steps=20)
    status, out, _ = says("compare", "a", "b", "--json")
    found = json.loads(out)
    assert status == 0 and (found["equal"], len(found["differing"])) == (2, 2)
    first, second = found["differing"]
    assert first["cell"]["metric"] == "unified_accuracy" and first["cell"]["method"] == ""
    a, b = [0.1, 0.3, 0.8], [0.2, 0.4]
    assert first["one"] == pytest.approx(
        {"mean": statistics.fmean(a), "sd": statistics.stdev(a), "seeds": 3}
    )
    assert first["difference"] == pytest.approx(statistics.fmean(b) - statistics.fmean(a))
    assert second["difference"] == pytest.approx(0.05) and second["one"]["sd"] is None
    assert (second["cell"]["alpha"], second["cell"]["other_alpha"]) == (1.0, 1.0)
    assert [cell["method"] for cell in found["only_one"]] == ["ties"] and not found["only_other"]
    assert found["keys"] == [{"where": "", "key": "finetune.steps", "one": 10, "other": 20}]


def test_what_is_printed_is_summed_up_first(make_run, says):
    make_run("a", [*unified(0.5, 0.7), *unified(0.25, task="two")])
    make_run("b", [*unified(0.6, 0.9), *unified(0.25, task="two")], steps=20)
    lines = says("compare", "a", "results/b")[1].splitlines()
    assert lines[:2] == ["Configuration: 1 key differs.", "  finetune.steps: 10 → 20"]
    assert lines[3] == "Numbers on test: 2 in both, 1 of them equal to the bit."
    assert lines[4] == "The largest difference is +0.1500: unified_accuracy tiny attention one."
    assert lines[-1].split() == ["unified_accuracy", "tiny", "attention", "one", "0.6000", "±",
                                 "0.1414", "0.7500", "±", "0.2121", "+0.1500"]  # fmt: skip


def test_definitions_are_seen_in_what_jobs_were_told(make_run, says):
    """A mode's patterns stand in its own file, not in the configuration."""
    make_run("a", train="*"), make_run("b", train="*.weight")
    out = says("compare", "a", "b")[1]
    assert 'mode.train (as told to finetune): ["*"] → ["*.weight"]' in out
    assert "Configuration: 1 key differs." in out


def test_a_key_of_a_null_section_is_told_once(make_run, says):
    make_run("a", config="run: a\nlanguage: null\n")
    make_run("b", config="run: b\nlanguage: {modes: [ntk]}\n")
    found = json.loads(says("compare", "a", "b", "--json")[1])
    assert found["keys"] == [{"where": "", "key": "language.modes", "one": None, "other": ["ntk"]}]


def test_half_finished_runs_are_compared_as_far_as_they_are(make_run, says):
    make_run("a", unified(0.5, 0.7))
    make_run("b", unified(0.5), whole=False)
    make_run("c")
    assert "1 in both, 0 of them equal" in says("compare", "a", "b")[1]
    status, out, _ = says("compare", "a", "c")
    assert status == 0 and "0 in both" in out and "Only in a: 1 (unified_accuracy)" in out


def test_a_run_that_recorded_no_configuration_is_named(make_run, says):
    make_run("a"), make_run("b", config="")
    assert says("compare", "a", "b")[1].startswith("Run b recorded no configuration")


def test_many_rows_are_cut_and_json_has_all(make_run, says):
    count = module.MOST + 2
    for name, more in (("a", 0.0), ("b", 0.001)):
        rows = [row for t in range(count) for row in unified(more * t, task=f"t{t}")]
        make_run(name, rows)
    assert "and 1 more, which --json tells" in says("compare", "a", "b")[1]
    assert len(json.loads(says("compare", "a", "b", "--json")[1])["differing"]) == count - 1


def test_mistakes_are_one_sentence(make_run, fails):
    folder = make_run("mine", unified(0.5))
    make_run("damaged", config="run: [")
    assert "There is no run mina in results (did you mean 'mine'?)" in fails(
        "compare", "mine", "mina"
    )
    assert "nowhere/x is no run's folder" in fails("compare", "nowhere/x", "mine")
    assert "damaged recorded is damaged" in fails("compare", "mine", "damaged")
    (folder / "metrics.csv").write_text("a,b\n")
    for words in (["mine", "mine"], ["mine", "mine", "--json"]):
        assert "metrics.csv is not a metrics file" in fails("compare", *words)


def test_layers_are_compared_one_by_one(make_run, says):
    def layers(*values):
        row = {
            "metric": "linearity_error",
            "mode": "ntk",
            "task": "one",
            "seed": 0,
            "split": "test",
        }
        names = ("0.attention", "whole")
        return [row | {"layer": n, "value": v} for n, v in zip(names, values, strict=True)]

    make_run("a", layers(0.1, 0.3))
    make_run("b", layers(0.6, 0.3))
    status, out, _ = says("compare", "a", "b")
    assert status == 0 and "0.attention" in out


def test_what_is_at_another_chosen_alpha_differs_and_is_not_elsewhere(make_run, says):
    def pair(alpha, value):
        row = {"metric": "representation_pair_error", "mode": "ntk", "task": "one", "seed": 0}
        row |= {"other_task": "two", "alpha": alpha, "other_alpha": alpha, "value": value}
        return [row | {"split": "test"}]

    make_run("a", pair(0.2, 0.1))
    make_run("b", pair(0.3, 0.4))
    _, out, _ = says("compare", "a", "b", "--json")
    found = json.loads(out)
    assert len(found["differing"]) == 1 and found["equal"] == 0
