"""Task vectors: their algebra, what a mode moves, and τ = θ_t − θ0 on disk."""

import math
import shutil

import numpy as np
import pytest
import tiny
import torch
import yaml

from task_arithmetic.config.definitions import Mode
from task_arithmetic.config.reading import ROOT
from task_arithmetic.core.vectors import TaskVector, moved_names
from task_arithmetic.errors import UserError
from task_arithmetic.files.tensors import read_made_by, read_tensors, write_tensors
from task_arithmetic.merging.sum import total
from task_arithmetic.stages.evaluate import read_vector
from task_arithmetic.stages.vector import write_vector


def vector(seed, names="abc"):
    generator = torch.Generator().manual_seed(seed)
    return TaskVector({name: torch.randn(3, 4, generator=generator) for name in names})


def flat(tau, names="abcd"):
    """All entries in float64; a tensor that a vector does not name is zero."""
    zero = torch.zeros(3, 4)
    return np.concatenate([tau.tensors.get(n, zero).double().numpy().ravel() for n in names])


# --- Algebra -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "formula",
    [
        lambda a, b: a + b,
        lambda a, b: a - b,
        lambda a, b: -a,
        lambda a, b: 0.3 * a,
        lambda a, b: a * 0.3,
        lambda a, b: 2 * a - 0.5 * (b - a),
        lambda a, b: np.float64(0.25) * a,
        lambda a, b: sum([a, b, a]),
    ],
    ids=["a+b", "a-b", "-a", "0.3a", "a0.3", "2a-0.5(b-a)", "numpy scalar", "sum"],
)
@pytest.mark.parametrize("names", ["abc", "bcd"], ids=["same names", "other names"])
def test_formulas_of_task_vectors_are_those_of_their_entries(formula, names):
    a, b = (TaskVector(tau.tensors, base="one") for tau in (vector(1), vector(2, names)))
    expected = formula(flat(a), flat(b))
    assert np.abs(flat(formula(a, b)) - expected).max() < 1e-6


def test_formulas_do_not_change_the_vectors_they_read():
    a, b = vector(1), vector(2)
    before = flat(a), flat(b)
    a + b, a - b, -a, 2 * a, sum([a, b]), total([a, b]), a.apply(b.tensors, 0.5)  # noqa: B018
    assert np.array_equal(flat(a), before[0]) and np.array_equal(flat(b), before[1])


def test_dot_norm_and_cosine_are_those_of_the_entries():
    a, b = vector(1), vector(2, "bcd")
    x, y = flat(a), flat(b)
    assert a.dot(b) == pytest.approx(x @ y, rel=1e-12)
    assert a.norm() == pytest.approx(np.sqrt(x @ x), rel=1e-12)
    assert a.cosine(b) == pytest.approx(x @ y / np.sqrt(x @ x) / np.sqrt(y @ y), rel=1e-12)
    assert a.cosine(a) == pytest.approx(1, abs=1e-12)
    assert a.cosine(-2 * a) == pytest.approx(-1, abs=1e-12)
    assert a.dot(vector(2, "d")) == 0


def test_dot_is_accumulated_in_float64():
    """A float32 sum would lose the small entries beside the large one."""
    tau = TaskVector({"a": torch.tensor([1e4] + [1e-2] * 1000)})
    exact = math.fsum(float(t) ** 2 for t in tau.tensors["a"].double())
    assert tau.dot(tau) == pytest.approx(exact, rel=1e-14)


def test_a_zero_vector_has_no_cosine():
    with pytest.raises(UserError, match="zero everywhere"):
        vector(1).cosine(0.0 * vector(2))


def test_applying_adds_alpha_times_tau_to_the_moved_tensors_alone():
    theta0, tau = vector(3, "abcd").tensors, vector(1, "bd")
    theta = tau.apply(theta0, 0.35)
    assert list(theta) == list(theta0)
    for name in theta0:
        if name in "bd":
            expected = theta0[name].double() + 0.35 * tau.tensors[name].double()
            assert tiny.close(theta[name].double(), expected) < 1e-6
        else:
            assert theta[name] is theta0[name]


def test_theta0_plus_0_tau_is_theta0_bit_for_bit():
    theta0, tau = vector(3).tensors, vector(1)
    theta0["a"][0, 0], theta0["a"][0, 1] = -0.0, 1e-42  # half-precision weights have such values
    theta = tau.apply(theta0, 0.0)
    for name in theta0:
        assert torch.equal(theta[name].view(torch.int32), theta0[name].view(torch.int32)), name


def test_theta0_plus_tau_minus_tau_comes_back():
    theta0, tau = vector(3).tensors, vector(1)
    back = (-tau).apply(tau.apply(theta0))
    assert all(tiny.close(back[n], theta0[n]) < 1e-6 for n in theta0)


def test_total_is_the_sum_and_reads_one_vector_at_a_time():
    vectors, alive = [vector(i) for i in range(5)], []

    def one_by_one():
        for v in vectors:
            alive.append(v)
            yield v

    assert np.abs(flat(total(one_by_one())) - flat(sum(vectors))).max() < 1e-6
    assert len(alive) == 5
    assert flat(total([vectors[0]])).tolist() == flat(vectors[0]).tolist()


@pytest.mark.parametrize("other", ["ab", "abcd", "bcd"])
def test_total_refuses_vectors_of_mixed_modes(other):
    with pytest.raises(UserError, match="different modes or encoders"):
        total([vector(1), vector(2, other)])


# --- What a mode moves ---------------------------------------------------------------------------


def definition(mode):
    return yaml.safe_load((ROOT / "config" / "modes" / f"{mode}.yaml").read_text())


def trained(mode, encoder):
    shapes = tiny.real_geometry(encoder).shapes()
    names = moved_names(shapes, Mode(**definition(mode)).patterns("vision"), mode)
    return sum(int(np.prod(shapes[name])) for name in names)


B, L = 12, 24  # layers of ViT-B and ViT-L


@pytest.mark.parametrize(
    "mode, vit_b, vit_l",
    [
        ("attention", 28_311_552, 100_663_296),
        ("attention_bias", 28_311_552 + 36_864, 100_663_296 + 98_304),
        ("attention_mlp", 28_311_552 + 56_623_104, 100_663_296 + 201_326_592),
        (
            "attention_mlp_bias",
            28_311_552 + 36_864 + 56_623_104 + 46_080,
            100_663_296 + 98_304 + 201_326_592 + 122_880,
        ),
    ],
)
def test_a_mode_trains_as_many_parameters_as_the_paper_counts(mode, vit_b, vit_l):
    assert trained(mode, "ViT-B-32") == trained(mode, "ViT-B-16") == vit_b
    assert trained(mode, "ViT-L-14") == vit_l


@pytest.mark.parametrize("encoder", tiny.REAL)
def test_attention_trains_4_d_squared_per_layer(encoder):
    d, layers = tiny.REAL[encoder][:2]
    assert trained("attention", encoder) == 4 * d**2 * layers
    assert trained("attention_bias", encoder) - trained("attention", encoder) == 4 * d * layers
    assert trained("attention_mlp", encoder) - trained("attention", encoder) == 8 * d**2 * layers


@pytest.mark.parametrize("mode", ["nonlinear", "ntk"])
@pytest.mark.parametrize(
    "encoder, count",
    [("ViT-B-32", 87_849_216), ("ViT-B-16", 86_192_640), ("ViT-L-14", 303_966_208)],
)
def test_nonlinear_and_ntk_train_the_whole_image_tower(mode, encoder, count):
    width, layers, _, patch, embed_dim = tiny.REAL[encoder]
    block = 12 * width**2 + 13 * width  # attention 4d² + 4d, MLP 8d² + 5d, two layer norms 4d
    stem = width * 3 * patch**2 + width + (1 + (224 // patch) ** 2) * width
    assert trained(mode, encoder) == stem + layers * block + 4 * width + width * embed_dim == count


def test_only_ntk_is_linearized():
    modes = sorted((ROOT / "config" / "modes").glob("*.yaml"))
    linearized = [path.stem for path in modes if definition(path.stem)["linearized"]]
    assert linearized == ["ntk"]


NAMES = list(tiny.real_geometry("ViT-B-32").shapes())


@pytest.mark.parametrize(
    "patterns, says",
    [
        (
            ["*.attn.in_proj.weight"],
            r"Mode mine: the pattern '\*\.attn\.in_proj\.weight' matches no",
        ),
        (["*", "*.q_proj.weight"], r"'\*\.q_proj\.weight' matches no tensor"),
        (["*.ATTN.in_proj_weight"], "matches no tensor"),
        (["visual.*"], r"it has conv1\.weight, …, .*correct `train`"),
        ([], "Mode mine fine-tunes no tensor"),
    ],
    ids=["typo", "one of two", "case", "prefix", "none"],
)
def test_a_mode_that_leaves_a_pattern_without_tensors_is_refused(patterns, says):
    with pytest.raises(UserError, match=says):
        moved_names(NAMES, patterns, "mine")


def test_patterns_choose_names_in_the_towers_order_once():
    patterns = ["*.attn.out_proj.weight", "*.attn.*_weight", "*.attn.out_proj.weight"]
    chosen = moved_names(NAMES, patterns)
    assert chosen == [n for n in NAMES if ".attn." in n and n.endswith("weight")]
    assert len(chosen) == 24


# --- On disk -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", tiny.MODES)
def test_a_written_vector_is_theta_t_minus_theta0_of_the_moved_tensors(mode):
    theta0 = read_tensors(tiny.shared_suite()["encoder_dir"] / "image_tower.safetensors")
    theta = read_tensors(tiny.shared_finetuned(mode, "one"))
    tau = read_vector(tiny.shared_vector(mode, "one"))
    assert list(tau.tensors) == list(theta)
    assert set(tau.tensors) == set(moved_names(theta0, tiny.MODES[mode]["train"]))
    for name, tensor in tau.tensors.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, theta[name] - theta0[name])


@pytest.mark.parametrize("mode", tiny.MODES)
def test_theta0_plus_tau_is_theta_t_to_float32_rounding(mode):
    theta0 = read_tensors(tiny.shared_suite()["encoder_dir"] / "image_tower.safetensors")
    theta = read_tensors(tiny.shared_finetuned(mode, "one"))
    applied = read_vector(tiny.shared_vector(mode, "one")).apply(theta0)
    assert applied.keys() == theta0.keys()
    for name, tensor in theta0.items():
        if name in theta:
            largest = torch.maximum(theta[name].abs(), tensor.abs())
            assert ((applied[name] - theta[name]).abs() <= 2**-22 * largest).all()
        else:  # bit-identical to θ0 after training
            assert applied[name].numpy().tobytes() == tensor.numpy().tobytes()


def test_a_written_vector_says_what_made_it():
    made_by = read_made_by(tiny.shared_vector("attention", "one"))
    moved = read_made_by(tiny.shared_finetuned("attention", "one"))
    assert made_by["stage"] == "vector"
    assert {k: made_by[k] for k in moved} == moved
    assert moved["mode"] == "attention" and moved["task"] == "one" and moved["seed"] == 0
    assert moved["settings"]["finetune"]["steps"] == 15
    assert {"theta0_sha256", "data_sha256", "versions", "device"} <= set(moved)


def test_the_same_vector_is_always_the_same_file(tmp_path):
    files = set()
    for i in range(8):
        moved = tiny.shared_finetuned("attention", "one")
        write_vector(tiny.shared_suite()["encoder_dir"], moved, tmp_path / str(i))
        files.add((tmp_path / str(i)).read_bytes())
    assert len(files) == 1


@pytest.mark.parametrize(
    "moved, says",
    [
        ({"proj": (32, 8)}, r"has proj of shape \(32, 8\), not \(32, 16\)"),
        ({"proj": (32, 16), "visual.proj": (1,)}, "has unexpected visual.proj"),
    ],
    ids=["misshapen", "unknown"],
)
def test_weights_of_another_encoder_give_no_vector(tmp_path, moved, says):
    tensors = {name: torch.zeros(shape) for name, shape in moved.items()}
    write_tensors(tmp_path / "moved.safetensors", tensors, {})
    with pytest.raises(UserError, match=says):
        write_vector(
            tiny.shared_suite()["encoder_dir"], tmp_path / "moved.safetensors", tmp_path / "tau"
        )
    assert not (tmp_path / "tau").exists()


def test_a_vector_without_its_encoder_says_what_is_missing(tmp_path):
    shutil.copy(tiny.shared_finetuned("attention", "one"), tmp_path / "moved.safetensors")
    with pytest.raises(UserError, match=r"encoder\.json does not exist"):
        write_vector(tmp_path, tmp_path / "moved.safetensors", tmp_path / "tau")
