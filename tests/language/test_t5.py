"""T5, its linearization and its generation, held to transformers' own; import of checkpoints."""

import json
from dataclasses import replace
from types import MethodType, SimpleNamespace

import pytest
import tiny
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from task_arithmetic.core.vectors import moved_names
from task_arithmetic.errors import UserError
from task_arithmetic.files.paths import read_json, write_json
from task_arithmetic.language import t5 as module
from task_arithmetic.language.checkpoints import import_t5
from task_arithmetic.language.geometry import T5, t5_geometry
from task_arithmetic.language.modality import read_encoder
from task_arithmetic.language.t5 import generate, logits, logits_linearized
from task_arithmetic.planning.operations import Moved, flops
from task_arithmetic.vision.geometry import parameters

SMALL = {  # no two sizes are equal: nothing passes for something else
    "vocab_size": 50,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 24,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 3,
    "decoder_start_token_id": 0,
}
KINDS = {
    "v1.0": {"feed_forward_proj": "relu", "tie_word_embeddings": True},
    "v1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}
BASE = {
    **{"vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_heads": 12},
    **{"num_layers": 12, "num_decoder_layers": 12},
}
FLAN = {**BASE, "d_ff": 2048, **KINDS["v1.1"]}
MODES = {
    "nonlinear": {"train": ["*"], "linearized": False},
    "ntk": {"train": ["*"], "linearized": True},
    "attention": {"train": ["*Attention.[qkv].weight"], "linearized": False},
}


def transformers_model(kind: str, **changes):
    """A random T5 as transformers' own module, no tensor at a value that hides anything."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(**{**SMALL, **KINDS[kind], **changes}, attn_implementation="eager")
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(config).eval().requires_grad_(False)
    if kind == "v1.1":  # transformers makes every new T5 a tied one
        model.lm_head.weight = torch.nn.Parameter(torch.randn(50, 16), requires_grad=False)
    for tensor in model.parameters():
        tensor.add_(0.15 * torch.randn_like(tensor))
    model.shared.weight.mul_(0.3)  # else a tied head says what it was just given
    return model


def in_double(model):
    """The same module in float64 throughout: transformers' norm goes through float32."""

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.square().mean(-1, True) + self.variance_epsilon)

    for part in model.double().modules():
        if type(part).__name__ == "T5LayerNorm":
            part.forward = MethodType(forward, part)
    return model


@pytest.fixture(scope="module", params=KINDS)
def t5(request):
    """One random T5 as transformers' module, in two precisions, and as our named tensors."""
    model = transformers_model(request.param)
    params = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    return SimpleNamespace(
        kind=request.param,
        model=model,
        model64=in_double(transformers_model(request.param)),
        params=params,
        params64=double(params),
        geometry=t5_geometry("tiny", model.config.to_dict()),
    )


def double(tensors):
    return {name: tensor.double() for name, tensor in tensors.items()}


def texts(lengths=(9, 4, 7), target=5, seed=0):
    """Random source tokens of these lengths, padded, and decoder inputs."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(2, 50, (len(lengths), max(lengths)), generator=generator)
    for row, length in zip(source, lengths, strict=True):
        row[length:] = 0
    given = torch.randint(2, 50, (len(lengths), target), generator=generator)
    given[:, 0] = 0
    return source, given


def inputs(source, given) -> dict:
    """Transformers' own arguments."""
    mask = (source != 0).long()
    return {"input_ids": source, "attention_mask": mask, "decoder_input_ids": given}


def direction(params, chosen=lambda name: True, seed=1):
    """A random task vector of the chosen tensors, of their sizes."""
    generator = torch.Generator().manual_seed(seed)
    draw = {n: torch.randn(t.shape, generator=generator, dtype=t.dtype) for n, t in params.items()}
    return {name: 0.1 * params[name].std() * draw[name] for name in params if chosen(name)}


# --- f(x; θ) -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "target"), [((9, 4, 7), 5), ((1, 1), 3), ((5, 5), 1), ((300, 40), 200)]
)
def test_the_logits_are_transformers(t5, lengths, target):
    """Padded and not, S ≠ T, and so long that every bucket of distances is reached."""
    source, given = texts(lengths, target)
    theirs = t5.model(**inputs(source, given)).logits
    assert tiny.close(logits(t5.params, source, given, t5.geometry), theirs) < 1e-5
    theirs = t5.model64(**inputs(source, given)).logits
    assert tiny.close(logits(t5.params64, source, given, t5.geometry), theirs) < 1e-12


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (16, 50)])
def test_the_buckets_of_distances_are_transformers(both_ways, buckets, max_distance):
    from transformers.models.t5.modeling_t5 import T5Attention

    distances = torch.arange(-600, 601)
    geometry = t5_geometry("tiny", SMALL)
    geometry = replace(geometry, buckets=buckets, max_distance=max_distance)
    ours = module._buckets(distances, both_ways, geometry)
    theirs = T5Attention._relative_position_bucket(distances, both_ways, buckets, max_distance)
    assert torch.equal(ours, theirs) and len(ours.unique()) == buckets - both_ways


def test_the_logits_do_not_depend_on_padding_nor_on_the_batch(t5):
    source, given = texts((9, 4, 7))
    together = logits(t5.params64, source, given, t5.geometry)
    wider = logits(t5.params64, F.pad(source, (0, 6)), given, t5.geometry)
    assert tiny.close(wider, together) < 1e-12
    for i, length in enumerate((9, 4, 7)):
        alone = logits(t5.params64, source[i : i + 1, :length], given[i : i + 1], t5.geometry)
        assert tiny.close(alone[0], together[i]) < 1e-12


def test_a_token_is_scored_from_earlier_ones_alone(t5):
    source, given = texts(target=6)
    before = logits(t5.params64, source, given, t5.geometry)
    given[:, 4:] = 7
    after = logits(t5.params64, source, given, t5.geometry)
    assert tiny.close(after[:, :4], before[:, :4]) < 1e-12
    assert tiny.close(after[:, 4:], before[:, 4:]) > 0.1


def test_the_loss_and_its_gradient_in_every_tensor_are_transformers(t5):
    source, target = texts()
    target[1, 2:] = -100
    given = F.pad(target[:, :-1], (1, 0)).masked_fill(F.pad(target[:, :-1], (1, 0)) == -100, 0)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in t5.params64.items()}
    ours = F.cross_entropy(
        logits(leaves, source, given, t5.geometry).flatten(0, 1), target.view(-1)
    )
    ours.backward()
    t5.model64.requires_grad_()
    arguments = {"input_ids": source, "attention_mask": (source != 0).long(), "labels": target}
    loss = t5.model64(**arguments).loss
    theirs = dict(t5.model64.named_parameters())
    gradients = torch.autograd.grad(loss, list(theirs.values()))
    t5.model64.requires_grad_(False)
    assert float(ours.detach() - loss.detach()) == pytest.approx(0, abs=1e-12)
    assert theirs.keys() == leaves.keys()
    for name, gradient in zip(theirs, gradients, strict=True):
        assert tiny.close(leaves[name].grad, gradient) < 1e-9, name


def test_where_only_q_k_v_move_nothing_else_has_a_gradient(t5):
    """Nor has anything that comes before the first of them a graph."""
    moved = moved_names(t5.params, MODES["attention"]["train"])
    params = {n: t.clone().requires_grad_(n in moved) for n, t in t5.params.items()}
    source, given = texts()
    gradients = torch.autograd.grad(
        logits(params, source, given, t5.geometry).square().mean(), [params[n] for n in moved]
    )
    everything = {n: t.clone().requires_grad_() for n, t in t5.params.items()}
    whole = torch.autograd.grad(
        logits(everything, source, given, t5.geometry).square().mean(), list(everything.values())
    )
    whole = dict(zip(everything, whole, strict=True))
    for name, gradient in zip(moved, gradients, strict=True):
        assert tiny.close(gradient, whole[name]) < 1e-5, name


# --- f_lin(x; θ0 + τ) ----------------------------------------------------------------------------


def transformers_jvp(model, params, tau, source, given):
    """f(x; θ0) and ∇f(x; θ0)·τ by torch's own forward mode through transformers' own module."""
    tangents = {name: tau.get(name, torch.zeros_like(p)) for name, p in params.items()}

    def f(tensors):
        return torch.func.functional_call(model, tensors, (), inputs(source, given)).logits

    return torch.func.jvp(f, (params,), (tangents,))


GROUPS = {
    "everything": lambda n: True,
    "embedding": lambda n: n == "shared.weight",
    "head": lambda n: n in ("shared.weight", "lm_head.weight"),
    "positions": lambda n: "relative_attention_bias" in n,
    "norms": lambda n: "layer_norm" in n,
    "q, k, v": lambda n: n.endswith(("Attention.q.weight", ".k.weight", ".v.weight")),
    "o": lambda n: n.endswith(".o.weight"),
    "feed-forward": lambda n: "DenseReluDense" in n,
    "cross-attention": lambda n: "EncDecAttention" in n,
    "encoder": lambda n: n.startswith("encoder."),
    "decoder": lambda n: n.startswith("decoder."),
    "last layer": lambda n: n.startswith("decoder.block.2.layer.2"),
}


@pytest.mark.parametrize("group", GROUPS)
def test_the_tangent_is_torchs_jvp_of_transformers_module(t5, group):
    tau = direction(t5.params64, GROUPS[group])
    assert tau
    ours = logits_linearized(t5.params64, tau, *texts(), t5.geometry)
    theirs = transformers_jvp(t5.model64, t5.params64, tau, *texts())
    assert tiny.close(ours[0], theirs[0]) < 1e-12
    assert tiny.close(ours[1], theirs[1]) < 1e-10


def test_the_tangent_in_float32_agrees_to_1e_5(t5):
    tau = direction(t5.params)
    ours = logits_linearized(t5.params, tau, *texts(), t5.geometry)
    theirs = transformers_jvp(t5.model, t5.params, tau, *texts())
    exact = transformers_jvp(t5.model64, t5.params64, double(tau), *texts())
    for i in range(2):
        assert tiny.close(ours[i], theirs[i]) < 1e-5
        assert tiny.close(ours[i].double(), exact[i]) < 1e-5


@pytest.mark.parametrize("group", ["everything", "q, k, v"])
def test_the_tangent_is_the_central_finite_difference(t5, group):
    tau, h = direction(t5.params64, GROUPS[group]), 1e-5

    def at(step):
        moved = {n: t + step * tau[n] if n in tau else t for n, t in t5.params64.items()}
        return logits(moved, *texts(), t5.geometry)

    _, tangent = logits_linearized(t5.params64, tau, *texts(), t5.geometry)
    assert tiny.close((at(h) - at(-h)) / (2 * h), tangent) < 1e-6


def test_the_linearized_logits_are_affine_in_tau(t5):
    one = direction(t5.params64)
    two = direction(t5.params64, GROUPS["q, k, v"], seed=2)
    both = {n: 0.7 * t - 1.9 * two[n] if n in two else 0.7 * t for n, t in one.items()}
    parts = [logits_linearized(t5.params64, t, *texts(), t5.geometry) for t in (one, two, both)]
    assert all(torch.equal(value, parts[0][0]) for value, _ in parts)
    assert tiny.close(0.7 * parts[0][1] - 1.9 * parts[1][1], parts[2][1]) < 1e-11


def test_a_tau_of_q_k_v_alone_is_the_whole_tau_with_zeros_elsewhere(t5):
    tau = direction(t5.params64, GROUPS["q, k, v"])
    padded = {n: tau.get(n, torch.zeros_like(t)) for n, t in t5.params64.items()}
    ours = logits_linearized(t5.params64, tau, *texts(), t5.geometry)
    whole = logits_linearized(t5.params64, padded, *texts(), t5.geometry)
    assert tiny.close(ours[0], whole[0]) < 1e-12 and tiny.close(ours[1], whole[1]) < 1e-12
    value, tangent = logits_linearized(t5.params64, {}, *texts(), t5.geometry)
    assert torch.equal(value, logits(t5.params64, *texts(), t5.geometry))
    assert torch.equal(tangent, torch.zeros_like(value))


@pytest.mark.parametrize("group", ["everything", "embedding", "positions", "last layer"])
def test_the_tangent_carries_no_gradient_graph_and_the_value_does(t5, group):
    params = {k: v.clone().requires_grad_() for k, v in t5.params.items()}
    tau = {k: v.requires_grad_() for k, v in direction(t5.params, GROUPS[group]).items()}
    value, tangent = logits_linearized(params, tau, *texts(), t5.geometry)
    assert value.requires_grad and not tangent.requires_grad and tangent.grad_fn is None


def test_the_gradient_in_tau_without_second_order_graph_is_autograds_through_the_jvp(t5):
    """The gradient of a loss in τ is the vector-Jacobian product of f at θ0 with its slope."""
    source, given = texts()
    target = torch.randint(50, given.shape, generator=torch.Generator().manual_seed(3)).view(-1)
    tau = {n: t.requires_grad_() for n, t in direction(t5.params64).items()}
    value, tangent = transformers_jvp(t5.model64, t5.params64, tau, source, given)
    loss = F.cross_entropy((value + tangent).flatten(0, 1), target)
    expected = torch.autograd.grad(loss, list(tau.values()))

    anchor = {n: t.clone().requires_grad_() for n, t in t5.params64.items()}
    fixed = {n: t.detach() for n, t in tau.items()}
    value, tangent = logits_linearized(anchor, fixed, source, given, t5.geometry)
    outputs = (value.detach() + tangent).requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(outputs.flatten(0, 1), target), outputs)
    ours = torch.autograd.grad((value * slope).sum(), list(anchor.values()))
    for name, a, b in zip(anchor, ours, expected, strict=True):
        assert tiny.close(a, b) < 1e-9, name


def test_under_autocast_the_residual_stream_and_its_tangent_stay_float32(t5, monkeypatch):
    seen, original = set(), module.rms_norm

    def watched(x, weight, eps):
        found = original(x, weight, eps)
        seen.update(t.dtype for t in (*x, *found) if t is not None)
        return found

    monkeypatch.setattr(module, "rms_norm", watched)
    tau = direction(t5.params)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = logits_linearized(t5.params, tau, *texts(), t5.geometry)
        plain = logits(t5.params, *texts(), t5.geometry)
    assert seen == {torch.float32}
    exact = logits_linearized(t5.params, tau, *texts(), t5.geometry)
    for ours, wide in zip((*narrow, plain), (*exact, exact[0]), strict=True):
        assert ours.dtype == torch.float32
        assert (ours - wide).norm() < 0.1 * wide.norm()


# --- Generation ----------------------------------------------------------------------------------


def ending(answers, geometry) -> T5:
    """The geometry with that token as the end that stops the most answers at different places."""

    def places(token):
        found = [(row == token).nonzero() for row in answers.flatten(0, -2)]
        return len({int(at[0]) for at in found if len(at)})

    return replace(geometry, eos=max(range(1, 50), key=places))


def one_by_one(scores, source, geometry, most):
    """Greedy generation as naively as can be: all of it anew for every token."""
    given = torch.full((len(source), 1), geometry.start)
    done = torch.zeros(len(source), dtype=torch.bool)
    for _ in range(most):
        token = scores(given)[:, -1].argmax(-1).masked_fill(done, geometry.pad)
        given = torch.cat([given, token[:, None]], 1)
        done |= token == geometry.eos
    return given[:, 1:]


def test_generation_is_transformers_with_answers_of_different_lengths(t5):
    source, _ = texts((9, 4, 7, 12, 1, 3, 30, 8), seed=4)
    geometry = ending(generate(t5.params64, source, t5.geometry, 12), t5.geometry)
    ours = generate(t5.params64, source, geometry, 12)
    lengths = (ours[0] != 0).sum(-1)
    assert len(lengths.unique()) > 2 and lengths.min() < 12
    theirs = t5.model64.generate(
        source, attention_mask=(source != 0).long(), do_sample=False, num_beams=1, use_cache=False,
        max_new_tokens=12, eos_token_id=geometry.eos, pad_token_id=0,
    )  # fmt: skip
    assert torch.equal(ours[0, :, : theirs.shape[1] - 1], theirs[:, 1:])
    assert (ours[0, :, theirs.shape[1] - 1 :] == 0).all()


def test_the_cache_never_changes_a_token(t5):
    source, _ = texts((9, 4, 7, 2), seed=5)
    expected = one_by_one(
        lambda given: logits(t5.params64, source, given, t5.geometry), source, t5.geometry, 24
    )
    assert torch.equal(generate(t5.params64, source, t5.geometry, 24)[0], expected)


ALPHAS = (0.0, 0.05, 0.3, -0.4, 1.0, 0.3)


@pytest.mark.parametrize("group", ["everything", "q, k, v", "head"])
def test_a_grid_of_alphas_at_once_is_one_alpha_at_a_time_without_a_cache(t5, group):
    source, _ = texts((9, 4, 7, 6), seed=6)
    tau = direction(t5.params64, GROUPS[group])
    free = generate(t5.params64, source, t5.geometry, 10, tau, ALPHAS)
    geometry = ending(free, t5.geometry)
    grid = generate(t5.params64, source, geometry, 10, tau, ALPHAS)
    assert grid.shape == (6, 4, 10)
    assert len({tuple(row) for row in grid[:, 0].tolist()}) > 1  # they part
    for alpha, ours in zip(ALPHAS, grid, strict=True):

        def scores(given, alpha=alpha):
            value, tangent = logits_linearized(t5.params64, tau, source, given, geometry)
            return value + alpha * tangent

        assert torch.equal(ours, one_by_one(scores, source, geometry, 10))


@pytest.mark.parametrize(("a", "b"), [("everything", "q, k, v"), ("q, k, v", "head"), ("o", "o")])
def test_an_offset_has_a_pass_of_its_own_beside_a_grid_of_alphas(t5, a, b):
    """f(x; θ0) + ∇f·A + α ∇f·B."""
    source, _ = texts((9, 4, 7, 6), seed=6)
    offset, tau = direction(t5.params64, GROUPS[a], 2), direction(t5.params64, GROUPS[b])
    offset = {name: 2 * tensor for name, tensor in offset.items()}
    geometry = ending(generate(t5.params64, source, t5.geometry, 10, tau, ALPHAS), t5.geometry)
    grid = generate(t5.params64, source, geometry, 10, tau, ALPHAS, offset)
    assert not torch.equal(grid, generate(t5.params64, source, geometry, 10, tau, ALPHAS))
    for alpha, ours in zip(ALPHAS, grid, strict=True):

        def scores(given, alpha=alpha):
            value, first = logits_linearized(t5.params64, offset, source, given, geometry)
            _, second = logits_linearized(t5.params64, tau, source, given, geometry)
            return value + first + alpha * second

        assert torch.equal(ours, one_by_one(scores, source, geometry, 10))


def test_generation_at_alpha_0_is_the_pretrained_models(t5):
    source, _ = texts((9, 4, 7, 6))
    tau = direction(t5.params)
    ours = generate(t5.params, source, t5.geometry, 10, tau)
    assert torch.equal(ours, generate(t5.params, source, t5.geometry, 10))
    theirs = t5.model.generate(
        source, attention_mask=(source != 0).long(), do_sample=False, num_beams=1, use_cache=False,
        max_new_tokens=10,
    )  # fmt: skip
    assert torch.equal(ours[0, :, : theirs.shape[1] - 1], theirs[:, 1:])


def test_a_grid_whose_alphas_choose_alike_computes_each_example_once(t5, monkeypatch):
    source, _ = texts((9, 4, 7, 6))
    rows, original = [], module._write

    def watched(p, given, *others):
        rows.append(len(given))
        return original(p, given, *others)

    monkeypatch.setattr(module, "_write", watched)
    tau, near = direction(t5.params64), [1e-9 * i for i in range(21)]
    geometry = replace(t5.geometry, eos=-1)  # none ends
    answers = generate(t5.params64, source, geometry, 8, tau, near)
    assert rows == 8 * [4] and answers.shape == (21, 4, 8)
    rows.clear()
    first, second = generate(t5.params64, source, geometry, 8, tau, [0.0, 5.0])
    expected = [4]
    for n in range(1, 8):
        pairs = [(i, *row[:n].tolist()) for a in (first, second) for i, row in enumerate(a)]
        expected.append(len(set(pairs)))
    assert rows == expected and rows[-1] > 4


def test_generation_under_autocast_and_inference_mode(t5):
    source, _ = texts((9, 4, 7, 6))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        plain = generate(t5.params, source, t5.geometry, 6)
        grid = generate(t5.params, source, t5.geometry, 6, direction(t5.params), (0.0, 1.0))
    assert plain.shape == (1, 4, 6) and grid.shape == (2, 4, 6)
    exact = generate(t5.params, source, t5.geometry, 6)
    for ours in (plain, grid[:1]):  # not bit for bit
        assert (ours == exact).float().mean() > 0.5


# --- From the architecture alone -----------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_expected_tensors_are_those_of_transformers(kind):
    model = transformers_model(kind)
    theirs = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    assert t5_geometry("tiny", model.config.to_dict()).shapes() == theirs


def test_the_sizes_of_table_4_follow_from_t5_base_alone():
    geometry = t5_geometry("t5-base", BASE)
    shapes = geometry.shapes()
    once = parameters(shapes.values())
    assert once == 222_903_552
    assert f"{4 * once / 1e6:.3f}" == "891.614"
    # Table 4's NTK holds θ0, and beside it θ with a copy of the embedding as its head.
    copied = parameters(replace(geometry, tied=False).shapes().values())
    assert once + copied == 470_481_408
    assert f"{4 * (once + copied) / 1e6:.3f}" == "1881.926"
    for patterns, count in (("qkv", 63_700_992), ("qkvo", 84_934_656)):
        moved = moved_names(shapes, [f"*Attention.[{patterns}].weight"])
        assert parameters(shapes[name] for name in moved) == count
        assert not any("relative_attention_bias" in name for name in moved)
        assert len(moved) == 36 * len(patterns)


def test_the_size_of_flan_t5_base():
    shapes = t5_geometry("flan-t5-base", FLAN).shapes()
    assert parameters(shapes.values()) == 247_577_856
    moved = moved_names(shapes, ["*Attention.[qkv].weight"])
    assert parameters(shapes[name] for name in moved) == 63_700_992


@pytest.mark.parametrize("mode", MODES)
def test_the_arithmetic_is_what_torch_counts(t5, mode):
    """Up to what comes before the first moved tensor and has no gradient, and to the scores, which
    the fused kernel of attention computes again on its way back."""
    definition, (source, given) = MODES[mode], texts((30, 30), 12)
    tau = direction(t5.params, lambda n: n in moved_names(t5.params, definition["train"]))
    leaves = {n: t.clone().requires_grad_(n in tau) for n, t in t5.params.items()}
    with FlopCounterMode(display=False) as counter:
        value, _ = logits_linearized(leaves, {}, source, given, t5.geometry)
    moves = {"patterns": definition["train"], "linearized": definition["linearized"]}
    forward = 2 * flops("text", t5.geometry, None, 30, 12)
    assert counter.get_total_flops() == pytest.approx(forward, rel=0.01)
    with FlopCounterMode(display=False) as counter:
        moving = tau if definition["linearized"] else {}
        value, _ = logits_linearized(leaves, moving, source, given, t5.geometry)
        value.sum().backward()
    step = 2 * flops("step", t5.geometry, Moved(**moves), 30, 12)
    assert 0.85 * step < counter.get_total_flops() < 1.05 * step
    assert flops("read", t5.geometry, Moved(**moves), 30, 12) == 0


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"model_type": "bert"}, "no text-to-text model .*'bert'"),
        ({"is_encoder_decoder": False}, "no text-to-text model"),
        ({"feed_forward_proj": "gated-silu"}, "no plain T5 .*gated-silu"),
        ({"pad_token_id": 3}, "no plain T5 .*pad_token_id: 3"),
        ({"d_kv": None}, None),
    ],
)
def test_a_configuration_that_is_no_plain_t5_is_one_sentence(change, found):
    config = {"model_type": "t5", **SMALL, **change}
    if found is None:
        del config["d_kv"]
        found = "no plain T5 .*'d_kv'"
    with pytest.raises(UserError, match=f"Encoder mine is {found}") as caught:
        t5_geometry("mine", config)
    assert "\n" not in str(caught.value)


# --- Import --------------------------------------------------------------------------------------


def checkpoint(folder, kind="v1.0", words=48, **options):
    """A random T5 in transformers' form, with a tokenizer; returns its module."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    model = transformers_model(kind)
    model.save_pretrained(folder, **options)
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{f"w{i}": i for i in range(3, words)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(2)
    tokenizer.save(str(folder / "tokenizer.json"))
    return model


def change_config(folder, **changes):
    config = {**read_json(folder / "config.json"), **changes}
    (folder / "config.json").write_text(json.dumps(config))


def refused(folder, output, match, **settings):
    with pytest.raises(UserError, match=match) as caught:
        import_t5("mine", {"path": str(folder), **settings}, output)
    assert "\n" not in str(caught.value) and not output.exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["whole", "in shards", "as in transformers 4"])
def test_an_imported_checkpoint_is_transformers_model(kind, form, tmp_path):
    from tokenizers import Tokenizer

    options = {"max_shard_size": "20KB"} if form == "in shards" else {}
    model = checkpoint(tmp_path / "checkpoint", kind, **options)
    assert len(list((tmp_path / "checkpoint").glob("*.safetensors"))) == (
        1 if form != "in shards" else pytest.approx(3, abs=1.5)
    )
    if form == "as in transformers 4":
        path = tmp_path / "checkpoint" / "config.json"
        config = read_json(path)
        del config["scale_decoder_outputs"]
        path.write_text(json.dumps({**config, **KINDS[kind]}))
    settings = {"path": str(tmp_path / "checkpoint"), "architecture": {**SMALL, **KINDS[kind]}}
    import_t5("mine", settings, tmp_path / "encoder")
    encoder, about = (
        read_encoder(tmp_path / "encoder"),
        read_json(tmp_path / "encoder/encoder.json"),
    )
    params = encoder.theta0
    assert sorted(p.name for p in (tmp_path / "encoder").iterdir()) == [
        "encoder.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    assert about["name"] == "mine" and about["modality"] == "language"
    assert about["theta0"] == "model.safetensors" and about["source"] is None
    assert about["geometry"]["tied"] is (kind == "v1.0")
    assert ("lm_head.weight" in params) is (kind == "v1.1")
    source, given = texts()
    theirs = model(**inputs(source, given)).logits
    assert tiny.close(logits(params, source, given, encoder.modality.geometry), theirs) < 1e-5
    tokenizer = Tokenizer.from_file(str(tmp_path / "encoder" / "tokenizer.json"))
    assert tokenizer.encode("w3 w4 w5").ids == [3, 4, 5]  # the checkpoint's own cut is gone


def test_weights_in_bfloat16_are_imported_as_float32(tmp_path):
    model = checkpoint(tmp_path / "checkpoint")
    model.bfloat16().save_pretrained(tmp_path / "checkpoint")
    import_t5("mine", {"path": str(tmp_path / "checkpoint")}, tmp_path / "encoder")
    params = read_encoder(tmp_path / "encoder").theta0
    for name, tensor in model.named_parameters():
        assert params[name].dtype == torch.float32
        assert torch.equal(params[name], tensor.float()), name


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_model_that_is_not_text_to_text_is_refused(kind, tmp_path):
    from transformers import AutoConfig, AutoModel

    sizes = {
        "bert": {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8},
        "gpt2": {"n_embd": 8, "n_head": 2},
    }[kind]
    config = AutoConfig.for_model(kind, num_hidden_layers=1, vocab_size=20, **sizes)
    AutoModel.from_config(config).save_pretrained(tmp_path / "checkpoint")
    refused(tmp_path / "checkpoint", tmp_path / "encoder", f"no text-to-text model .*'{kind}'")


@pytest.mark.parametrize(
    "name",
    ["decoder.block.2.layer.1.EncDecAttention.k.weight", "shared.weight", "lm_head.weight"],
)
def test_a_missing_tensor_is_refused_and_never_drawn_at_random(name, tmp_path):
    folder = tmp_path / "checkpoint"
    checkpoint(folder, "v1.1")
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    refused(folder, tmp_path / "encoder", r"misses (shared|decoder|lm_head)|no plain T5")


def test_an_unexpected_tensor_is_refused(tmp_path):
    folder = tmp_path / "checkpoint"
    checkpoint(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.block.0.layer.1.adapter.weight"] = torch.zeros(3)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    refused(folder, tmp_path / "encoder", "has unexpected encoder.block.0.layer.1.adapter.weight")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"num_layers": 1}, "has layers 2, not 1: correct `architecture`"),
        ({"d_ff": 32, "feed_forward_proj": "gated-gelu"}, "has d_ff 24, not 32; activation relu"),
        ({"tie_word_embeddings": False}, "has tied True, not False"),
    ],
)
def test_an_architecture_that_is_not_the_checkpoints_is_refused(changes, match, tmp_path):
    checkpoint(tmp_path / "checkpoint")
    refused(tmp_path / "checkpoint", tmp_path / "encoder", match, architecture=changes)


def test_a_configuration_that_does_not_fit_the_weights_is_refused(tmp_path):
    checkpoint(tmp_path / "checkpoint")
    change_config(tmp_path / "checkpoint", d_ff=32)
    refused(tmp_path / "checkpoint", tmp_path / "encoder", "transformers cannot load|no plain T5")


def test_a_head_of_its_own_under_a_tied_configuration_is_refused(tmp_path):
    """Scaled outputs and an own head are no T5 that was published."""
    checkpoint(tmp_path / "checkpoint", "v1.1")
    change_config(tmp_path / "checkpoint", scale_decoder_outputs=True)
    refused(tmp_path / "checkpoint", tmp_path / "encoder", "no plain T5")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_folder_without_a_checkpoint_is_refused(file, tmp_path):
    checkpoint(tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / file).unlink()
    refused(tmp_path / "checkpoint", tmp_path / "encoder", "must hold config.json and model")


def test_a_checkpoint_without_its_tokenizer_is_refused(tmp_path):
    checkpoint(tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "tokenizer.json").unlink()
    refused(tmp_path / "checkpoint", tmp_path / "encoder", "no readable tokenizer.json")
    checkpoint(tmp_path / "checkpoint", words=60)
    refused(tmp_path / "checkpoint", tmp_path / "encoder", "tokenizer has 60 tokens, its model 50")


def test_a_changed_file_of_an_imported_t5_is_refused(tmp_path):
    checkpoint(tmp_path / "checkpoint")
    import_t5("mine", {"path": str(tmp_path / "checkpoint")}, tmp_path / "encoder")
    tensors = load_file(tmp_path / "encoder" / "model.safetensors")
    tensors["shared.weight"] += 1
    save_file(tensors, tmp_path / "encoder" / "model.safetensors")
    with pytest.raises(UserError, match="is damaged"):
        read_encoder(tmp_path / "encoder")
    about = read_json(tmp_path / "encoder" / "encoder.json")
    write_json(tmp_path / "encoder" / "encoder.json", {**about, "geometry": {}})
    with pytest.raises(UserError, match="encoder.json is damaged"):
        read_encoder(tmp_path / "encoder")
