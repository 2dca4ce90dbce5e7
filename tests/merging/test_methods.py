"""Each merging method is its definition: a twin in NumPy gives the same, of matrices of any shape,
fused and split, and of everything that is no matrix."""

import hashlib
import re
import warnings
from functools import partial
from itertools import combinations

import numpy as np
import pytest
import torch
import twins

from task_arithmetic.core.vectors import TaskVector
from task_arithmetic.errors import UserError
from task_arithmetic.merging import consensus, dare, iso_cts, pieces, ties
from task_arithmetic.merging.linear import LostRank, polar_by_gram, svd
from task_arithmetic.merging.matrices import is_matrix, place_of
from task_arithmetic.merging.merge import merge_vectors
from task_arithmetic.merging.method import Part, options_of
from task_arithmetic.merging.methods import find, names
from task_arithmetic.merging.sum import total

WIDTH, OUT = 12, 10
BLOCK = "transformer.resblocks.0."
SHAPES = {
    "conv1.weight": (WIDTH, 3, 2, 2),
    "class_embedding": (WIDTH,),
    "positional_embedding": (17, WIDTH),
    "proj": (WIDTH, OUT),
    f"{BLOCK}attn.in_proj_weight": (3 * WIDTH, WIDTH),
    f"{BLOCK}attn.in_proj_bias": (3 * WIDTH,),
    f"{BLOCK}attn.out_proj.weight": (WIDTH, WIDTH),
    f"{BLOCK}mlp.c_fc.weight": (4 * WIDTH, WIDTH),
    f"{BLOCK}mlp.c_proj.weight": (WIDTH, 4 * WIDTH),
    f"{BLOCK}ln_1.weight": (WIDTH,),
}
QKV = f"{BLOCK}attn.in_proj_weight"
MATRICES = {name for name in SHAPES if name.endswith("weight") and "ln" not in name} | {"proj"}
MATRICES -= {"conv1.weight"}
SPECTRAL = ["tsv", "iso_c", "iso_cts", "wudi"]


def vectors(tasks, shapes=SHAPES, seed=0):
    """Vectors whose matrices have decaying spectra, as real ones have."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(tasks):
        tensors = {}
        for name, shape in shapes.items():
            tensor = 0.01 * torch.randn(shape, generator=generator)
            if len(shape) == 2:
                u, s, vt = torch.linalg.svd(tensor, full_matrices=False)
                tensor = u * s / torch.arange(1, len(s) + 1).sqrt() @ vt
            tensors[name] = tensor
        found.append(TaskVector(tensors, "some", False, "base"))
    return found


def array(tau, name):
    return tau.tensors[name].double().numpy()


def apart(a, b):
    """Relative Frobenius distance of two tensors or arrays."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    return np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30)


def merged(taus, method, **options):
    offset, direction = merge_vectors(taus, method, options)
    assert offset is None
    assert all(tensor.dtype == torch.float32 for tensor in direction.tensors.values())
    return direction


def part(*deltas, name="a", **more):
    tasks = [f"task{t}" for t in range(len(deltas))]
    return Part(name, [torch.as_tensor(d, dtype=torch.float32) for d in deltas], tasks, **more)


# --- Entry by entry ------------------------------------------------------------------------------


@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_mean_and_sum_are_those_of_the_entries(tasks):
    taus = vectors(tasks)
    means, sums = merged(taus, "mean"), merged(taus, "sum")
    for name in SHAPES:
        deltas = [array(tau, name) for tau in taus]
        assert apart(means[name], twins.mean(deltas)) < 1e-6
        assert apart(sums[name], twins.total(deltas)) < 1e-6


def test_sum_is_what_total_gives_bit_for_bit():
    taus = vectors(4)
    expected, found = total(taus), merged(taus, "sum")
    assert all(torch.equal(found[name], expected[name]) for name in SHAPES)


def thresholds(taus, keep, entries=None):
    flat = [np.concatenate([array(tau, n).ravel() for n in sorted(SHAPES)]) for tau in taus]
    return [twins.threshold(np.abs(each), keep, entries) for each in flat]


@pytest.mark.parametrize("tasks", [1, 2, 5])
@pytest.mark.parametrize("keep", [0.01, 0.2, 1.0])
@pytest.mark.parametrize("agg", ["mean", "sum"])
@pytest.mark.parametrize("elect", [True, False], ids=["elected", "trimmed"])
def test_ties_is_its_twin(tasks, keep, agg, elect):
    taus = vectors(tasks)
    found = merged(taus, "ties", keep=keep, agg=agg, elect=elect)
    least = thresholds(taus, keep)
    for name in SHAPES:
        expected = twins.ties([array(tau, name) for tau in taus], least, agg, elect)
        assert apart(found[name], expected) < 1e-6, name


def test_ties_of_each_tensor_has_thresholds_of_its_own():
    taus = vectors(3)
    found = merged(taus, "ties", scope="tensor", keep=0.3)
    for name in SHAPES:
        deltas = [array(tau, name) for tau in taus]
        least = [twins.threshold(np.abs(d).ravel(), 0.3) for d in deltas]
        assert apart(found[name], twins.ties(deltas, least)) < 1e-6, name


def test_what_keep_is_a_share_of_can_be_given():
    """As in published checkpoints, which hold a text tower that never moved."""
    taus = vectors(2)
    count = sum(int(np.prod(shape)) for shape in SHAPES.values())
    found = merged(taus, "ties", keep=0.2, entries=2 * count)
    expected = merged(taus, "ties", keep=0.4)
    assert all(torch.equal(found[name], expected[name]) for name in SHAPES)
    everything = merged(taus, "ties", keep=0.2, entries=100 * count)
    assert all(torch.equal(everything[n], merged(taus, "ties", keep=1)[n]) for n in SHAPES)


@pytest.mark.parametrize("keep", [0.001, 0.07, 0.2, 0.5, 0.999, 1])
@pytest.mark.parametrize("kind", ["normal", "ties", "zeros", "tiny", "halves", "all equal"])
def test_thresholds_are_the_kth_largest_magnitude_exactly(keep, kind):
    random = np.random.default_rng(5)
    values = random.normal(size=(2, 20_000)).astype(np.float32)
    if kind == "ties":
        values = np.round(values, 1)
    elif kind == "zeros":
        values[random.random(values.shape) < 0.9] = 0
    elif kind == "tiny":  # below the smallest normal number
        values *= np.float32(1e-40)
    elif kind == "halves":
        values = values.astype(np.float16).astype(np.float32) * np.float32(1e-3)
    elif kind == "all equal":
        values = np.sign(values) * np.float32(0.125)
    parts = [part(*chunk) for chunk in np.split(values, 5, axis=1)]
    found = ties.thresholds(parts, keep)
    assert list(found) == [float(twins.threshold(np.abs(each), keep)) for each in values]


def test_trimming_counts_what_moved_and_keeps_what_ties_at_the_threshold():
    tau = torch.zeros(100)
    tau[:10] = torch.tensor([9.0, -8, 3, 3, -3, 1, 1, 1, 1, 1])
    (c,) = ties.thresholds([part(tau)], 0.3)  # 3 of the 10 that moved, not 30 of all
    assert c == 3
    kept = ties.merge(part(tau), ties.TiesOptions(keep=0.3), ties.Elected((c,))).direction
    assert kept.nonzero().flatten().tolist() == [0, 1, 2, 3, 4]
    assert ties.thresholds([part(torch.zeros(5))], 0.2) == (0.0,)


def test_seven_of_a_hundred_are_seven():
    (c,) = ties.thresholds([part(torch.arange(1.0, 101))], 0.07)  # 0.07 · 100 > 7 in binary
    assert c == 94


def test_an_entry_without_a_sign_gets_the_majoritys():
    """Opposite entries cancel; the majority is of the entries of all tensors."""
    a = TaskVector({"x": torch.tensor([2.0, 1.0]), "y": torch.tensor([-1.0, -1.0])}, base="b")
    b = TaskVector({"x": torch.tensor([-2.0, 1.0]), "y": torch.tensor([-1.0, -1.0])}, base="b")
    found = merged([a, b], "ties", keep=1)
    assert found["x"].tolist() == [-2.0, 1.0]
    balanced = merged([a, b], "ties", keep=1, scope="tensor")
    assert balanced["x"].tolist() == [2.0, 1.0]
    none = TaskVector({"x": torch.tensor([2.0, -2.0])}, base="b")
    assert merged([none, -none], "ties", keep=1)["x"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("method", ["sum", "ties", "consensus", "dare"])
def test_entries_are_merged_alike_in_one_piece_and_in_many(method, monkeypatch):
    taus = vectors(3)
    expected = merged(taus, method)
    monkeypatch.setattr(pieces.pieces, "__defaults__", (7,))
    found = merged(taus, method)
    assert all(torch.equal(found[name], expected[name]) for name in SHAPES)


def test_ties_asks_for_its_first_pass():
    with pytest.raises(TypeError, match="first_pass"):
        ties.merge(part(torch.ones(2)), ties.TiesOptions())


@pytest.mark.parametrize("tasks", [2, 3, 6])
@pytest.mark.parametrize("threshold, agree", [(0.4, 2), (0.0, 2), (1.5, 1), (0.2, 2)])
def test_consensus_counts_as_loops_do(tasks, threshold, agree):
    taus = vectors(tasks)
    found = merged(taus, "consensus", threshold=threshold, agree=agree)
    for name in SHAPES:
        deltas = [array(tau, name) for tau in taus]
        expected = twins.consensus(deltas, [threshold] * tasks, agree)
        assert apart(found[name], expected) < 1e-6, name


def test_consensus_takes_a_threshold_for_each_task():
    taus = vectors(3)
    options = {"thresholds": {"b": 0.2, "c": 0.6}}
    _, found = merge_vectors(taus, "consensus", options, tasks=["a", "b", "c"])
    for name in SHAPES:
        expected = twins.consensus([array(tau, name) for tau in taus], [0.4, 0.2, 0.6])
        assert apart(found[name], expected) < 1e-6, name


def test_consensus_tells_how_many_tasks_use_an_entry():
    some = part([1.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, -0.1], [1.0, 0.0, 0.0, -0.1])
    options = consensus.ConsensusOptions()
    assert consensus.users(some, options).tolist() == [3, 1, 0, 1]
    assert consensus.merge(some, options).direction.tolist() == [3.0, 0.0, 0.0, 0.0]


def test_consensus_of_one_task_is_refused():
    with pytest.raises(UserError, match="what 2 tasks use, and there is no more than 1: give more"):
        merged(vectors(1), "consensus")
    alone = vectors(1)
    assert apart(merged(alone, "consensus", agree=1)["proj"], alone[0]["proj"]) == 0


def test_consensus_names_the_task_that_is_none():
    with pytest.raises(UserError, match="names 'carz', which is no task.*did you mean 'cars'"):
        options = {"thresholds": {"carz": 0.2}}
        merge_vectors(vectors(2), "consensus", options, tasks=["cars", "dtd"])


# --- DARE ----------------------------------------------------------------------------------------


def drawn(seed, task, name, shape, p, more=""):
    """What is drawn for one tensor of a task."""
    digest = hashlib.sha256(f"{seed}\n{task}\n{name}{more}".encode()).digest()[:8]
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") // 2)
    return (torch.rand(shape, generator=generator) >= p).double().numpy()


@pytest.mark.parametrize("then, scale", [("sum", 1), ("mean", 1 / 3)])
def test_dare_drops_and_scales_up(then, scale):
    taus, tasks = vectors(3), ["a", "b", "c"]
    options = {"drop": 0.7, "then": then}
    _, found = merge_vectors(taus, "dare", options, seed=4, tasks=tasks)
    for name, shape in SHAPES.items():
        expected = sum(
            array(tau, name) * drawn(4, task, name, shape, 0.7) / 0.3
            for tau, task in zip(taus, tasks, strict=True)
        )
        assert apart(found[name], scale * expected) < 1e-6, name


def test_dare_then_ties_is_ties_of_what_remains():
    taus, tasks = vectors(3), ["a", "b", "c"]
    options = {"then": "ties", "keep": 0.5, "drop": 0.5}
    _, found = merge_vectors(taus, "dare", options, seed=2, tasks=tasks)
    left = [
        TaskVector({n: tau[n] * drawn(2, task, n, tau[n].shape, 0.5) * 2 for n in tau.keys()})
        for tau, task in zip(taus, tasks, strict=True)
    ]
    expected = merged(left, "ties", keep=0.5)
    assert all(apart(found[name], expected[name]) < 1e-6 for name in SHAPES)


@pytest.mark.parametrize("then", ["sum", "ties"])
def test_each_draw_of_dare_is_another_and_the_first_is_that_of_no_draw(then):
    taus, tasks = vectors(2), ["a", "b"]
    options, found = {"drop": 0.5, "then": then, "keep": 1}, []
    for draw, more in ((0, ""), (1, "\n1"), (2, "\n2")):
        _, each = merge_vectors(taus, "dare", {**options, "draw": draw}, seed=3, tasks=tasks)
        found.append(each)
        left = [
            TaskVector({n: t[n] * drawn(3, task, n, t[n].shape, 0.5, more) * 2 for n in SHAPES})
            for t, task in zip(taus, tasks, strict=True)
        ]
        expected = merged(left, then, **({"keep": 1} if then == "ties" else {}))
        assert all(apart(each[name], expected[name]) < 1e-6 for name in SHAPES)
    assert not any(torch.equal(a[QKV], b[QKV]) for a, b in combinations(found, 2))


def test_what_dare_draws_depends_on_seed_task_and_tensor_alone():
    def kept(seed=0, task="a", name="x"):
        one = Part(name, [torch.ones(1000)], [task], seed)
        return dare.dropped(one, 0.5).deltas[0]

    assert torch.equal(kept(), kept())
    assert not any(torch.equal(kept(), each) for each in (kept(1), kept(0, "b"), kept(0, "a", "y")))
    taus = vectors(3)
    _, there = merge_vectors(taus, "dare", tasks=["a", "b", "c"])
    _, back = merge_vectors(taus[::-1], "dare", tasks=["c", "b", "a"])
    assert all(apart(there[name], back[name]) < 1e-6 for name in SHAPES)
    some = [TaskVector({"proj": tau["proj"]}) for tau in taus]
    _, fewer = merge_vectors(some, "dare", tasks=["a", "b", "c"])
    assert torch.equal(fewer["proj"], there["proj"])


def test_dares_expectation_is_the_sum():
    taus = vectors(2)
    draws = [merge_vectors(taus, "dare", {"drop": 0.6}, seed=s)[1][QKV] for s in range(600)]
    expected = taus[0][QKV] + taus[1][QKV]
    error = (torch.stack(draws).mean(0) - expected).norm()
    variance = 0.6 / 0.4 * sum(tau[QKV].square().sum() for tau in taus)  # p/(1-p) τ² each
    assert error == pytest.approx(float((variance / 600).sqrt()), rel=0.15)
    spread = torch.stack(draws).var(0).sum()
    assert spread == pytest.approx(float(variance), rel=0.05)


# --- Matrices ------------------------------------------------------------------------------------

EXACT = {"tsv": twins.tsv, "iso_c": twins.iso_c, "iso_cts": twins.iso_cts, "wudi": twins.wudi}


@pytest.mark.parametrize("method", SPECTRAL)
@pytest.mark.parametrize("tasks", [1, 2, 3, 5])
@pytest.mark.parametrize("qkv", ["fused", "split"])
def test_a_method_of_matrices_is_its_twin(method, tasks, qkv):
    taus, twin = vectors(tasks, seed=tasks), EXACT[method]
    found = merged(taus, method, qkv=qkv)
    for name in SHAPES:
        deltas = [array(tau, name) for tau in taus]
        if name not in MATRICES:
            expected = twins.mean(deltas)
        elif name == "proj":  # stored (in, out)
            expected = twin([d.T for d in deltas]).T
        elif name == QKV and qkv == "split":
            thirds = zip(*(np.split(d, 3) for d in deltas), strict=True)
            expected = np.concatenate([twin(list(each)) for each in thirds])
        else:
            expected = twin(deltas)
        assert apart(found[name], expected) < 2e-4, name
        assert found[name].is_contiguous()


def test_fused_and_split_are_different_algorithms():
    """Of everything but the rows' own methods, and only of the fused tensor."""
    taus = vectors(3)
    for method in SPECTRAL:
        fused, split = (merged(taus, method, qkv=qkv) for qkv in ("fused", "split"))
        assert apart(fused[QKV], split[QKV]) > 0.1, method
        assert all(torch.equal(fused[n], split[n]) for n in SHAPES if n != QKV)


@pytest.mark.parametrize("method", [*SPECTRAL, "regmean"])
@pytest.mark.parametrize("other", ["mean", "sum", "zero"])
def test_what_is_no_matrix_is_averaged_summed_or_left(method, other):
    taus = vectors(3)
    shapes = {n: s for n, s in SHAPES.items() if n not in MATRICES}
    some = [TaskVector({name: tau[name] for name in shapes}) for tau in taus]
    found = merged(some, method, other=other)
    scale = {"mean": 1 / 3, "sum": 1, "zero": 0}[other]
    for name in shapes:
        expected = scale * sum(array(tau, name) for tau in taus)
        assert np.abs(found[name].double().numpy() - expected).max() < 1e-7


def test_all2d_merges_every_tensor_with_two_dimensions():
    taus = vectors(3)
    found, blocks = (merged(taus, "tsv", matrices=each) for each in ("all2d", "blocks"))
    positions = [array(tau, "positional_embedding") for tau in taus]
    assert apart(found["positional_embedding"], twins.tsv(positions)) < 1e-4
    assert apart(blocks["positional_embedding"], twins.mean(positions)) < 1e-6
    rest = SHAPES.keys() - {"positional_embedding"}
    assert all(torch.equal(found[name], blocks[name]) for name in rest)


@pytest.mark.parametrize(
    "name, dimensions, blocks, all2d",
    [
        ("transformer.resblocks.11.attn.in_proj_weight", 2, True, True),
        ("transformer.resblocks.11.mlp.c_proj.weight", 2, True, True),
        ("transformer.resblocks.0.ln_1.weight", 1, False, False),
        ("proj", 2, True, True),
        ("positional_embedding", 2, False, True),
        ("class_embedding", 1, False, False),
        ("conv1.weight", 4, False, False),
        ("text_projection", 2, False, False),
        ("shared.weight", 2, False, True),
        ("lm_head.weight", 2, False, True),
        ("encoder.block.3.layer.0.SelfAttention.q.weight", 2, True, True),
        ("decoder.block.3.layer.1.EncDecAttention.o.weight", 2, True, True),
        ("decoder.block.3.layer.2.DenseReluDense.wi_0.weight", 2, True, True),
        (
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            2, False, True,
        ),
        ("encoder.final_layer_norm.weight", 1, False, False),
    ],
)  # fmt: skip
def test_what_a_matrix_is(name, dimensions, blocks, all2d):
    assert is_matrix(name, dimensions) is blocks
    assert is_matrix(name, dimensions, "all2d") is all2d


def test_where_a_tensor_lies():
    assert place_of(QKV) == ("transformer.resblocks", 0)
    assert place_of("decoder.block.11.layer.0.layer_norm.weight") == ("decoder.block", 11)
    assert place_of("proj") is place_of("shared.weight") is None


def test_iso_c_has_equal_singular_values():
    taus = vectors(3)
    found = merged(taus, "iso_c")
    for name in MATRICES:
        sigma = np.linalg.svd(sum(array(tau, name) for tau in taus), compute_uv=False)
        own = np.linalg.svd(found[name].double().numpy(), compute_uv=False)
        assert own == pytest.approx(np.full(len(own), sigma.mean()), rel=1e-5), name


@pytest.mark.parametrize("common, tasks", [(0.8, 3), (0.5, 4), (0.0, 5), (0.3, 1)])
def test_iso_cts_has_equal_singular_values_too(common, tasks):
    found = merged(vectors(tasks), "iso_cts", common=common)
    for name in MATRICES:
        own = np.linalg.svd(found[name].double().numpy(), compute_uv=False)
        assert own == pytest.approx(np.full(len(own), own.mean()), rel=1e-4), name


@pytest.mark.parametrize(
    "rank, tasks, common, expected",
    [
        (768, 8, 0.8, (616, 19)),  # 154 / 8 = 19.25
        (768, 20, 0.8, (608, 8)),
        (10, 4, 0.8, (10, 0)),  # 2 / 4 = 0.5, to even
        (12, 4, 0.5, (4, 2)),  # 6 / 4 = 1.5, to even
        (5, 3, 0.0, (2, 1)),  # 2 of each task would be more than there are
        (100, 1, 0.29, (29, 71)),  # 0.29 · 100 < 29 in binary
        (8, 2, 1.0, (8, 0)),
    ],
)
def test_directions_of_iso_cts(rank, tasks, common, expected):
    assert iso_cts.directions(rank, tasks, common) == expected


def test_iso_cts_without_room_is_iso_c_and_says_so():
    taus = vectors(7, {QKV: SHAPES[QKV]})
    with pytest.warns(LostRank, match="7 tasks are too many .* Iso-CTS is Iso-C here"):
        found = merged(taus, "iso_cts")
    assert torch.equal(found[QKV], merged(taus, "iso_c")[QKV])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        merged(taus, "iso_cts", common=1)


def test_tsv_of_more_tasks_than_dimensions_is_refused():
    with pytest.raises(UserError, match="shares the 10 dimensions of proj among 11 tasks"):
        merged(vectors(11, {"proj": SHAPES["proj"]}), "tsv")


@pytest.mark.parametrize("method", ["tsv", "iso_cts"])
def test_a_task_that_is_given_twice_is_warned_of(method):
    tau = vectors(1, {QKV: SHAPES[QKV]})[0]
    with pytest.warns(LostRank, match="in_proj_weight: .*nearly dependent"):
        merged([tau, tau], method, **({"common": 0.5} if method == "iso_cts" else {}))


@pytest.mark.parametrize("method", ["iso_c", "iso_cts"])
def test_directions_that_no_vector_has_stay_zero_and_are_warned_of(method):
    low = [v[:, None] * v[None] for v in torch.randn(2, 12, generator=torch.manual_seed(1))]
    taus = [TaskVector({f"{BLOCK}attn.out_proj.weight": each}) for each in low]
    with pytest.warns(LostRank, match="2 of 12|rank 2 of 12"):
        (found,) = merged(taus, method).tensors.values()
    own = torch.linalg.svdvals(found)
    sigma = torch.linalg.svdvals(sum(low))
    assert own[0] == pytest.approx(float(sigma.sum()) / 12, rel=1e-5)
    assert own[1] / own[0] == pytest.approx(1, rel=1e-4) and own[2] < 1e-5 * own[0]


@pytest.mark.parametrize("shape", [(200, 64), (64, 200), (128, 64)])
@pytest.mark.parametrize("least", [0.5, 2e-3])
def test_a_polar_factor_by_the_gram_matrix_is_as_exact(shape, least):
    random = np.random.default_rng(2)
    sides = [np.linalg.qr(random.normal(size=(side, min(shape))))[0] for side in shape]
    sigma = np.geomspace(1, least, min(shape))
    matrix = torch.tensor(sides[0] * sigma @ sides[1].T).float()
    found = polar_by_gram(matrix)
    expected = twins.polar(matrix.double().numpy())
    assert apart(found.factor, expected) < 1e-5 and found.factor.is_contiguous()
    assert np.sort(found.sigma.numpy())[::-1] == pytest.approx(sigma, rel=1e-4)
    u, _, vt = svd(matrix)
    assert apart(found.factor, expected) < 2 * apart(u @ vt, expected)


def test_a_polar_factor_by_the_gram_matrix_is_refused_where_it_is_none_or_less_exact():
    tall = torch.randn(30, 10, generator=torch.manual_seed(0))
    assert polar_by_gram(tall) and not polar_by_gram(tall[:19])  # nearly square: slower
    for bad in (0 * tall, tall[:, :1] * tall[:1], tall * torch.logspace(0, -4, 10), tall[:0]):
        assert polar_by_gram(bad) is None and polar_by_gram(bad.T) is None


@pytest.mark.parametrize("rank", [1, 16, 200, 400])
def test_directions_of_large_matrices_are_counted(rank):
    """None is lost of full rank, and none is made of rounding."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(s, generator=generator) for s in ((400, rank), (rank, 400)))
    matrix = a @ b if rank < 400 else a / torch.arange(1, 401).sqrt()
    assert len(svd(matrix).sigma) == rank


# --- WUDI and RegMean ----------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [True, False])
def test_wudi_minimises_its_loss(weighted):
    """At the closed form the gradient is zero, and a numeric minimiser arrives there."""
    name = f"{BLOCK}mlp.c_fc.weight"
    taus = vectors(3, {name: SHAPES[name]})
    found = merged(taus, "wudi", weighted=weighted, ridge=0)[name].double()
    deltas = [tau[name].double() for tau in taus]
    scale = 1.0 if weighted else float(sum(d.square().sum() for d in deltas))

    def loss(m):
        terms = [((m - d) @ d.T).square().sum() for d in deltas]
        weights = [float(d.square().sum()) if weighted else scale for d in deltas]
        return sum(term / weight for term, weight in zip(terms, weights, strict=True))

    start = sum(deltas)
    there, begin = (each.clone().requires_grad_() for each in (found, start))
    there_gradient, begin_gradient = (
        torch.autograd.grad(loss(each), each)[0] for each in (there, begin)
    )
    assert there_gradient.norm() < 1e-5 * begin_gradient.norm()
    free = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [free], max_iter=3000, tolerance_grad=1e-16, tolerance_change=1e-18, history_size=50,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure():
        optimizer.zero_grad()
        value = 1e4 * loss(free)
        value.backward()
        return value

    optimizer.step(closure)
    assert apart(free.detach(), found) < 1e-2
    least = float(loss(found))
    assert least <= float(loss(free.detach())) * (1 + 1e-6)
    assert twins.wudi_loss(found.numpy(), [d.numpy() for d in deltas], weighted) == pytest.approx(
        least * scale
    )


def test_wudi_by_adam_is_torchs_adam_from_the_sum():
    name = f"{BLOCK}mlp.c_fc.weight"
    taus = vectors(3, {name: SHAPES[name]})
    found = merged(taus, "wudi", solver="adam", steps=40, learning_rate=1e-4)[name]
    free = sum(tau[name] for tau in taus).clone().requires_grad_()
    optimizer = torch.optim.Adam([free], lr=1e-4)
    for _ in range(40):
        optimizer.zero_grad()
        terms = [
            ((free - t[name]) @ t[name].T).square().sum() / t[name].square().sum() for t in taus
        ]
        sum(terms).backward()
        optimizer.step()
    assert apart(found, free.detach()) < 1e-4
    assert apart(found, sum(tau[name] for tau in taus)) > 0.01


def test_wudi_of_vectors_without_full_rank():
    tau = torch.zeros(12, 12)
    tau[:3, :3] = torch.randn(3, 3, generator=torch.manual_seed(0))
    name = f"{BLOCK}attn.out_proj.weight"
    assert apart(merged([TaskVector({name: tau})], "wudi")[name], tau) < 1e-4
    with pytest.warns(LostRank, match="inputs span 3 of 12 dimensions"):
        assert apart(merged([TaskVector({name: tau})], "wudi", ridge=0)[name], tau) < 1e-5


def test_a_larger_ridge_keeps_wudi_small_where_rows_just_fill_the_inputs():
    name = f"{BLOCK}mlp.c_proj.weight"  # (12, 48), and four tasks
    taus = vectors(4, {name: SHAPES[name]})
    norms = [float(merged(taus, "wudi", ridge=r)[name].norm()) for r in (1e-6, 1e-2, 1e-1)]
    summed = float(sum(tau[name] for tau in taus).norm())
    assert norms[0] > 2 * norms[1] > 2 * norms[2] and norms[2] < 2 * summed


def grams(tasks, names=MATRICES, seed=3):
    generator, found = torch.Generator().manual_seed(seed), {}
    for name in sorted(names):
        inputs = SHAPES[name][0 if name == "proj" else 1]
        x = [torch.randn(200, inputs, generator=generator) * (t + 1) for t in range(tasks)]
        found[name] = [each.T @ each / 200 for each in x]
    return found


@pytest.mark.parametrize("off_diagonal", [0.0, 0.95, 1.0])
def test_regmean_is_its_twin(off_diagonal):
    taus, state = vectors(3), grams(3)
    _, found = merge_vectors(taus, "regmean", {"off_diagonal": off_diagonal}, state=state)
    for name in SHAPES:
        deltas = [array(tau, name) for tau in taus]
        if name not in MATRICES:
            expected = twins.mean(deltas)
        else:
            own = [gram.double().numpy() for gram in state[name]]
            turned = [d.T for d in deltas] if name == "proj" else deltas
            expected = twins.regmean(turned, own, off_diagonal)
            expected = expected.T if name == "proj" else expected
        assert apart(found[name], expected) < 1e-5, name


def test_regmean_gives_the_outputs_that_differ_least():
    name = f"{BLOCK}mlp.c_fc.weight"
    taus, state = vectors(3, {name: SHAPES[name]}), grams(3, {name})
    _, found = merge_vectors(taus, "regmean", {"off_diagonal": 1}, state=state)
    free = found[name].double().requires_grad_()
    loss = sum(
        ((d := free - tau[name].double()) @ gram.double() @ d.T).trace()
        for tau, gram in zip(taus, state[name], strict=True)
    )
    assert torch.autograd.grad(loss, free)[0].abs().max() < 1e-6


def test_regmean_of_inputs_that_do_not_span_adds_nothing_elsewhere():
    name = f"{BLOCK}attn.out_proj.weight"
    tau = vectors(1, {name: SHAPES[name]})[0]
    gram = torch.zeros(12, 12)
    gram[:5, :5] = torch.eye(5)
    with pytest.warns(LostRank, match="span 5 of 12"):
        _, found = merge_vectors([tau], "regmean", state={name: [gram]})
    assert apart(found[name][:, :5], tau[name][:, :5]) < 1e-6
    assert not found[name][:, 5:].any()


@pytest.mark.parametrize("seed", range(12))
def test_a_gram_matrix_that_is_singular_to_rounding_is_known(seed):
    """Its Cholesky factor may exist, and be noise."""
    name = f"{BLOCK}attn.out_proj.weight"
    tau = vectors(1, {name: SHAPES[name]}, seed)[0]
    x = torch.randn(11, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    gram = x.T @ x
    with pytest.warns(LostRank, match="span 11 of 12"):
        _, found = merge_vectors([tau], "regmean", {"off_diagonal": 1}, state={name: [gram]})
    within = np.linalg.pinv(x.numpy()) @ x.numpy()
    assert apart(found[name], array(tau, name) @ within) < 1e-5


@pytest.mark.parametrize(
    "state, says",
    [
        (None, r"needs 2 Gram matrices of 12 × 12 inputs for .*out_proj\.weight; found none"),
        ([torch.eye(12)], r"found \(12, 12\): collect them"),
        ([torch.eye(3)] * 2, r"found \(3, 3\), \(3, 3\)"),
        ([torch.eye(12), torch.eye(12) * torch.nan], "values that are not finite"),
    ],
    ids=["none", "one of two", "misshapen", "nan"],
)
def test_regmean_says_what_it_lacks(state, says):
    name = f"{BLOCK}attn.out_proj.weight"
    state = None if state is None else {name: state}
    with pytest.raises(UserError, match=says):
        merge_vectors(vectors(2, {name: SHAPES[name]}), "regmean", state=state)


NEEDS = {"adamerging": "unlabelled", "regmean": "unlabelled", "per_task": "labelled"}


def test_every_method_says_what_it_is():
    assert len(names()) == 12
    for name in names():
        method = find(name)
        assert method.name == name and method.title and method.paper
        assert re.fullmatch(r"\d{4}\.\d{5}", method.arxiv) or name == "per_task"  # no paper
        assert "\n" not in method.equation and method.equation.count("{") == method.equation.count(
            "}"
        )
        start, stop, step = method.grid
        assert 0 <= start <= stop and step > 0
        assert abs((stop - start) / step - round((stop - start) / step)) < 1e-9
        assert method.random is (name == "dare")
        assert method.needs == NEEDS.get(name, "vectors")
        assert method.needs == method.needs_of(options_of(method, {}))
        assert method.needs != "vectors" or method.learn is None or method.needs_by


def test_iso_cts_takes_no_rounding_for_a_tasks_direction():
    """Tasks of low rank at a real size lie within the common directions but for rounding."""
    generator = torch.Generator().manual_seed(0)
    name, side, tasks, rank = f"{BLOCK}attn.out_proj.weight", 256, 8, 16
    draw = partial(torch.randn, generator=generator)
    taus = [TaskVector({name: draw(side, rank) @ draw(rank, side)}, "m") for _ in range(tasks)]
    with pytest.warns(LostRank, match="128 of 256 directions"):
        _, found = merge_vectors(taus, "iso_cts")
    assert int(torch.linalg.matrix_rank(found[name])) == tasks * rank


DEFAULTS = {
    "mean": ((1, 1, 1), {}),
    "sum": ((0, 1, 0.05), {}),
    "ties": ((0.1, 1.6, 0.1), {"keep": 0.2, "agg": "mean", "elect": True, "scope": "model"}),
    "dare": ((0, 1, 0.05), {"drop": 0.9, "then": "sum", "keep": 0.2, "draw": 0}),
    "consensus": ((0.1, 1.0, 0.1), {"agree": 2, "select": "none"}),
    "tsv": ((0.1, 3.0, 0.1), {"qkv": "fused", "other": "mean", "matrices": "blocks"}),
    "iso_c": ((0.1, 3.0, 0.1), {"qkv": "fused", "other": "mean"}),
    "iso_cts": ((0.1, 3.0, 0.1), {"common": 0.8}),
    "wudi": (
        (0.1, 1.5, 0.1),
        {"solver": "closed", "ridge": 1e-6, "steps": 300, "learning_rate": 1e-5},
    ),
    "regmean": ((0.1, 2.0, 0.1), {"off_diagonal": 0.95, "images": 256, "forward": False}),
    "adamerging": (
        (1, 1, 1),
        {
            "level": "layer",
            "split": "validation",
            "start": 0.3,
            "steps": 500,
            "learning_rate": 1e-3,
            "batch": 16,
        },
    ),
    "per_task": ((1, 1, 1), {"sweeps": 2}),
}


@pytest.mark.parametrize("name", names())
def test_grids_and_defaults_are_the_published_ones(name):
    grid, options = DEFAULTS[name]
    method = find(name)
    assert method.grid == pytest.approx(grid)
    found = options_of(method, {})
    assert {key: getattr(found, key) for key in options} == options


def test_dare_takes_the_grid_of_what_follows_it():
    dare_of = find("dare")
    for then in ("sum", "mean", "ties"):
        assert dare_of.grid_of(options_of(dare_of, {"then": then})) == find(then).grid
    tsv = find("tsv")
    assert tsv.grid_of(options_of(tsv, {"qkv": "split"})) == tsv.grid


def test_ties_takes_the_majority_of_trimmed_signs_and_not_of_values():
    """Where one task's signs win, though another's values are larger, and what is trimmed away
    would have voted otherwise."""
    name = "ln_post.bias"
    small = [0.1] * 5
    first = torch.tensor([20.0, -1.0, -1.0, -1.0, 5.0, *small])
    second = torch.tensor([0.0, -2.0, -2.0, -2.0, -5.0, *small])
    taus = [TaskVector({name: each}, "m") for each in (first, second)]
    _, found = merge_vectors(taus, "ties", {"keep": 0.34})
    # signs: + − − − 0, and none of what was trimmed; by values, or untrimmed, + would win
    assert found[name].tolist() == [20.0, -1.5, -1.5, -1.5, -5.0, *[0.0] * 5]
