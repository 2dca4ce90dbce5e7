"""Merging from a notebook: methods that need the tasks' data, and LiNeS, whose A is kept."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import tiny
import tiny_texts
import torch

import task_arithmetic as ta
from task_arithmetic.core.addition import choose_alpha, normalized
from task_arithmetic.merging.coefficients import Coefficients
from task_arithmetic.merging.merge import merge_vectors
from task_arithmetic.merging.method import Data, Merged, Method, Options, option, options_of
from task_arithmetic.merging.methods import find
from task_arithmetic.progress import SILENT

FEW = {"steps": 2, "batch": 4, "learning_rate": 0.05, "progress": SILENT}


def loaded(suite):
    encoder = ta.load_encoder(suite["encoder_dir"])
    files = zip(suite["tasks"], suite["data_dirs"], suite["heads"], strict=True)
    return encoder, [ta.Task(name, encoder, data, head) for name, data, head in files][:2]


@pytest.fixture(scope="module")
def both():
    return loaded(tiny.shared_suite())


@pytest.fixture(scope="module")
def encoder(both):
    return both[0]


@pytest.fixture(scope="module")
def tasks(both):
    return both[1]


def vectors(tasks, mode="attention"):
    return [ta.TaskVector.load(tiny.shared_vector(mode, task.name)) for task in tasks]


def alike(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a.keys())


# --- Methods that need data ----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["attention", "ntk"])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_adamerging_reads_the_tasks_examples_in_their_order(encoder, tasks, mode, split):
    taus = vectors(tasks, mode)
    ours = ta.merge(taus, "adamerging", encoder=encoder, tasks=tasks, split=split, seed=3, **FEW)
    read = encoder.modality.read_examples
    examples = [read(task.head, task.data_dir, split, None, encoder.device) for task in tasks]
    of = Data(encoder, taus, [task.name for task in tasks], lambda _: examples, seed=3)
    method, few = find("adamerging"), {k: v for k, v in FEW.items() if k != "progress"}
    state = method.learn(of, options_of(method, few), SILENT)
    assert alike(ours, merge_vectors(taus, method, few, tasks=of.tasks, state=state)[1])
    assert (ours.mode, ours.linearized, ours.base) == (mode, mode == "ntk", encoder.base)
    assert set(ta.evaluate(encoder + ours, tasks)) == {"one", "two"}
    other = ta.merge(taus, "adamerging", encoder=encoder, tasks=tasks, split=split, seed=4, **FEW)
    assert not alike(ours, other)


def test_texts_have_coefficients_too():
    t5, tasks = loaded(tiny_texts.suite())
    taus = [ta.TaskVector.load(tiny_texts.vector("nonlinear", task.name)) for task in tasks]
    few = {"encoder": t5, "tasks": tasks, "level": "task", **FEW}
    merged = ta.merge(taus, "adamerging", **few)
    assert not alike(merged, 0.3 * ta.merge(taus)) and merged.keys() == taus[0].keys()


@pytest.mark.parametrize("mode", ["attention", "ntk"])
def test_a_coefficient_per_task_is_chosen_by_normalized_validation_accuracy(encoder, tasks, mode):
    taus = vectors(tasks, mode)
    merged = ta.merge(taus, "per_task", encoder=encoder, tasks=tasks, progress=SILENT)
    own = [
        ta.evaluate(encoder + tau, [task], "validation")[task.name]
        for tau, task in zip(taus, tasks, strict=True)
    ]

    def mean(tau):
        found = ta.evaluate(encoder + tau, tasks, "validation")
        return np.mean([found[task.name] / o for task, o in zip(tasks, own, strict=True)])

    common = ta.choose_alpha(encoder, ta.merge(taus), tasks, taus)
    assert mean(merged) >= mean(common * ta.merge(taus)) - 1e-9
    moved = mean(merged) > mean(common * ta.merge(taus)) + 1e-9
    assert moved or alike(merged, ta.merge([common * tau for tau in taus]))


@pytest.mark.parametrize("mode", ["attention", "ntk"])
def test_consensus_chooses_its_thresholds_where_it_is_asked_to(encoder, tasks, mode):
    taus, where = vectors(tasks, mode), {"encoder": encoder, "tasks": tasks, "progress": SILENT}
    chosen = ta.merge(taus, "consensus", select="validation", agree=1, **where)
    levels = (0.2, 0.3, 0.4, 0.5, 0.6)
    each = [
        ta.merge(taus, "consensus", tasks=tasks, agree=1, thresholds={"one": a, "two": b})
        for a in levels
        for b in levels
    ]
    assert any(alike(chosen, one) for one in each)
    with pytest.raises(ta.UserError, match="consensus needs labelled data of every task beside"):
        ta.merge(taus, "consensus", select="validation")


def method(**given):
    """A method of one's own that keeps what it is given."""

    def merge(part, options, state):
        return Merged(None, state.of(part.tasks[0], part.name) * part.deltas[0])

    about = {"name": "mine", "title": "", "paper": "", "arxiv": "", "equation": "M"}
    about |= {"scope": "element", "grid": (1.0, 1.0, 1.0), "needs": "labelled", "merge": merge}
    return Method(**{**about, **given})


def test_a_method_of_ones_own_is_given_data(encoder, tasks):
    seen = []

    def learn(data, options, progress):
        seen.append(data)
        return Coefficients({(task, ""): 2.0 for task in data.tasks})

    taus = vectors(tasks)
    where = {"encoder": encoder, "tasks": tasks, "precision": "float32", "progress": SILENT}
    found = ta.merge(taus, method(learn=learn), **where, seed=5)
    assert alike(found, 2.0 * taus[0])
    (data,) = seen
    assert (data.tasks, data.seed, data.precision) == (["one", "two"], 5, "float32")
    alone = [
        ta.evaluate(encoder + tau, [task], "validation", "float32")[task.name]
        for tau, task in zip(taus, tasks, strict=True)
    ]
    assert list(data.own) == alone
    for split, count in (("train", 48), ("validation", 24), ("test", 40)):
        assert [len(each.images) for each in data.examples(split)] == [count] * 2
    ta.merge(taus, method(learn=learn, needs="unlabelled"), **where)
    assert list(seen[1].own) == []  # which would have read labels


def test_data_that_are_missing_or_anothers_are_a_sentence(encoder, tasks):
    taus = vectors(tasks)
    both = {"encoder": encoder, "tasks": tasks, **FEW}
    other = replace(encoder, base="f" * 64)
    for given, said in (
        ({"tasks": tasks[::-1]}, "The vector of task two stands beside task one|of task one sta"),
        ({"tasks": ["one", "two"]}, "adamerging needs unlabelled data of every task.*load_task"),
        ({"encoder": None}, "give `encoder`, and as `tasks` what load_task gave"),
        ({"tasks": ()}, "give `encoder`, and as `tasks`"),
        ({"tasks": tasks[0]}, "There are 1 tasks and 2 vectors"),
        ({"tasks": [tasks[0], tasks[0]]}, "beside task one|each of another name"),
        ({"tasks": [tasks[0], "two"]}, "tasks are names, or what load_task gave, all of them"),
        ({"tasks": [1, 2]}, "tasks are names, or what load_task gave"),
        ({"encoder": other}, "another encoder"),
        ({"encoder": encoder + taus[0]}, "already"),
        ({"encoder": "tiny"}, "load_encoder gives the Encoder"),
        ({"split": "train"}, "split of the merging method adamerging must be validation or test"),
        ({"steps": 0}, "steps of the merging method adamerging must be a whole number at least 1"),
        ({"learning_rate": 0}, "learning_rate of the merging method adamerging must be .* above 0"),
        ({"precision": "half"}, "precision must be auto, bf16 or float32"),
    ):
        with pytest.raises(ta.UserError, match=said):
            ta.merge(taus, "adamerging", **{**both, **given})
    with pytest.raises(ta.UserError, match="mine needs labelled data .* has no `learn`"):
        ta.merge(taus, method(), encoder=encoder, tasks=tasks)
    with pytest.raises(ta.UserError, match="stands beside task"):
        ta.merge(taus, "dare", tasks=tasks[::-1])


def test_tasks_are_their_names_to_a_method_that_needs_vectors_alone(tasks):
    taus = vectors(tasks)
    named = ta.merge(taus, "dare", tasks=["one", "two"])
    assert alike(ta.merge(taus, "dare", tasks=tasks), named)
    assert alike(ta.merge(taus, "dare"), named)  # which the vectors know themselves
    assert not alike(ta.merge(taus, "dare", tasks=["two", "one"]), named)
    assert alike(
        ta.merge(taus[:1], "dare", tasks=tasks[0]), ta.merge(taus[:1], "dare", tasks=["one"])
    )


# --- LiNeS ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:α = 3 is the largest")
@pytest.mark.parametrize("mode", ["nonlinear", "ntk"])
def test_lines_keeps_its_offset_and_alpha_is_chosen_with_it(encoder, tasks, mode):
    taus = vectors(tasks, mode)
    merged = ta.merge(taus, "mean", layer_scale=True)
    offset, direction = merge_vectors(taus, "mean", layer_scaled=True)
    assert isinstance(merged, ta.MergedVector)
    assert alike(merged.offset, offset) and alike(merged.direction, direction)
    for alpha in (0.0, 0.7):
        model = encoder + alpha * merged
        assert model.tau.linearized == (mode == "ntk") and model.tau.mode == mode
        for name in offset.keys():
            expected = encoder.theta0[name] + (offset[name] + alpha * direction[name])
            assert torch.equal(model.theta[name], expected)
    assert alike((encoder + merged).tau, merged * 1.0) and "A + α·B" in repr(merged)
    grid = [0.0, 0.5, 1.0, 3.0]
    found = [ta.evaluate(encoder + alpha * merged, tasks, "validation") for alpha in grid]
    own = [
        ta.evaluate(encoder + tau, [task], "validation")[task.name]
        for tau, task in zip(taus, tasks, strict=True)
    ]
    each = [np.array([values[task.name] for values in found]) for task in tasks]
    expected = grid[choose_alpha(grid, normalized(each, own))]
    assert ta.choose_alpha(encoder, merged, tasks, taus, grid) == expected
    assert len({tuple(values.items()) for values in found}) > 1


def test_an_offset_of_f_and_a_direction_of_f_lin_are_refused(encoder, tasks):
    mixed = ta.MergedVector(vectors(tasks)[0], vectors(tasks, "ntk")[0])
    with pytest.raises(ta.UserError, match="add vectors of one mode"):
        ta.choose_alpha(encoder, mixed, tasks, vectors(tasks))


def test_a_merged_vector_is_saved_and_read_again(tasks, encoder, tmp_path):
    path, taus = tmp_path / "merged.safetensors", vectors(tasks, "ntk")
    merged = ta.merge(taus, "sum", layer_scale=True)
    merged.save(path)
    again = ta.MergedVector.load(path)
    assert alike(again.offset, merged.offset) and alike(again.direction, merged.direction)
    for part in (again.offset, again.direction, again.to("cpu").direction):
        assert (part.mode, part.linearized, part.base) == ("ntk", True, encoder.base)
    with pytest.raises(ta.UserError, match="holds no task vector"):
        ta.TaskVector.load(path)
    with pytest.raises(ta.UserError, match="holds no merged vector with an offset"):
        ta.MergedVector.load(tiny.shared_vector("ntk", "one"))
    content = bytearray(path.read_bytes())
    content[-3] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(ta.UserError, match="is not as it was saved"):
        ta.MergedVector.load(path)
    for wrong, said in (
        (lambda: ta.MergedVector.load(tmp_path / "none"), "There is no file"),
        (lambda: merged.save(tmp_path), "is no name of a file"),
        (lambda: ta.merge([merged]), "finetune gives the TaskVector"),
        (lambda: ta.choose_negation(encoder, merged, *tasks), "finetune gives the TaskVector"),
    ):
        with pytest.raises(ta.UserError, match=said):
            wrong()


def test_lines_goes_around_a_method_that_needs_data(encoder, tasks):
    where = {"encoder": encoder, "tasks": tasks, **FEW}
    plain = ta.merge(vectors(tasks), "adamerging", **where)
    scaled = ta.merge(vectors(tasks), "adamerging", layer_scale=True, **where)
    ratios = [(scaled.offset[name] / plain[name]).nanmedian() for name in plain.keys()]
    assert len({round(float(ratio), 4) for ratio in ratios}) == 1
    last = [name for name in plain.keys() if ".1." in name]
    assert all(torch.equal(scaled.direction[name], plain[name]) for name in last) and last


def test_an_offset_of_ones_own_method_is_not_lost(encoder, tasks):
    def merge(part, options, state):
        return Merged(part.deltas[0], part.deltas[1])

    taus = vectors(tasks)
    found = ta.merge(taus, method(needs="vectors", merge=merge))
    assert alike(found.offset, taus[0]) and alike(found.direction, taus[1])


@dataclass(frozen=True)
class Bare(Options):
    power: float = 2.0


@dataclass(frozen=True)
class Beyond(Options):
    power: float = option(2.0, "of what", high=1.0)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"name": "my method"}, "a name of small letters"),
        ({"scope": "elements"}, "a scope of element or matrix; found 'elements'"),
        ({"needs": "labels"}, "a needs of vectors or unlabelled or labelled; found 'labels'"),
        ({"grid": (0.1, 2.0)}, "a grid of start, stop and step"),
        ({"grid": (0.1, 2.0, 0)}, "step > 0"),
        ({"grid": (2.0, 0.1, 0.1)}, "start <= stop"),
        ({"merge": lambda part, options: None}, r"a function merge\(part, options, state\)"),
        ({"options": dict}, "a class below Options"),
        ({"options": Bare}, "an option power without a description"),
        ({"options": Beyond}, "a default of power that must be a number at most 1; found 2.0"),
    ],
)
def test_a_declaration_that_cannot_be_is_one_sentence(wrong, says):
    with pytest.raises(ta.UserError, match=says):
        method(**wrong)


def test_the_grid_of_a_method_of_ones_own_is_walked(encoder, tasks):
    taus = vectors(tasks)

    def first(part, options, state):
        return Merged(None, part.deltas[0])

    own = method(grid=(0.25, 0.75, 0.25), needs="vectors", merge=first)
    merged = ta.merge(taus, own)
    chosen = ta.choose_alpha(encoder, merged, tasks, taus, alphas=own)
    assert chosen == ta.choose_alpha(encoder, merged, tasks, taus, alphas=[0.25, 0.5, 0.75])
