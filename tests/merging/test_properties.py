"""What holds of every merging method, or of some: one task, copies, tasks that do not meet, scale,
order, a task that is zero, and one that is ten times louder."""

import warnings

import pytest
import torch
from test_methods import BLOCK, MATRICES, SHAPES, apart, merged, vectors

from task_arithmetic.core.vectors import TaskVector
from task_arithmetic.merging.linear import LostRank
from task_arithmetic.merging.methods import names

OPTIONS = {
    "ties": {"keep": 1}, "consensus": {"agree": 1}, "iso_cts": {"common": 0.5},
}  # fmt: skip
OWN = f"{BLOCK}attn.out_proj.weight"
FOUND = ("adamerging", "per_task")  # their coefficients are found by data
METHODS = [name for name in names() if name not in ("dare", "regmean", *FOUND)]  # drawn; inputs
LINEAR = {"mean", "sum", "ties", "tsv", "wudi"}  # of one task they give its vector


def run(taus, method, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LostRank)
        return merged(taus, method, **{**OPTIONS.get(method, {}), **more})


def distance(a, b, names=SHAPES):
    """Relative distance of two vectors as a whole."""
    a, b = (torch.cat([tau[name].double().flatten() for name in names]) for tau in (a, b))
    return apart(a, b)


def cosine(a, b):
    return TaskVector(a.tensors).cosine(TaskVector(b.tensors))


@pytest.mark.parametrize("method", METHODS)
def test_one_task_is_given_back(method):
    tau = vectors(1)[0]
    found = run([tau], method)
    if method in LINEAR | {"consensus"}:
        assert distance(found, tau) < {"wudi": 1e-3}.get(method, 1e-5)
    else:  # iso: singular values are equal instead, by design
        assert distance(found, tau, MATRICES) > 0.2
        assert distance(found, tau, SHAPES.keys() - MATRICES) < 1e-6


COPIES = {"mean": 1, "sum": 3, "ties": 1, "consensus": 3, "wudi": 1}


@pytest.mark.parametrize("method", COPIES)
def test_copies_of_a_task(method):
    tau = vectors(1)[0]
    expected = COPIES[method] * tau
    assert distance(run([tau] * 3, method), expected, MATRICES) < 2e-4


def test_copies_of_a_task_scale_iso_c():
    tau = vectors(1)[0]
    assert distance(run([tau] * 3, "iso_c"), 3 * run([tau], "iso_c"), MATRICES) < 1e-5


APART = {"mean": 1 / 3, "sum": 1, "ties": 1, "consensus": 1, "tsv": 1, "wudi": 1}


def disjoint():
    """Three tasks without common rows or columns, of rank 3, 4, 5; and a turn of both spaces."""
    generator = torch.Generator().manual_seed(2)
    random = torch.randn(2, 12, 12, generator=generator)
    found = []
    for start, size in ((0, 3), (3, 4), (7, 5)):
        delta = torch.zeros(12, 12)
        own = torch.randn(size, size, generator=generator)
        delta[start : start + size, start : start + size] = own
        found.append(delta)
    return found, torch.linalg.qr(random[0])[0], torch.linalg.qr(random[1])[0]


@pytest.mark.parametrize("method", APART)
def test_tasks_without_common_rows_and_columns_are_added(method):
    deltas, left, right = disjoint()
    if method in ("tsv", "wudi"):  # for entries, what does not meet are entries
        deltas = [left @ delta @ right for delta in deltas]
    if method == "tsv":  # which has 12 // 3 directions for each task
        u, s, vt = torch.linalg.svd(deltas[2])
        deltas[2] = u[:, :4] * s[:4] @ vt[:4]
    found = run([TaskVector({OWN: delta}) for delta in deltas], method)
    expected = APART[method] * sum(deltas)
    assert apart(found[OWN], expected) < 2e-5


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factor", [1e-3, 7.0, -2.0])
def test_scaling_all_tasks_scales_what_is_merged(method, factor):
    taus = vectors(3)
    found = run([factor * tau for tau in taus], method)
    assert distance(found, factor * run(taus, method)) < 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_tasks_does_not_matter(method):
    taus = vectors(4)
    found = run([taus[i] for i in (2, 0, 3, 1)], method)
    assert distance(found, run(taus, method)) < 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_one_task_that_is_ten_times_louder_turns_the_result_unless_normalized(method):
    """No method is invariant to the norm of one task; `normalize` is for that."""
    taus = vectors(3)
    loud = [10 * taus[0], *taus[1:]]
    assert cosine(run(loud, method), run(taus, method)) < 0.95
    normal, before = run(loud, method, normalize=True), run(taus, method, normalize=True)
    assert cosine(normal, before) > 1 - 1e-4
    scale = sum(tau.norm() for tau in loud) / sum(tau.norm() for tau in taus)
    assert distance(normal, scale * before) < 1e-2


@pytest.mark.parametrize("method", [name for name in names() if name not in FOUND])
def test_zero_vectors_give_zero(method):
    taus = [0.0 * tau for tau in vectors(3)]
    shapes = {name: SHAPES[name] for name in SHAPES}
    if method == "regmean":
        shapes = {name: shape for name, shape in shapes.items() if name not in MATRICES}
    some = [TaskVector({name: tau[name] for name in shapes}) for tau in taus]
    for normalize in (False, True):
        found = run(some, method, normalize=normalize)
        assert not any(tensor.any() for tensor in found.tensors.values())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("normalize", [False, True])
def test_a_task_that_is_zero_does_not_disturb_the_others(method, normalize):
    """It shares in the mean, and takes its share of directions; but it turns nothing."""
    taus = vectors(2)
    both = run([*taus, 0.0 * taus[0]], method, normalize=normalize)
    assert all(tensor.isfinite().all() for tensor in both.tensors.values())
    without = run(taus, method, normalize=normalize)
    if method in ("sum", "ties", "consensus", "iso_c"):
        assert distance(both, without, MATRICES) < 1e-6
    elif method == "mean":
        assert distance(1.5 * both, without) < 1e-6
    elif method == "wudi":
        assert distance(both, without, MATRICES) < 1e-6
    else:  # each task has 12 / 3 of 12 directions, not 12 / 2
        assert cosine(both, without) > 0.7


def test_tsv_with_a_zero_task_is_that_of_the_leading_directions():
    taus = vectors(2, {OWN: SHAPES[OWN]})
    found = run([*taus, 0.0 * taus[0]], "tsv")
    low = []
    for u, s, vt in (torch.linalg.svd(tau[OWN].double()) for tau in taus):
        low.append(TaskVector({OWN: (u[:, :4] * s[:4] @ vt[:4]).float()}))
    assert apart(found[OWN], run(low, "tsv")[OWN]) < 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_that_only_some_vectors_move_is_zero_in_the_others(method):
    taus = vectors(3)
    missing = [
        TaskVector({n: t for n, t in tau.tensors.items() if i or n != OWN}, "some", base="base")
        for i, tau in enumerate(taus)
    ]
    zeros = [
        TaskVector({**tau.tensors, **({} if i else {OWN: 0 * tau[OWN]})}, "some", base="base")
        for i, tau in enumerate(taus)
    ]
    found, expected = run(missing, method), run(zeros, method)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in SHAPES)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_vectors_of_other_precisions_are_merged_in_float32(method, dtype):
    taus = [TaskVector({n: t.to(dtype) for n, t in tau.tensors.items()}) for tau in vectors(3)]
    wide = [TaskVector({n: t.float() for n, t in tau.tensors.items()}) for tau in taus]
    found, expected = run(taus, method), run(wide, method)
    assert all(torch.equal(found[name], expected[name]) for name in SHAPES)


@pytest.mark.parametrize("method", METHODS)
def test_merging_does_not_change_what_it_reads(method):
    taus = vectors(3)
    before = [tau.copy() for tau in taus]
    found = run(taus, method)
    for tensor in found.tensors.values():
        tensor.add_(1)  # what is merged is memory of its own, too
    for tau, old in zip(taus, before, strict=True):
        assert all(torch.equal(tau[name], old[name]) for name in SHAPES)


def test_alike_is_merged_the_same_again():
    for method in METHODS:
        once, again = run(vectors(3), method), run(vectors(3), method)
        assert all(torch.equal(once[name], again[name]) for name in SHAPES), method
