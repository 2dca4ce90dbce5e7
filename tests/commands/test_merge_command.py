"""merge: the same vector as ta.merge gives, in a file whose header says what it was made of."""

import json
import math
from pathlib import Path

import pytest
import tiny
import torch
import yaml

import task_arithmetic as ta
from task_arithmetic.commands import merge as module
from task_arithmetic.commands.catalogue import OPTIONS
from task_arithmetic.files.hashes import sha256_of_file
from task_arithmetic.files.tensors import read_made_by
from task_arithmetic.merging.methods import find, names

TASKS = ["one", "two"]


def paths(mode="attention"):
    return [tiny.shared_vector(mode, task) for task in TASKS]


def taus(mode="attention"):
    return [ta.TaskVector.load(path) for path in paths(mode)]


def alike(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a.keys())


@pytest.fixture
def out(tmp_path):
    return tmp_path / "merged.safetensors"


@pytest.mark.parametrize("mode", ["attention", "ntk"])
@pytest.mark.parametrize("method", [name for name in names() if find(name).needs == "vectors"])
def test_any_method_that_needs_vectors_alone_gives_what_the_library_gives(says, out, method, mode):
    assert says("merge", *paths(mode), "--method", method, "--seed", 3, "--out", out)[0] == 0
    merged = ta.TaskVector.load(out)
    assert alike(merged, ta.merge(taus(mode), method, tasks=TASKS, seed=3))
    assert (merged.mode, merged.linearized, merged.base) == (mode, mode == "ntk", taus()[0].base)


def test_weights_multiply_first_and_may_be_negative(says, out):
    words = ["--weights", -1, 0.5, "--method", "ties", "--option", "keep=0.5"]
    _, text, _ = says("merge", *paths(), *words, "--out", out, "--json")
    one, two = taus()
    assert alike(ta.TaskVector.load(out), ta.merge([-one, 0.5 * two], "ties", keep=0.5))
    said, found = read_made_by(out)["merging"], json.loads(text)
    assert said["weights"] == {"one": -1.0, "two": 0.5} and said["options"] == {"keep": 0.5}
    assert said["sources"] == {t: sha256_of_file(p) for t, p in zip(TASKS, paths(), strict=True)}
    assert [(each["name"], each["weight"]) for each in found["sources"]] == [
        ("one", -1.0), ("two", 0.5)
    ]  # fmt: skip
    own = math.sqrt(
        sum(t.double().square().sum() for t in ta.TaskVector.load(out).tensors.values())
    )
    assert found["norm"] == pytest.approx(own, rel=1e-12) and found["offset_norm"] is None
    assert found["alphas"] == pytest.approx([0.1, 1.6, 0.1])


@pytest.mark.parametrize(
    "words, said",
    [
        (["--method", "sum", "--option", "normalize=true"], "would be lost: leave out"),
        (["--method", "per_task"], "individual models, whose vectors have no weights: leave"),
    ],
)
def test_weights_that_would_not_be_what_they_say_are_refused(fails, out, words, said):
    encoder = tiny.shared_suite()["encoder_dir"]
    more = ["--base", encoder, "--tasks", "numbers", "shapes", "--weights", 1, 2, "--out", out]
    assert said in fails("merge", *paths(), *words, *more) and not out.exists()


def test_a_method_may_need_data_by_its_options(fails, out):
    words = ["--method", "consensus", "--option", "select=validation", "--out", out]
    assert "consensus needs labelled data" in fails("merge", *paths(), *words)


def test_each_vector_stands_beside_its_own_task(fails, out, monkeypatch):
    suite = tiny.shared_suite()
    clip = ta.load_encoder(suite["encoder_dir"])
    files = zip(suite["tasks"], suite["data_dirs"], suite["heads"], strict=True)
    known = {name: ta.Task(name, clip, data, head) for name, data, head in files}
    monkeypatch.setattr(module, "load_task", lambda source, encoder: known[source])
    words = ["--method", "regmean", "--base", suite["encoder_dir"], "--tasks", "two", "one"]
    said = fails("merge", *paths(), *words, "--out", out)
    assert "of task one stands beside task two" in said and not out.exists()


@pytest.mark.skipif(not Path("/sys").is_mount(), reason="no place that nobody may write to")
def test_a_place_that_cannot_be_written_to_is_one_sentence(fails):
    assert "cannot be" in fails("merge", *paths(), "--out", "/sys/merged.safetensors")


def test_draws_do_not_depend_on_how_a_path_is_written(says, tmp_path, monkeypatch):
    """Of vectors whose tasks are not known, the library's too."""
    nameless = []
    for i, tau in enumerate(taus()):
        ta.TaskVector(tau.tensors, tau.mode, tau.linearized, tau.base).save(tmp_path / f"v{i}")
        nameless.append(ta.TaskVector.load(tmp_path / f"v{i}"))
    monkeypatch.chdir(tmp_path)
    dare = ["--method", "dare", "--seed", 5]
    assert says("merge", "v0", "v1", *dare, "--out", "a")[0] == 0
    assert says("merge", tmp_path / "v0", tmp_path / "v1", *dare, "--out", "b")[0] == 0
    expected = ta.merge(nameless, "dare", seed=5)
    assert all(alike(ta.TaskVector.load(x), expected) for x in "ab")


def test_weights_of_one_are_as_good_as_none(says, out, tmp_path):
    says("merge", *paths(), "--out", out)
    says("merge", *paths(), "--weights", 1, 1, "--out", tmp_path / "other.safetensors")
    assert out.read_bytes() == (tmp_path / "other.safetensors").read_bytes()
    assert "weights" not in read_made_by(out)["merging"]


def test_a_file_says_the_same_as_words(says, out, tmp_path):
    one, two = map(str, paths())
    recipe = {
        "merge_method": "dare",
        "models": [{"vector": one}, {"vector": two, "weight": -1}],
        "parameters": {"drop": 0.5},
        "seed": 7,
        "tasks": ["a", "b"],
    }
    (tmp_path / "merge.yaml").write_text(yaml.safe_dump(recipe))
    assert says("merge", "--from", tmp_path / "merge.yaml", "--out", out)[0] == 0
    words = "--method dare --option drop=0.5 --weights 1 -1 --seed 7 --tasks a b --out".split()
    assert says("merge", one, two, *words, tmp_path / "other.safetensors")[0] == 0
    assert out.read_bytes() == (tmp_path / "other.safetensors").read_bytes()


def test_what_is_scaled_by_depth_has_an_offset(says, out):
    encoder = tiny.shared_suite()["encoder_dir"]
    words = ["--layer-scale", "--base", encoder, "--method", "tsv", "--out", out]
    _, text, _ = says("merge", *paths(), *words, "--json")
    merged, clip = ta.MergedVector.load(out), ta.load_encoder(encoder)
    expected = ta.merge(taus(), "tsv", layer_scale=True, encoder=clip)
    assert alike(merged.offset, expected.offset) and alike(merged.direction, expected.direction)
    found = json.loads(text)
    assert found["offset_norm"] == pytest.approx(expected.offset.norm())
    assert found["alphas"] == pytest.approx([0.1, 1.0, 0.1])


def test_several_vectors_of_one_task_are_told_apart_by_their_places(says, out, tmp_path):
    again = tmp_path / "again.safetensors"
    ta.TaskVector.load(paths()[0]).save(again)
    status, text, _ = says("merge", paths()[0], again, "--method", "mean", "--out", out)
    assert status == 0 and f"mean of {paths()[0]}, {again}" in text
    assert list(read_made_by(out)["merging"]["sources"]) == ["1", "2"]


@pytest.mark.parametrize(
    "words",
    [["adamerging", "steps=2", "batch=4"], ["per_task", "sweeps=1"], ["regmean", "images=8"]],
    ids=lambda words: words[0],
)
def test_methods_that_need_data_are_given_them(says, out, monkeypatch, words):
    suite, (method, *options) = tiny.shared_suite(), words
    clip = ta.load_encoder(suite["encoder_dir"])
    files = zip(suite["tasks"], suite["data_dirs"], suite["heads"], strict=True)
    known = {name: ta.Task(name, clip, data, head) for name, data, head in files}
    monkeypatch.setattr(module, "load_task", lambda source, encoder: known[source])
    given = [word for option in options for word in ("--option", option)]
    weights = [1, 1 if method == "per_task" else -1]
    words = ["--base", suite["encoder_dir"], "--tasks", *TASKS, "--weights", *weights, "--seed", 1]
    status, text, error = says(
        "merge", *paths(), "--method", method, *given, *words, "--out", out, "--json"
    )
    assert status == 0, error
    chosen = {key: int(value) for key, value in (option.split("=") for option in options)}
    one, two = taus()
    some = {"encoder": clip, "tasks": [known[task] for task in TASKS], "seed": 1}
    assert alike(
        ta.TaskVector.load(out), ta.merge([one, weights[1] * two], method, **some, **chosen)
    )
    assert bool(json.loads(text)["coefficients"]) == (method != "regmean")


def test_mistakes_are_one_sentence_and_write_nothing(fails, out, tmp_path):
    one, two = paths()
    recipe, other = tmp_path / "merge.yaml", tmp_path / "other.safetensors"
    ta.TaskVector(taus()[0].tensors, "attention", base="f" * 64, task="x").save(other)

    def wrong(text, *more):
        recipe.write_text(text)
        return fails("merge", *more, "--from", recipe, "--out", out)

    model = f"models: [{{vector: {one}}}]\n"
    for said, expected in (
        (wrong("merge_methd: ties\n" + model), "Unknown key 'merge_methd' in"),
        (wrong("merge_methd: ties\n" + model), "did you mean 'merge_method'?"),
        (wrong(model.replace("}]", ", wight: 2}]")), "did you mean 'weight'?"),
        (wrong("models: []\n"), "models in"),
        (wrong(model + "seed: -1\n"), "seed in"),
        (wrong(model.replace("}]", ", weight: heavy}]")), "weight in"),
        (wrong(model, two), "so do other words of the command"),
        (wrong(model + "parameters: {keep: 1}\nmerge_method: mean\n"), "has no option 'keep'"),
        (wrong("models"), "must hold `key: value` lines"),
        (fails("merge", "--out", out), "There is no vector to merge"),
        (fails("merge", one, two, "--weights", 1, "--out", out), "2 vectors and 1 weights"),
        (fails("merge", one, two, "--option", "keep", "--out", out), "--option takes NAME=VALUE"),
        (fails("merge", one, two, "--option", "keep=[", "--out", out), "--option takes"),
        (fails("merge", one, two, "--option", "kep=1", "--method", "ties", "--out", out),
         "did you mean 'keep'?"),
        (fails("merge", one, two, "--method", "tise", "--out", out), "did you mean 'ties'?"),
        (fails("merge", one, tmp_path / "none", "--out", out), "There is no file"),
        (fails("merge", one, other, "--out", out), "of different encoders"),
        (fails("merge", one, paths("ntk")[1], "--out", out), "ntk"),
        (fails("merge", one, one, "--out", out), "are one file: give each vector once"),
        (fails("merge", one, two, "--method", "regmean", "--out", out), "needs unlabelled data"),
        (fails("merge", other, "--base", tiny.shared_suite()["encoder_dir"], "--out", out),
         "is of another encoder"),
        (fails("merge", one, "--base", tmp_path / "none", "--out", out), "no folder of an encoder"),
    ):  # fmt: skip
        assert expected in said and not out.exists()


def test_a_vector_that_changed_since_it_was_saved_is_refused(fails, out, tmp_path):
    path = tmp_path / "mine.safetensors"
    taus()[0].save(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "numbers have changed since" in fails("merge", path, paths()[1], "--out", out)
    assert not out.exists()


def test_nothing_is_written_over(says, fails, out):
    out.write_text("mine")
    assert "is there already" in fails("merge", *paths(), "--out", out)
    assert out.read_text() == "mine"


def test_every_key_of_a_file_is_an_option_too():
    named = {"merge_method": "method", "models": "vectors", "parameters": "option"}
    for name in module.Recipe.model_fields:
        option = named.get(name, name)
        assert option in OPTIONS or f"merge {option}" in OPTIONS
