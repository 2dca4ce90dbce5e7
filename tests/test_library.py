"""What a notebook uses gives the numbers of the pipeline, and refuses what does not fit."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_texts
import torch

import task_arithmetic as ta
from task_arithmetic import embedded
from task_arithmetic.core.addition import choose_alpha
from task_arithmetic.library.cache import is_path
from task_arithmetic.merging.merge import merge_vectors
from task_arithmetic.progress import SILENT

RECIPE = {**tiny.RECIPE, "steps": 15, "learning_rate": 3e-3}  # of tiny.shared_vector


@pytest.fixture(scope="module")
def encoder():
    return ta.load_encoder(tiny.shared_suite()["encoder_dir"])


@pytest.fixture(scope="module")
def tasks(encoder):
    suite = tiny.shared_suite()
    files = zip(suite["tasks"], suite["data_dirs"], suite["heads"], strict=True)
    return [ta.Task(name, encoder, data, head) for name, data, head in files][:2]


@pytest.mark.parametrize("mode", ["nonlinear", "attention", "ntk"])
def test_fine_tuning_gives_the_vector_of_the_pipeline_bit_for_bit(tasks, mode):
    tau = ta.finetune(tasks[0], mode, progress=SILENT, **RECIPE)
    theirs = ta.TaskVector.load(tiny.shared_vector(mode, "one"))
    assert tau.keys() == theirs.keys() and tau.base == theirs.base
    assert tau.linearized == theirs.linearized == (mode == "ntk")
    assert all(torch.equal(tau[name], theirs[name]) for name in tau.keys())


def test_fine_tuning_on_texts_gives_the_vector_of_the_pipeline_bit_for_bit():
    """With what config.yaml says of texts, where nothing is said: no warm-up, no decay, no clip."""
    suite = tiny_texts.suite()
    t5 = ta.load_encoder(suite["encoder_dir"])
    task = ta.Task("mood", t5, suite["data_dirs"][0], suite["heads"][0])
    given = {"steps": 60, "batch_size": 8, "learning_rate": 1e-2}
    tau = ta.finetune(task, "nonlinear", progress=SILENT, **given)
    theirs = ta.TaskVector.load(tiny_texts.vector("nonlinear", "mood"))
    assert tau.keys() == theirs.keys() and tau.base == theirs.base
    assert all(torch.equal(tau[name], theirs[name]) for name in tau.keys())


@pytest.mark.parametrize("mode", ["nonlinear", "ntk"])
def test_alpha_and_accuracies_are_those_of_each_alpha_alone(encoder, tasks, mode):
    taus = [ta.TaskVector.load(tiny.shared_vector(mode, task.name)) for task in tasks]
    alphas, tau = [0.0, 0.3, 0.7, 1.0], ta.merge(taus)
    found = [ta.evaluate(encoder + a * tau, tasks, "validation") for a in alphas]
    own = [
        ta.evaluate(encoder + t, [task], "validation")[task.name]
        for t, task in zip(taus, tasks, strict=True)
    ]
    normalized = [
        [each[task.name] / o for task, o in zip(tasks, own, strict=True)] for each in found
    ]
    chosen = alphas[choose_alpha(alphas, normalized)]
    assert ta.choose_alpha(encoder, tau, tasks, taus, alphas) == chosen
    assert found[0] == ta.evaluate(encoder, tasks, "validation")


@pytest.mark.parametrize("mode", ["nonlinear", "ntk"])
def test_forgetting_takes_the_alpha_that_keeps_the_control_task(encoder, tasks, mode):
    tau, keep = ta.TaskVector.load(tiny.shared_vector(mode, "one")), 0.9
    alphas = [0.0, 0.2, 0.5, 1.0, 1.5]
    found = [ta.evaluate(encoder - a * tau, tasks, "validation") for a in alphas]
    kept = [i for i, each in enumerate(found) if each["two"] >= keep * found[0]["two"] - 1e-9]
    best = min(kept, key=lambda i: found[i]["one"])
    assert ta.choose_negation(encoder, tau, *tasks, keep, alphas) == alphas[best]


def test_an_alpha_at_the_end_of_its_grid_is_said(encoder, tasks):
    taus = [ta.TaskVector.load(tiny.shared_vector("nonlinear", task.name)) for task in tasks]
    with pytest.warns(UserWarning, match=r"α = 0.01 is the largest of the grid"):
        ta.choose_alpha(encoder, ta.merge(taus), tasks, taus, [0.0, 0.01])


@pytest.mark.parametrize("mode", ["nonlinear", "ntk"])
@pytest.mark.parametrize("scale", [1e23, 1e30, 1e38])  # the norm, f_lin's features, f's
def test_numbers_that_overflow_are_no_accuracy(encoder, tasks, mode, scale):
    tau = ta.TaskVector.load(tiny.shared_vector(mode, "one"))
    huge = ta.TaskVector({"proj": scale * tau["proj"].sign()}, mode, tau.linearized, tau.base)
    with pytest.raises(ta.UserError, match="not finite at α = 1"):
        ta.evaluate(encoder + huge, tasks)
    with pytest.raises(ta.UserError, match="not finite"):
        ta.disentanglement(encoder, [huge, huge], tasks, samples=8, points=3, progress=SILENT)


@pytest.mark.parametrize("method", [m.name for m in ta.merging_methods() if m.needs == "vectors"])
@pytest.mark.parametrize("mode", ["attention", "ntk"])
def test_any_merging_method_gives_a_vector_that_is_evaluated(encoder, tasks, mode, method):
    taus = [ta.TaskVector.load(tiny.shared_vector(mode, task.name)) for task in tasks]
    names = [task.name for task in tasks]
    merged = ta.merge(taus, method, tasks=names)
    again, _ = merge_vectors(taus, method, tasks=names)[::-1]
    assert isinstance(merged, ta.TaskVector) and merged.keys() == taus[0].keys()
    assert all(torch.equal(merged[name], again[name]) for name in merged.keys())
    assert (merged.mode, merged.linearized, merged.base) == (mode, mode == "ntk", encoder.base)
    alpha = ta.choose_alpha(encoder, merged, tasks, taus, alphas=method)
    start, stop, _ = next(m for m in ta.merging_methods() if m.name == method).grid
    assert start <= alpha <= stop
    assert set(ta.evaluate(encoder + alpha * merged, tasks)) == set(names)


def test_a_merging_method_that_is_none_or_needs_data_is_a_sentence(tasks):
    tau = ta.TaskVector.load(tiny.shared_vector("attention", "one"))
    for wrong, said in (
        (lambda: ta.merge([tau], "tie"), r"no merging method 'tie' \(did you mean 'ties'"),
        (lambda: ta.merge([tau], "ties", kepp=1), r"no option 'kepp' \(did you mean 'keep'"),
        (lambda: ta.merge([tau], "ties", keep=2), "keep of the merging method ties must be"),
        (lambda: ta.merge([tau], "regmean"), "regmean needs unlabelled data"),
    ):
        with pytest.raises(ta.UserError, match=said):
            wrong()


def test_a_vector_knows_its_task_and_is_refused_beside_another(encoder, tasks, tmp_path):
    taus = [ta.TaskVector.load(tiny.shared_vector("attention", task.name)) for task in tasks]
    assert [tau.task for tau in taus] == ["one", "two"] and "(one, attention" in repr(taus[0])
    taus[0].save(tmp_path / "tau.safetensors")
    assert ta.TaskVector.load(tmp_path / "tau.safetensors").task == "one"
    assert ta.merge(taus).task == (taus[0] + taus[1]).task == "" and (2 * taus[0]).task == "one"
    swapped = taus[::-1]
    for wrong in (
        lambda: ta.choose_alpha(encoder, ta.merge(taus), tasks, swapped),
        lambda: ta.disentanglement(encoder, swapped, tasks),
        lambda: ta.choose_negation(encoder, taus[1], *tasks),
    ):
        with pytest.raises(ta.UserError, match="The vector of task two stands beside task one"):
            wrong()


def test_a_saved_vector_that_was_changed_is_refused(encoder, tmp_path):
    path = tmp_path / "tau.safetensors"
    ta.TaskVector.load(tiny.shared_vector("attention", "one")).save(path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(ta.UserError, match="is not as it was saved"):
        ta.TaskVector.load(path)


def test_a_folder_under_the_name_of_a_task_is_said(encoder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapes").mkdir()
    with pytest.warns(UserWarning, match=r"shapes is taken for a name of config/tasks.*\./shapes"):
        assert not is_path("tasks", "shapes")
    assert is_path("tasks", "./shapes") and not is_path("tasks", "numbers")


def test_every_merging_method_says_what_it_takes():
    said = {method.name: repr(method) for method in ta.merging_methods()}
    assert "keep=0.2: share of the entries" in said["ties"] and "2306.01708" in said["ties"]
    assert all("normalize=False" in text and "α from" in text for text in said.values())


def test_another_kind_of_value_is_named(encoder, tasks, tmp_path):
    tau = ta.TaskVector.load(tiny.shared_vector("nonlinear", "one"))
    for wrong, said in (
        (lambda: ta.finetune("numbers"), "load_task gives the Task that is needed here; found"),
        (lambda: ta.evaluate(encoder, ["numbers"]), "load_task gives the Task"),
        (lambda: ta.evaluate("embedded-small", tasks), "load_encoder gives the Encoder"),
        (lambda: ta.choose_alpha(encoder, tau, tasks, ["a", "b"]), "finetune gives the TaskVector"),
        (lambda: ta.merge(["a.safetensors"]), "finetune gives the TaskVector"),
        (lambda: ta.finetune(tasks[0], mode=None), "mode must be a name"),
        (lambda: ta.finetune(tasks[0], micro_batch=0), "micro_batch must be a whole number"),
        (lambda: ta.load_encoder("embedded-small", device="gpu"), "no device 'gpu' on this"),
        (lambda: encoder.to("cuda:99"), "no device 'cuda:99' on this"),
        (lambda: ta.load_task("numbers", "embedded-small"), "load_encoder gives the encoder"),
        (lambda: ta.load_task("numbers", encoder + tau), "was added to this tiny"),
        (lambda: ta.load_task(4, encoder), "A task is a name or a path"),
        (lambda: ta.load_encoder(3), "An encoder is a name or a folder"),
        (lambda: ta.TaskVector.load("none"), "There is no file 'none' of a task vector"),
        (lambda: ta.choose_alpha(encoder, tau, tasks[:1], [tau], 0.5), "alphas must be finite"),
        (lambda: ta.choose_negation(encoder, tau, *tasks, keep=2), "keep must be a share"),
        (lambda: ta.merge([tau], "dare", seed=-1), "seed must be a whole number"),
        (lambda: ta.merge([tau], "dare", tasks="a"), "tasks is a list of names"),
        (lambda: ta.merge([float("nan") * tau]), "not finite"),
        (lambda: tau.to("cuda:99"), "no device 'cuda:99' on this"),
        (lambda: tau.save(tmp_path), "is no name of a file"),
    ):
        with pytest.raises(ta.UserError, match=said):
            wrong()
    assert len({tasks[0], tasks[1], encoder}) == 3


def test_a_linearized_vector_is_evaluated_through_f_lin(encoder, tasks):
    """f(θ0 + τ) is another function: with a large τ, its accuracies differ."""
    tau = 40.0 * ta.TaskVector.load(tiny.shared_vector("ntk", "one"))
    as_f = ta.TaskVector(tau.tensors, "ntk", False, tau.base)
    assert (encoder + tau).tau.linearized
    assert ta.evaluate(encoder + tau, tasks) != ta.evaluate(encoder + as_f, tasks)


def test_a_vector_that_is_saved_is_the_same_again(tmp_path, encoder):
    tau = ta.TaskVector.load(tiny.shared_vector("ntk", "one"))
    tau.save(tmp_path / "tau.safetensors")
    again = ta.TaskVector.load(tmp_path / "tau.safetensors")
    assert (again.mode, again.linearized, again.base) == ("ntk", True, encoder.base)
    assert all(torch.equal(again[name], tau[name]) for name in tau.keys())
    assert repr(again) == repr(tau) and "ntk" in repr(tau) and encoder.base[:8] in repr(tau)


def test_fine_tuned_weights_are_no_task_vector():
    """Their names, shapes and header are those of the vector: θ0 + θ_t would be evaluated."""
    with pytest.raises(ta.UserError, match="holds no task vector"):
        ta.TaskVector.load(tiny.shared_finetuned("attention", "one"))


def test_adding_nothing_keeps_the_mode(encoder):
    tau, nothing = ta.TaskVector.load(tiny.shared_vector("ntk", "one")), encoder.tau
    for found in (tau + nothing, nothing + tau):
        assert (found.mode, found.linearized, found.base) == ("ntk", True, encoder.base)


def test_plus_and_minus_give_encoders_again(encoder):
    tau = ta.TaskVector.load(tiny.shared_vector("attention", "one"))
    there = encoder + 0.5 * tau
    for name in encoder.theta0:
        expected = encoder.theta0[name] + 0.5 * tau[name] if name in tau.keys() else None
        assert torch.equal(
            there.theta[name], encoder.theta0[name] if expected is None else expected
        )
    back = there - tau / 2
    assert all(torch.allclose(back.theta[k], encoder.theta0[k], atol=1e-7) for k in back.theta)


def test_a_vector_that_does_not_say_what_it_is_of_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"proj": torch.ones(2)}, tmp_path / "plain.safetensors")
    with pytest.raises(ta.UserError, match="mode and base"):
        ta.TaskVector.load(tmp_path / "plain.safetensors")


def test_numbers_that_are_not_finite_are_refused(encoder):
    with pytest.raises(ta.UserError, match="not finite"):
        encoder + float("nan") * foreign(encoder)


def test_a_name_of_config_is_no_folder_of_that_name(encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("TASK_ARITHMETIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sentiment").mkdir()
    with pytest.raises(ta.UserError, match="is of texts"):
        ta.load_task("sentiment", encoder)
    with pytest.raises(ta.UserError, match="no path"):
        ta.load_task("./sentiment", encoder, name="../../mine")
    assert {path.name for path in tmp_path.iterdir()} == {"sentiment"}


def foreign(encoder, **changes):
    tau = ta.TaskVector.load(tiny.shared_vector("nonlinear", "one"))
    given = {"tensors": tau.tensors, "mode": "nonlinear", "linearized": False, "base": encoder.base}
    return ta.TaskVector(**{**given, **changes})


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"base": "f" * 64}, "of another encoder"),
        ({"base": "", "tensors": {"mine": torch.ones(2)}}, "mine"),
        ({"base": "", "tensors": {"proj": torch.ones(2)}}, "proj of shape"),
    ],
)
def test_a_vector_of_another_encoder_is_refused(encoder, changes, said):
    with pytest.raises(ta.UserError, match=said):
        encoder + foreign(encoder, **changes)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"base": "f" * 64}, "different encoders"),
        ({"linearized": True, "mode": "ntk"}, "linearized"),
        ({"base": "", "tensors": {"proj": torch.ones(2)}}, "different modes or encoders"),
    ],
)
def test_vectors_that_do_not_belong_together_are_not_added(encoder, changes, said):
    one, other = foreign(encoder), foreign(encoder, **changes)
    for add in (lambda: one + other, lambda: one - other, lambda: ta.merge([one, other])):
        with pytest.raises(ta.UserError, match=said):
            add()
    with pytest.raises(ta.UserError, match="at least one"):
        ta.merge([])


def test_wrong_names_are_one_sentence(encoder, tasks, tmp_path, monkeypatch):
    monkeypatch.setenv("TASK_ARITHMETIC_CACHE", str(tmp_path / "cache"))
    tau, as_ntk = foreign(encoder), foreign(encoder, linearized=True, mode="ntk")
    attention = foreign(encoder, mode="attention")
    for wrong, said in (
        (lambda: ta.load_encoder("embeded-small"), "embedded-small"),
        (lambda: ta.load_encoder(tmp_path), "no folder of an encoder"),
        (lambda: ta.load_task("numbrs", encoder), "numbers"),
        (lambda: ta.load_task(tmp_path / "none", encoder), "where nothing is"),
        (lambda: ta.load_task("sentiment", encoder), "is of texts"),
        (lambda: ta.load_task("numbers", encoder, templates=["no braces"]), "exactly one"),
        (lambda: ta.finetune(tasks[0], "atention"), "attention"),
        (lambda: ta.finetune(tasks[0], rate=1), "rate"),
        (lambda: ta.choose_alpha(encoder, foreign(encoder), tasks, []), "each task its own"),
        (lambda: ta.disentanglement(encoder, [], tasks), "two"),
        (lambda: ta.disentanglement(encoder, [tau, tau], tasks, points=1), "2 points"),
        (lambda: ta.disentanglement(encoder + tau, [tau, tau], tasks), "already"),
        (lambda: ta.choose_alpha(encoder + tau, tau, tasks, [tau, tau]), "already"),
        (lambda: ta.choose_alpha(encoder, tau, tasks, [tau, tau], alphas=[]), "at least one"),
        (lambda: ta.choose_alpha(encoder, tau, tasks, [tau, as_ntk]), "linearized"),
        (lambda: ta.choose_alpha(encoder, tau, tasks, [tau, attention]), "different modes"),
        (lambda: ta.finetune(tasks[0], steps=0), "steps"),
        (lambda: ta.finetune(tasks[0], steps=3, warmup_steps=4), "warmup_steps"),
        (lambda: ta.finetune(tasks[0], steps=3, crop_scale=[1.0, 0.5]), "smallest, largest"),
        (lambda: ta.finetune(tasks[0], steps=3, schedule="linear"), "schedule"),
        (lambda: ta.finetune(tasks[0], steps=3, seed=-1), "seed"),
        (lambda: ta.finetune(tasks[0], steps=3, learning_rate="fast"), "learning_rate"),
        (lambda: ta.evaluate(encoder, tasks, "val"), "no split 'val'"),
        (lambda: ta.evaluate(encoder, []), "at least one"),
        (lambda: ta.evaluate(encoder, [tasks[0], tasks[0]]), "Two tasks are called one"),
        (lambda: ta.load_task("numbers", encoder, limit={"tset": 5}), "limit has tset"),
    ):
        with pytest.raises(ta.UserError, match=said):
            wrong()


@pytest.mark.parametrize("key", ["base", "seal"])  # the seal: its head, its pixels
def test_a_task_of_another_encoder_is_refused(encoder, tasks, key):
    other = replace(encoder, **{key: "f" * 64})
    with pytest.raises(ta.UserError, match="another encoder"):
        ta.evaluate(other, tasks)


def test_disentanglement_is_zero_where_the_other_coefficient_is(encoder, tasks):
    taus = [ta.TaskVector.load(tiny.shared_vector("nonlinear", task.name)) for task in tasks]
    found = ta.disentanglement(
        encoder, taus, tasks, low=-1, high=1, points=3, samples=8, progress=SILENT
    )
    for errors in (found.representation, found.classification):
        assert errors.shape == (3, 3) and errors[1, 1] == 0 and np.all(errors >= 0)
    assert found.representation[2, 2] > 0
    figure = found.plot()
    assert [cell.get_title() for cell in figure.axes[:2]] == ["nonlinear", ""]


def test_the_package_is_imported_at_once_and_without_torch():
    code = (
        "import sys, time; start = time.perf_counter(); import task_arithmetic as ta;"
        "assert time.perf_counter() - start < 1 and 'torch' not in sys.modules;"
        "assert set(ta.__all__) <= set(dir(ta)); import torch;"
        "assert all(getattr(ta, name) for name in ta.__all__)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_quickstart_runs_in_an_empty_folder(root, tmp_path, monkeypatch):
    monkeypatch.setenv("TASK_ARITHMETIC_CACHE", str(tmp_path / "cache"))
    command = [sys.executable, str(root / "examples/quickstart.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "disentanglement.png").is_file()
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines() if "{" in line)
    pretrained = eval(said["pretrained"])
    unified = eval(next(text for name, text in said.items() if name.startswith("unified")))
    assert all(unified[task] > pretrained[task] + 0.05 for task in pretrained)
    assert "No pretrained weights" not in done.stderr


def test_texts_are_merged_as_images_are(tmp_path, monkeypatch):
    monkeypatch.setenv("TASK_ARITHMETIC_CACHE", str(tmp_path / "cache"))
    t5 = ta.load_encoder("embedded-t5")
    few = {"train": 64, "validation": 24, "test": 24}
    tasks = [ta.load_task(name, t5, limit=few) for name in ("sentiment", "paraphrase")]
    recipe = {"steps": 4, "batch_size": 16, "learning_rate": 1e-3, "progress": SILENT}
    taus = [ta.finetune(task, "attention", **recipe) for task in tasks]
    alpha = ta.choose_alpha(t5, ta.merge(taus), tasks, taus, alphas=[0.0, 0.5, 1.0])
    found = ta.evaluate(t5 + alpha * ta.merge(taus), tasks)
    assert set(found) == {"sentiment", "paraphrase"} and all(0 <= v <= 1 for v in found.values())
    with pytest.raises(ta.UserError, match="encoder of images"):
        ta.disentanglement(t5, taus, tasks)


def test_a_task_without_the_encoders_prompt_set_is_told_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").mkdir()
    prompts = {"mine": {"input": "{text}", "labels": ["bad", "good"]}}
    t5 = replace(ta.load_encoder("embedded-t5"), name="t5", prompts="embedded")
    with pytest.raises(ta.UserError, match="t5 reads embedded: name a prompt set .* embedded, or"):
        ta.load_task("./rows", t5, texts=["text"], prompts=prompts, metric="exact_match")
    with pytest.raises(ta.UserError, match="none in particular: give a task with one, or"):
        both = prompts | {"other": prompts["mine"]}
        own = {"texts": ["text"], "metric": "exact_match"}
        ta.load_task("./rows", replace(t5, prompts=""), prompts=both, **own)


@pytest.mark.parametrize("name", ["embedded-small", "embedded-t5"])
def test_an_encoder_is_the_same_wherever_its_checkpoint_lies(name, tmp_path):
    """Vectors go with it: their base is a hash of θ0 alone."""
    copied = shutil.copytree(Path(embedded.__file__).parent / "encoders" / name, tmp_path / "mine")
    here, there = ta.load_encoder(name), ta.load_encoder(copied)
    assert here.base == there.base
