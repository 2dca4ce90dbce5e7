"""Gram matrices of what layers read: against hooks on open_clip's and transformers' modules, one
example at a time where there is padding; the stage that collects them, and regmean with them."""

import copy
import json
from dataclasses import dataclass, replace
from types import MethodType, SimpleNamespace

import numpy as np
import pytest
import tiny
import tiny_texts
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from task_arithmetic.cli import main
from task_arithmetic.core.encoder import Encoder
from task_arithmetic.core.inputs import LayerInputs
from task_arithmetic.core.vectors import TaskVector
from task_arithmetic.errors import UserError
from task_arithmetic.files.tensors import read_made_by, read_tensors, write_tensors
from task_arithmetic.language import modality as language
from task_arithmetic.language.geometry import t5_geometry
from task_arithmetic.language.t5 import logits_linearized
from task_arithmetic.language.tokens import Texts
from task_arithmetic.merging.grams import BATCH, collect
from task_arithmetic.merging.matrices import is_matrix
from task_arithmetic.merging.merge import merge_vectors
from task_arithmetic.merging.method import Data
from task_arithmetic.merging.methods import find
from task_arithmetic.merging.regmean import RegmeanOptions
from task_arithmetic.progress import SILENT, Progress
from task_arithmetic.stages.evaluate import read_vector
from task_arithmetic.stages.statistics import GramFiles, statistics
from task_arithmetic.vision import modality as vision
from task_arithmetic.vision.images import TrainImages

ROUNDING = 3e-7  # of sums in float64 that are kept as float32
LINEARIZED = {"linearized": True}
TASKS = ("one", "two", "three")


def drawn(available, count, seed):
    return np.random.Generator(np.random.PCG64([seed, 0])).permutation(available)[:count]


def gram(parts):
    x = torch.cat(parts)
    return x.T @ x / len(x)


def random_vector(theta0, chosen=lambda name: True, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return TaskVector(
        {
            name: (0.2 * tensor.std() * torch.randn(tensor.shape, generator=generator)).to(tensor)
            for name, tensor in theta0.items()
            if chosen(name) and tensor.numel() > 1
        }
    )


def equal(found, expected, tolerance=ROUNDING):
    assert found.keys() == expected.keys()
    for name, each in expected.items():
        assert found[name].dtype == torch.float32
        assert tiny.close(found[name].double(), each) < tolerance, name


# --- Images --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Vision64(vision.Vision):
    """The same in float64 from the pixels on."""

    def pixels(self, images, boxes=None):
        return super().pixels(images, boxes).double()


@pytest.fixture(scope="module")
def images():
    """The shared suite's encoder in float64, a task's train images, and these as plain pixels."""
    suite = tiny.shared_suite()
    encoder = vision.read_encoder(suite["encoder_dir"])
    examples = encoder.modality.read_examples(suite["heads"][0], suite["data_dirs"][0], "train")
    of = encoder.modality
    theta0 = {name: tensor.double() for name, tensor in encoder.theta0.items()}
    arrays = np.load(suite["data_dirs"][0] / "train_images.npy").reshape(-1, 16, 16, 3) / 255
    pixels = (arrays - tiny.PREPROCESS["mean"]) / tiny.PREPROCESS["std"]
    return SimpleNamespace(
        encoder=replace(encoder, theta0=theta0, modality=Vision64(of.geometry, of.mean, of.std)),
        examples=examples,
        tau=random_vector(theta0),
        pixels=torch.from_numpy(pixels).permute(0, 3, 1, 2),
    )


@torch.no_grad()
def open_clips(theta, pixels, heads=2):
    """matrix → XᵀX / tokens of open_clip's image tower, by hooks on its modules; what its heads
    put out, which it never shows, from what its first norm does."""
    visual = copy.deepcopy(tiny.shared_model()).double().visual
    visual.load_state_dict(theta)
    read: dict[str, list] = {}

    def note(name, x):
        read.setdefault(name, []).append(x.flatten(0, -2))

    def mixed(block, x):
        width = x.shape[-1]
        parts = F.linear(x, block.attn.in_proj_weight, block.attn.in_proj_bias).split(width, -1)
        q, k, v = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in parts)
        scores = (q @ k.mT / (width // heads) ** 0.5).softmax(-1)
        return (scores @ v).transpose(1, 2).flatten(2)

    blocks = visual.transformer.resblocks
    for i, block in enumerate(blocks):
        at, tokens = f"transformer.resblocks.{i}.", slice(1 if i == len(blocks) - 1 else None)

        def on_norm(_module, _x, out, block=block, at=at, tokens=tokens):
            assert out.shape[:2] == (len(pixels), 5)
            note(f"{at}attn.in_proj_weight", out)
            note(f"{at}attn.out_proj.weight", mixed(block, out)[:, tokens])

        block.ln_1.register_forward_hook(on_norm)
        for part in ("c_fc", "c_proj"):

            def on_layer(_module, x, name=f"{at}mlp.{part}.weight", tokens=tokens):
                note(name, x[0][:, tokens])

            getattr(block.mlp, part).register_forward_pre_hook(on_layer)
    visual.ln_post.register_forward_hook(
        lambda _module, _x, out: note("proj", out[:, 0] if out.ndim == 3 else out)
    )
    visual(pixels)
    return {name: gram(parts) for name, parts in read.items()}


@pytest.mark.parametrize("linearized", [False, True])
def test_the_grams_of_images_are_those_of_open_clips_layers(images, linearized):
    """More than one batch; f_lin's are those of θ0, whatever τ is."""
    count = BATCH + 8
    found = collect(images.encoder, images.tau, images.examples, count, 3, linearized)
    theta0 = images.encoder.theta0
    theta = theta0 if linearized else images.tau.apply(theta0)
    chosen = drawn(48, count, 3)
    equal(found.grams, open_clips(theta, images.pixels[chosen]))
    matrices = {name for name in theta0 if is_matrix(name, theta0[name].dim())}
    assert found.grams.keys() == matrices and len(matrices) == 9 and found.examples == count
    other = open_clips(images.tau.apply(theta0) if linearized else theta0, images.pixels[chosen])
    assert all(tiny.close(found.grams[name].double(), other[name]) > 0.01 for name in matrices)


def test_what_does_not_move_is_not_collected(images):
    attention = [name for name in images.tau.keys() if ".attn." in name and "weight" in name]
    tau = random_vector(images.encoder.theta0, lambda name: name in attention)
    found = collect(images.encoder, tau, images.examples, 20).grams
    theta = tau.apply(images.encoder.theta0)
    every = open_clips(theta, images.pixels[drawn(48, 20, 0)])
    equal(found, {name: every[name] for name in attention})
    assert len(found) == 4
    biases = random_vector(images.encoder.theta0, lambda name: "bias" in name)
    assert collect(images.encoder, biases, images.examples, 20).grams == {}


def test_the_seed_draws_the_images_and_all_are_taken_if_there_are_fewer(images):
    def of(count, seed):
        return collect(images.encoder, images.tau, images.examples, count, seed)

    name = "transformer.resblocks.0.attn.in_proj_weight"
    first, again, other = (of(20, seed).grams[name] for seed in (1, 1, 2))
    assert torch.equal(first, again) and tiny.close(first, other) > 1e-3
    every, more = of(48, 1), of(1000, 2)
    assert every.examples == more.examples == 48
    equal(every.grams, {name: each.double() for name, each in more.grams.items()}, 1e-6)


def test_the_labels_are_never_read(images):
    unlabelled = images.examples._replace(labels=np.full(48, -1))
    ours, theirs = (
        collect(images.encoder, images.tau, each, 20).grams
        for each in (images.examples, unlabelled)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("wide", [False, True])
def test_images_that_are_no_squares_are_read_in_the_middle(images, wide):
    """As an evaluation would crop them; here of three sizes in one batch."""
    squares = np.array(images.examples.images.pixels).reshape(-1, 16, 16, 3)[:6]
    rows, sizes = [], []
    for i, square in enumerate(squares):
        edge = np.full((16, i % 3, 3), 255, np.uint8)
        image = np.concatenate([edge, square, edge], axis=1)
        image = image if wide else image.transpose(1, 0, 2)
        rows.append(image.reshape(-1, 3))
        sizes.append((image.shape[0], image.shape[1]))
    framed = TrainImages(np.concatenate(rows), np.array(sizes))
    plain = squares if wide else squares.transpose(0, 2, 1, 3)
    whole = TrainImages(plain.reshape(-1, 3), np.full((6, 2), 16))
    framed, whole = (
        images.examples._replace(images=x, labels=np.zeros(6)) for x in (framed, whole)
    )
    ours, theirs = (collect(images.encoder, images.tau, x).grams for x in (framed, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_products_are_summed_in_float64_whatever_the_passes_are_computed_in():
    suite, found = tiny.shared_suite(), {}
    encoder = vision.read_encoder(suite["encoder_dir"])
    examples = encoder.modality.read_examples(suite["heads"][0], suite["data_dirs"][0], "train")
    tau = random_vector(encoder.theta0)
    theta, names = tau.apply(encoder.theta0), list(tau.keys())
    for precision in ("bf16", "float32"):
        read: dict[str, list] = {name: [] for name in names}
        encoder.modality.visit_inputs(
            theta, None, examples, drawn(48, 20, 0), names,
            lambda name, x, read=read: read[name].append(x.double()), precision,
        )  # fmt: skip
        found[precision] = collect(encoder, tau, examples, 20, precision=precision).grams
        equal(found[precision], {name: gram(read[name]) for name in found[precision]}, 1e-7)
    for name, each in found["float32"].items():
        assert 0 < tiny.close(found["bf16"][name], each) < 0.03, name


def test_what_cannot_be_collected_is_a_sentence(images, monkeypatch):
    of = images.encoder, images.tau, images.examples
    with pytest.raises(UserError, match="at least 1 example of each task; found 0"):
        collect(*of, 0)
    with pytest.raises(UserError, match="not finite"):
        collect(images.encoder, images.tau * 1e200, images.examples, 4)
    with pytest.raises(UserError, match="moves foreign, which the encoder has not"):
        collect(images.encoder, TaskVector({"foreign": torch.ones(2)}), images.examples, 4)
    monkeypatch.setattr(vision, "encode", lambda *_: None)  # a layer that is never run
    with pytest.raises(RuntimeError, match=r"no layer of the encoder told its inputs for proj"):
        collect(*of, 4)


def test_a_pass_that_is_listened_to_is_the_pass_and_nothing_is_heard_after_it(images):
    heard, theta0 = [], images.encoder.theta0
    name = "transformer.resblocks.1.mlp.c_fc.weight"
    of = theta0, images.pixels[:3], images.encoder.modality.geometry
    alone = vision.encode(*of)
    with LayerInputs({name: theta0[name]}, lambda *told: heard.append(told)):
        beside = vision.encode(*of)
    assert torch.equal(alone, beside)
    vision.encode(*of)
    assert [(told, x.shape) for told, x in heard] == [(name, (3, 1, 32))]


# --- Texts ---------------------------------------------------------------------------------------


KINDS = {
    "v1.0": {"feed_forward_proj": "relu", "tie_word_embeddings": True},
    "v1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}
LENGTHS = (9, 4, 7, 12, 1, 3, 6, 8)
LONGEST = 6


def transformers_model(kind):
    """A random T5 in float64 throughout: transformers' own norm goes through float32."""
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"vocab_size": 50, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_heads": 3}
    sizes |= {"num_layers": 2, "num_decoder_layers": 3, "decoder_start_token_id": 0}
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(T5Config(**sizes, **KINDS[kind])).eval()
    model.requires_grad_(False)
    if kind == "v1.1":  # transformers makes every new T5 a tied one
        model.lm_head.weight = torch.nn.Parameter(torch.randn(50, 16), requires_grad=False)
    for tensor in model.parameters():
        tensor.add_(0.15 * torch.randn_like(tensor))
    model.shared.weight.mul_(0.3)  # else a tied head says what it was just given

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.square().mean(-1, True) + self.variance_epsilon)

    for part in model.double().modules():
        if type(part).__name__ == "T5LayerNorm":
            part.forward = MethodType(forward, part)
    return model


@pytest.fixture(scope="module", params=KINDS)
def texts(request):
    """A random T5 as transformers' module and as our encoder, random texts, and a vector."""
    model = transformers_model(request.param)
    theta0 = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    generator = np.random.default_rng(0)
    sources = [generator.integers(2, 50, n).astype(np.int32) for n in LENGTHS]
    ends = np.cumsum(LENGTHS)
    target, words = np.zeros(len(LENGTHS), np.int32), np.ones((1, 1), np.int32)
    rows = Texts(np.concatenate(sources), ends - LENGTHS, ends, target, None, words, ["?"], "",
                 LONGEST)  # fmt: skip
    geometry, tau = t5_geometry("tiny", model.config.to_dict()), random_vector(theta0)
    # An end of text that stops the answers of f and of f_lin at different places.
    said = []
    for params, along in ((tau.apply(theta0), None), (theta0, tau.tensors)):
        said.append(language.Language(geometry).answered(params, rows, "float32", along, [1.0])[0])

    def stops(token):
        places = [{int(at[0]) for row in each if len(at := np.flatnonzero(row == token))}
                  for each in said]  # fmt: skip
        return min(map(len, places))

    eos = max(range(1, 50), key=stops)
    assert stops(eos) > 1
    geometry = replace(geometry, eos=eos)
    encoder = Encoder("tiny", theta0, language.Language(geometry), "", "")
    examples = language.Examples(rows)
    return SimpleNamespace(
        model=model, encoder=encoder, examples=examples, sources=sources, tau=tau, geometry=geometry
    )


@torch.no_grad()
def transformers_grams(texts, theta, scores, chosen):
    """matrix → XᵀX / tokens of transformers' module, each text by itself: there is no padding.

    Args:
        scores: (source (1, S), given (1, T)) → (1, T, V), of which the answer is the largest.
    """
    model = copy.deepcopy(texts.model)
    model.load_state_dict(theta, strict=False)
    read: dict[str, list] = {}
    lengths = []
    for name, part in model.named_modules():
        if isinstance(part, torch.nn.Linear) and name != "lm_head":

            def note(_module, x, name=name):
                read.setdefault(f"{name}.weight", []).append(x[0].flatten(0, -2))

            part.register_forward_pre_hook(note)
    for i in chosen:
        source = torch.from_numpy(texts.sources[i].astype(np.int64))[None]
        given = torch.zeros(1, 1, dtype=torch.int64)
        while (token := scores(source, given)[:, -1].argmax(-1)) != texts.geometry.eos:
            if given.shape[1] == LONGEST:
                break
            given = torch.cat([given, token[None]], 1)
        lengths.append(given.shape[1])
        model(input_ids=source, decoder_input_ids=given)
    assert len(set(lengths)) > 1  # answers of different lengths: shorter ones are padded
    return {name: gram(parts) for name, parts in read.items()}


def plain_scores(texts, theta):
    model = copy.deepcopy(texts.model)
    model.load_state_dict(theta, strict=False)
    return lambda source, given: model(input_ids=source, decoder_input_ids=given).logits


def linear_scores(texts, theta0):
    def scores(source, given):
        of = source, given, texts.geometry
        return sum(logits_linearized(theta0, texts.tau.tensors, *of))

    return scores


@pytest.mark.parametrize("linearized", [False, True])
def test_the_grams_of_texts_are_those_of_transformers_layers(texts, linearized):
    """Of f on its own answers; of f_lin at θ0, on the answers of f_lin."""
    theta0 = texts.encoder.theta0
    found = collect(texts.encoder, texts.tau, texts.examples, 7, 2, linearized).grams
    if linearized:
        theta, scores = theta0, linear_scores(texts, theta0)
    else:
        theta = texts.tau.apply(theta0)
        scores = plain_scores(texts, theta)
    equal(found, transformers_grams(texts, theta, scores, drawn(len(LENGTHS), 7, 2)))
    assert len(found) == 2 * (4 + 2 + texts.geometry.gated) + 3 * (8 + 2 + texts.geometry.gated)
    assert found.keys() == {name for name in theta0 if is_matrix(name, theta0[name].dim())}


def test_padding_does_not_count(texts):
    """The sum over single texts, which have none, weighted by their tokens."""
    together = collect(texts.encoder, texts.tau, texts.examples).grams
    rows, weights, alone = texts.examples.texts, [], []
    for i, length in enumerate(LENGTHS):
        one = rows._replace(starts=rows.starts[i : i + 1], ends=rows.ends[i : i + 1],
                            target=rows.target[i : i + 1])  # fmt: skip
        alone.append(collect(texts.encoder, texts.tau, language.Examples(one)).grams)
        weights.append(length / sum(LENGTHS))
    for name in ("encoder.block.1.layer.0.SelfAttention.q.weight",
                 "encoder.block.1.layer.1.DenseReluDense.wo.weight",
                 "decoder.block.0.layer.1.EncDecAttention.v.weight"):  # fmt: skip
        mean = sum(w * each[name].double() for w, each in zip(weights, alone, strict=True))
        assert tiny.close(together[name].double(), mean) < ROUNDING


def test_the_attention_mode_of_texts_has_attention_matrices_alone(texts):
    tau = random_vector(texts.encoder.theta0, lambda name: name.endswith(tuple(
        f"Attention.{part}.weight" for part in "qkv")))  # fmt: skip
    found = collect(texts.encoder, tau, texts.examples, 5).grams
    assert found.keys() == tau.keys() and len(found) == 3 * (2 + 3 + 3)


# --- RegMean with them ---------------------------------------------------------------------------


def data(mode, tasks=TASKS[:2], seed=0):
    """What regmean learns of: vectors of the shared suite, and their train examples."""
    suite = tiny.shared_suite()
    encoder = vision.read_encoder(suite["encoder_dir"])
    at = [suite["tasks"].index(task) for task in tasks]
    files = [(suite["heads"][i], suite["data_dirs"][i]) for i in at]
    vectors = [read_vector(tiny.shared_vector(mode, task)) for task in tasks]

    def examples(split):
        assert split == "train"
        return [encoder.modality.read_examples(*each, split) for each in files]

    return Data(encoder, vectors, tasks, examples, seed=seed)


@pytest.mark.filterwarnings("ignore::task_arithmetic.merging.linear.LostRank")
@pytest.mark.parametrize("mode", ["attention", "nonlinear"])
def test_the_merged_matrix_gives_the_outputs_that_differ_least(mode):
    """Of each layer in each task's own model, on the very inputs: no step from it is downhill."""
    given, options = data(mode), RegmeanOptions(off_diagonal=1.0, images=40)
    state = find("regmean").learn(given, options, SILENT)
    _, merged = merge_vectors(given.vectors, "regmean", {"off_diagonal": 1.0}, state=state)
    inputs = [dict[str, list]() for _ in given.tasks]
    for found, tau, examples in zip(inputs, given.vectors, given.examples("train"), strict=True):
        params, names = tau.apply(given.encoder.theta0), list(state)

        def note(name, x, found=found):
            found.setdefault(name, []).append(x.double())

        chosen = drawn(48, 40, 0)
        given.encoder.modality.visit_inputs(params, None, examples, chosen, names, note)
    for name in state:
        x = [torch.cat(found[name]) for found in inputs]
        taus = [tau[name].double() for tau in given.vectors]
        turned = name == "proj"

        def slope(m, x=x, taus=taus, turned=turned):
            m = m.double().requires_grad_()
            outputs = [each @ (m - t if turned else (m - t).T) for each, t in
                       zip(x, taus, strict=True)]  # fmt: skip
            loss = sum(each.square().sum() / len(each) for each in outputs)
            return torch.autograd.grad(loss, m)[0].abs().max()

        assert slope(merged[name]) < 1e-3 * slope(sum(taus) / len(taus)), name


def test_of_one_task_nothing_but_its_own_vector_comes_out():
    given = data("attention", ["two"])
    state = find("regmean").learn(given, RegmeanOptions(), SILENT)
    _, merged = merge_vectors(given.vectors, "regmean", state=state)
    for name in state:
        assert tiny.close(merged[name], given.vectors[0][name]) < 1e-4


def test_what_is_learnt_is_of_each_task_in_its_order_and_of_as_many_images_as_are_asked_for():
    given = data("ntk", TASKS, seed=5)
    state = find("regmean").learn(given, RegmeanOptions(images=9), SILENT)
    at_theta0 = [
        collect(given.encoder, tau, examples, 9, 5, linearized=True).grams
        for tau, examples in zip(given.vectors, given.examples("train"), strict=True)
    ]
    assert len(state) == 9
    for name, grams in state.items():
        assert all(torch.equal(a, b[name]) for a, b in zip(grams, at_theta0, strict=True))


# --- The stage -----------------------------------------------------------------------------------


def written(path, mode="attention", task="one", seed=0, progress=SILENT, **settings):
    suite = tiny.shared_suite()
    at = suite["tasks"].index(task)
    of = {"encoder": "tiny", "mode": mode, "task": task, "seed": seed}
    files = suite["encoder_dir"], suite["heads"][at], suite["data_dirs"][at]
    vector = tiny.shared_vector(mode, task)
    statistics(*files, **of, vector=vector, settings=settings, output=path, progress=progress)
    return path


class Told(Progress):
    def __init__(self):
        self.told = []

    def at(self, done, total, unit, **figures):
        self.told.append((done, total, unit))


@pytest.mark.parametrize("mode", ["attention", "ntk"])
def test_the_stage_writes_what_is_collected(tmp_path, mode):
    linearized, told = mode == "ntk", Told()
    path = written(tmp_path / "a", mode, "two", 4, told, images=40, linearized=linearized)
    given = data(mode, ["two"])
    (examples,), (tau,) = given.examples("train"), given.vectors
    expected = collect(given.encoder, tau, examples, 40, 4, linearized).grams
    found = read_tensors(path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert read_made_by(path) == {
        "stage": "statistics", "encoder": "tiny", "mode": mode, "task": "two", "seed": 4,
        "images": 40, "theta0_sha256": given.encoder.base,
    }  # fmt: skip
    assert told.told == [(32, 40, "image"), (40, 40, "image")]


def test_the_same_seed_gives_the_same_file_and_a_limit_is_kept(tmp_path):
    first, again, other = (
        written(tmp_path / name, seed=seed, images=20).read_bytes()
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == again != other
    few = written(tmp_path / "few", limit={"train": 12, "validation": 3})
    assert read_made_by(few)["images"] == 12
    assert read_made_by(written(tmp_path / "all"))["images"] == 48


def test_the_command_collects_of_texts(tmp_path):
    suite, output = tiny_texts.suite(), tmp_path / "texts.safetensors"
    words = [
        "stage",
        "statistics",
        "--encoder-dir",
        suite["encoder_dir"],
        "--head",
        suite["heads"][0],
    ]
    words += ["--data-dir", suite["data_dirs"][0], "--encoder", "tiny", "--mode", "attention"]
    words += ["--vector", tiny_texts.vector("attention", "mood"), "--task", "mood", "--seed", "0"]
    words += ["--settings", json.dumps({"modality": "language", "images": 10}), "--output", output]
    assert main([str(word) for word in words]) == 0
    found = load_file(output)
    assert len(found) == 3 * (2 + 2 + 2)
    assert all(each.shape == (24, 24) and each.diagonal().min() > 0 for each in found.values())
    for name, each in found.items():
        assert tiny.close(each, each.T) < 1e-6, name
    assert read_made_by(output)["images"] == 10


def test_merging_takes_the_files_as_it_takes_what_is_learnt(tmp_path):
    given = data("attention", TASKS, seed=2)
    state = find("regmean").learn(given, RegmeanOptions(images=30), SILENT)
    paths = [written(tmp_path / task, task=task, seed=2, images=30) for task in TASKS]
    files = GramFiles(paths)
    assert sorted(state) == list(files) and len(files) == 4 and "proj" not in files
    assert [header["task"] for header in files.headers] == list(TASKS)
    ours, theirs = (
        merge_vectors(given.vectors, "regmean", tasks=TASKS, state=each)[1]
        for each in (files, state)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs.keys())
    swapped = merge_vectors(given.vectors, "regmean", state=GramFiles(paths[::-1]))[1]
    assert any(not torch.equal(swapped[name], theirs[name]) for name in theirs.keys())


def test_files_that_do_not_serve_are_a_sentence(tmp_path):
    path = written(tmp_path / "a", images=4)
    vector, foreign = tiny.shared_vector("attention", "one"), tmp_path / "foreign"
    with pytest.raises(UserError, match="holds no Gram matrices: give files made by `statistics`"):
        GramFiles([path, vector])
    write_tensors(foreign, read_tensors(path), read_made_by(path) | {"theta0_sha256": "f" * 64})
    with pytest.raises(UserError, match="are of different encoders"):
        GramFiles([path, foreign])
    some = read_tensors(path)
    name = sorted(some)[0]
    some.pop(name)
    write_tensors(tmp_path / "some", some, read_made_by(path))
    taus = [read_vector(vector)] * 2
    with pytest.raises(UserError, match=r"needs 2 Gram matrices of 32 × 32 inputs .*found \(32"):
        merge_vectors(taus, "regmean", state=GramFiles([path, tmp_path / "some"]))
    with pytest.raises(UserError, match="have 'image'"):
        written(tmp_path / "b", image=4)
    assert not (tmp_path / "b").exists()


def test_a_vector_of_another_encoder_is_refused(tmp_path):
    suite, path = tiny.shared_suite(), tiny.shared_vector("attention", "one")
    foreign = tmp_path / "foreign.safetensors"
    write_tensors(foreign, read_tensors(path), read_made_by(path) | {"theta0_sha256": "f" * 64})
    files = suite["encoder_dir"], suite["heads"][0], suite["data_dirs"][0]
    of = {"encoder": "tiny", "mode": "attention", "task": "one", "seed": 0, "settings": {}}
    with pytest.raises(UserError, match="of different encoders"):
        statistics(*files, **of, vector=foreign, output=tmp_path / "g")
