"""The search of one coefficient per task: what loops find, never worse than where it starts, with
as few accuracies as it takes."""

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pytest
import tiny
import torch

from task_arithmetic.core.encoder import Encoder
from task_arithmetic.core.vectors import TaskVector
from task_arithmetic.errors import UserError
from task_arithmetic.merging.affine import features_of
from task_arithmetic.merging.merge import merge_vectors
from task_arithmetic.merging.method import Data, options_of
from task_arithmetic.merging.per_task import METHOD, learn
from task_arithmetic.progress import SILENT, Progress
from task_arithmetic.stages.evaluate import read_vector
from task_arithmetic.vision.modality import read_encoder

TASKS = ("a", "b", "c")


@dataclass
class Fake:
    """Of θ (T,) each task has an accuracy of few values, highest somewhere of its own, and lower
    where the others' entries are large: they interfere."""

    seed: int
    flat: bool = False
    passes: int = 0

    def accuracy(self, theta, task):
        if self.flat:
            return 0.5
        generator = np.random.default_rng([self.seed, task])
        best, weights = generator.uniform(0, 1.4), generator.uniform(-0.6, 0.6, len(theta))
        weights[task] = 1.0
        return round(8 * float(np.exp(-((weights @ theta - best) ** 2)))) / 8

    def accuracies(self, theta0, tau, alphas, splits, linearized, precision):
        assert linearized is tau.linearized is True and precision == "bf16"
        self.passes += 1
        found = {}
        for task, examples in splits.items():
            assert examples == f"{task} of validation"
            thetas = [(theta0["x"] + alpha * tau["x"]).double().numpy() for alpha in alphas]
            found[task] = np.array([self.accuracy(theta, TASKS.index(task)) for theta in thetas])
        return found


def data(modality, own=(0.9, 0.5, 0.7), tasks=TASKS):
    encoder = Encoder("fake", {"x": torch.zeros(len(tasks))}, modality, "", "")
    vectors = [TaskVector({"x": row}, "ntk", True) for row in torch.eye(len(tasks))]

    def examples(split):
        return [f"{task} of {split}" for task in tasks]

    return Data(encoder, vectors, tasks, examples, own, "bf16")


def found(of, progress=SILENT, **options):
    state = learn(of, options_of(METHOD, options), progress)
    assert [row[:2] for row in state.as_rows()] == [(task, "") for task in of.tasks]
    return [row[2] for row in state.as_rows()]


def score(modality, alphas, own):
    theta = np.array(alphas, dtype=np.float32).astype(float)
    each = [modality.accuracy(theta, t) / own[t] for t in range(len(own))]
    return round(float(np.mean(each)), 12)


def by_loops(modality, own, sweeps):
    tasks, grid = len(own), [round(0.05 * i, 2) for i in range(21)]
    start = grid[int(np.argmax([score(modality, [a] * tasks, own) for a in grid]))]
    best = [start] * tasks
    for _ in range(sweeps):
        for t in range(tasks):
            here = best[t]
            for move in (-0.2, -0.1, 0.1, 0.2):
                tried = best[:t] + [round(here + move, 10)] + best[t + 1 :]
                if score(modality, tried, own) > score(modality, best, own):
                    best = tried
    return [start] * tasks, best


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("sweeps", [1, 2, 6])
def test_it_finds_what_loops_find_and_never_less_than_it_starts_from(seed, sweeps):
    modality, own = Fake(seed), (0.9, 0.5, 0.7)
    start, expected = by_loops(modality, own, sweeps)
    ours = found(data(modality, own), sweeps=sweeps)
    assert ours == pytest.approx(expected, abs=1e-12)
    assert score(modality, ours, own) >= score(modality, start, own)


def test_the_search_moves_and_needs_its_second_sweep():
    """Else the test above would be of nothing."""
    own, seeds = (0.9, 0.5, 0.7), range(20)
    both = [[by_loops(Fake(seed), own, sweeps) for sweeps in (1, 2)] for seed in seeds]
    assert sum(one[0] != one[1] for one, _ in both) > 10
    assert any(one[1] != two[1] for one, two in both)
    assert any(len(set(two[1])) > 1 for _, two in both)


def test_equal_accuracies_move_nothing_and_end_the_search():
    modality, told = Fake(0, flat=True), []

    class Told(Progress):
        def at(self, done, total, unit, **figures):
            told.append((done, total))

    assert found(data(modality), Told(), sweeps=5) == [0.0] * 3
    assert modality.passes == 1 + 1 + 4 * 3  # the grid, the start, four moves of each task
    assert told == [(1, 15), (2, 15), (3, 15), (15, 15)]


def test_no_coefficients_are_measured_twice():
    modality = Fake(3)
    found(data(modality), sweeps=50)
    assert modality.passes < 60


def test_each_task_needs_its_own_accuracy():
    with pytest.raises(UserError, match="there are 3 tasks and 0 accuracies"):
        found(data(Fake(0), own=()))
    with pytest.raises(UserError, match="per_task takes one vector and one set"):
        found(data(Fake(0), tasks=("a", "a", "c")))


@pytest.mark.parametrize("mode", ["attention", "ntk"])
def test_of_an_encoder_the_accuracy_of_what_is_merged_is_at_least_the_best_common_one(mode):
    of = suite(mode)
    encoder, vectors, tasks, examples, own = of.encoder, of.vectors, of.tasks, of.examples, of.own

    def normalized(tau, alphas):
        splits = dict(zip(tasks, examples("validation"), strict=True))
        found = encoder.modality.accuracies(encoder.theta0, tau, alphas, splits, mode == "ntk")
        return np.mean([found[t] / o for t, o in zip(tasks, own, strict=True)], axis=0)

    state = learn(of, options_of(METHOD, {}), SILENT)
    offset, merged = merge_vectors(vectors, "per_task", tasks=tasks, state=state)
    assert offset is None and merged.linearized == (mode == "ntk")
    grid = [round(0.05 * i, 2) for i in range(21)]
    best = normalized(vectors[0] + vectors[1], grid).max()
    assert normalized(merged, [1.0])[0] >= best - 1e-9
    a, b = (value for _, _, value in state.as_rows())
    for name in merged.keys():
        assert torch.equal(merged[name], a * vectors[0][name] + b * vectors[1][name])


@dataclass
class Accuracies:
    """A modality's accuracies alone, and how many passes they take."""

    of: object
    passes: int = 0

    def accuracies(self, *given):
        self.passes += 1
        return self.of.accuracies(*given)


def suite(mode):
    arguments = tiny.common(vectors=False)
    encoder, tasks = read_encoder(arguments["encoder_dir"]), arguments["tasks"]
    files = list(zip(arguments["heads"], arguments["data_dirs"], strict=True))
    vectors = [read_vector(tiny.shared_vector(mode, task)) for task in tasks]

    def examples(split):
        return [encoder.modality.read_examples(*each, split) for each in files]

    return Data(encoder, vectors, tasks, examples, (0.8, 0.6))


@pytest.mark.parametrize("normalize", [False, True])
def test_f_lin_of_a_classifier_takes_a_pass_for_each_task_and_finds_the_same(
    monkeypatch, normalize
):
    of, more = suite("ntk"), {"normalize": normalize, "sweeps": 3}
    generator = torch.Generator().manual_seed(0)
    some = [
        {n: t * torch.randn(t.shape, generator=generator) / 4 for n, t in of.encoder.theta0.items()}
        for _ in range(6)
    ]
    every = [
        replace(of, vectors=[TaskVector(a, "ntk", True), TaskVector(b, "ntk", True)])
        for a, b in combinations(some, 2)
    ]
    by_passes = Accuracies(of.encoder.modality)
    plain = replace(of.encoder, modality=by_passes)
    expected = [found(replace(each, encoder=plain), **more) for each in every]
    passes, own = [], type(of.encoder.modality).features_linearized

    def counted(self, theta0, tau, *rest):
        passes.append(tau)
        return own(self, theta0, tau, *rest)

    monkeypatch.setattr(type(of.encoder.modality), "features_linearized", counted)
    assert [found(each, **more) for each in every] == expected
    assert any(a != b for a, b in expected)  # else the test is of nothing
    assert len(passes) == len(every) * 2 * 2 < by_passes.passes  # vectors, tasks of one batch


def test_features_of_f_lin_are_those_of_the_sum_to_rounding():
    of = suite("ntk")
    splits = dict(zip(of.tasks, of.examples("validation"), strict=True))
    each = features_of(of.encoder, of.vectors, splits, "float32")
    modality, theta0 = of.encoder.modality, of.encoder.theta0
    for task, coefficients in (("one", (0.3, -1.7)), ("two", (0.0, 0.0)), ("two", (1.0, 2.0))):
        summed = coefficients[0] * of.vectors[0] + coefficients[1] * of.vectors[1]
        (pixels,) = next(iter(modality.batches(splits[task].images, of.encoder.device)))
        value, tangent = modality.features_linearized(theta0, summed, pixels)
        ours = each[task].at(coefficients).double()
        assert tiny.close(ours, (value + tangent).double()) < 1e-6
        measured = modality.accuracies(theta0, summed, [1.0], splits, True)
        assert each[task].accuracy(of.encoder, coefficients) == measured[task][0]
    with pytest.raises(UserError, match="numbers that are not finite"):
        each["one"].accuracy(of.encoder, (float("inf"), 0.0))
