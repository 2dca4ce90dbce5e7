"""The merging methods of a configuration: their options, grids and labels; what is refused."""

import json
import subprocess
import sys

import pytest
import yaml

from task_arithmetic.config import settings
from task_arithmetic.config.reading import ROOT, merge, read_yaml, validate_config
from task_arithmetic.errors import UserError
from task_arithmetic.merging.methods import names


def experiment(text="", **merging):
    content = merge(read_yaml(ROOT / "config.yaml"), {"merging": merging} if merging else {})
    return validate_config(merge(content, yaml.safe_load(text) or {}))


def mergers(**merging):
    return {merger.label: merger for merger in experiment(**merging).part("vision").mergers}


def test_the_papers_run_crosses_every_method():
    found = mergers()
    plain = [label for label in found if not label.endswith("_lines")]
    assert sorted([*plain, "sum"]) == names()
    assert [m.title for m in found.values() if m.layer_scaled] == [
        "Task arithmetic + LiNeS",
        "TSV-M + LiNeS",
    ]
    assert found["tsv"].grid == [round(0.1 * i, 10) for i in range(1, 31)]
    assert found["mean"].grid == [1.0] and found["tsv_lines"].grid[-1] == 1.0
    assert {m.needs for m in found.values()} == {"vectors", "unlabelled", "labelled"}
    assert [m.label for m in found.values() if m.learns] == ["adamerging", "per_task"]
    assert [m.label for m in found.values() if m.collects] == ["regmean"]


def test_only_the_focus_or_all_encoders_are_merged():
    focus, every = experiment(), experiment(encoders="all")
    assert [part.merged for part in focus.parts.values()] == [["ViT-B-32"], ["t5-base"]]
    assert every.part("vision").merged == every.encoders
    assert experiment("merging: null").part("vision").merged == []


def test_one_task_has_nothing_to_merge():
    one = experiment(
        "tasks: [cars]\nnegation: null\ndisentanglement: {pairs: {fig6: null, fig8: null}}"
    )
    assert one.part("vision").mergers == () and one.part("vision").merged == []
    assert one.part("language").mergers


def test_null_leaves_a_method_out_and_a_name_of_ones_own_is_a_variant():
    said = {"mean": None, "ties_10": {"method": "ties", "keep": 0.1, "agg": "sum"}}
    found = mergers(methods=said)
    assert "mean" not in found and found["ties_10"].given == {"keep": 0.1, "agg": "sum"}
    assert found["ties_10"].title == "TIES (ties_10)" and found["ties"].title == "TIES"
    assert found["ties_10"].options.keep == 0.1 and found["ties_10"].method.name == "ties"
    read = mergers(methods={"seen": {"method": "adamerging", "split": "test"}})
    assert read["seen"].needs == "transductive" and read["adamerging"].needs == "unlabelled"


def test_dare_takes_the_grid_of_what_follows_it_unless_it_has_its_own():
    own = {"start": 0.5, "stop": 1.0, "step": 0.5}
    said = {f"dare_{then}": {"method": "dare", "then": then} for then in ("ties", "mean")}
    said["dare_own"] = {**said["dare_ties"], "alphas": own}
    found = mergers(methods=said)
    assert found["dare_ties"].grid == found["ties"].grid
    assert found["dare_mean"].grid == [1.0] and found["dare_own"].grid == [0.5, 1.0]
    assert found["dare"].grid == [round(0.05 * i, 10) for i in range(21)]


def test_a_grid_of_ones_own_is_what_addition_walks():
    own = {"start": 1.0, "stop": 3.0, "step": 0.5}
    run = experiment(methods={"iso_c": {"alphas": own}, "ties": {"alphas": {**own, "stop": 1.0}}})
    alphas = json.loads(settings.merged_settings(run, "ntk", "ViT-B-32", "iso_c"))["alphas"]
    assert alphas == own
    assert run.part("vision").merger("iso_c").grid == [1.0, 1.5, 2.0, 2.5, 3.0]
    assert run.part("vision").merger("ties").grid == [1.0]
    assert "alphas" not in json.loads(settings.merge_settings(run, "ViT-B-32", "iso_c"))["options"]


def test_an_option_concerns_its_method_alone():
    before, after = experiment(), experiment(methods={"ties": {"keep": 0.5}})
    for merger in before.part("vision").mergers:
        old, new = (settings.merge_settings(e, "ViT-B-32", merger.label) for e in (before, after))
        assert (old != new) == (merger.label == "ties")
        old, new = (
            settings.merged_settings(e, "ntk", "ViT-B-32", merger.label) for e in (before, after)
        )
        assert old == new


def test_what_a_method_needs_follows_its_options():
    said = {"consensus": {"select": "validation"}, "fixed": {"method": "consensus"}}
    run = experiment(methods=said)
    found = {merger.label: merger for merger in run.part("vision").mergers}
    assert [found[label].needs for label in ("consensus", "fixed")] == ["labelled", "vectors"]
    assert [label for label in found if found[label].learns] == [
        "consensus",
        "adamerging",
        "per_task",
    ]
    assert "precision" in json.loads(settings.merge_settings(run, "ViT-B-32", "consensus"))
    assert "precision" not in json.loads(settings.merge_settings(run, "ViT-B-32", "fixed"))
    shown = settings.view(run).methods
    assert (shown["consensus"].needs, shown["fixed"].needs) == ("labelled", "vectors")


NO_F_LIN = "{modes: [nonlinear, attention], language: {modes: [nonlinear, attention]}}"


def test_regmean_with_forward_learns_and_asks_for_no_statistics():
    said = {"regmean": {"forward": True}, "few": {"method": "regmean", "images": 9}}
    run = experiment(NO_F_LIN, methods=said).part("vision")
    forward, few = run.merger("regmean"), run.merger("few")
    assert (forward.learns, forward.collects, forward.needs) == (True, False, "unlabelled")
    assert (few.learns, few.collects) == (False, True)
    assert run.collected("ViT-B-32") == 9


def test_draws_of_dare_are_methods_of_their_own():
    found = mergers(methods={f"dare_{n}": {"method": "dare", "draw": n} for n in (1, 2)})
    assert [found[label].options.draw for label in ("dare", "dare_1", "dare_2")] == [0, 1, 2]
    assert found["dare_2"].title == "DARE (dare_2)"


def test_statistics_are_of_as_many_images_as_the_methods_ask_for():
    said = {"regmean": {"images": 20}, "less": {"method": "regmean", "images": 20, "other": "sum"}}
    run = experiment(methods=said)
    assert json.loads(settings.statistics_settings(run, "ntk", "ViT-B-32"))["images"] == 20
    assert run.part("vision").collected("ViT-B-16") == 0  # not merged


@pytest.mark.parametrize(
    ("merging", "said"),
    [
        ({"methods": {"tie": {}}}, r"methods.tie: There is no merging method 'tie' \(did you mean"),
        ({"methods": {"ties": {"kep": 0.2}}}, r"ties has no option 'kep' \(did you mean 'keep'"),
        ({"methods": {"ties": {"keep": 0}}}, "keep of the merging method ties must be a number ab"),
        ({"methods": {"ties": {"keep": 1.5}}}, "ties must be .*at most 1; found 1.5"),
        (
            {"methods": {"consensus": {"agree": 9}}},
            "consensus: .*9 tasks use, .* more than 8: give",
        ),
        (
            {"methods": {"consensus": {"agree": 8}}},
            "consensus: .*8 tasks use, .* more than 7: give",
        ),
        (
            {"methods": {"consensus": {"select": "validation", "thresholds": {"dtd": 0.2}}}},
            "consensus has `thresholds`, and `select: validation`",
        ),
        ({"methods": {"tsv": {"qkv": "splt"}}}, r"must be fused or split; found 'splt' \(did"),
        ({"methods": {"ties": {"alphas": 3}}}, "ties.alphas must be a mapping of start, stop"),
        ({"methods": {"ties": {"alphas": {"start": 1, "stop": 4, "step": 1}}}}, "stop <= 3"),
        ({"methods": {"ties": {"alphas": {"start": 1, "stop": 2}}}}, "step is missing"),
        ({"methods": {"ties": {"alphas": {"start": 1, "stop": 2, "step": 0.3}}}}, "whole steps"),
        ({"methods": {"ties": {"alphas": {"start": -1, "stop": -1, "step": 1}}}}, "0 <= start"),
        ({"methods": {"ties": 3}}, "methods.ties in the configuration must be a mapping"),
        ({"methods": {"sum": {"normalize": True}}}, "sum is the paper's own and has no options"),
        ({"methods": {"a_lines": {"method": "ties"}}}, "what ends with _lines is made by"),
        ({"methods": {"a b": {"method": "ties"}}}, "must be a name of letters"),
        ({"methods": {"few": {"method": "regmean", "images": 9}}}, "of different `images`: give"),
        ({"layer_scale": ["tvs"]}, r"layer_scale names 'tvs', .*did you mean 'tsv'"),
        ({"methods": {"tsv": None}}, "layer_scale names 'tsv', which is not among"),
        ({"layer_scale": ["tsv", "tsv"]}, "has 'tsv' twice"),
        ({"encoders": "some"}, "must be focus or all; found the text 'some'"),
        ({"method": {}}, "Unknown key 'method' under merging"),
    ],
)
def test_what_is_wrong_is_one_sentence(merging, said):
    with pytest.raises(UserError, match=said) as caught:
        experiment(**merging)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_methods_are_read_without_torch():
    code = "import sys; from task_arithmetic.config.reading import read_config; read_config(); "
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
