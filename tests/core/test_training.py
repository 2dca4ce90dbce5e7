"""Fine-tuning: the step, the schedule, the order of images, and runs that stop and go on."""

import csv
import gc
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from test_encoder import open_clip_jvp

from task_arithmetic.core.schedule import Recipe, batch_indices, learning_rate_at
from task_arithmetic.core.training import Training, batches, read_ahead
from task_arithmetic.core.vectors import TaskVector
from task_arithmetic.errors import UserError
from task_arithmetic.files.hashes import sha256_of_file
from task_arithmetic.files.paths import read_json
from task_arithmetic.files.tensors import read_made_by, read_tensors, write_tensors
from task_arithmetic.pipeline.identity import packages
from task_arithmetic.pipeline.rerun import stage_code
from task_arithmetic.progress import Progress
from task_arithmetic.stages import finetune as module
from task_arithmetic.stages.evaluate import read_vector
from task_arithmetic.stages.finetune import TrainingSettings, finetune, start
from task_arithmetic.vision import modality as vision
from task_arithmetic.vision.clip import encode, encode_linearized
from task_arithmetic.vision.images import read_split
from task_arithmetic.vision.modality import read_encoder
from task_arithmetic.vision.pixels import crop_boxes

# --- One step, in float64, against open_clip's module and torch's own autograd -------------------


@pytest.fixture(scope="module")
def model64():
    tiny.shared_suite()
    return tiny.open_clip_model(tiny.workspace() / "suite" / "checkpoint").double()


def prepare(mode, dtype=torch.float64, **recipe):
    """A run as `finetune` starts it, and three batches of pixels and labels."""
    suite = tiny.shared_suite()
    encoder = read_encoder(suite["encoder_dir"])
    theta0 = {name: tensor.to(dtype) for name, tensor in encoder.theta0.items()}
    head = read_tensors(suite["heads"][0])["head"].to(dtype)
    generator = torch.Generator().manual_seed(5)
    batches = [
        (
            torch.randn(8, 3, 16, 16, generator=generator, dtype=dtype),
            torch.randint(0, 3, (8,), generator=generator),
        )
        for _ in range(3)
    ]
    how = TrainingSettings.of(tiny.settings(mode, **recipe))
    examples = vision.Images(None, None, head)
    return start(replace(encoder, theta0=theta0), examples, how, mode), theta0, batches


def reference_gradient(model, theta, theta0, linearized, pixels, labels, head):
    """The gradient of the mean cross-entropy in the moved tensors, and the loss, by autograd."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in theta.items()}
    if linearized:
        tau = {name: leaf - theta0[name] for name, leaf in leaves.items()}
        value, tangent = open_clip_jvp(model, tau, pixels)
        features = value.detach() + tangent
    else:
        features = torch.func.functional_call(model.visual, {**theta0, **leaves}, (pixels,))
    unit = features / features.pow(2).sum(1, keepdim=True).sqrt()
    loss = F.cross_entropy(unit @ head.T, labels)
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    return dict(zip(leaves, gradients, strict=True)), float(loss.detach())


@pytest.mark.parametrize("mode", tiny.MODES)
def test_gradients_are_those_of_autograd_through_open_clips_tower(mode, model64):
    """For a linearized mode: of autograd through torch's jvp, at a τ that is not 0."""
    run, theta0, batches = prepare(mode)
    with torch.no_grad():
        for i, tensor in enumerate(run.theta.values()):
            torch.manual_seed(i)
            tensor += 0.05 * tensor.std() * torch.randn_like(tensor)
    pixels, labels = batches[0]
    linearized = mode == "ntk"
    theta = {name: tensor.detach() for name, tensor in run.theta.items()}
    expected, loss = reference_gradient(
        model64, theta, theta0, linearized, pixels, labels, run.head
    )
    ours = (run.add_linearized_gradient if linearized else run.add_gradient)(pixels, labels)
    assert float(ours) == pytest.approx(loss, rel=1e-10)
    for name, tensor in run.theta.items():
        assert tiny.close(tensor.grad, expected[name]) < 1e-8, name


def reference_adamw(theta, gradients, moments, number, rate, recipe):
    """One AdamW step with decoupled weight decay and gradient-norm clipping, in numpy float64."""
    norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
    clip = min(1.0, recipe.gradient_clip / (norm + 1e-6))
    for name, g in gradients.items():
        g = clip * g
        m, v = moments.get(name, (0.0, 0.0))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        moments[name] = m, v
        theta[name] = theta[name] * (1 - rate * recipe.weight_decay)  # towards 0
        theta[name] = theta[name] - rate * (m / (1 - 0.9**number)) / (
            np.sqrt(v / (1 - 0.999**number)) + 1e-8
        )
    return norm


@pytest.mark.parametrize("clip", [1e9, 0.05], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("mode", tiny.MODES)
def test_steps_are_adamw_that_decays_theta_towards_0(mode, clip, model64):
    """Also under ntk, where the reference decays θ0 + τ and not τ (protocol, section 4)."""
    run, theta0, batches = prepare(mode, gradient_clip=clip, weight_decay=0.3)
    recipe, moments = run.recipe, {}
    theta = {name: tensor.detach().numpy().copy() for name, tensor in run.theta.items()}
    for number, (rate, (pixels, labels)) in enumerate(
        zip([3e-3, 1e-3, 2e-3], batches, strict=True), 1
    ):
        at = {name: torch.from_numpy(value) for name, value in theta.items()}
        gradients, loss = reference_gradient(
            model64, at, theta0, mode == "ntk", pixels, labels, run.head
        )
        gradients = {name: g.numpy() for name, g in gradients.items()}
        norm = reference_adamw(theta, gradients, moments, number, rate, recipe)
        assert (norm > clip) == (clip < 1)
        assert run.step(pixels, labels, rate) == pytest.approx(loss, rel=1e-8)
    for name, tensor in run.theta.items():
        moved = np.abs(theta[name] - theta0[name].numpy()).max()
        assert np.abs(tensor.detach().numpy() - theta[name]).max() < 1e-5 * moved, name


def test_weight_decay_alone_shrinks_theta_and_not_tau():
    """Under ntk at gradient 0: θ goes to (1 − lr·wd) θ0, so τ leaves 0."""
    run, theta0, batches = prepare("ntk", weight_decay=0.5)
    run.head = torch.zeros_like(run.head)  # every class alike: no gradient
    run.step(*batches[0], 0.01)
    for name, tensor in run.theta.items():
        assert torch.allclose(tensor, theta0[name] * (1 - 0.01 * 0.5), rtol=1e-12, atol=0)


@pytest.mark.parametrize("micro", [1, 3, 4, 8, 100])
@pytest.mark.parametrize("mode", ["attention", "ntk"])
def test_accumulated_micro_batches_give_the_whole_batchs_gradient(mode, micro):
    found = []
    for size in (None, micro):
        run, _, batches = prepare(mode, torch.float32)
        run.micro_batch = size
        loss = run.step(*batches[0], 0.0)
        found.append((loss, {name: t.grad for name, t in run.theta.items()}))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    largest = max(g.abs().max() for g in found[0][1].values())
    for name, gradient in found[0][1].items():
        assert (gradient - found[1][1][name]).abs().max() < 1e-6 * largest, name


FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("full", FULL, ids=["torch", "a library"])
@pytest.mark.parametrize("mode", ["attention", "ntk"])
def test_too_little_gpu_memory_halves_the_micro_batch_and_keeps_the_step(
    mode, full, monkeypatch, capsys
):
    """The gradient of the whole batch, although no more than two images fit; for good."""
    name = "add_linearized_gradient" if mode == "ntk" else "add_gradient"
    original, sizes = getattr(Training, name), []

    def two_at_most(run, pixels, labels, share):
        sizes.append(len(pixels))
        if len(pixels) > 2:
            for tensor in run.theta.values():  # as if it had failed half-way
                tensor.grad = torch.ones_like(tensor)
            raise full
        return original(run, pixels, labels, share)

    run, _, batches = prepare(mode)
    loss = run.step(*batches[0], 0.0)
    whole = {key: tensor.grad for key, tensor in run.theta.items()}
    monkeypatch.setattr(Training, name, two_at_most)
    count = len(batches[0][1])
    assert run.step(*batches[0], 0.0) == pytest.approx(loss, rel=1e-10)
    for key, tensor in run.theta.items():
        assert tiny.close(tensor.grad, whole[key]) < 1e-9, key
    assert sizes[:2] == [count, (count + 1) // 2] and sizes[-1] == run.micro_batch == 2
    said = capsys.readouterr().err
    assert f"going on with 2 images at a time, which add up to the same batch of {count}" in said
    sizes.clear()
    run.step(*batches[0], 0.0)
    assert max(sizes) == 2 and not capsys.readouterr().err


def test_one_image_that_does_not_fit_is_one_sentence(monkeypatch):
    def never(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    run, _, batches = prepare("attention")
    monkeypatch.setattr(Training, "add_gradient", never)
    with pytest.raises(UserError, match="One example alone does not fit into the GPU's memory"):
        run.step(*batches[0], 0.0)


def test_another_failure_of_the_gpu_is_no_lack_of_memory(monkeypatch):
    def broken(*arguments):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    run, _, batches = prepare("attention")
    monkeypatch.setattr(Training, "add_gradient", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        run.step(*batches[0], 0.0)


@pytest.mark.parametrize("mode", tiny.MODES)
def test_bf16_is_for_the_forward_pass_alone(mode):
    """Weights, gradients and moments stay float32; the gradient is that of float32, rounded."""
    found = {}
    for precision in ("float32", "bf16"):
        run, _, batches = prepare(mode, torch.float32)
        run.precision = precision
        loss = run.step(*batches[0], 0.0)
        state = [*run.theta.values(), *(t.grad for t in run.theta.values())]
        state += [run.moments[key]["exp_avg_sq"] for key in run.theta]
        assert {tensor.dtype for tensor in state} == {torch.float32}
        found[precision] = loss, torch.cat([t.grad.ravel() for t in run.theta.values()])
    (loss, gradient), (loss16, gradient16) = found.values()
    assert loss != loss16 and loss == pytest.approx(loss16, rel=0.02)
    assert F.cosine_similarity(gradient, gradient16, dim=0) > 0.99


@pytest.mark.parametrize("mode", tiny.MODES)
def test_a_step_and_an_evaluation_leave_no_reference_cycle(mode):
    """Jobs run without the garbage collector, see __main__.py."""
    run, theta0, batches = prepare(mode, torch.float32)
    images = vision.Images(np.zeros((9, 16, 16, 3), np.uint8), np.zeros(9, np.int64), run.head)
    arguments = (theta0, TaskVector({}), [0.0, 1.0], {"task": images}, mode == "ntk")
    for _ in range(2):
        gc.collect()
        run.step(*batches[0], 1e-3)
        run.modality.accuracies(*arguments)
    assert gc.collect() == 0


@pytest.mark.parametrize("depth", [0, 1, 3, 50])
def test_batches_read_ahead_come_in_order_and_not_too_early(depth):
    started, read = [], []

    def reading(number):
        started.append(number)
        return number * number

    for i, value in enumerate(read_ahead(reading, range(20), depth)):
        assert value == i * i and len(started) <= i + 1 + depth
        read.append(value)
    assert read == [i * i for i in range(20)]


def test_an_error_while_reading_ahead_arrives_at_its_batch():
    def reading(number):
        if number == 4:
            raise UserError("damaged")
        return number

    seen = []
    with pytest.raises(UserError, match="damaged"):
        for number in read_ahead(reading, range(9), 2):
            seen.append(number)
    assert seen == [0, 1, 2, 3]


def test_a_training_step_does_not_import_the_compiler():
    code = """
import sys
import tiny, torch
from task_arithmetic.core.encoder import Encoder
from task_arithmetic.stages.finetune import start
from task_arithmetic.stages.finetune import TrainingSettings
from task_arithmetic.vision.geometry import ViT
from task_arithmetic.vision.modality import Images, Vision
g = ViT(1, 8, 8, 8, 8, 1, 8, "gelu")
theta0 = {n: torch.randn(s) for n, s in g.shapes().items()}
encoder = Encoder("tiny", theta0, Vision(g, (0.5,) * 3, (0.2,) * 3), "", "")
settings = TrainingSettings.of(tiny.settings("ntk"))
run = start(encoder, Images(None, None, torch.randn(3, 8)), settings, "ntk")
run.step(torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]), 1e-3)
assert "torch._dynamo" not in sys.modules
"""
    folder = str(Path(tiny.__file__).parent)
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder)


@pytest.mark.parametrize("mode", tiny.MODES)
def test_training_holds_theta0_twice_only_if_linearized(mode):
    run, theta0, _ = prepare(mode)
    moved = set(run.theta)
    assert moved == {
        n
        for n in theta0
        if mode != "attention" or n.endswith(("attn.in_proj_weight", "attn.out_proj.weight"))
    }
    assert set(run.base) == (set(theta0) if mode == "ntk" else set(theta0) - moved)
    assert set(run.moments) == moved
    assert all(tensor.requires_grad and tensor.is_leaf for tensor in run.theta.values())


# --- Schedule, order, crops ----------------------------------------------------------------------


def test_the_learning_rate_warms_up_for_200_steps_and_falls_to_0_as_a_cosine():
    recipe = Recipe(learning_rate=1e-5, warmup_steps=200, steps=2000)
    rates = [learning_rate_at(i, recipe) for i in range(2000)]
    for i in range(200):  # the first step already moves
        assert rates[i] == pytest.approx(1e-5 * (i + 1) / 200, rel=1e-12)
    for i in range(1800):
        assert rates[200 + i] == pytest.approx(1e-5 * np.cos(np.pi * i / 3600) ** 2, rel=1e-9)
    assert rates[0] == pytest.approx(5e-8) and rates[199] == rates[200] == pytest.approx(1e-5)
    assert max(rates) == rates[200] and np.all(np.diff(rates[200:]) < 0)
    assert 0 < rates[1999] < 1e-11
    assert rates[1100] == pytest.approx(5e-6)


@pytest.mark.parametrize("warmup", [0, 1, 10])
def test_the_schedule_is_defined_for_any_length_of_warm_up(warmup):
    recipe = Recipe(learning_rate=1.0, warmup_steps=warmup, steps=10)
    rates = [learning_rate_at(i, recipe) for i in range(10)]
    assert all(0 < rate <= 1 for rate in rates) and max(rates) == 1


@pytest.mark.parametrize("count, batch", [(48, 8), (50, 8), (7, 3), (5, 16), (1, 4), (100, 100)])
def test_every_epoch_shows_every_image_once(count, batch):
    steps = -(-3 * count // batch)
    shown = np.concatenate([batch_indices(i, count, batch, seed=0) for i in range(steps)])
    assert all(len(batch_indices(i, count, batch, seed=0)) == batch for i in range(steps))
    for epoch in range(3):
        assert sorted(shown[epoch * count : (epoch + 1) * count]) == list(range(count))
    if count > 20:
        assert not np.array_equal(shown[:count], shown[count : 2 * count])


def test_the_images_of_a_step_are_a_function_of_seed_and_step_alone():
    later = batch_indices(17, 50, 8, seed=3)
    for i in range(5):
        batch_indices(i, 50, 8, seed=0)
    assert np.array_equal(batch_indices(17, 50, 8, seed=3), later)
    assert not np.array_equal(batch_indices(17, 50, 8, seed=4), later)
    assert not np.array_equal(batch_indices(18, 50, 8, seed=3), later)


def test_a_training_batch_is_random_crops_of_the_steps_images():
    suite = tiny.shared_suite()
    modality = read_encoder(suite["encoder_dir"]).modality
    images, labels = read_split(suite["data_dirs"][0], "train")
    examples = vision.Images(images, labels, None)

    def draw(number, seed, scale=(0.5, 0.9)):
        recipe = Recipe(**{**tiny.RECIPE, "crop_scale": scale})
        return next(batches(modality, examples, [number], seed, recipe, torch.device("cpu")))

    pixels, marks = draw(2, seed=1)
    chosen = batch_indices(2, len(images), 8, 1)
    assert pixels.shape == (8, 3, 16, 16) and pixels.dtype == torch.float32
    assert np.array_equal(marks, labels[chosen])
    whole = modality.pixels(torch.from_numpy(images.take(chosen)[0]))
    assert not torch.equal(pixels, whole)
    assert torch.equal(draw(2, seed=1)[0], pixels)
    assert not torch.equal(draw(2, seed=2)[0], pixels)


def test_the_crops_of_a_step_are_a_function_of_seed_and_step_alone(monkeypatch):
    suite, drawn = tiny.shared_suite(), []
    modality = read_encoder(suite["encoder_dir"]).modality
    examples = vision.Images(*read_split(suite["data_dirs"][0], "train"), None)

    def remember(*arguments):
        drawn.append(crop_boxes(*arguments))
        return drawn[-1]

    monkeypatch.setattr(vision, "crop_boxes", remember)
    for number, seed in [(2, 1), (3, 1), (2, 2), (2, 1)]:
        recipe = Recipe(**{**tiny.RECIPE, "crop_scale": (0.3, 0.9)})
        next(batches(modality, examples, [number], seed, recipe, torch.device("cpu")))
    first, next_step, other_seed, again = drawn
    assert torch.equal(first, again)
    assert not torch.equal(first, next_step) and not torch.equal(first, other_seed)


# --- Whole runs ----------------------------------------------------------------------------------


class Held(Progress):
    """Knows what to call to save."""

    def __init__(self):
        self.saves = []

    @contextmanager
    def saving(self, save):
        self.saves.append(save)
        try:
            yield
        finally:
            self.saves.remove(save)


HELD = Held()


def train(
    folder, mode="attention", seed=0, encoder_dir=None, head=None, micro_batch=None, **recipe
):
    """Fine-tune on task `one` of the shared suite; returns the moved weights' path."""
    suite, output = tiny.shared_suite(), Path(folder) / "moved.safetensors"
    finetune(
        encoder_dir or suite["encoder_dir"],
        head or suite["heads"][0],
        suite["data_dirs"][0],
        encoder="tiny",
        mode=mode,
        task="one",
        seed=seed,
        settings={**tiny.settings(mode, **{"steps": 12, **recipe}), "micro_batch": micro_batch},
        output=output,
        log=output.with_suffix(".csv"),
        progress=HELD,
    )
    return output


def log_rows(path):
    """The metrics log without the measured speed."""
    with open(path.with_suffix(".csv")) as file:
        return [
            {k: v for k, v in row.items() if k != "images_per_second"}
            for row in csv.DictReader(file)
        ]


def states(folder):
    return sorted(p for p in Path(folder).iterdir() if p.suffix == ".state")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Uninterrupted runs of 12 steps, one for each mode."""
    return {m: train(tmp_path_factory.mktemp(m), m) for m in tiny.MODES}


@pytest.mark.parametrize("mode", tiny.MODES)
def test_a_finetuned_file_holds_the_moved_tensors_alone_and_all_of_them_moved(mode, whole):
    theta0 = read_encoder(tiny.shared_suite()["encoder_dir"]).theta0
    theta = read_tensors(whole[mode])
    moved = {n for n in theta0 if mode != "attention" or n.endswith(("proj_weight", "proj.weight"))}
    moved -= {n for n in moved if mode == "attention" and ".mlp." in n}
    assert set(theta) == moved
    for name, tensor in theta.items():
        assert tensor.shape == theta0[name].shape and tensor.dtype == torch.float32
        assert not torch.equal(tensor, theta0[name]), name


@pytest.mark.parametrize("mode", tiny.MODES)
def test_the_same_run_twice_gives_the_same_file(mode, whole, tmp_path):
    for i in range(3):
        again = train(tmp_path / str(i), mode)
        assert sha256_of_file(again) == sha256_of_file(whole[mode])
        assert log_rows(again) == log_rows(whole[mode])


def test_another_seed_gives_another_order_and_other_weights(whole, tmp_path):
    other = train(tmp_path, seed=1)
    assert not torch.equal(read_tensors(other)["transformer.resblocks.0.attn.in_proj_weight"],
                           read_tensors(whole["attention"])[
                               "transformer.resblocks.0.attn.in_proj_weight"])  # fmt: skip


def test_accumulation_over_a_run_gives_the_same_weights_to_rounding(whole, tmp_path):
    ours, expected = read_tensors(train(tmp_path, micro_batch=3)), read_tensors(whole["attention"])
    for name in expected:
        assert tiny.close(ours[name], expected[name]) < 1e-3


def test_fine_tuning_lowers_the_loss_in_every_mode(tmp_path):
    for mode in tiny.MODES:
        before, after = (
            float(log_rows(train(tmp_path / mode, mode, steps=n, learning_rate=3e-3))[-1]["loss"])
            for n in (1, 40)
        )
        assert after < 0.7 * before, mode


def test_the_log_has_every_tenth_step_and_the_last_with_its_learning_rate(tmp_path):
    output = train(tmp_path, steps=23, warmup_steps=5)
    header = output.with_suffix(".csv").read_text().splitlines()[0]
    assert header == "step,loss,learning_rate,images_per_second"
    rows = log_rows(output)
    assert [int(row["step"]) for row in rows] == [10, 20, 23]
    for row in rows:
        i = int(row["step"]) - 1
        expected = 1e-3 * 0.5 * (1 + math.cos(math.pi * (i - 5) / (23 - 5)))
        assert float(row["learning_rate"]) == pytest.approx(expected, rel=1e-5)


def test_a_finetuned_file_says_what_made_it(whole):
    made_by = read_made_by(whole["ntk"])
    suite = tiny.shared_suite()
    about = read_json(Path(suite["encoder_dir"]) / "encoder.json")
    manifest = read_json(Path(suite["data_dirs"][0]) / "manifest.json")
    assert made_by["encoder"] == "tiny" and made_by["mode"] == "ntk" and made_by["task"] == "one"
    assert made_by["seed"] == 0 and made_by["device"] in ("cpu", "cuda")
    assert made_by["settings"] == {**tiny.settings("ntk", steps=12), "micro_batch": None}
    assert made_by["theta0_sha256"] == about["theta0_sha256"]
    assert made_by["head_sha256"] == sha256_of_file(suite["heads"][0])
    assert made_by["data_sha256"] == manifest["data_sha256"]
    assert made_by["versions"]["torch"] == metadata.version("torch")


@pytest.mark.parametrize("mode", tiny.MODES)
def test_theta0_plus_tau_predicts_as_the_finetuned_model_did(mode):
    """θ0 + 1·τ is the individual model (paper, after Definition 1)."""
    suite = tiny.shared_suite()
    encoder = read_encoder(suite["encoder_dir"])
    theta0, modality = encoder.theta0, encoder.modality
    theta = {**theta0, **read_tensors(tiny.shared_finetuned(mode, "one"))}
    tau = read_vector(tiny.shared_vector(mode, "one"))
    images, _, head = modality.read_examples(suite["heads"][0], suite["data_dirs"][0], "test")
    pixels, geometry = modality.pixels(torch.from_numpy(np.array(images))), modality.geometry
    if mode == "ntk":
        exact = {name: theta[name] - theta0[name] for name in theta}
        individual = sum(encode_linearized(theta0, exact, pixels, geometry))
        ours = sum(encode_linearized(theta0, tau.tensors, pixels, geometry))
    else:
        individual = encode(theta, pixels, geometry)
        ours = encode(tau.apply(theta0), pixels, geometry)
    assert tiny.close(ours, individual) < 1e-5
    predict = [(F.normalize(f, dim=-1) @ head.T).argmax(-1) for f in (ours, individual)]
    assert torch.equal(*predict)


# --- Runs that stop and go on --------------------------------------------------------------------


class Stop(Exception):
    """Stands for the end of the process."""


def stop_after(monkeypatch, steps, how):
    """Let `how` happen within the given step (counted from 1) of the next run."""
    original, count = Training.gradient, [0]

    def counted(*arguments):
        count[0] += 1
        if count[0] == steps:
            how()
        return original(*arguments)

    monkeypatch.setattr(Training, "gradient", counted)


def crash():
    raise Stop


def stop():
    """What a signal does, within the step that is being computed."""
    (save,) = HELD.saves
    assert re.fullmatch(r"\d+ of \d+ steps are saved \(.*\)\.", save())
    raise Stop


@pytest.mark.parametrize("mode", tiny.MODES)
def test_a_stopped_and_resumed_run_gives_the_same_files(mode, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 6, stop)
        with pytest.raises(Stop):
            train(tmp_path, mode)
    assert not (tmp_path / "moved.safetensors").exists()
    assert [read_made_by(path)["done"] for path in states(tmp_path)] == [5]
    taken = []
    with monkeypatch.context() as patch:
        original = Training.gradient
        patch.setattr(Training, "gradient", lambda *a: (taken.append(1), original(*a))[1])
        output = train(tmp_path, mode)
    assert len(taken) == 7  # no step is done twice
    assert sha256_of_file(output) == sha256_of_file(whole[mode])
    assert log_rows(output) == log_rows(whole[mode])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["moved.csv", "moved.safetensors"]


def test_a_run_stopped_often_gives_the_same_file(whole, tmp_path, monkeypatch):
    for _ in range(3):
        with monkeypatch.context() as patch:
            stop_after(patch, 4, stop)
            with pytest.raises(Stop):
                train(tmp_path)
    assert sha256_of_file(train(tmp_path)) == sha256_of_file(whole["attention"])


def test_a_run_goes_on_with_the_micro_batch_that_it_had_come_to(tmp_path, monkeypatch):
    """Else its sums are added up in another order, and the last bits differ."""
    with monkeypatch.context() as patch:
        original = Training.gradient

        def halved(run, *arguments):
            run.micro_batch = 4
            return original(run, *arguments)

        patch.setattr(Training, "gradient", halved)
        stop_after(patch, 6, stop)
        with pytest.raises(Stop):
            train(tmp_path)
    seen = []
    original = Training.gradient
    monkeypatch.setattr(
        Training,
        "gradient",
        lambda run, *rest: (seen.append(run.micro_batch), original(run, *rest))[1],
    )
    train(tmp_path)
    assert set(seen) == {4}


@pytest.mark.parametrize("mode", tiny.MODES)
def test_a_crashed_run_goes_on_from_its_last_checkpoint(mode, tmp_path, monkeypatch):
    expected = train(tmp_path / "whole", mode, checkpoint_steps=4)
    with monkeypatch.context() as patch:
        stop_after(patch, 11, crash)
        with pytest.raises(Stop):
            train(tmp_path / "crashed", mode, checkpoint_steps=4)
    (state,) = states(tmp_path / "crashed")
    assert read_made_by(state)["done"] == 8
    assert not (tmp_path / "crashed" / "moved.safetensors").exists()
    again = train(tmp_path / "crashed", mode, checkpoint_steps=4)
    assert sha256_of_file(again) == sha256_of_file(expected)
    assert log_rows(again) == log_rows(expected)
    assert states(tmp_path / "crashed") == []


def test_checkpoints_change_nothing_but_the_recorded_recipe(whole, tmp_path):
    often, rarely = (
        read_tensors(train(tmp_path, checkpoint_steps=1)),
        read_tensors(whole["attention"]),
    )
    assert all(torch.equal(often[name], rarely[name]) for name in rarely)


@pytest.mark.parametrize(
    "change",
    [{"learning_rate": 2e-3}, {"seed": 1}, {"steps": 13}, {"mode": "nonlinear"}],
    ids=["learning rate", "seed", "steps", "mode"],
)
def test_a_changed_recipe_does_not_go_on_from_the_old_state(change, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 6, stop)
        with pytest.raises(Stop):
            train(tmp_path / "a")
    expected = train(tmp_path / "b", **change)
    assert sha256_of_file(train(tmp_path / "a", **change)) == sha256_of_file(expected)


@pytest.mark.parametrize("damage", ["cut", "empty", "pickle", "other tensors"])
def test_a_damaged_state_is_ignored(damage, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 6, stop)
        with pytest.raises(Stop):
            train(tmp_path)
    (state,) = states(tmp_path)
    if damage == "cut":
        state.write_bytes(state.read_bytes()[:-100])
    elif damage == "pickle":
        torch.save({"done": 5}, state)
    elif damage == "other tensors":
        write_tensors(state, {"theta.proj": torch.ones(3)}, {"done": 5})
    else:
        state.write_bytes(b"")
    assert sha256_of_file(train(tmp_path)) == sha256_of_file(whole["attention"])


def command(folder, **recipe):
    """`task-arithmetic finetune …` of the shared suite's task `one`, as a rule calls it."""
    suite = tiny.shared_suite()
    settings = {**tiny.settings("attention", **recipe), "micro_batch": None}
    return [
        sys.executable, "-m", "task_arithmetic", "stage", "finetune",
        "--encoder-dir", suite["encoder_dir"], "--head", suite["heads"][0],
        "--data-dir", suite["data_dirs"][0], "--encoder", "tiny", "--mode", "attention",
        "--task", "one", "--seed", "0", "--settings", json.dumps(settings),
        "--output", folder / "moved.safetensors", "--log", folder / "moved.csv",
    ]  # fmt: skip


def begin(folder, **recipe):
    source = str(Path(module.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": source, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [str(word) for word in command(folder, **recipe)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_newer_state(folder, than, process):
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        found = [p for p in states(folder) if p.stat().st_mtime_ns > than]
        if found:
            return found[0]
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    raise TimeoutError


@pytest.mark.skipif(torch.cuda.is_available(), reason="compares runs on the CPU")
def test_a_killed_process_and_a_stopped_one_lose_nothing(tmp_path, monkeypatch):
    """SIGKILL, as a machine that goes down; then SIGTERM, as a scheduler; then to the end."""
    recipe = {"steps": 3000, "checkpoint_steps": 20, "batch_size": 2}
    tmp_path = tmp_path / "run"
    tmp_path.mkdir()
    process = begin(tmp_path, **recipe)
    state = wait_for_newer_state(tmp_path, 0, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not list(tmp_path.glob("moved*"))
    killed_at = read_made_by(state)["done"]
    assert killed_at % 20 == 0 and killed_at > 0

    process = begin(tmp_path, **recipe)
    wait_for_newer_state(tmp_path, state.stat().st_mtime_ns, process)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert said.splitlines()[-1].startswith("task-arithmetic finetune: Stopped by SIGTERM. ")
    assert "Traceback" not in said and not list(tmp_path.glob("moved*"))
    stopped_at = read_made_by(state)["done"]
    assert killed_at < stopped_at < 3000

    # Going on to step 3,000 would take too long: a run whose state at that step is equal in every
    # tensor goes on equally.
    reached = read_tensors(state)
    with monkeypatch.context() as patch:
        code = {"code": stage_code("finetune", "vision"), "packages": packages("vision")}
        patch.setattr(HELD, "provenance", code)
        stop_after(patch, stopped_at + 1, stop)
        with pytest.raises(Stop):
            train(tmp_path.with_name("whole"), **recipe)
    expected = read_tensors(states(tmp_path.with_name("whole"))[0])
    assert state.name == states(tmp_path.with_name("whole"))[0].name
    assert reached.keys() == expected.keys()
    assert all(torch.equal(reached[name], expected[name]) for name in expected)


# --- Bad input -----------------------------------------------------------------------------------


def finite(path):
    return all(t.isfinite().all() for t in read_tensors(path).values())


def test_a_loss_that_is_not_finite_stops_at_its_step_and_keeps_the_state_before(tmp_path):
    with pytest.raises(UserError, match=r"is \S+ at step \d+ of 12 .*learning_rate") as caught:
        train(tmp_path, "nonlinear", learning_rate=1e18, warmup_steps=0)
    assert "\n" not in str(caught.value)
    (state,) = states(tmp_path)
    assert str(state) in str(caught.value)
    assert finite(state)
    assert not list(tmp_path.glob("moved*"))


def with_weights(tmp_path, change):
    """A copy of the encoder with changed weights."""
    folder = tmp_path / "encoder"
    shutil.copytree(tiny.shared_suite()["encoder_dir"], folder)
    tensors = read_tensors(folder / "image_tower.safetensors")
    change(tensors)
    write_tensors(folder / "image_tower.safetensors", tensors, {})
    return tiny.reseal(folder)


@pytest.mark.parametrize("mode", tiny.MODES)
def test_pretrained_weights_that_are_not_finite_stop_at_step_1(mode, tmp_path):
    folder = with_weights(tmp_path, lambda t: t["proj"].fill_(math.inf))
    with pytest.raises(UserError, match="at step 1 of 12"):
        train(tmp_path / "out", mode, encoder_dir=folder)
    assert not list((tmp_path / "out").glob("moved*"))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_never_reaches_the_weights(bad, tmp_path, monkeypatch):
    """Else the state that is kept is already spoilt, and after the last step so is the result."""
    original, count = Training.add_gradient, [0]

    def spoilt(run, *arguments):
        loss = original(run, *arguments)
        count[0] += 1
        if count[0] == 3:
            run.theta["transformer.resblocks.1.attn.out_proj.weight"].grad[0, 0] = bad
        return loss

    monkeypatch.setattr(Training, "add_gradient", spoilt)
    with pytest.raises(UserError, match="at step 3 of"):
        train(tmp_path, steps=3, checkpoint_steps=1)
    (state,) = states(tmp_path)
    assert finite(state) and read_made_by(state)["done"] == 2
    assert not list(tmp_path.glob("moved*"))


def test_a_mode_whose_patterns_match_nothing_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(tiny.MODES, "typo", {"train": ["*.attn.q.weight"], "linearized": False})
    monkeypatch.setattr(Training, "step", lambda *a: pytest.fail("trained nothing"))
    with pytest.raises(UserError, match=r"Mode typo: the pattern '\*\.attn\.q\.weight' matches no"):
        train(tmp_path, "typo")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("head", [(2, 16), (3, 8)], ids=["other classes", "other encoder"])
def test_a_head_of_another_task_or_encoder_is_refused(head, tmp_path):
    write_tensors(tmp_path / "head.safetensors", {"head": torch.ones(head)}, {})
    with pytest.raises(UserError, match=r"head\.safetensors has head of shape .*\(3, 16\)"):
        train(tmp_path, head=tmp_path / "head.safetensors")


def test_a_task_without_training_images_cannot_be_trained_on(tmp_path):
    suite = tiny.shared_suite()
    folder = shutil.copytree(suite["data_dirs"][0], tmp_path / "data")
    np.save(folder / "train_images.npy", np.zeros((0, 1, 1, 3), np.uint8))
    np.save(folder / "train_labels.npy", np.zeros(0, np.int64))
    tiny.reseal(folder)
    with pytest.raises(UserError, match="has no labelled train images"):
        finetune(
            suite["encoder_dir"], suite["heads"][0], folder, encoder="tiny", mode="nonlinear",
            task="one", seed=0, settings=tiny.settings(), output=tmp_path / "o", log=tmp_path / "l",
        )  # fmt: skip


def test_a_disk_that_fills_up_while_a_checkpoint_is_saved_is_one_sentence(tmp_path, monkeypatch):
    import safetensors.torch

    def full(tensors, to, header):
        Path(to).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(UserError, match="disk is full"):
        train(tmp_path, checkpoint_steps=4)
    assert list(tmp_path.iterdir()) == []
