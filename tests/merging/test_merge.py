"""Merging whole vectors: what is refused, how parts are walked over, options, and LiNeS."""

import subprocess
import sys
import weakref
from dataclasses import replace

import pytest
import torch
from test_methods import BLOCK, SHAPES, apart, merged, part, vectors

from task_arithmetic.core.vectors import TaskVector
from task_arithmetic.errors import UserError
from task_arithmetic.library.vectors import TaskVector as Kept
from task_arithmetic.merging.layer_scale import Ramp, layer_scale, ramp
from task_arithmetic.merging.merge import InMemory, merge_parts, merge_vectors, prepared
from task_arithmetic.merging.method import Merged, Options, option_fields, options_of
from task_arithmetic.merging.methods import HELPERS, find, names
from task_arithmetic.progress import Progress

# --- Vectors -------------------------------------------------------------------------------------


def test_mode_flag_and_base_are_kept():
    tau = TaskVector({"proj": torch.ones(2, 2)}, "ntk", True, "abc")
    offset, direction = merge_vectors([tau, TaskVector({}, "x", False, "")], "sum")
    assert offset is None
    assert (direction.mode, direction.linearized, direction.base) == ("ntk", True, "abc")
    other = TaskVector({"proj": torch.ones(2, 2)}, "mlp", True, "abc")
    assert merge_vectors([tau, other, tau], "mean")[1].mode == "ntk + mlp"
    kept = Kept(tau.tensors, tau.mode, tau.linearized, tau.base)
    assert type(merge_vectors([kept, kept], "mean")[1]) is Kept


def test_vectors_on_disk_can_be_merged_and_kept(tmp_path):
    tau = Kept(vectors(1)[0].tensors, "some", False, "base")
    tau.save(tmp_path / "tau.safetensors")
    again = Kept.load(tmp_path / "tau.safetensors")
    direction = merge_vectors([tau, again], "mean")[1]
    direction.save(tmp_path / "merged.safetensors")
    assert torch.equal(Kept.load(tmp_path / "merged.safetensors")["proj"], tau["proj"])


ONE = torch.ones(2, 2)


@pytest.mark.parametrize(
    "taus, says",
    [
        ([], "no task vector to merge: give at least one"),
        (
            [TaskVector({"a": ONE}, base=""), *(TaskVector({"a": ONE}, base=b) for b in "xy")],
            "of different encoders",
        ),
        (
            [TaskVector({"a": ONE}, "m", flag, "x") for flag in (True, False)],
            "One task vector is of the linearized encoder",
        ),
        ([TaskVector({name: ONE}) for name in "ab"], "different modes or encoders"),
        (
            [TaskVector({"a": torch.ones(2, n)}, base="x") for n in (2, 3)],
            r"a has shape \(2, 2\) in the vector of 1 and \(2, 3\) in that of 2",
        ),
        (
            [TaskVector({"a": torch.tensor([1.0, x])}) for x in (2.0, float("nan"))],
            "The vector of 2 has values in a that are not finite",
        ),
        (
            [TaskVector({"a": torch.tensor([1.0, x])}) for x in (float("inf"), 1.0)],
            "The vector of 1 has values in a that are not finite",
        ),
    ],
    ids=["none", "bases", "linearized", "modes", "shapes", "nan", "inf"],
)
@pytest.mark.parametrize("method", ["sum", "ties", "tsv"])
def test_vectors_that_cannot_be_merged_are_refused(method, taus, says):
    with pytest.raises(UserError, match=says) as caught:
        merge_vectors(taus, method)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_a_method_that_works_in_place_changes_no_vector():
    def halved(part, *_):
        return Merged(part.deltas[1].zero_(), part.deltas[0].mul_(0.5))

    mine = replace(find("sum"), name="mine", merge=halved)
    taus = [TaskVector({"a": torch.full((2,), float(t))}) for t in (1, 2)]
    offset, direction = merge_vectors(taus, mine)
    assert direction["a"].tolist() == [0.5, 0.5] and offset["a"].tolist() == [0, 0]
    assert [tau["a"].tolist() for tau in taus] == [[1, 1], [2, 2]]


def test_a_result_that_is_not_finite_is_refused():
    huge = TaskVector({"a": torch.full((2,), 3e38)})
    for wrong, found in (
        (lambda part, *_: part.deltas[0], r"Tensor float32 \(2,\), which is no Merged"),
        (lambda *_: None, "NoneType"),
        (lambda *_: Merged(None, torch.zeros(3)), r"Tensor float32 \(3,\)"),
        (lambda *_: Merged(None, torch.zeros(2).double()), r"Tensor float64 \(2,\)"),
        (lambda *_: Merged(torch.zeros(1), torch.zeros(2)), r"Tensor float32 \(1,\)"),
        (lambda *_: Merged(torch.zeros(2), None), "NoneType"),
    ):
        mine = replace(find("sum"), name="mine", merge=wrong)
        with pytest.raises(UserError, match=rf"mine must give a Merged .*; found {found}: corr"):
            merge_vectors([TaskVector({"a": torch.ones(2)})], mine)
    for method in ("iso_c", "iso_cts"):  # whose decompositions fail
        with pytest.raises(UserError, match=f"Merging with {method} gives values in proj that are"):
            merge_vectors([TaskVector({"proj": torch.full((4, 4), 3e38)})] * 2, method)
    with pytest.raises(UserError, match="Merging with sum gives values in a that are not finite"):
        merge_vectors([huge, huge], "sum")


@pytest.mark.parametrize("tasks", [["a"], ["a", "a"], ["a", "b", "c"]])
def test_names_of_tasks_are_one_for_each_vector(tasks):
    with pytest.raises(UserError, match="a name of its own: there are 2 vectors"):
        merge_vectors(vectors(2), "sum", tasks=tasks)


def test_vectors_that_move_nothing_give_one_that_moves_nothing():
    assert merge_vectors([TaskVector({}), TaskVector({})], "ties")[1].tensors == {}


def test_progress_counts_tensors():
    class Listens(Progress):
        def __init__(self):
            self.heard = []

        def at(self, done, total, unit, **figures):
            self.heard.append((done, total, unit))

    progress = Listens()
    merge_vectors(vectors(2), "sum", progress=progress)
    assert progress.heard == [(i + 1, len(SHAPES), "tensor") for i in range(len(SHAPES))]


def test_applying_what_is_merged():
    theta0, taus = vectors(1, seed=9)[0].tensors, vectors(3)
    theta = merged(taus, "tsv").apply(theta0, 0.5)
    assert theta.keys() == theta0.keys()


# --- Parts ---------------------------------------------------------------------------------------


class Lazily:
    """Parts that are made when they are walked over, and how many lived at once."""

    def __init__(self, parts):
        self.parts, self.alive, self.most, self.walks = parts, 0, 0, 0

    def __iter__(self):
        self.walks += 1
        for each in self.parts:
            fresh = replace(each, deltas=[delta.clone() for delta in each.deltas])
            self.alive += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(fresh.deltas[0], self.gone)
            yield fresh
            del fresh

    def gone(self):
        self.alive -= 1


@pytest.mark.parametrize("method", [name for name in names() if find(name).needs == "vectors"])
def test_parts_are_merged_one_by_one(method):
    """The memory of a merge is that of a tensor, or two while one follows the other."""
    taus = vectors(3)
    lazy = Lazily(list(InMemory(taus, ["1", "2", "3"], 0)))
    found = find(method)
    results = merge_parts(lazy, found, options_of(found, {}))
    _, expected = merge_vectors(taus, method)
    for name, result in results:
        assert torch.equal(result.direction, expected[name])
        del result
    assert lazy.most <= 2
    assert lazy.walks == (3 if method == "ties" else 1)  # two for thresholds


def test_finite_values_whose_sum_is_not_are_finite():
    large = torch.tensor([3e38, 3e38, -1.0])
    _, found = merge_vectors([TaskVector({"x": large})], "sum")
    assert torch.equal(found["x"], large)
    for bad in ([torch.inf, -torch.inf], [torch.inf, 1.0], [torch.nan, 1.0]):
        with pytest.raises(UserError, match="values in x that are not finite"):
            merge_vectors([TaskVector({"x": torch.tensor(bad)})], "sum")


def test_a_norm_is_one_more_walk():
    lazy = Lazily(list(InMemory(vectors(2), ["1", "2"], 0)))
    assert len(list(merge_parts(lazy, find("sum"), Options(normalize=True)))) == len(SHAPES)
    assert lazy.walks == 2


def test_an_iterator_is_no_parts():
    with pytest.raises(TypeError, match="give no iterator"):
        prepared(iter([part(torch.ones(2))]), Options())


def test_parts_are_in_the_order_of_their_names_and_say_their_tasks():
    parts = list(InMemory(vectors(2), ["x", "y"], 7))
    assert [each.name for each in parts] == sorted(SHAPES)
    assert all(list(each.tasks) == ["x", "y"] and each.seed == 7 for each in parts)


# --- Finding a method, and its options -----------------------------------------------------------


def test_methods_are_found_by_their_modules_and_without_torch():
    code = "import sys; from task_arithmetic.merging.methods import names; print(*names()); "
    code += "assert 'torch' not in sys.modules"
    found = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True
    )
    assert found.stdout.split() == names()
    for name in names():
        assert find(name).name == name
    assert not set(names()) & set(HELPERS)


@pytest.mark.parametrize(
    "name, says",
    [
        (
            "tie",
            r"no merging method 'tie' \(did you mean 'ties'\?\): choose one of adamerging, ",
        ),
        ("method", "no merging method 'method'.*: choose one of"),
        ("fisher", "no merging method 'fisher'.*: choose one of"),
    ],
)
def test_an_unknown_method_is_refused(name, says):
    with pytest.raises(UserError, match=says):
        find(name)


@pytest.mark.parametrize("name", names())
def test_every_option_has_a_default_in_its_bounds_and_is_described(name):
    method = find(name)
    found = option_fields(method)
    assert found[-1].name == "normalize"
    defaults = {each.name: each.default for each in found}
    assert options_of(method, defaults) == options_of(method, {}) == method.options()
    for each in found:
        assert each.described.about and "\n" not in each.described.about
        assert each.kind is not str or len(each.choices) > 1
        if each.choices:
            assert all(options_of(method, {each.name: choice}) for choice in each.choices)


@pytest.mark.parametrize(
    "method, given, says",
    [
        ("ties", {"kep": 0.1}, r"ties has no option 'kep' \(did you mean 'keep'\?\)\."),
        ("ties", {"x": 0.1}, "no option 'x'; it has keep, entries, agg, elect, scope, normalize"),
        ("sum", {3: 1}, "no option 3; it has normalize"),
        ("ties", {"keep": 0}, "keep of the merging method ties must be a number above 0 and at mo"),
        ("ties", {"keep": 1.5}, "a number above 0 and at most 1; found 1.5"),
        ("ties", {"keep": "much"}, "found 'much'"),
        ("ties", {"keep": float("nan")}, "found nan"),
        ("ties", {"keep": True}, "found True"),
        ("ties", {"entries": 1.5}, "a whole number at least 0; found 1.5"),
        ("ties", {"agg": "means"}, r"must be mean or sum; found 'means' \(did you mean 'mean'\?\)"),
        ("ties", {"agg": ["mean"]}, r"must be mean or sum; found \['mean'\]\."),
        ("ties", {"elect": "yes"}, "elect .* must be true or false; found 'yes'"),
        ("dare", {"drop": 1}, "a number at least 0 and below 1; found 1"),
        ("wudi", {"learning_rate": 0}, "a number above 0; found 0"),
        ("consensus", {"thresholds": [0.1]}, r"a mapping from tasks to numbers; found \[0.1\]"),
        ("consensus", {"thresholds": {"a": -1}}, "be of a a number at least 0; found -1"),
        ("consensus", {"agree": 0}, "a whole number at least 1; found 0"),
        ("tsv", {"other": "max"}, "other of the merging method tsv must be mean or sum or zero"),
        ("iso_cts", {"common": 1.01}, "at least 0 and at most 1; found 1.01"),
        ("mean", {"normalize": 1}, "true or false; found 1"),
    ],
)
def test_options_are_held_to_names_kinds_and_bounds(method, given, says):
    with pytest.raises(UserError, match=says) as caught:
        merge_vectors(vectors(2), method, given)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_given_options_are_taken():
    options = options_of(find("ties"), {"keep": 1, "agg": "sum", "normalize": True})
    assert (options.keep, options.agg, options.elect, options.normalize) == (1.0, "sum", True, True)
    assert type(options.keep) is float


# --- LiNeS ---------------------------------------------------------------------------------------

DEEP = {
    f"transformer.resblocks.{i}.attn.out_proj.weight": (6, 6) for i in range(3)
} | {"proj": (6, 4), "conv1.weight": (6, 3, 2, 2)}  # fmt: skip
TEXTS = {
    "encoder.block.0.layer.0.SelfAttention.q.weight": 0.0,
    "encoder.block.2.layer.0.SelfAttention.q.weight": 1.0,
    "decoder.block.0.layer.0.SelfAttention.q.weight": 0.0,
    "decoder.block.1.layer.1.EncDecAttention.q.weight": 0.25,
    "decoder.block.4.layer.1.EncDecAttention.q.weight": 1.0,
    "shared.weight": 0.0,
    "decoder.final_layer_norm.weight": 0.0,
}


@pytest.mark.parametrize("method", ["sum", "mean", "tsv", "iso_c", "ties"])
def test_scaling_by_depth(method):
    """s_l = a + b l/(L − 1) in blocks and a outside, a = (‖Σ τ‖₁ / ‖M‖₁) / T."""
    taus = vectors(4, DEEP)
    plain = merged(taus, method)
    offset, direction = merge_vectors(taus, method, layer_scaled=True)
    summed, whole = (
        sum(float(each[name].abs().double().sum()) for name in DEEP)
        for each in (merged(taus, "sum"), plain)
    )
    a = summed / whole / 4
    assert method != "sum" or a == 1 / 4
    for b in (0.1, 1.0):
        for name in DEEP:
            block = int(name.split(".")[2]) if "resblocks" in name else 0
            expected = (a + b * block / 2) * plain[name].double()
            assert apart(offset[name] + b * direction[name], expected) < 1e-6, name
    assert (offset.mode, offset.base) == (direction.mode, direction.base) == ("some", "base")


def test_the_sum_of_normalized_vectors_still_starts_at_one_over_t():
    taus = vectors(4, DEEP)
    taus[0] = 10 * taus[0]
    options = {"normalize": True}
    offset, _ = merge_vectors(taus, "sum", options, layer_scaled=True)
    assert apart(offset["proj"], merged(taus, "sum", **options)["proj"] / 4) < 1e-6


def test_encoder_and_decoder_each_begin_at_the_first_block():
    scale = ramp(TEXTS, 1.0, 1.0, 2)
    assert scale.base == 0.5
    assert {name: scale.slope(name) for name in TEXTS} == TEXTS


def test_what_is_merged_to_zero_and_towers_of_one_block():
    assert ramp(["proj"], 0.0, 0.0, 4) == Ramp(0.25, {})
    assert ramp([f"{BLOCK}x"], 1.0, 1.0, 1).slope(f"{BLOCK}x") == 0


def test_an_offset_stays():
    merged_there = Merged(torch.ones(2), torch.full((2,), 4.0))
    found = layer_scale("proj", merged_there, Ramp(0.5, {}))
    assert found.offset.tolist() == [3.0, 3.0] and found.direction.tolist() == [0.0, 0.0]
