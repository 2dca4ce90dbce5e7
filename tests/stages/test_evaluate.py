"""Accuracies of individual, unified and negated models, and the choice of α."""

import copy
import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from test_encoder import open_clip_jvp

from task_arithmetic.core.addition import choose_alpha
from task_arithmetic.core.negation import choose_negation
from task_arithmetic.core.precision import in_parts
from task_arithmetic.core.vectors import TaskVector, moved_names
from task_arithmetic.errors import UserError
from task_arithmetic.files.manifest import sample_indices
from task_arithmetic.files.metrics import write_rows
from task_arithmetic.files.tensors import read_tensors, write_tensors
from task_arithmetic.stages import evaluate
from task_arithmetic.stages.addition import addition
from task_arithmetic.stages.evaluate import EvaluationSettings, read_vector
from task_arithmetic.stages.negation import negation
from task_arithmetic.stages.single_task import kernel, pretrained, single_task
from task_arithmetic.stages.vector import cosine
from task_arithmetic.vision import modality as vision
from task_arithmetic.vision.modality import read_encoder

ALPHAS = {"start": 0.0, "stop": 1.0, "step": 0.25}
GRID = [0.0, 0.25, 0.5, 0.75, 1.0]
TASKS = ("one", "two")
MODES = list(tiny.MODES)


# --- Naive versions: open_clip's module, one copy for each model, numpy for the rest -------------


def images_of(task, split, folder=None):
    folder = folder or tiny.workspace() / "suite" / "data" / task
    images = np.load(folder / f"{split}_images.npy").astype(np.float32) / 255
    pixels = (images - tiny.PREPROCESS["mean"]) / tiny.PREPROCESS["std"]
    labels = np.load(folder / f"{split}_labels.npy")
    return torch.from_numpy(pixels).float().permute(0, 3, 1, 2), labels


def summed(mode, tasks, weights=None):
    """Σ w_t τ_t as name → tensor."""
    found = {}
    for task, weight in zip(tasks, weights or [1.0] * len(tasks), strict=True):
        for name, tensor in read_tensors(tiny.shared_vector(mode, task)).items():
            found[name] = found.get(name, 0) + weight * tensor
    return found


@torch.no_grad()
def naive_features(tau, alpha, pixels, linearized):
    """f(x; θ0 + α τ), or f_lin, through open_clip's module."""
    model = tiny.shared_model()
    if linearized:
        value, tangent = open_clip_jvp(model, {k: alpha * v for k, v in tau.items()}, pixels)
        return value + tangent
    model = copy.deepcopy(model)
    for name, parameter in model.visual.named_parameters():
        if name in tau:
            parameter.add_(alpha * tau[name])
    return model.visual(pixels)


def naive_accuracy(tau, alpha, task, split, linearized, folder=None):
    pixels, labels = images_of(task, split, folder)
    head = read_tensors(tiny.workspace() / "suite" / "heads" / f"{task}.safetensors")["head"]
    features = naive_features(tau, alpha, pixels, linearized).numpy().astype(float)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return float(np.mean((features @ head.numpy().T.astype(float)).argmax(1) == labels))


def values(*paths, **where):
    """Rows of metrics files as {(task, split, alpha): value}."""
    frame = tiny.frame_of(*paths)
    for column, wanted in where.items():
        frame = frame[frame[column] == wanted]
    keys = zip(frame.task, frame.split, frame.alpha.fillna(-1), strict=True)
    found = dict(zip(keys, frame.value, strict=True))
    assert len(found) == len(frame)  # no row twice
    return found


def settings(mode="nonlinear", **more):
    return {"linearized": tiny.MODES[mode]["linearized"], "limit": None, **more}


# --- Accuracies ----------------------------------------------------------------------------------


def test_pretrained_accuracy_is_zero_shot_on_every_task_and_split(tmp_path):
    arguments = tiny.common(("one", "two", "three"), vectors=False)
    paths = tiny.each(pretrained, arguments, tmp_path / "a.csv", settings={"limit": None})
    found = values(*paths, metric="pretrained_accuracy", mode="pretrained")
    assert found == {
        (task, split, -1): naive_accuracy({}, 0, task, split, False)
        for task in ("one", "two", "three")
        for split in ("validation", "test")
    }
    assert tiny.frame_of(*paths)["seed"].isna().all()


@pytest.mark.parametrize("mode", MODES)
def test_single_task_accuracy_is_that_of_the_individual_model(mode, tmp_path):
    arguments = tiny.common(mode=mode)
    paths = tiny.each(single_task, arguments, tmp_path / "a.csv", settings=settings(mode))
    found = values(*paths, metric="single_task_accuracy", mode=mode, seed=0)
    assert found == {
        (task, split, 1.0): naive_accuracy(summed(mode, [task]), 1, task, split, mode == "ntk")
        for task in TASKS
        for split in ("validation", "test")
    }


@pytest.mark.parametrize("mode", ["nonlinear", "attention"])
@pytest.mark.parametrize("given", [{}, {"linearized": False}], ids=["", "mode not linearized"])
def test_the_kernel_test_evaluates_the_same_vectors_through_f_lin(mode, given, tmp_path):
    """Whatever the settings say: it is what the test is."""
    arguments = tiny.common(mode=mode)
    for i, task in enumerate(TASKS):  # four times as long, so that f and f_lin differ
        arguments["vectors"][i] = tmp_path / task
        write_tensors(tmp_path / task, summed(mode, [task], [4.0]), {"stage": "vector"})
    given = {"limit": None, **given}
    paths = tiny.each(kernel, arguments, tmp_path / "a.csv", settings=given)
    found = values(*paths, metric="posthoc_accuracy", mode=mode)
    through_f, through_f_lin = (
        {
            (task, split, 1.0): naive_accuracy(summed(mode, [task]), 4.0, task, split, linearized)
            for task in TASKS
            for split in ("validation", "test")
        }
        for linearized in (False, True)
    )
    assert found == through_f_lin != through_f


def test_a_limit_evaluates_that_many_images_of_a_split(tmp_path):
    arguments = tiny.common(("one",), vectors=False)
    limit = {"train": 1, "validation": 5, "test": 7}
    paths = tiny.each(pretrained, arguments, tmp_path / "a.csv", settings={"limit": limit})
    for (task, split, _), value in values(*paths).items():
        pixels, labels = images_of(task, split)
        head = read_tensors(arguments["heads"][0])["head"]
        logits = naive_features({}, 0, pixels, False) @ head.T
        chosen = sample_indices(len(labels), limit[split])
        assert value == (logits.argmax(1).numpy() == labels)[chosen].mean()


@pytest.mark.parametrize("linearized", [False, True], ids=["f", "f_lin"])
def test_accuracies_do_not_depend_on_batches_and_chunks(linearized, monkeypatch):
    suite = tiny.common()
    files = zip(suite["heads"], suite["data_dirs"], strict=True)
    files = dict(zip(suite["tasks"], files, strict=True))
    encoder, splits = evaluate.load(suite["encoder_dir"], files, EvaluationSettings(), "cpu")
    tau = read_vector(tiny.shared_vector("nonlinear", "one"))
    arguments = encoder.theta0, tau, GRID, splits["test"], linearized
    whole = encoder.modality.accuracies(*arguments)
    monkeypatch.setattr(vision, "BATCH", 7)
    monkeypatch.setattr(vision, "CHUNK_BYTES", 50_000)
    small = encoder.modality.accuracies(*arguments)
    assert whole.keys() == small.keys() == {"one", "two"}
    for task in whole:
        assert whole[task].tolist() == small[task].tolist()


@pytest.mark.parametrize("linearized", [False, True], ids=["f", "f_lin"])
@pytest.mark.parametrize(("a", "b"), [("nonlinear", "attention"), ("attention", "nonlinear")])
def test_a_grid_with_an_offset_is_one_alpha_at_a_time_in_one_walk(linearized, a, b, monkeypatch):
    """θ0 + A + α B, whose A and B have other tensors than each other."""
    suite = tiny.common()
    files = zip(suite["heads"], suite["data_dirs"], strict=True)
    files = dict(zip(suite["tasks"], files, strict=True))
    how = EvaluationSettings(linearized=linearized)
    encoder, splits = evaluate.load(suite["encoder_dir"], files, how, "cpu")
    offset, tau = (
        TaskVector(summed(mode, [task], [weight]), base="b")
        for mode, task, weight in ((a, "one", 1.0), (b, "two", 8.0))
    )
    assert offset.keys() != tau.keys()
    of = encoder.theta0, tau, GRID, splits["test"], linearized, "float32"
    monkeypatch.setattr(vision, "BATCH", 7)
    monkeypatch.setattr(vision, "CHUNK_BYTES", 50_000)
    plain = encoder.modality.accuracies(*of)
    read = []
    monkeypatch.setattr(vision.Vision, "pixels", watched(vision.Vision.pixels, read))
    tangents = []
    linear = watched(vision.Vision.features_linearized, tangents)
    monkeypatch.setattr(vision.Vision, "features_linearized", linear)
    found = encoder.modality.accuracies(*of, offset)
    assert len(read) == sum(-(-len(split.labels) // 7) for split in splits["test"].values())
    assert len(tangents) == (2 * len(read) if linearized else 0)
    for task in TASKS:
        for i, alpha in enumerate(GRID):
            alone = offset + alpha * tau
            each = naive_accuracy(alone.tensors, 1, task, "test", linearized)
            assert found[task][i] == each
            one = evaluate.accuracies(encoder, tau, [alpha], splits["test"], how, offset)
            assert one[task].tolist() == [each]
    assert any(found[task].tolist() != plain[task].tolist() for task in TASKS)
    assert len({tuple(found[task][i] for task in TASKS) for i in range(len(GRID))}) > 1


def watched(function, calls: list):
    """The function, which notes each call."""

    def noting(*of, **named):
        calls.append(of)
        return function(*of, **named)

    return noting


# --- Task addition -------------------------------------------------------------------------------


def unify(tmp_path, mode, alphas=None, name="addition", data_dirs=None, **more):
    """Single-task accuracy and addition of a mode; returns the latter's path."""
    own = [tmp_path / f"own-{mode}-{task}.csv" for task in TASKS]
    output, arguments = tmp_path / f"{name}-{mode}.csv", tiny.common(mode=mode)
    if not own[0].exists():
        own_path = tmp_path / f"own-{mode}.csv"
        assert own == tiny.each(single_task, arguments, own_path, settings=settings(mode))
    arguments["data_dirs"] = data_dirs or arguments["data_dirs"]
    addition(
        **arguments,
        settings=settings(mode, alphas=alphas or ALPHAS, **more),
        single_task=own,
        output=output,
    )
    return output


@pytest.mark.parametrize("mode", MODES)
def test_unified_accuracy_is_that_of_theta0_plus_alpha_times_the_sum(mode, tmp_path):
    found = values(unify(tmp_path, mode), metric="unified_accuracy", mode=mode, seed=0)
    tau = summed(mode, TASKS)
    chosen = {alpha for _, split, alpha in found if split == "test"}
    assert len(chosen) == 1
    assert found == {
        (task, split, alpha): naive_accuracy(tau, alpha, task, split, mode == "ntk")
        for task in TASKS
        for split, alphas in (("validation", GRID), ("test", chosen))
        for alpha in alphas
    }


@pytest.mark.parametrize("mode", MODES)
def test_normalized_accuracy_is_relative_to_the_modes_own_individual_models(mode, tmp_path):
    path = unify(tmp_path, mode)
    unified = values(path, metric="unified_accuracy")
    normalized = values(path, metric="normalized_accuracy")
    assert normalized.keys() == unified.keys()
    for (task, split, alpha), value in unified.items():
        own = naive_accuracy(summed(mode, [task]), 1, task, split, mode == "ntk")
        assert normalized[task, split, alpha] == pytest.approx(value / own, rel=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_the_chosen_alpha_has_the_best_mean_normalized_validation_accuracy(mode, tmp_path):
    normalized = values(unify(tmp_path, mode), metric="normalized_accuracy")
    means = [np.mean([normalized[task, "validation", a] for task in TASKS]) for a in GRID]
    (chosen,) = {alpha for _, split, alpha in normalized if split == "test"}
    assert chosen == GRID[means.index(max(means))]


def write_own(folder, rows):
    """What `unify` takes for the single-task accuracies of mode nonlinear."""
    for task in TASKS:
        own = [row for row in rows if row["task"] == task]
        write_rows(folder / f"own-nonlinear-{task}.csv", own, metric="single_task_accuracy")


@pytest.mark.parametrize("easy", TASKS)
def test_alpha_is_chosen_by_normalized_accuracy_on_the_split_it_is_normalized_on(easy, tmp_path):
    """A task whose own accuracy is small weighs more; test accuracies must not weigh at all."""
    own = {(t, s): 0.9 for t in TASKS for s in ("validation", "test")}
    for task in TASKS:
        own[task, "validation"] = 0.9 if task == easy else 0.01
        own[task, "test"] = 0.01 if task == easy else 0.8
    write_own(tmp_path, [{"task": t, "split": s, "value": v} for (t, s), v in own.items()])
    path = unify(tmp_path, "nonlinear")
    unified = values(path, metric="unified_accuracy")
    for key, value in values(path, metric="normalized_accuracy").items():
        assert value == pytest.approx(unified[key] / own[key[:2]], rel=1e-12)
    (hard,) = set(TASKS) - {easy}
    at = [unified[hard, "validation", alpha] for alpha in GRID]
    (chosen,) = {alpha for _, split, alpha in unified if split == "test"}
    assert at[GRID.index(chosen)] == max(at)


def test_posthoc_unified_models_go_through_f_lin(tmp_path):
    """A non-linearly trained τ, evaluated through f_lin, normalized by posthoc_accuracy."""
    arguments = tiny.common()
    own = tiny.each(kernel, arguments, tmp_path / "own.csv", settings={"limit": None})
    arguments["mode"] = "posthoc"
    posthoc = {"linearized": True, "limit": None, "alphas": ALPHAS}
    addition(**arguments, settings=posthoc, single_task=own, output=tmp_path / "a.csv")
    unified = values(tmp_path / "a.csv", metric="unified_accuracy", mode="posthoc")
    tau = summed("nonlinear", TASKS)
    for (task, split, alpha), value in unified.items():
        assert value == naive_accuracy(tau, alpha, task, split, True)
    normalized = values(tmp_path / "a.csv", metric="normalized_accuracy")
    for (task, split, alpha), value in unified.items():
        expected = value / naive_accuracy(summed("nonlinear", [task]), 1, task, split, True)
        assert normalized[task, split, alpha] == pytest.approx(expected, rel=1e-12)


def poisoned(tmp_path, tasks):
    """Copies of data folders whose test labels are all wrong."""
    folders = []
    for task in tasks:
        folder = tmp_path / "poisoned" / task
        if not folder.exists():
            shutil.copytree(tiny.workspace() / "suite" / "data" / task, folder)
            labels = np.load(folder / "test_labels.npy")
            shift = np.random.default_rng(0).integers(1, len(tiny.CLASSES), len(labels))
            np.save(folder / "test_labels.npy", (labels + shift) % len(tiny.CLASSES))
            tiny.reseal(folder)
        folders.append(folder)
    return folders


@pytest.mark.parametrize("mode", MODES)
def test_poisoned_test_labels_do_not_change_the_alpha_of_addition(mode, tmp_path):
    clean = values(unify(tmp_path, mode), metric="unified_accuracy")
    poison = unify(tmp_path, mode, name="poison", data_dirs=poisoned(tmp_path, TASKS))
    poison = values(poison, metric="unified_accuracy")
    assert poison.keys() == clean.keys()  # the test rows' α is among the keys
    for key in clean:
        if key[1] == "validation":
            assert poison[key] == clean[key]
        else:
            assert poison[key] != clean[key]


def test_validation_labels_do_change_the_alpha_of_addition(tmp_path):
    """So that the test above can fail."""
    clean = values(unify(tmp_path, "nonlinear"), metric="unified_accuracy")
    (before,) = {alpha for _, split, alpha in clean if split == "test"}
    wanted, folders = 1.0 if before < 0.5 else 0.0, []
    for task in TASKS:
        folder = Path(shutil.copytree(tiny.workspace() / "suite" / "data" / task, tmp_path / task))
        pixels, _ = images_of(task, "validation")
        head = read_tensors(tiny.workspace() / "suite" / "heads" / f"{task}.safetensors")["head"]
        features = naive_features(summed("nonlinear", TASKS), wanted, pixels, False)
        np.save(folder / "validation_labels.npy", (features @ head.T).argmax(1).numpy())
        tiny.reseal(folder)
        folders.append(folder)
    other = unify(tmp_path, "nonlinear", name="other", data_dirs=folders)
    other = values(other, metric="unified_accuracy")
    (after,) = {alpha for _, split, alpha in other if split == "test"}
    assert abs(after - wanted) <= 0.25 and after != before


def test_the_same_addition_twice_gives_the_same_file(tmp_path):
    one, two = unify(tmp_path, "ntk"), unify(tmp_path, "ntk", name="again")
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("lost", ["two", "zero"])
def test_an_own_accuracy_that_cannot_normalize_is_one_sentence(lost, tmp_path):
    rows = [
        {"task": task, "split": split, "value": 0.5}
        for task in TASKS
        for split in ("validation", "test")
    ]
    if lost == "two":
        rows = [row for row in rows if row["task"] == "one"]
    else:
        rows[2]["value"] = 0.0
    write_own(tmp_path, rows)
    why = "no row of it" if lost == "two" else "0 of [0-9]+ validation images right"
    said = rf"-two.csv has no validation accuracy above 0 for two \({why}\)"
    with pytest.raises(UserError, match=said):
        unify(tmp_path, "nonlinear")


def test_vectors_of_different_modes_are_never_added(tmp_path):
    arguments = tiny.common(mode="nonlinear")
    own = tiny.each(single_task, arguments, tmp_path / "own.csv", settings=settings())
    arguments["vectors"] = [arguments["vectors"][0], tiny.shared_vector("attention", "two")]
    with pytest.raises(UserError, match="different modes or encoders"):
        addition(
            **arguments,
            settings=settings(alphas=ALPHAS),
            single_task=own,
            output=tmp_path / "a.csv",
        )
    assert not (tmp_path / "a.csv").exists()


# --- Task negation -------------------------------------------------------------------------------


def negate(tmp_path, mode, keep=0.95, name="negation", data_dirs=None, control_data_dir=None):
    three, before = tiny.common(("three",), vectors=False), tmp_path / "before-three.csv"
    if not before.exists():
        tiny.each(pretrained, three, tmp_path / "before.csv", settings={"limit": None})
    arguments = tiny.common(mode=mode)
    arguments["data_dirs"] = data_dirs or arguments["data_dirs"]
    return tiny.each(
        negation,
        arguments,
        tmp_path / f"{name}-{mode}.csv",
        pretrained=before,
        control="three",
        control_head=three["heads"][0],
        control_data_dir=control_data_dir or three["data_dirs"][0],
        settings=settings(mode, alphas=ALPHAS, keep=keep),
    )


@pytest.mark.parametrize("mode", MODES)
def test_negated_accuracy_is_that_of_theta0_minus_alpha_tau(mode, tmp_path):
    paths = negate(tmp_path, mode)
    target = values(*paths, metric="negated_accuracy", mode=mode, other_task="three")
    control = values(*paths, metric="control_accuracy", mode=mode, other_task="three")
    assert target.keys() == control.keys()
    assert {k for k in target if k[1] == "validation"} == {
        (task, "validation", alpha) for task in TASKS for alpha in GRID
    }
    for (task, split, alpha), value in target.items():
        tau = summed(mode, [task])
        assert value == naive_accuracy(tau, -alpha, task, split, mode == "ntk")
        at_control = naive_accuracy(tau, -alpha, "three", split, mode == "ntk")
        assert control[task, split, alpha] == at_control


@pytest.mark.parametrize("keep", [0.0, 0.6, 0.95])
@pytest.mark.parametrize("mode", MODES)
def test_the_negated_alpha_is_the_lowest_target_that_keeps_the_control(mode, keep, tmp_path):
    paths = negate(tmp_path, mode, keep)
    target = values(*paths, metric="negated_accuracy")
    control = values(*paths, metric="control_accuracy")
    before = naive_accuracy({}, 0, "three", "validation", False)
    for task in TASKS:
        best = None
        for alpha in GRID:
            if control[task, "validation", alpha] / before >= keep - 1e-12 and (
                best is None or target[task, "validation", alpha] < best[0]
            ):
                best = target[task, "validation", alpha], alpha
        assert [a for t, split, a in target if (t, split) == (task, "test")] == [best[1]]


@pytest.mark.parametrize("mode", MODES)
def test_poisoned_test_labels_do_not_change_the_alpha_of_negation(mode, tmp_path):
    clean = negate(tmp_path, mode, 0.5)
    one, two, three = poisoned(tmp_path, ("one", "two", "three"))
    poison = negate(tmp_path, mode, 0.5, "poison", [one, two], three)
    for metric in ("negated_accuracy", "control_accuracy"):
        before, after = values(*clean, metric=metric), values(*poison, metric=metric)
        assert before.keys() == after.keys()
        changed = [key for key in before if before[key] != after[key]]
        assert changed and {split for _, split, _ in changed} == {"test"}


def test_negation_needs_the_control_tasks_pretrained_accuracy(tmp_path):
    write_rows(
        tmp_path / "before-three.csv", [{"task": "one", "split": "validation", "value": 0.5}]
    )
    with pytest.raises(UserError, match="no validation accuracy of three"):
        negate(tmp_path, "attention")


# --- The two rules -------------------------------------------------------------------------------


def test_the_best_mean_wins_and_not_the_best_task():
    assert choose_alpha([0, 0.5, 1], [[0.5, 0.5], [0.8, 0.7], [0.0, 1.4]]) == 1


@pytest.mark.parametrize("means, chosen", [([0.3, 0.9, 0.9], 1), ([0.5, 0.5], 0), ([1, 0, 1], 0)])
def test_the_first_alpha_wins_a_tie(means, chosen):
    assert (
        choose_alpha(list(range(len(means))), np.repeat(np.array(means)[:, None], 3, 1)) == chosen
    )


@pytest.mark.parametrize(
    "target, control, chosen",
    [
        ([0.8, 0.5, 0.2, 0.1], [0.6, 0.59, 0.58, 0.3], 2),
        ([0.8, 0.5, 0.2, 0.1], [0.6, 0.3, 0.6, 0.3], 2),  # not monotone
        ([0.8, 0.2, 0.2, 0.1], [0.6, 0.6, 0.6, 0.0], 1),  # the first of a tie
        ([0.8, 0.9, 0.9, 0.9], [0.6, 0.6, 0.6, 0.6], 0),
        ([0.8, 0.1, 0.1, 0.1], [0.6, 0.5, 0.5, 0.5], 0),  # nothing else keeps
        ([0.8, 0.3, 0.1, 0.1], [0.6, 0.7, 0.5, 0.5], 1),  # better than before
    ],
)
def test_negation_takes_the_lowest_target_among_those_that_keep(target, control, chosen):
    assert choose_negation(target, control, 0.6, 0.95) == chosen


def test_an_alpha_that_keeps_exactly_the_share_is_kept():
    """In whole images: 0.95 · k / n is kept for every k and n, whatever floats make of it."""
    for count in (20, 100, 400, 1000, 5000):
        for before in range(20, count + 1, 20):
            exact = before * 19 // 20
            control = [before / count, exact / count, (exact - 1) / count]
            assert choose_negation([0.9, 0.5, 0.1], control, before / count, 0.95) == 1, before


def test_a_grid_on_which_nothing_is_kept_is_one_sentence():
    with pytest.raises(UserError, match="No α of the grid keeps 95% .* start at 0"):
        choose_negation([0.5, 0.4], [0.1, 0.1], 0.6, 0.95)


# --- Cosine similarity ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["nonlinear", "attention"])
def test_cosine_similarities_are_those_of_the_flat_vectors(mode, tmp_path):
    tasks = ["one", "two", "three"]
    arguments = tiny.common(tuple(tasks), mode)
    arguments = {k: arguments[k] for k in ("encoder", "mode", "seed", "tasks", "vectors")}
    cosine(**arguments, output=tmp_path / "a.csv")
    flat = {
        task: np.concatenate([t.double().numpy().ravel() for t in summed(mode, [task]).values()])
        for task in tasks
    }
    with open(tmp_path / "a.csv") as file:
        found = list(csv.DictReader(file))
    norms, rows = found[: len(tasks)], found[len(tasks) :]
    assert [(r["task"], r["other_task"], r["metric"]) for r in norms] == [
        (task, "", "vector_norm") for task in tasks
    ]
    for row in norms:
        assert float(row["value"]) == pytest.approx(np.linalg.norm(flat[row["task"]]), rel=1e-9)
    assert [(r["task"], r["other_task"]) for r in rows] == [(a, b) for a in tasks for b in tasks]
    for row in rows:
        a, b = flat[row["task"]], flat[row["other_task"]]
        expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        assert float(row["value"]) == pytest.approx(expected, abs=1e-9)
        assert (row["metric"], row["mode"]) == ("cosine_similarity", mode)


# --- Bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tensors, says",
    [
        ({"proj": (32, 8)}, r"has proj of shape \(32, 8\), not \(32, 16\)"),
        ({"visual.proj": (32, 16)}, "has unexpected visual.proj"),
    ],
    ids=["misshapen", "unknown"],
)
def test_a_vector_of_another_encoder_is_refused(tensors, says, tmp_path):
    zeros = {name: torch.zeros(shape) for name, shape in tensors.items()}
    write_tensors(tmp_path / "tau", zeros, {"stage": "vector"})
    arguments = tiny.common(("one",))
    arguments["vectors"] = [tmp_path / "tau"]
    with pytest.raises(UserError, match=f"tau {says}"):
        tiny.each(single_task, arguments, tmp_path / "a.csv", settings=settings())
    assert not list(tmp_path.glob("*.csv"))


def test_a_head_of_another_task_is_refused(tmp_path):
    write_tensors(tmp_path / "head", {"head": torch.ones(7, 16)}, {})
    arguments = tiny.common(("one",), vectors=False)
    arguments["heads"] = [tmp_path / "head"]
    with pytest.raises(UserError, match=r"head has head of shape \(7, 16\), not \(3, 16\)"):
        tiny.each(pretrained, arguments, tmp_path / "a.csv", settings={"limit": None})


# --- The GPU's memory, and precision -------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 3, 8])
def test_images_that_do_not_fit_at_once_are_evaluated_in_parts(most):
    def forward(pixels):
        if len(pixels) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return pixels.sum(1), 2 * pixels

    pixels = torch.randn(13, 4)
    total, doubled = in_parts(forward, pixels)
    assert torch.equal(total, pixels.sum(1)) and torch.equal(doubled, 2 * pixels)


def test_one_image_that_does_not_fit_is_one_sentence():
    def forward(pixels):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(UserError, match="One example alone does not fit into the GPU's memory"):
        in_parts(forward, torch.randn(5, 4))


EVERY_MODE = {  # and what a user may define: any tensors alone
    **{mode: definition["train"] for mode, definition in tiny.MODES.items()},
    "mlp": ["*.mlp.c_fc.weight", "*.mlp.c_proj.weight"],
    "biases": ["*.bias", "*_bias"],
    "first layer": ["transformer.resblocks.0.attn.in_proj_weight"],
    "norms": ["*.ln_1.weight", "ln_post.bias"],
    "patches": ["conv1.weight"],
    "positions": ["positional_embedding"],
}


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("patterns", EVERY_MODE.values(), ids=EVERY_MODE)
def test_f_lin_in_bf16_is_f_lin_rounded_whatever_moves(patterns, activation):
    """The tangent's residual stream stays float32, as the value's does."""
    encoder = read_encoder(tiny.shared_suite()["encoder_dir"])
    theta0, modality = encoder.theta0, encoder.modality
    modality = replace(modality, geometry=replace(modality.geometry, activation=activation))
    generator = torch.Generator().manual_seed(0)
    tau = {
        name: 0.01 * torch.randn(theta0[name].shape, generator=generator)
        for name in moved_names(theta0, patterns)
    }
    pixels = torch.randn(16, 3, 16, 16, generator=generator)

    def features(precision):
        return modality.features_linearized(theta0, TaskVector(tau), pixels, precision)

    for exact, rounded in zip(features("float32"), features("bf16"), strict=True):
        assert rounded.dtype == torch.float32
        assert tiny.close(rounded, exact) < 0.03


def test_bf16_changes_features_by_rounding_alone():
    encoder = read_encoder(tiny.shared_suite()["encoder_dir"])
    pixels = torch.randn(16, 3, 16, 16)

    def features(precision):
        return encoder.modality.features(encoder.theta0, pixels, precision)

    exact, rounded = features("float32"), features("bf16")
    assert rounded.dtype == torch.float32 and not torch.equal(exact, rounded)
    assert tiny.close(rounded, exact) < 0.03
