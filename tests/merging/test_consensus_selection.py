"""consensus with `select: validation`: what loops over masks find, of f and f_lin."""

import numpy as np
import pytest
import tiny
import torch
import twins

from task_arithmetic.core.encoder import Encoder
from task_arithmetic.core.vectors import TaskVector
from task_arithmetic.errors import UserError
from task_arithmetic.merging.merge import merge_vectors
from task_arithmetic.merging.method import Data, options_of
from task_arithmetic.merging.methods import find
from task_arithmetic.progress import SILENT
from task_arithmetic.stages.evaluate import read_vector
from task_arithmetic.vision.modality import read_encoder

METHOD = find("consensus")
CHOSEN = {"select": "validation"}
LEVELS = (0.2, 0.3, 0.4, 0.5, 0.6)


class Fake:
    """Accuracy of a task in few steps of how many entries of τ are not zero, best at its own
    count; and what it was asked."""

    def __init__(self, best):
        self.best, self.seen = best, []

    def accuracies(self, theta0, tau, alphas, splits, linearized, precision):
        assert list(alphas) == [1.0] and linearized is tau.linearized
        ((task, examples),) = splits.items()
        assert examples == f"{task} of validation"
        count = sum(int((tensor != 0).sum()) for tensor in tau.tensors.values())
        self.seen.append((task, {name: t.clone() for name, t in tau.tensors.items()}))
        return {task: np.array([-round(abs(count - self.best[task]) / 40)])}


def random_vectors(count, linearized=False):
    generator = torch.Generator().manual_seed(4)
    shapes = {"a": (20, 9), "b": (30,)}
    return [
        TaskVector({n: torch.randn(s, generator=generator) for n, s in shapes.items()}, "m",
                   linearized)
        for _ in range(count)
    ]  # fmt: skip


def data(modality, vectors, tasks):
    def examples(split):
        return [f"{task} of {split}" for task in tasks]

    encoder = Encoder("fake", {n: torch.zeros_like(t) for n, t in vectors[0].tensors.items()},
                      modality, "", "")  # fmt: skip
    return Data(encoder, vectors, tasks, examples)


def mask(arrays, t, level):
    rest = sum(arrays) - arrays[t]
    return abs(arrays[t]) > level * abs(rest)


@pytest.mark.parametrize("linearized", [False, True])
def test_each_task_has_the_threshold_that_is_best_for_it_and_of_equals_the_smallest(linearized):
    tasks, vectors = ["x", "y", "z"], random_vectors(3, linearized)
    of = {n: [v[n].double().numpy() for v in vectors] for n in ("a", "b")}
    modality = Fake({"x": 120, "y": 150, "z": 90})
    state = METHOD.learn(data(modality, vectors, tasks), options_of(METHOD, CHOSEN), SILENT)
    expected, ties = {}, 0
    for t, task in enumerate(tasks):
        scores = []
        for level in LEVELS:
            count = sum(int(mask(of[n], t, level).sum()) for n in of)
            scores.append(-round(abs(count - modality.best[task]) / 40))
        ties += scores.count(max(scores)) > 1
        expected[task] = LEVELS[int(np.argmax(scores))]
    assert ties and len(set(expected.values())) > 1  # else the test is of nothing
    assert {task: level for task, _, level in state.as_rows()} == expected
    assert len(modality.seen) == len(LEVELS) * len(tasks)
    for place, (task, tensors) in enumerate(modality.seen):
        level, t = LEVELS[place // 3], tasks.index(task)
        for name, tensor in tensors.items():
            masked = mask(of[name], t, level) * sum(of[name])
            np.testing.assert_allclose(tensor.double().numpy(), masked, rtol=1e-5, atol=1e-6)
    _, merged = merge_vectors(vectors, "consensus", CHOSEN, tasks=tasks, state=state)
    for name, arrays in of.items():
        twin = twins.consensus(arrays, [expected[task] for task in tasks])
        np.testing.assert_allclose(merged[name].double().numpy(), twin, rtol=1e-5, atol=1e-6)


def test_normalized_vectors_are_masked_as_they_are_merged():
    tasks, vectors = ["x", "y"], random_vectors(2)
    loud = [10.0 * vectors[0], vectors[1]]
    seen = []
    for each in (vectors, loud):
        modality = Fake({"x": 1, "y": 1})
        options = options_of(METHOD, {**CHOSEN, "normalize": True})
        METHOD.learn(data(modality, each, tasks), options, SILENT)
        seen.append([{n: t != 0 for n, t in tensors.items()} for _, tensors in modality.seen])
    assert all(torch.equal(a[n], b[n]) for a, b in zip(*seen, strict=True) for n in a)


@pytest.mark.parametrize("mode", ["attention", "ntk"])
def test_of_an_encoder_the_threshold_is_by_the_accuracy_of_the_masked_model(mode):
    arguments = tiny.common(vectors=False)
    encoder, tasks = read_encoder(arguments["encoder_dir"]), arguments["tasks"]
    files = list(zip(arguments["heads"], arguments["data_dirs"], strict=True))
    vectors = [read_vector(tiny.shared_vector(mode, task)) for task in tasks]

    def examples(split):
        return [encoder.modality.read_examples(*each, split) for each in files]

    of = Data(encoder, vectors, tasks, examples)
    state = METHOD.learn(of, options_of(METHOD, CHOSEN), SILENT)
    for t, (task, _, level) in enumerate(state.as_rows()):
        (own,) = examples("validation")[t : t + 1]
        scores = []
        for each in LEVELS:
            tau = vectors[0].copy()
            for name in tau.keys():
                arrays = [v[name].double().numpy() for v in vectors]
                tau.tensors[name] = torch.from_numpy(mask(arrays, t, each) * sum(arrays)).float()
            measured = encoder.modality.accuracies(
                encoder.theta0, tau, [1.0], {task: own}, mode == "ntk"
            )
            scores.append(measured[task][0])
        assert level == LEVELS[int(np.argmax(scores))]


def test_what_it_lacks_is_a_sentence():
    vectors = random_vectors(2)
    with pytest.raises(UserError, match="thresholds of consensus are chosen by data: give what"):
        merge_vectors(vectors, "consensus", CHOSEN)
    with pytest.raises(UserError, match="leave one of the two out"):
        options_of(METHOD, {**CHOSEN, "thresholds": {"x": 0.2}})
    with pytest.raises(UserError, match="what 5 tasks use, and there is no more than 2"):
        METHOD.learn(data(Fake({}), vectors, ["x", "y"]),
                     options_of(METHOD, {**CHOSEN, "agree": 5}), SILENT)  # fmt: skip
    assert METHOD.needs == METHOD.needs_of(options_of(METHOD, {})) == "vectors"
    assert METHOD.needs_of(options_of(METHOD, CHOSEN)) == "labelled"
    assert METHOD.cost(options_of(METHOD, CHOSEN), 8).evaluations == len(LEVELS)
