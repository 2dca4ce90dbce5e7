"""The view that the command line's JSON describes."""

import dataclasses
import json

import pytest
import views

from task_arithmetic.config import settings
from task_arithmetic.config.reading import ROOT, read_config
from task_arithmetic.config.view import view_of


def test_modes_are_in_the_papers_order_and_others_behind_them_as_they_are_named():
    modes = {"mine": "Mine", "attention": "A", "ntk": "N", "also": "Also", "nonlinear": "L"}
    view = view_of(views.make_settings(modes=modes, kernel_modes=["attention", "mine", "gone"]))
    assert list(view.modes) == ["nonlinear", "ntk", "attention", "mine", "also"]
    assert view.unified_modes == [*view.modes, "posthoc"]
    assert view.kernel_modes == ("attention", "mine")
    ablations = {"b": "B", "a": "A"}
    assert list(view_of(views.make_settings(ablations=ablations)).ablations) == ["a", "b"]


def test_the_part_on_texts_has_its_own_modes_and_what_both_parts_share():
    texts = views.TEXTS | {"modes": {"nonlinear": "Of texts", "lora": "Low rank"}}
    view = view_of(views.make_settings(seeds=2, language=texts))
    assert view.language.of_texts and not view.of_texts
    assert view.language.seeds == view.seeds == ("0", "1")
    assert view.language.unified_modes == ["nonlinear", "lora"]  # no posthoc of texts
    assert view.language.kernel_modes == ()
    assert view.language.label("nonlinear") == "Of texts"
    assert view.label("nonlinear") == "Non-linear fine-tuning"
    assert view.label("lora") == "Low rank" and view.label("posthoc") == "Post-hoc linearization"
    assert view.parts == [view, view.language]
    assert view_of(views.make_settings()).parts == [view_of(views.make_settings())]


def test_methods_are_in_their_own_order_and_encoders_in_that_of_rows():
    said = views.make_merging("tsv", "mean", encoders=["base", "small"])
    view = view_of(views.make_settings(merging=said, language=views.TEXTS))
    assert list(view.methods) == ["tsv", "mean"] and view.merged_encoders == ("small", "base")
    assert view.methods["tsv"] == ("TSV-M", "vectors", (0.1, 3.0))
    assert view.methods["mean"].grid == (1.0, 1.0)
    assert list(view.compared_methods) == ["sum", "tsv", "mean"]
    assert view.method_title("sum") == "Task arithmetic" and view.method_title("tsv") == "TSV-M"
    assert view.language.methods == {} and view.language.merged_encoders == ()  # not of images
    assert view_of(views.make_settings()).methods == {}


@pytest.mark.parametrize("path", ["config.yaml", "config/mini.yaml", "config/nano.yaml"])
def test_a_view_holds_all_that_the_settings_say(path):
    config = read_config(path, basedir=ROOT)
    said, view = json.loads(settings.report_settings(config)), settings.view(config)
    for part, own in ((said, view), (said["language"], view.language)):
        assert part.keys() - {"merging"} <= {field.name for field in dataclasses.fields(own)}
    assert view.encoders == said["encoders"] and list(view.encoders) == list(said["encoders"])
    assert view.recipes == {} and view_of(said).recipes == said["recipes"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        view.run = "other"
