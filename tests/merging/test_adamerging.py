"""AdaMerging: the gradient in λ is autograd's, through f and f_lin, of images and of texts; the
steps are Adam's; and nothing is read that should not be."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import tiny
import tiny_texts
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from task_arithmetic.core.schedule import batch_indices
from task_arithmetic.core.vectors import TaskVector
from task_arithmetic.errors import UserError
from task_arithmetic.language import modality as language
from task_arithmetic.language.t5 import logits
from task_arithmetic.merging.adamerging import METHOD, Objective, _seed, entropy, learn
from task_arithmetic.merging.coefficients import Coefficients
from task_arithmetic.merging.merge import merge_vectors
from task_arithmetic.merging.method import Data, options_of
from task_arithmetic.progress import SILENT, Progress
from task_arithmetic.stages.evaluate import read_vector
from task_arithmetic.vision import modality as vision

SUITES = {"vision": tiny, "language": tiny_texts}
READ = {"vision": vision.read_encoder, "language": language.read_encoder}
EVERY = [(kind, mode) for kind in SUITES for mode in ("nonlinear", "ntk")]


@cache
def data(kind="vision", mode="nonlinear", **more) -> Data:
    """Two tasks of the tiny suites, whose test examples must not be read."""
    if kind == "vision":
        suite, vector = tiny.common(vectors=False), tiny.shared_vector
    else:
        suite, vector = tiny_texts.suite(), tiny_texts.vector
    encoder = READ[kind](suite["encoder_dir"])
    files = list(zip(suite["heads"], suite["data_dirs"], strict=True))

    def examples(split):
        assert split == "validation", "test examples are read"
        return [blind(encoder.modality.read_examples(*each, split)) for each in files]

    vectors = [read_vector(vector(mode, task)) for task in suite["tasks"]]
    return Data(encoder, vectors, suite["tasks"], examples, **more)


def blind(examples):
    """Without labels."""
    if hasattr(examples, "labels"):
        return examples._replace(labels=None)
    return examples._replace(texts=examples.texts._replace(target=None, score=None))


def options(**given):
    return options_of(METHOD, given)


def found(of=None, **given) -> np.ndarray:
    """The coefficients, (tasks, tensors or 1)."""
    of = of or data()
    rows = learn(of, options(**given), SILENT).as_rows()
    return np.array([value for _, _, value in rows]).reshape(len(of.tasks), -1)


class Told(Progress):
    def __init__(self):
        self.entropies = []

    def at(self, done, total, unit, **figures):
        self.entropies.append(figures["entropy"])
        assert done == len(self.entropies) <= total and unit == "step"


# --- The gradient --------------------------------------------------------------------------------


def double(of):
    """Encoder, deltas and examples in float64."""
    theta0 = {name: tensor.double() for name, tensor in of.encoder.theta0.items()}
    names = sorted(of.vectors[0].keys())
    deltas = {name: [vector[name].double() for vector in of.vectors] for name in names}
    examples = of.examples("validation")
    if hasattr(examples[0], "labels"):
        examples = [each._replace(head=each.head.double()) for each in examples]
    return replace(of.encoder, theta0=theta0), deltas, examples


def batches_of(encoder, examples, size=4):
    found = []
    for seed, each in enumerate(examples):
        inputs, answers = encoder.modality.candidates(each, 3, size, seed, encoder.device)
        inputs = inputs.double() if inputs.is_floating_point() else inputs
        found.append((each, inputs, answers))
    return found


def expected_loss(encoder, deltas, linearized, coefficients, batches):
    """L(λ) with a graph through θ0 + Σ λ τ, or through torch's jvp."""
    tau = {
        name: sum(row[n] * delta for row, delta in zip(coefficients, each, strict=True))
        for n, (name, each) in enumerate(deltas.items())
    }
    losses = []
    for examples, inputs, answers in batches:

        def f(moved, inputs=inputs, answers=answers):
            return encoder.modality.outputs({**encoder.theta0, **moved}, inputs, answers)

        own = {name: encoder.theta0[name] for name in tau}
        if linearized:
            with sdpa_kernel(SDPBackend.MATH):
                value, tangent = torch.func.jvp(f, (own,), (tau,))
            outputs = value + tangent
        else:
            outputs = f({name: own[name] + tau[name] for name in tau})
        p = encoder.modality.log_probabilities(outputs, examples).exp()
        losses.append(-(p * p.log()).sum(-1).mean())
    return sum(losses) / len(losses)


@pytest.mark.parametrize("kind, mode", EVERY)
def test_the_gradient_is_autograds_through_the_sum(kind, mode):
    """A coefficient of each tensor; and, tied, of each task."""
    encoder, deltas, examples = double(data(kind, mode))
    batches, linearized = batches_of(encoder, examples), mode == "ntk"
    generator = torch.Generator().manual_seed(1)
    drawn = torch.rand(2, len(deltas), generator=generator, dtype=torch.float64)
    objective = Objective(encoder, deltas, linearized)
    loss, gradient = objective.gradient(drawn, batches)
    leaf = drawn.clone().requires_grad_()
    wanted = expected_loss(encoder, deltas, linearized, leaf, batches)
    assert loss == pytest.approx(float(wanted.detach()), rel=1e-9)
    (slope,) = torch.autograd.grad(wanted, leaf)
    assert slope.abs().max() > 1e-4 and tiny.close(gradient, slope) < 1e-7
    tied = drawn[:, :1].clone().requires_grad_()
    wanted = expected_loss(encoder, deltas, linearized, tied.expand(-1, len(deltas)), batches)
    (slope,) = torch.autograd.grad(wanted, tied)
    _, gradient = objective.gradient(tied.detach().expand(-1, len(deltas)), batches)
    assert tiny.close(gradient.sum(1, keepdim=True), slope) < 1e-7


@pytest.mark.parametrize("kind, mode", EVERY)
def test_what_does_not_fit_into_memory_is_computed_in_halves(kind, mode):
    encoder, deltas, examples = double(data(kind, mode))
    batches = batches_of(encoder, examples, 7)
    drawn = torch.full((2, len(deltas)), 0.4, dtype=torch.float64)
    whole = Objective(encoder, deltas, mode == "ntk").gradient(drawn, batches)
    sizes = []

    class Small(type(encoder.modality)):
        def outputs(self, params, inputs, targets):
            sizes.append(len(inputs))
            if len(inputs) > self.most:
                raise RuntimeError("CUDA out of memory.")
            return super().outputs(params, inputs, targets)

        def outputs_linearized(self, params, tau, inputs, targets):
            self.outputs(params, inputs[:3], targets[: 3 * len(targets) // len(inputs)])
            if len(inputs) > self.most:
                raise RuntimeError("CUDA out of memory.")
            return super().outputs_linearized(params, tau, inputs, targets)

    small = replace(encoder, modality=Small(**vars(encoder.modality)))
    object.__setattr__(small.modality, "most", 3)
    loss, gradient = Objective(small, deltas, mode == "ntk").gradient(drawn, batches)
    assert sizes and loss == pytest.approx(whole[0], rel=1e-10)
    assert tiny.close(gradient, whole[1]) < 1e-9
    object.__setattr__(small.modality, "most", 0)
    with pytest.raises(UserError, match="One example alone does not fit"):
        Objective(small, deltas, mode == "ntk").gradient(drawn, batches)


def test_entropy_is_that_of_its_definition():
    p = torch.tensor([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]], dtype=torch.float64)
    expected = (1.5 * np.log(2) + np.log(3)) / 2
    assert float(entropy(p.log())) == pytest.approx(expected, rel=1e-12)
    sure = torch.tensor([[0.0, -300.0]])
    assert float(entropy(sure)) == 0


# --- Predictions ---------------------------------------------------------------------------------


def test_images_are_read_whole_and_classified_zero_shot():
    of = data()
    examples = of.examples("validation")[0]
    inputs, answers = of.encoder.modality.candidates(examples, 2, 5, 9, of.encoder.device)
    chosen = batch_indices(2, len(examples.images), 5, 9)
    every = next(iter(of.encoder.modality.batches(examples.images, of.encoder.device)))
    assert torch.equal(inputs, torch.cat(every)[chosen]) and answers.shape == (5, 0)
    outputs = of.encoder.modality.outputs(of.encoder.theta0, inputs, answers)
    found = of.encoder.modality.log_probabilities(outputs, examples)
    unit = outputs.numpy() / np.linalg.norm(outputs.numpy(), axis=1, keepdims=True)
    scores = np.exp(unit @ examples.head.numpy().T)
    assert np.allclose(found.exp().numpy(), scores / scores.sum(1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("task", [0, 1], ids=["words", "scores"])
def test_a_text_is_answered_by_the_probability_of_each_answers_tokens(task):
    """One source and one answer at a time, without padding, in float64."""
    encoder, _, every = double(data("language"))
    examples, modality = every[task], encoder.modality
    inputs, answers = modality.candidates(examples, 0, 5, 4, encoder.device)
    texts = examples.texts
    assert len(texts.words) > 1 and len(answers) == 5 * len(texts.words)
    outputs = modality.outputs(encoder.theta0, inputs, answers)
    found = modality.log_probabilities(outputs, examples).exp()
    for row, example in zip(found, batch_indices(0, len(texts.ends), 5, 4), strict=True):
        source = torch.tensor(texts.tokens[texts.starts[example] : texts.ends[example]])[None]
        scores = []
        for word in texts.words:
            word = torch.tensor(word[word != 0]).long()
            given = torch.cat([torch.tensor([modality.geometry.start]), word[:-1]])[None]
            p = logits(encoder.theta0, source.long(), given, modality.geometry)[0].softmax(-1)
            scores.append(p[torch.arange(len(word)), word].prod())
        scores = torch.stack(scores)
        assert tiny.close(row, scores / scores.sum()) < 1e-9
    assert {len(word[word != 0]) for word in texts.words} == ({2, 3} if task == 0 else {2})


# --- The steps -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, mode, level", [("vision", "nonlinear", "layer"),
    ("vision", "ntk", "task"), ("language", "nonlinear", "task")])  # fmt: skip
def test_the_steps_are_torchs_adam_down_the_entropy(kind, mode, level):
    of = data(kind, mode)
    names = sorted(of.vectors[0].keys())
    deltas = {name: [vector[name] for vector in of.vectors] for name in names}
    start = torch.full((2, len(names) if level == "layer" else 1), 0.3)
    leaf, rate = start.clone().requires_grad_(), 0.02
    optimizer, entropies = torch.optim.Adam([leaf], lr=rate), Told()
    rows = learn(of, options(level=level, steps=4, batch=6, learning_rate=rate), entropies)
    examples = of.examples("validation")
    expected = []
    for step in range(4):
        batches = [
            (
                each,
                *of.encoder.modality.candidates(each, step, 6, _seed(0, task), torch.device("cpu")),
            )
            for task, each in zip(of.tasks, examples, strict=True)
        ]
        loss = expected_loss(
            of.encoder, deltas, mode == "ntk", leaf.expand(-1, len(names)), batches
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(float(loss.detach()))
    assert entropies.entropies == pytest.approx(expected, rel=1e-4)
    ours = torch.tensor([value for _, _, value in rows.as_rows()]).reshape(start.shape)
    moved = leaf.detach() - start
    assert moved.abs().min() > 0 and tiny.close(ours - start, moved) < 0.05
    tensors = names if level == "layer" else [""]
    assert [row[:2] for row in rows.as_rows()] == [(t, n) for t in of.tasks for n in tensors]


@pytest.mark.parametrize("kind, mode", EVERY)
def test_the_entropy_falls(kind, mode):
    told = Told()
    learn(data(kind, mode), options(steps=12, learning_rate=0.03, batch=12), told)
    assert np.mean(told.entropies[-3:]) < np.mean(told.entropies[:3]) - 1e-3


def test_coefficients_start_where_they_should_and_are_not_clamped():
    tiny_rate = {"steps": 1, "learning_rate": 1e-12}
    assert set(found(**tiny_rate).ravel()) == {float(np.float32(0.3))}
    assert set(found(start=-0.5, level="task", **tiny_rate).ravel()) == {-0.5}
    far = found(start=1.5, steps=2, learning_rate=0.5)
    assert far.max() > 1.6 and np.array_equal(far, far.astype(np.float32))


def test_what_is_found_depends_on_seed_and_task_and_not_on_their_order():
    of, few = data(), {"steps": 3, "batch": 4, "learning_rate": 0.01}
    assert np.array_equal(found(**few), found(**few))
    assert not np.array_equal(found(**few), found(replace(of, seed=1), **few))
    back = replace(
        of,
        vectors=of.vectors[::-1],
        tasks=of.tasks[::-1],
        examples=lambda split: of.examples(split)[::-1],
    )
    assert np.allclose(found(back, **few)[::-1], found(**few), atol=1e-4)
    renamed = replace(of, tasks=["a", "b"])
    assert not np.allclose(found(renamed, **few), found(**few), atol=1e-4)


@pytest.mark.parametrize("kind, mode", EVERY)
def test_a_linearized_mode_goes_through_f_lin_alone_and_another_through_f(kind, mode):
    of = data(kind, mode)

    class OneWay(type(of.encoder.modality)):
        pass

    def never(*_):
        raise AssertionError("the wrong function")

    setattr(OneWay, "outputs" if mode == "ntk" else "outputs_linearized", never)
    modality = OneWay(**vars(of.encoder.modality))
    one_way = replace(of, encoder=replace(of.encoder, modality=modality))
    few = {"steps": 1, "batch": 2}
    assert np.array_equal(found(one_way, **few), found(of, **few))


def test_test_examples_are_read_if_asked_for_and_validation_is_not():
    of = data()

    def examples(split):
        assert split == "test"
        return of.examples("validation")

    few = {"steps": 1, "batch": 4}
    assert np.array_equal(found(replace(of, examples=examples), split="test", **few), found(**few))
    with pytest.raises(AssertionError, match="test examples are read"):
        found(of, split="test", **few)


def test_an_entropy_that_is_not_finite_names_its_step():
    of = data()
    huge = [TaskVector({n: 1e37 * t.sign() for n, t in v.tensors.items()}) for v in of.vectors]
    with pytest.raises(UserError, match=r"step 1 of 5 of adamerging: lower learning_rate"):
        found(replace(of, vectors=huge), steps=5)


def test_examples_and_vectors_are_one_for_each_task():
    of = data()
    for wrong in (
        replace(of, tasks=["one"]),
        replace(of, tasks=["one", "one"]),
        replace(of, vectors=[]),
        replace(of, examples=lambda split: of.examples(split)[:1]),
    ):
        with pytest.raises(UserError, match="adamerging takes one vector and one set of examples"):
            found(wrong, steps=1)


# --- Merging -------------------------------------------------------------------------------------


def test_what_is_merged_is_the_weighted_sum():
    of = data()
    few = {"steps": 2, "learning_rate": 0.1, "batch": 4}
    state = learn(of, options(**few), SILENT)
    offset, direction = merge_vectors(of.vectors, "adamerging", few, tasks=of.tasks, state=state)
    assert offset is None
    for name in direction.keys():
        a, b = (state.of(task, name) for task in of.tasks)
        expected = a * of.vectors[0][name] + b * of.vectors[1][name]
        assert torch.equal(direction[name], expected)
    assert len({state.of("one", name) for name in direction.keys()}) > 1


def test_normalized_vectors_are_what_is_learnt_and_merged():
    of = data()
    loud = [10 * of.vectors[0], of.vectors[1]]
    mean = (loud[0].norm() + loud[1].norm()) / 2
    equal = [(mean / vector.norm()) * vector for vector in loud]
    few = {"steps": 2, "learning_rate": 0.1, "batch": 4}
    state = learn(replace(of, vectors=loud), options(**few, normalize=True), SILENT)
    same = learn(replace(of, vectors=equal), options(**few), SILENT)
    assert np.allclose(*([r[2] for r in s.as_rows()] for s in (state, same)), atol=1e-3)
    _, ours = merge_vectors(
        loud, "adamerging", {**few, "normalize": True}, tasks=of.tasks, state=state
    )
    _, theirs = merge_vectors(equal, "adamerging", few, tasks=of.tasks, state=state)
    assert all(torch.allclose(ours[n], theirs[n], rtol=1e-4, atol=1e-7) for n in ours.keys())


@pytest.mark.parametrize("method", ["adamerging", "per_task"])
def test_coefficients_that_are_missing_are_said(method):
    of = data()
    with pytest.raises(UserError, match="coefficients are found by data"):
        merge_vectors(of.vectors, method, tasks=of.tasks)
    state = Coefficients({("one", ""): 1.0, ("two", "proj"): 1.0})
    with pytest.raises(UserError, match="no coefficient of class_embedding of two"):
        merge_vectors(of.vectors, method, tasks=of.tasks, state=state)
