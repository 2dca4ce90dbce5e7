"""Exports and their cards: what they say is what was measured or given, and mistakes are a sentence
that leaves nothing behind."""

import json
import math
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import tiny_texts
import torch
import yaml
from huggingface_hub import ModelCard
from test_cli import one_sentence, run

import task_arithmetic as ta
from task_arithmetic.files.hashes import sha256_of_file
from task_arithmetic.files.tensors import read_made_by, read_tensors, write_tensors
from task_arithmetic.library import card
from task_arithmetic.merging.merge import merge_vectors
from task_arithmetic.stages.evaluate import write_merged

TASKS = ("one", "two")


@pytest.fixture(scope="module")
def encoder():
    return ta.load_encoder(tiny.shared_suite()["encoder_dir"])


@pytest.fixture(scope="module")
def tasks(encoder):
    suite = tiny.shared_suite()
    files = zip(suite["tasks"], suite["data_dirs"], suite["heads"], strict=True)
    return [ta.Task(name, encoder, data, head) for name, data, head in files][:2]


def paths(mode="attention"):
    return [tiny.shared_vector(mode, task) for task in TASKS]


def taus(mode="attention"):
    return [ta.TaskVector.load(path) for path in paths(mode)]


def words(tmp_path, *more, mode="attention", to="transformers", alpha=0.5):
    """The words of a command that works."""
    base = tiny.shared_suite()["encoder_dir"]
    return ["export", *paths(mode), "--base", base, "--alpha", alpha, "--to", to,
            "--out", tmp_path / "out", *more]  # fmt: skip


def matter_of(folder: Path):
    """The YAML before the card, and the card."""
    text = (folder / "README.md").read_text()
    _, matter, body = text.split("---\n", 2)
    assert not re.search(r"\n\n\n", body) and not re.search(r"^#+ .*\n+#", body, re.M)
    assert "None" not in body and "nan" not in body
    return yaml.safe_load(matter), body


# --- Numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["sum", "ties", "dare"])
def test_the_command_gives_the_library_model_bit_for_bit(encoder, tmp_path, method):
    options = {"ties": {"keep": 0.3}, "dare": {"drop": 0.5, "seed": 3}}.get(method, {})
    given = [f"{k}={v}" for k, v in options.items() if k != "seed"]
    more = ["--method", method] + (["--option", *given] if given else [])
    more += ["--seed", options["seed"]] if "seed" in options else []
    assert run(*words(tmp_path, *more)) == 0
    model = encoder + 0.5 * ta.merge(taus(), method, **options)
    ta.export(model, tmp_path / "own")
    ours, theirs = (read_tensors(tmp_path / x / "model.safetensors") for x in ("out", "own"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_merged_file_says_how_it_was_merged(tmp_path):
    """Its weights, its seed and what data taught stand in the card, as in its header."""
    one, two = paths()
    merged, base = tmp_path / "merged", ["--base", tiny.shared_suite()["encoder_dir"]]
    how = ["--method", "dare", "--option", "drop=0.5", "--seed", 3, "--weights", 1, -2]
    assert run("merge", two, one, *how, "--out", merged) == 0  # not in the order of their names
    given = [*base, "--alpha", 0.3, "--to", "vector", "--out"]
    assert run("export", merged, *given, tmp_path / "out") == 0
    said = yaml.safe_load((tmp_path / "out/merge.yaml").read_text())
    assert said["options"] == {
        "draw": 0,
        "drop": 0.5,
        "keep": 0.2,
        "normalize": False,
        "seed": 3,
        "then": "sum",
    }
    assert {each["task"]: each["weight"] for each in said["vectors"]} == {"two": 1.0, "one": -2.0}
    text = matter_of(tmp_path / "out")[1]
    assert re.search(r"\| one \|.*\| -2 \|", text) and re.search(r"\| two \|.*\| 1 \|", text)
    assert "`seed: 3`" in text and "multiplied by its weight first" in text
    about = {**read_made_by(merged), "seed": 0}
    about["merging"] = {**about["merging"], "method": "per_task", "options": {}, "weights": {}}
    about["merging"]["coefficients"] = [["one", "", 0.25], ["two", "", 0.5]]
    write_tensors(tmp_path / "taught", read_tensors(merged), about)
    assert run("export", tmp_path / "taught", *given, tmp_path / "other") == 0
    assert "Learnt from data: λ of one = 0.25, λ of two = 0.5." in matter_of(tmp_path / "other")[1]
    said = yaml.safe_load((tmp_path / "other/merge.yaml").read_text())
    assert said["merged"]["coefficients"] == [["one", "", 0.25], ["two", "", 0.5]]


def test_a_merged_file_is_not_merged_again(tmp_path, capsys):
    one, two = paths()
    assert run("merge", one, two, "--method", "ties", "--out", tmp_path / "merged") == 0
    base = ["--base", tiny.shared_suite()["encoder_dir"], "--to", "vector", "--alpha", 1]
    words = [tmp_path / "merged", *base, "--method", "ties", "--out", tmp_path / "out"]
    capsys.readouterr()
    assert run("export", *words) == 1
    assert "is merged already, by ties: leave out --method" in capsys.readouterr().err


def test_one_vector_and_merged_files_are_exported_as_they_are(encoder, tmp_path):
    base = ["--base", tiny.shared_suite()["encoder_dir"], "--to", "vector"]
    tau = taus()[0]
    assert run("export", paths()[0], *base, "--alpha", 0.3, "--out", tmp_path / "one") == 0
    found = ta.TaskVector.load(tmp_path / "one/task_vector.safetensors")
    assert (found.task, found.mode, found.base) == ("one", "attention", encoder.base)
    assert all(torch.equal(found[name], 0.3 * tau[name]) for name in tau.keys())
    offset, direction = merge_vectors(taus(), "mean", layer_scaled=True)
    about = {"mode": "attention", "theta0_sha256": encoder.base, "merging": {
        "method": "mean", "options": {}, "layer_scaled": True,
        "sources": {task: sha256_of_file(path) for task, path in zip(TASKS, paths(), strict=True)},
    }}  # fmt: skip
    write_merged(tmp_path / "lines", offset.tensors, direction.tensors, about)
    assert run("export", tmp_path / "lines", *base, "--alpha", 0.7, "--out", tmp_path / "two") == 0
    found = ta.TaskVector.load(tmp_path / "two/task_vector.safetensors")
    for name in offset.keys():
        assert torch.equal(found[name], offset[name] + 0.7 * direction[name])
    said = yaml.safe_load((tmp_path / "two/merge.yaml").read_text())
    text = matter_of(tmp_path / "two")[1]
    assert said["method"] == "mean" and said["options"]["layer_scale"] is True
    assert [each["task"] for each in said["vectors"]] == ["one", "two"]
    assert said["merged"]["sha256"] == sha256_of_file(tmp_path / "lines")
    assert said["merged"]["sha256"] in text and str(tmp_path) not in text
    assert (
        "scaled by depth (LiNeS" in text and r"\theta_0 + (a + \alpha\, \tfrac{l}{L - 1}) M" in text
    )
    _of_library(offset, direction).save(tmp_path / "own")
    assert run("export", tmp_path / "own", *base, "--alpha", 0.7, "--out", tmp_path / "three") == 0
    again = ta.TaskVector.load(tmp_path / "three/task_vector.safetensors")
    assert all(torch.equal(found[name], again[name]) for name in found.keys())
    assert "Models merged" not in matter_of(tmp_path / "three")[1]


def _of_library(*parts):
    return ta.MergedVector(*(ta.TaskVector(p.tensors, p.mode, base=p.base) for p in parts))


def test_the_scores_are_those_of_evaluate(encoder, tasks, tmp_path):
    own = taus()
    model = encoder + 0.4 * ta.merge(own)
    done = ta.export(model, tmp_path / "out", tasks=tasks, vectors=own, method="sum", alpha=0.4,
                     evaluate=True)  # fmt: skip
    merged, zero = ta.evaluate(model, tasks), ta.evaluate(encoder, tasks)
    for task, tau, score in zip(tasks, own, done.scores, strict=True):
        alone = ta.evaluate(encoder + tau, [task])[task.name]
        expected = (zero[task.name], alone, merged[task.name])
        assert (score.zero_shot, score.individual, score.merged) == expected
        assert score.normalized == merged[task.name] / alone
    matter, text = matter_of(tmp_path / "out")
    said = {
        r["dataset"]["name"]: r["metrics"][0]["value"] for r in matter["model-index"][0]["results"]
    }
    assert said == {name: round(value, 4) for name, value in merged.items()}
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    table = {row[0]: row[1:] for row in rows if len(row) == 6 and re.match(r"\d|$", row[1])}
    for score in done.scores:
        shares = (score.zero_shot, score.individual, score.merged, score.normalized)
        assert table[score.task] == [str(score.examples), *(f"{100 * x:.2f}" for x in shares)]
    mean = sum(score.normalized for score in done.scores) / 2
    assert table["mean"][4] == f"{100 * mean:.2f}"


def test_a_linearized_mode_is_exported_and_scored_non_linearly(encoder, tasks, tmp_path):
    tau = 0.5 * ta.merge(taus("ntk"))
    given = {"tasks": tasks, "vectors": taus("ntk"), "evaluate": True}
    done = ta.export(encoder + tau, tmp_path / "out", as_nonlinear=True, **given)
    plain = encoder + ta.TaskVector(tau.tensors, "ntk", base=tau.base)
    assert {s.task: s.merged for s in done.scores} == ta.evaluate(plain, tasks)
    for task, own, score in zip(tasks, taus("ntk"), done.scores, strict=True):
        assert score.individual == ta.evaluate(encoder + own, [task])[task.name]
    text = matter_of(tmp_path / "out")[1]
    assert "accuracies below are measured non-linearly" in text.replace("\n", " ")
    ta.export(encoder + tau, tmp_path / "vector", "vector")
    found = ta.TaskVector.load(tmp_path / "vector/task_vector.safetensors")
    assert found.linearized and "non-linear" not in matter_of(tmp_path / "vector")[1]


def test_a_projection_that_moved_can_be_left_out_for_fusion_bench(encoder, tasks, tmp_path):
    tau = ta.merge(taus("nonlinear"))
    given = {"keep_base_projection": True, "tasks": tasks, "evaluate": True}
    done = ta.export(encoder + tau, tmp_path / "out", "fusion_bench", **given)
    kept = {name: tensor for name, tensor in tau.tensors.items() if name != "proj"}
    scored = encoder + ta.TaskVector(kept, "nonlinear", base=tau.base)
    assert {s.task: s.merged for s in done.scores} == ta.evaluate(scored, tasks)
    found = read_tensors(tmp_path / "out/model.safetensors")["visual_projection.weight"]
    assert torch.equal(found, encoder.theta0["proj"].T)
    text = matter_of(tmp_path / "out")[1]
    assert "**The projection is the pretrained model's.**" in text and "accuracies below" in text
    ta.export(encoder + ta.merge(taus()), tmp_path / "attention", "fusion_bench")
    assert "scores exactly this model" in matter_of(tmp_path / "attention")[1]
    pool = yaml.safe_load((tmp_path / "out/modelpool.yaml").read_text())
    assert pool["_target_"].endswith("CLIPVisionModelPool") and pool["models"]["merged"] == "."


# --- The card ------------------------------------------------------------------------------------


def test_the_command_of_a_card_makes_the_same_folder_again(tmp_path, monkeypatch):
    for path in paths():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "clip").symlink_to(tiny.shared_suite()["encoder_dir"])
    monkeypatch.chdir(tmp_path)
    more = ["--method", "ties", "--option", "keep=0.3"]
    more += ["--chosen", "on validation", "--license", "mit"]
    assert run("export", *(path.name for path in paths()), "--base", "clip", "--alpha", 0.5,
               "--to", "open_clip", "--out", "out", *more) == 0  # fmt: skip
    command = yaml.safe_load(Path("out/merge.yaml").read_text())["command"]
    assert command in Path("out/README.md").read_text()
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    Path("out").rename("first")
    assert run(*shlex.split(command)[1:]) == 0
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before


def test_a_card_names_files_of_other_folders_without_those_folders(tmp_path):
    for task, path in zip(TASKS, paths(), strict=True):
        (tmp_path / "run" / task).mkdir(parents=True)
        (tmp_path / "run" / task / "0.safetensors").write_bytes(path.read_bytes())
    given = words(tmp_path)
    given[1:3] = [tmp_path / "run" / task / "0.safetensors" for task in TASKS]
    assert run(*given) == 0
    said = yaml.safe_load((tmp_path / "out/merge.yaml").read_text())
    names = ["one/0.safetensors", "two/0.safetensors"]
    assert [each["file"] for each in said["vectors"]] == names
    assert shlex.split(said["command"])[2:4] == names
    for file in ("README.md", "merge.yaml"):
        text = (tmp_path / "out" / file).read_text()
        assert str(tmp_path) not in text and str(tiny.workspace()) not in text


def test_a_card_says_what_is_known_and_nothing_else(encoder, tmp_path):
    ta.export(encoder + ta.merge(taus()), tmp_path / "bare")
    matter, text = matter_of(tmp_path / "bare")
    assert list(matter) == ["library_name", "pipeline_tag", "tags"]
    assert matter["pipeline_tag"] == "image-feature-extraction"
    for absent in ("Results", "Models merged", "Merge method", "## α", "## Data"):
        assert absent not in text
    hashes = dict(re.findall(r"\| (\S+) \| `([0-9a-f]{64})` \|", text.split("## Files")[1]))
    files = {path.name for path in (tmp_path / "bare").iterdir()} - {"README.md"}
    assert hashes == {name: sha256_of_file(tmp_path / "bare" / name) for name in files}


def test_a_card_of_the_hubs_models_and_data_names_them_in_the_hubs_order(
    encoder, tasks, tmp_path, monkeypatch
):
    named = {"definition": {"model": "ViT-B-32-quickgelu", "pretrained": "openai"}, "source": {}}
    monkeypatch.setattr("task_arithmetic.library.formats.read_sealed", lambda path: named)
    read = card.read_manifest
    of_hub = {"repo": "owner/data", "commit": "c" * 40}
    monkeypatch.setattr(
        card, "read_manifest", lambda path: replace(read(path), source=of_hub, definition={})
    )
    given = {"vectors": taus(), "method": "tsv", "alpha": 0.5, "chosen": "on validation"}
    given |= {"license": "mit", "evaluate": True, "tasks": tasks}
    ta.export(encoder + ta.merge(taus(), "tsv"), tmp_path / "out", **given)
    matter, text = matter_of(tmp_path / "out")
    assert list(matter) == [
        "base_model", "base_model_relation", "library_name", "pipeline_tag", "tags", "datasets",
        "metrics", "license", "model-index",
    ]  # fmt: skip
    assert matter["base_model"] == ["openai/clip-vit-base-patch32"]
    assert (matter["base_model_relation"], matter["license"]) == ("merge", "mit")
    assert matter["datasets"] == ["owner/data"] and matter["metrics"] == ["accuracy"]
    loaded = ModelCard.load(tmp_path / "out/README.md")
    assert [r.dataset_revision for r in loaded.data.eval_results] == ["c" * 40] * 2
    assert "α = 0.5, on validation." in text and "huggingface.co/datasets/owner/data" in text


def test_texts_have_a_card_too(tmp_path):
    suite = tiny_texts.suite()
    t5 = ta.load_encoder(suite["encoder_dir"])
    files = zip(suite["tasks"], suite["data_dirs"], suite["heads"], strict=True)
    every = [ta.Task(name, t5, data, head) for name, data, head in files]
    own = [ta.TaskVector.load(tiny_texts.vector("attention", task.name)) for task in every]
    given = {"tasks": every, "vectors": own, "method": "sum", "alpha": 0.5, "evaluate": True}
    done = ta.export(t5 + 0.5 * ta.merge(own), tmp_path / "out", **given)
    assert [score.metric for score in done.scores] == ["accuracy", "spearmanr"]
    matter, _ = matter_of(tmp_path / "out")
    assert (matter["pipeline_tag"], matter["tags"][-1]) == ("text2text-generation", "t5")


def test_the_norms_and_hashes_of_files_are_those_of_the_vectors():
    for source, path, tau in zip(card.sources_of_files(paths()), paths(), taus(), strict=True):
        assert math.isclose(source.norm, tau.norm(), rel_tol=1e-5)
        assert source.sha256 == sha256_of_file(path)
        assert (source.task, source.mode, source.seed) == (tau.task, tau.mode, 0)


def test_json_says_where_it_lies(tmp_path, capsys):
    assert run(*words(tmp_path, "--json")) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"folder": str(tmp_path / "out"), "format": "transformers", "scores": []}


# --- Mistakes ------------------------------------------------------------------------------------


def changed(tmp_path, name, change):
    """A vector of task two with something changed in it."""
    tau = taus()[1]
    change(tau)
    tau.save(tmp_path / f"{name}.safetensors")
    return tmp_path / f"{name}.safetensors"


def other_base(tau):
    tau.base = "f" * 64


def not_finite(tau):
    next(iter(tau.tensors.values()))[0, 0] = torch.nan


def other_shape(tau):
    name = next(iter(tau.tensors))
    tau.tensors[name] = tau.tensors[name][:-1].clone()


def one_again(tau):
    tau.task = "one"


@pytest.mark.parametrize(
    "change, said",
    [
        (other_base, "is of another encoder"),
        (not_finite, "not finite"),
        (other_shape, "of different encoders|has shape"),
        (one_again, "are both of one: give one vector of each task"),
    ],
)
def test_a_vector_that_does_not_fit_is_a_sentence(tmp_path, change, said, capsys):
    wrong = changed(tmp_path, "wrong", change)
    given = words(tmp_path)
    given[2] = wrong
    assert run(*given) == 1
    err = capsys.readouterr().err
    assert one_sentence(err, "export") and re.search(said, err), err
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.safetensors"]


@pytest.mark.parametrize(
    "more, said",
    [
        (["--to", "onnx"], "no format 'onnx'"),
        (["--to", "transformer"], "did you mean 'transformers'"),
        (["--alpha", "nan"], "best on validation"),
        (["--method", "tie"], "did you mean 'ties'"),
        (["--method", "adamerging"], "merge first"),
        (["--option", "keep"], "NAME=VALUE"),
        (["--option", "kep=0.2", "--method", "ties"], "did you mean 'keep'"),
        (["--evaluate"], "no task to evaluate"),
        (["--tasks", "nothing"], "nothing"),
        (["--base", "ViT-Z"], "ViT-Z"),
        (["--out", "/dev/null/out"], "is a file"),
        (["--base", tiny_texts.suite], "of another encoder"),
    ],
)
def test_an_option_that_is_wrong_is_a_sentence(tmp_path, more, said, capsys):
    more = [str(each()["encoder_dir"]) if callable(each) else each for each in more]
    given = words(tmp_path, *more)
    capsys.readouterr()  # of what made them
    assert run(*given) == 1
    err = capsys.readouterr().err
    assert one_sentence(err, "export") and said in err, err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "mode, to, said",
    [
        ("ntk", "transformers", "--as-nonlinear"),
        ("ntk", "open_clip", "--as-nonlinear"),
        ("nonlinear", "fusion_bench", "--keep-base-projection"),
    ],
)
def test_another_model_than_was_trained_has_to_be_asked_for(tmp_path, mode, to, said, capsys):
    given = words(tmp_path, mode=mode, to=to)
    capsys.readouterr()  # of the training
    assert run(*given) == 1
    err = capsys.readouterr().err
    assert one_sentence(err, "export") and said in err and not list(tmp_path.iterdir())


def test_vectors_of_two_modes_are_a_sentence(tmp_path, capsys):
    given = words(tmp_path)
    given[2] = paths("nonlinear")[1]
    assert run(*given) == 1
    assert "of different modes" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_no_alpha_is_a_sentence_that_says_where_it_is_from(tmp_path, capsys):
    given = words(tmp_path)
    at = given.index("--alpha")
    assert run(*given[:at], *given[at + 2 :]) == 1
    assert "results/<run>/tables" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_nothing_is_written_over(encoder, tmp_path):
    model = encoder + taus()[0]
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "folder", "link"):
        with pytest.raises(ta.UserError, match="is there already"):
            ta.export(model, tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine" and not list((tmp_path / "folder").iterdir())


def test_what_a_format_has_no_place_for_is_a_sentence(encoder, tasks, tmp_path):
    t5 = ta.load_encoder(tiny_texts.suite()["encoder_dir"])
    words_ = t5 + ta.TaskVector.load(tiny_texts.vector("attention", "mood"))
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("encoder.json", "image_tower.safetensors"):
        (alone / name).write_bytes((encoder.folder / name).read_bytes())
    model = encoder + taus()[0]
    out = tmp_path / "out"
    for act, said in (
        (lambda: ta.export(words_, out, "open_clip"), "reads texts"),
        (lambda: ta.export(words_, out, "fusion_bench"), "reads texts"),
        (lambda: ta.export(replace(model, folder=alone), out, "open_clip"), "has no text tower"),
        (lambda: ta.export(encoder, out), "Nothing was added"),
        (lambda: ta.export(model, out, "opn_clip"), "did you mean 'open_clip'"),
        (lambda: ta.export(model, out, evaluate=True), "no task to evaluate"),
        (lambda: ta.export(model, out, tasks=["one"]), "load_task gives the Task"),
        (lambda: ta.export(model, out, vectors=["x"]), "finetune gives the TaskVector"),
        (lambda: ta.export(model, out, method="tise"), "did you mean 'ties'"),
        (lambda: ta.export("clip", out), "load_encoder gives the Encoder"),
        (lambda: ta.export(model, 3), "is no name of a folder"),
    ):
        with pytest.raises(ta.UserError, match=re.escape(said)):
            act()
    assert [path.name for path in tmp_path.iterdir()] == ["alone"]


@pytest.mark.parametrize("to", ["transformers", "open_clip", "vector"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(encoder, tmp_path, to):
    model = encoder + ta.merge(taus())
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(disk)]
    try:
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("mounting a file system is not permitted here")
    except OSError:
        pytest.skip("there is no mount command")
    try:
        with pytest.raises(ta.UserError, match="disk is full"):
            ta.export(model, disk / "out", to)
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_write_that_fails_halfway_leaves_nothing(encoder, tasks, tmp_path, monkeypatch):
    def fails(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["task_arithmetic.library.export"], "write_card", fails)
    with pytest.raises(KeyboardInterrupt):
        ta.export(encoder + taus()[0], tmp_path / "out", "open_clip", tasks=tasks)
    assert not list(tmp_path.iterdir())
