"""evaluate: the numbers of ta.evaluate, in a table or as JSON."""

import json

import numpy as np
import pytest
import tiny
from PIL import Image

import task_arithmetic as ta
from task_arithmetic.commands import evaluate as module
from task_arithmetic.files.manifest import read_manifest

TASKS = ["one", "two"]


@pytest.fixture
def encoder():
    return ta.load_encoder(tiny.shared_suite()["encoder_dir"])


@pytest.fixture
def tasks(encoder, monkeypatch):
    suite = tiny.shared_suite()
    files = zip(suite["tasks"], suite["data_dirs"], suite["heads"], strict=True)
    known = {name: ta.Task(name, encoder, data, head) for name, data, head in files}
    monkeypatch.setattr(module, "load_task", lambda source, encoder, **_: known[source])
    return [known[task] for task in TASKS]


def words(*more):
    return ["evaluate", tiny.shared_suite()["encoder_dir"], "--tasks", *TASKS, *more]


@pytest.mark.parametrize("split", ["test", "validation"])
@pytest.mark.parametrize("mode", ["attention", "ntk"])
def test_vectors_are_added_as_in_the_library(says, encoder, tasks, mode, split):
    paths = [tiny.shared_vector(mode, task) for task in TASKS]
    more = ["--vectors", *paths, "--alpha", 0.4, "--split", split, "--device", "cpu", "--json"]
    found = json.loads(says(*words(*more))[1])
    tau = ta.merge([ta.TaskVector.load(path) for path in paths])
    expected, before = (
        ta.evaluate(each, tasks, split) for each in (encoder + 0.4 * tau, encoder)
    )  # fmt: skip
    assert found["tasks"] == [
        {"task": task.name, "examples": read_manifest(task.data_dir).counts[split],
         "accuracy": expected[task.name], "zero_shot": before[task.name]}
        for task in tasks
    ]  # fmt: skip
    assert found["mean"]["accuracy"] == pytest.approx(np.mean(list(expected.values())))
    assert (found["mode"], found["through"]) == (mode, "f_lin" if mode == "ntk" else "f")
    assert (found["alpha"], found["split"]) == (0.4, split)


def test_an_encoder_alone_has_no_second_column(says, encoder, tasks):
    _, out, _ = says(*words())
    lines, found = out.splitlines(), ta.evaluate(encoder, tasks)
    assert lines[0] == "tiny, through f, on test (%)"
    assert lines[2].split() == ["task", "n", "accuracy"]
    assert lines[3].split() == ["one", "40", f"{100 * found['one']:.2f}"]
    assert len(lines) == 6 and lines[5].startswith("mean of the tasks")
    assert json.loads(says(*words("--json"))[1])["alpha"] is None


def test_a_merged_vector_with_an_offset_is_used_as_it_is(says, encoder, tasks, tmp_path):
    taus = [ta.TaskVector.load(tiny.shared_vector("nonlinear", task)) for task in TASKS]
    merged = ta.merge(taus, layer_scale=True)
    merged.save(path := tmp_path / "lines.safetensors")
    found = json.loads(says(*words("--vectors", path, "--alpha", 0.5, "--json"))[1])
    expected = ta.evaluate(encoder + 0.5 * merged, tasks)
    assert {row["task"]: row["accuracy"] for row in found["tasks"]} == expected


def test_vectors_without_alpha_are_added_whole(says, encoder, tasks):
    path = tiny.shared_vector("attention", "one")
    _, out, _ = says(*words("--vectors", path))
    assert out.startswith("tiny + 1 · 1 vector of mode attention, through f, on test (%)")
    whole = ta.evaluate(encoder + ta.TaskVector.load(path), tasks)
    assert f"{100 * whole['two']:.2f}" in out


def test_a_folder_of_images_is_a_task(says, tmp_path, monkeypatch):
    monkeypatch.setenv("TASK_ARITHMETIC_CACHE", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 3)):
        for name in ("a", "b"):
            folder = tmp_path / "balls" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    encoder = tiny.shared_suite()["encoder_dir"]
    more = ["--templates", "a {} ball.", "--classes", "a=red", "b=blue", "--json"]
    status, out, error = says("evaluate", encoder, "--tasks", tmp_path / "balls", *more)
    assert status == 0, error
    found = json.loads(out)
    (row,) = found["tasks"]
    assert (row["task"], row["examples"]) == ("balls", 6)
    given = {"templates": ["a {} ball."], "classes": ["red", "blue"], "source_classes": ["a", "b"]}
    task = ta.load_task(tmp_path / "balls", clip := ta.load_encoder(encoder), **given)
    assert row["accuracy"] == ta.evaluate(clip, [task])["balls"]
    # What is said of folders is not said of a task by name beside them.
    monkeypatch.setenv("TASK_ARITHMETIC_CACHE", str(tmp_path / "cache"))
    both = ["--tasks", tmp_path / "balls", "shapes", *more]
    _, out, _ = says("evaluate", "embedded-small", *both)
    of = {row["task"]: row["accuracy"] for row in json.loads(out)["tasks"]}
    clip = ta.load_encoder("embedded-small")
    assert of["shapes"] == ta.evaluate(clip, [ta.load_task("shapes", clip)])["shapes"]


def test_mistakes_are_one_sentence(fails, tasks, tmp_path):
    one, merged = tiny.shared_vector("attention", "one"), tmp_path / "merged.safetensors"
    taus = [ta.TaskVector.load(tiny.shared_vector("nonlinear", task)) for task in TASKS]
    ta.merge(taus, layer_scale=True).save(merged)
    other = tiny.shared_vector("nonlinear", "two")
    for said, expected in (
        (fails(*words("--alpha", 1)), "--alpha multiplies vectors"),
        (fails(*words("--vectors", tmp_path / "none")), "There is no file"),
        (fails(*words("--vectors", tiny.shared_finetuned("attention", "one"))), "no task vector"),
        (fails(*words("--vectors", one, other)), "of different modes"),
        (fails(*words("--vectors", merged, one)), "is added alone"),
        (fails(*words("--vectors", one, one)), "are one file: give each vector once"),
        (fails(*words("--vectors", tmp_path)), "is a folder: give the task vector's file in it"),
        (fails(*words("--vectors", one, "--alpha", "nan")), "--alpha must be a number"),
        (
            fails("evaluate", "embedded-small", "--tasks", "shapes", "--templates", "a {}."),
            "are of folders of images, and no task is one",
        ),
        (fails(*words("--device", "tpu")), "There is no device 'tpu'"),
        (fails("evaluate", "embedded-smal", "--tasks", "one"), "did you mean 'embedded-small'?"),
        (fails("evaluate", tmp_path, "--tasks", "one", "--json"), "is no folder of an encoder"),
    ):
        assert expected in said
