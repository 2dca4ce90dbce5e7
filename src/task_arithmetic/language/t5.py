"""T5's f(x; θ) as a pure function of named tensors, its linearization, and greedy generation.

`logits` computes a plain T5 (Raffel et al., 2020; v1.1 and Flan-T5 too) from a dictionary of
tensors under transformers' names. `logits_linearized` carries a tangent through the same layers.
Nothing here needs transformers; checkpoints.py brings its weights.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.dual import (
    Dual,
    activation,
    add,
    each,
    linear,
    lookup,
    matmul,
    multiply,
    rms_norm,
    softmax,
)
from ..core.precision import check_finite
from .geometry import T5

Tensors = dict[str, Tensor]
Named = Callable[[str], Dual]  # a tensor of the model, and its tangent
Layers = list[tuple[Dual, Dual]]  # keys and values of each layer
NO_LAYERS: Layers = []
NEVER = torch.finfo(torch.bfloat16).min  # the score of a token that must not be attended to
NUMBERS = 2**24  # logits in memory at a time while tokens are chosen for a grid of α


# --- f and f_lin ---------------------------------------------------------------------------------


def logits(params: Tensors, source: Tensor, given: Tensor, geometry: T5) -> Tensor:
    """f(x; θ): the scores of every token of the vocabulary after each given token.

    Args:
        params: the model's tensors under transformers' names, see `T5.shapes`.
        source: int64 (B, S), padded on the right with geometry.pad.
        given: decoder input, int64 (B, T): the start token, then the target but its last token; or
            (B · n, T), n of each source, one after another.
    Returns:
        logits (B, T, vocab_size), or (B · n, T, vocab_size), differentiable in every tensor of
        `params`.
    """
    return _model(_named(params, {}), source, given, geometry).value


def logits_linearized(
    params: Tensors, tau: Tensors, source: Tensor, given: Tensor, geometry: T5
) -> tuple[Tensor, Tensor]:
    """f(x; θ0) and ∇f(x; θ0)·τ; their sum is f_lin(x; θ0 + τ) (paper, section 2, "NTK
    Linearization").

    The value keeps its graph, the tangent has none, see dual.py. Agrees with torch.func.jvp of
    `logits`.

    Args:
        params: θ0, as in `logits`.
        tau: task vector; tensors that it does not name count as zero.
    Returns:
        value (B, T, vocab_size), tangent (B, T, vocab_size).
    """
    value, tangent = _model(_named(params, tau), source, given, geometry)
    return value, torch.zeros_like(value) if tangent is None else tangent.detach()


def _named(params: Tensors, tau: Tensors) -> Named:
    return lambda name: Dual(params[name], tau.get(name))


def _model(p: Named, source: Tensor, given: Tensor, geometry: T5) -> Dual:
    memory, padding = _read(p, source, geometry), _padding(p, source, geometry)
    if len(given) > len(source):  # the source is read once
        rows = torch.arange(len(given), device=given.device) // (len(given) // len(source))
        memory, padding = _rows(memory, rows), padding[rows]
    hidden, _ = _write(p, given, memory, padding, geometry)
    return _scores(p, hidden, geometry)


# --- Encoder and decoder -------------------------------------------------------------------------


def _read(p: Named, source: Tensor, geometry: T5) -> Layers:
    """The encoder: for each layer of the decoder the keys and values (B, heads, S, d_kv) of the
    source, which its cross-attention reads."""
    x, padding = lookup(p("shared.weight"), source), _padding(p, source, geometry)
    bias = _position_bias(p, "encoder", 0, source.shape[1], geometry)
    bias = Dual(bias.value + padding, bias.tangent)  # (B, heads, S, S)
    for layer in range(geometry.layers):
        prefix = f"encoder.block.{layer}.layer."
        h = _norm(x, p, prefix + "0.", geometry)
        keys = _keys(h, p, prefix + "0.SelfAttention.", geometry)
        x = add(x, _attention(h, keys, bias, p, prefix + "0.SelfAttention.", geometry))
        x = _feed_forward(x, p, prefix + "1.", geometry)
    x = rms_norm(x, p("encoder.final_layer_norm.weight"), geometry.eps)
    layers = range(geometry.decoder_layers)
    return [_keys(x, p, f"decoder.block.{i}.layer.1.EncDecAttention.", geometry) for i in layers]


def _write(
    p: Named, given: Tensor, memory: Layers, padding: Tensor, geometry: T5, past: Layers = NO_LAYERS
) -> tuple[Dual, Layers]:
    """The decoder, over all of `given` or, with `past`, over what follows it.

    Args:
        given: tokens (B, T); memory: from `_read`; padding: scores (B, 1, 1, S) of the source.
        past: for each layer keys and values (B, heads, P, d_kv) of the P tokens before `given`.
    Returns:
        hidden (B, T, d_model); for each layer keys and values of all P + T tokens.
    """
    x, before = lookup(p("shared.weight"), given), past[0][0].value.shape[2] if past else 0
    bias = _position_bias(p, "decoder", before, before + given.shape[1], geometry)
    now = []
    for layer in range(geometry.decoder_layers):
        prefix = f"decoder.block.{layer}.layer."
        h = _norm(x, p, prefix + "0.", geometry)
        keys = _keys(h, p, prefix + "0.SelfAttention.", geometry)
        if past:
            keys = _append(past[layer][0], keys[0]), _append(past[layer][1], keys[1])
        now.append(keys)
        x = add(x, _attention(h, keys, bias, p, prefix + "0.SelfAttention.", geometry))
        h = _norm(x, p, prefix + "1.", geometry)
        prefix_cross = prefix + "1.EncDecAttention."
        x = add(x, _attention(h, memory[layer], Dual(padding), p, prefix_cross, geometry))
        x = _feed_forward(x, p, prefix + "2.", geometry)
    return rms_norm(x, p("decoder.final_layer_norm.weight"), geometry.eps), now


def _scores(p: Named, hidden: Dual, geometry: T5) -> Dual:
    """Logits of hidden states; a head that is the embedding takes them times d_model**-0.5. Never
    in a narrower precision, in which tokens of like score would be equal."""
    with torch.autocast(hidden.value.device.type, enabled=False):
        if not geometry.tied:
            return linear(hidden, p("lm_head.weight"))
        hidden = each(lambda t: t * geometry.d_model**-0.5, hidden)
        return linear(hidden, p("shared.weight"))


def _norm(x: Dual, p: Named, prefix: str, geometry: T5) -> Dual:
    return rms_norm(x, p(prefix + "layer_norm.weight"), geometry.eps)


def _feed_forward(x: Dual, p: Named, prefix: str, geometry: T5) -> Dual:
    """x + W_o act(W_i n(x)), or with gate x + W_o (act(W_0 n(x)) ∘ W_1 n(x))."""
    h, dense = _norm(x, p, prefix, geometry), prefix + "DenseReluDense."
    if geometry.gated:
        gate = activation(linear(h, p(dense + "wi_0.weight")), geometry.activation)
        h = multiply(gate, linear(h, p(dense + "wi_1.weight")))
    else:
        h = activation(linear(h, p(dense + "wi.weight")), geometry.activation)
    return add(x, linear(h, p(dense + "wo.weight")))


def _keys(x: Dual, p: Named, prefix: str, geometry: T5) -> tuple[Dual, Dual]:
    """Keys and values (B, heads, N, d_kv) of tokens (B, N, d_model)."""
    k, v = (_heads(linear(x, p(f"{prefix}{part}.weight")), geometry) for part in "kv")
    return k, v


def _heads(x: Dual, geometry: T5) -> Dual:
    return each(lambda t: t.unflatten(-1, (geometry.heads, -1)).transpose(1, 2), x)


def _attention(
    x: Dual, keys: tuple[Dual, Dual], bias: Dual, p: Named, prefix: str, geometry: T5
) -> Dual:
    """Multi-head attention of tokens x (B, N, d_model), scores without T5's absent scale."""
    (k, v), q = keys, _heads(linear(x, p(prefix + "q.weight")), geometry)
    if all(t.tangent is None for t in (q, k, v, bias)):
        mixed = Dual(
            F.scaled_dot_product_attention(q.value, k.value, v.value, bias.value, scale=1.0)
        )
    else:  # the fused kernel has no forward derivative
        scores = matmul(q, each(lambda t: t.mT, k))
        mixed = matmul(softmax(add(scores, bias)), v)
    mixed = each(lambda t: t.transpose(1, 2).flatten(2), mixed)
    return linear(mixed, p(prefix + "o.weight"))


# --- Positions and padding -----------------------------------------------------------------------


def _padding(p: Named, source: Tensor, geometry: T5) -> Tensor:
    """Scores (B, 1, 1, S) that keep attention from padding."""
    hidden = (source == geometry.pad)[:, None, None]
    return p("shared.weight").value.new_zeros(hidden.shape).masked_fill_(hidden, NEVER)


def _position_bias(p: Named, stack: str, first: int, length: int, geometry: T5) -> Dual:
    """Scores (1, heads, length − first, length) of the tokens first … length − 1 for all tokens:
    the learnt ones of their distances, shared by all layers; a decoder does not look ahead."""
    weight = p(f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight")
    # A score depends on the distance alone: window i of these is the row of token length − 1 − i.
    distances = torch.arange(1 - length, length - first, device=weight.value.device)
    buckets = _buckets(distances, stack == "encoder", geometry)

    def spread(scores: Tensor) -> Tensor:  # (distances, heads) → (1, heads, queries, keys)
        return scores.T.unfold(-1, length, 1).flip(1)[None]

    bias = each(spread, lookup(weight, buckets))
    if stack == "encoder" or length - first == 1:
        return bias
    ahead = torch.ones(bias.value.shape[-2:], dtype=torch.bool, device=distances.device)
    return Dual(bias.value.masked_fill(ahead.triu(1 + first), NEVER), bias.tangent)


def _buckets(distances: Tensor, both_ways: bool, geometry: T5) -> Tensor:
    """The bucket of each distance from a token to one that it attends to: short distances have
    their own, longer ones share logarithmically wider ones (Raffel et al., 2020, section 2.1)."""
    count, ahead = geometry.buckets, torch.zeros_like(distances)
    if both_ways:
        count //= 2
        ahead, distances = count * (distances > 0), distances.abs()
    else:
        distances = (-distances).clamp(min=0)
    exact = count // 2
    far = torch.log(distances.float() / exact) / math.log(geometry.max_distance / exact)
    far = exact + (far * (count - exact)).long()
    return ahead + torch.where(distances < exact, distances, far.clamp(max=count - 1))


# --- Generation ----------------------------------------------------------------------------------


def generate(
    params: Tensors, source: Tensor, geometry: T5, most: int, tau: Tensors | None = None,
    alphas: Sequence[float] = (0.0,), offset: Tensors | None = None,
) -> Tensor:  # fmt: skip
    """The most likely tokens, one after the other, by f(x; θ), or by f_lin(x; θ0 + A + ατ) for each
    α.

    Keys and values of earlier tokens are kept, with their tangents: they depend on these tokens
    alone. Neither do f(x; θ0), ∇f(x; θ0)·A and ∇f(x; θ0)·τ depend on α but through the tokens
    chosen so far, so that all α share the passes of one example as long as they choose alike.

    Args:
        params: θ, or θ0 if there is a τ.
        source: int64 (B, S), padded on the right with geometry.pad.
        most: length of the longest answer, its end token included.
        tau: task vector; None generates by f, whatever `alphas` are.
        alphas: the grid, any floats. offset: A, beside a τ, by a pass of its own; None: zero.
    Returns:
        int64 (len(alphas), B, most), or (1, B, most) without τ; after the end token, padding.
    Raises:
        UserError: logits that are not finite.
    """
    examples, words = len(source), geometry.vocab_size
    passes = [_named(params, along) for along in (tau or {}, offset) if along is not None]
    grid = params["shared.weight"].new_tensor([0.0] if tau is None else list(alphas))
    answers = source.new_full((len(grid) * examples, most), geometry.pad)
    unfinished = torch.arange(len(answers), device=source.device)
    # Rows are what is computed: an example with what was chosen so far. row: of each unfinished.
    row, alpha = unfinished % examples, grid[unfinished // examples]
    given = source.new_full((examples, 1), geometry.start)
    padding = _padding(passes[0], source, geometry)
    memory, past = [_read(p, source, geometry) for p in passes], [NO_LAYERS for _ in passes]
    for position in range(most):
        scores = []
        for i, p in enumerate(passes):
            hidden, past[i] = _write(p, given, memory[i], padding, geometry, past[i])
            scores.append(each(lambda t: t[:, 0], _scores(p, hidden, geometry)))
        chosen = _choose(scores, row, alpha)
        answers[unfinished, position] = chosen
        going = chosen != geometry.eos
        unfinished, row, alpha, chosen = (t[going] for t in (unfinished, row, alpha, chosen))
        if not len(unfinished):
            break
        prefixes, row = (row * words + chosen).unique(return_inverse=True)
        parents, given = prefixes // words, prefixes[:, None] % words
        if not torch.equal(parents, torch.arange(len(padding), device=parents.device)):
            memory, past = ([_rows(some, parents) for some in all_] for all_ in (memory, past))
            padding = padding[parents]
    return answers.unflatten(0, (len(grid), examples))


def _choose(scores: list[Dual], row: Tensor, alpha: Tensor) -> Tensor:
    """The token with the largest f + ∇f·A + α ∇f·τ of each pair of a row and an α, from the scores
    along τ and, if there is one, along A; the first of equals."""
    (value, tangent), *others = scores
    value = sum((moved for _, moved in others if moved is not None), value)
    if tangent is None:
        return _largest(value)[row]
    size = max(1, NUMBERS // value.shape[-1])
    parts = zip(row.split(size), alpha.split(size), strict=True)
    return torch.cat([_largest(value[r] + a[:, None] * tangent[r]) for r, a in parts])


def _largest(scores: Tensor) -> Tensor:
    chosen = scores.argmax(-1)  # NaN is larger than all
    check_finite(scores.gather(-1, chosen[:, None]))
    return chosen


def _append(before: Dual, x: Dual) -> Dual:
    """Tokens (B, heads, N, d_kv) after those before."""
    value = torch.cat([before.value, x.value], dim=2)
    if before.tangent is None:
        return Dual(value)
    assert x.tangent is not None  # what has one at a token has it at every token
    return Dual(value, torch.cat([before.tangent, x.tangent], dim=2))


def _rows(layers: Layers, chosen: Tensor) -> Layers:
    """The chosen rows of all layers' keys and values."""
    return [(each(lambda t: t[chosen], k), each(lambda t: t[chosen], v)) for k, v in layers]
