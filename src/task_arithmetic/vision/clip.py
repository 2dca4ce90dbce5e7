"""The encoder f(x; θ) as a pure function of named tensors, and its linearization.

`encode` computes a plain CLIP ViT image tower from a dictionary of tensors under open_clip's
names. `encode_linearized` carries a tangent through the same layers: one pass gives f(x; θ0) and
the directional derivative ∇f(x; θ0)·τ. Nothing here needs open_clip: checkpoints.py brings its
weights.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.dual import (
    LAYER_NORM_EPS,
    Dual,
    activation,
    add,
    each,
    layer_norm,
    linear,
    matmul,
    prepend,
    softmax,
)
from .geometry import TextTower, ViT

Tensors = dict[str, Tensor]
Named = Callable[[str], Dual]  # a tensor of the model, and its tangent


# --- The image tower -----------------------------------------------------------------------------


def encode(params: Tensors, pixels: Tensor, geometry: ViT) -> Tensor:
    """f(x; θ): the raw image features, before L2 normalisation (paper, section 2).

    Args:
        params: the image tower's tensors under open_clip's names, see `ViT.shapes`.
        pixels: normalised images, float (B, 3, S, S), S = geometry.image_size.
    Returns:
        features (B, embed_dim), differentiable in every tensor of `params`.
    """
    return _image_tower(params, {}, pixels, geometry).value


def encode_linearized(
    params: Tensors, tau: Tensors, pixels: Tensor, geometry: ViT
) -> tuple[Tensor, Tensor]:
    """f(x; θ0) and ∇f(x; θ0)·τ; their sum is f_lin(x; θ0 + τ) (paper, section 2, "NTK
    Linearization").

    The value keeps its graph, the tangent has none: the gradient of a loss in τ is exactly the
    vector-Jacobian product at θ0 of the loss's gradient in f_lin, so no second-order graph is
    built. Agrees with torch.func.jvp of `encode`.

    Args:
        params: θ0, as in `encode`.
        tau: task vector; tensors that it does not name count as zero.
    Returns:
        value (B, embed_dim), tangent (B, embed_dim).
    """
    value, tangent = _image_tower(params, tau, pixels, geometry)
    return value, torch.zeros_like(value) if tangent is None else tangent


def _image_tower(params: Tensors, tau: Tensors, pixels: Tensor, geometry: ViT) -> Dual:
    def p(name: str) -> Dual:
        return Dual(params[name], tau.get(name))

    size, patch, width = geometry.image_size, geometry.patch_size, geometry.width
    side = size // patch
    patches = pixels.reshape(-1, 3, side, patch, side, patch).permute(0, 2, 4, 1, 3, 5)
    patches = patches.reshape(-1, side * side, 3 * patch * patch)  # (B, N, 3·p·p)
    x = linear(Dual(patches), each(lambda t: t.reshape(width, -1), p("conv1.weight")))
    x = prepend(p("class_embedding"), x)  # (B, 1 + N, width)
    x = add(x, p("positional_embedding"))
    x = layer_norm(x, p("ln_pre.weight"), p("ln_pre.bias"))
    for layer in range(geometry.layers):
        # Only the class token is read from the last block: nothing else of it is computed.
        only_first = layer == geometry.layers - 1
        x = _block(x, p, f"transformer.resblocks.{layer}.", geometry, only_first=only_first)
    x = each(lambda t: t[:, 0], x)
    x = layer_norm(x, p("ln_post.weight"), p("ln_post.bias"))
    return linear(x, each(lambda t: t.T, p("proj")))


def _block(
    x: Dual,
    p: Named,
    prefix: str,
    geometry: ViT | TextTower,
    mask: Tensor | None = None,
    only_first: bool = False,
) -> Dual:
    """One pre-norm residual attention block; `only_first` returns its first token alone."""
    tokens = layer_norm(x, p(prefix + "ln_1.weight"), p(prefix + "ln_1.bias"))
    queries = tokens
    if only_first:
        queries, x = each(lambda t: t[:, :1], tokens), each(lambda t: t[:, :1], x)
    x = add(x, _attention(queries, tokens, p, prefix + "attn.", geometry.heads, mask))
    h = layer_norm(x, p(prefix + "ln_2.weight"), p(prefix + "ln_2.bias"))
    h = linear(h, p(prefix + "mlp.c_fc.weight"), p(prefix + "mlp.c_fc.bias"))
    h = activation(h, geometry.activation)
    h = linear(h, p(prefix + "mlp.c_proj.weight"), p(prefix + "mlp.c_proj.bias"))
    return add(x, h)


def _attention(
    queries: Dual, tokens: Dual, p: Named, prefix: str, heads: int, mask: Tensor | None = None
) -> Dual:
    """Multi-head attention of `queries` (B, Q, width) over `tokens` (B, N, width)."""
    width = tokens.value.shape[-1]
    head = width // heads
    weight, bias = p(prefix + "in_proj_weight"), p(prefix + "in_proj_bias")

    def nth(x: Dual, i: int) -> Dual:
        return each(lambda t: t[i], x)

    def project(x: Dual, rows: slice) -> list[Dual]:
        """Rows of the stacked q, k, v projection → one (B, heads, N, head) for each."""
        x = linear(x, each(lambda t: t[rows], weight), each(lambda t: t[rows], bias))
        x = each(lambda t: t.unflatten(-1, (-1, heads, head)).permute(2, 0, 3, 1, 4), x)
        return [nth(x, i) for i in range(len(x.value))]

    (q,) = project(queries, slice(width))
    k, v = project(tokens, slice(width, None))
    if q.tangent is None and k.tangent is None and v.tangent is None:
        mixed = Dual(F.scaled_dot_product_attention(q.value, k.value, v.value, attn_mask=mask))
    else:  # the fused kernel has no forward derivative
        scale = head**-0.5
        scores = matmul(each(lambda t: t * scale, q), each(lambda t: t.mT, k))
        if mask is not None:
            scores = Dual(scores.value + mask, scores.tangent)
        mixed = matmul(softmax(scores), v)
    mixed = each(lambda t: t.transpose(1, 2).flatten(2), mixed)
    return linear(mixed, p(prefix + "out_proj.weight"), p(prefix + "out_proj.bias"))


# --- The text tower and the heads ----------------------------------------------------------------


def encode_text(params: Tensors, tokens: Tensor, geometry: TextTower) -> Tensor:
    """CLIP's text features, before L2 normalisation; only heads need them.

    Args:
        params: the text tower's tensors under open_clip's names.
        tokens: int64 (B, context_length); the end-of-text token has the largest id.
    Returns:
        features (B, embed_dim).
    """
    x = Dual(params["token_embedding.weight"][tokens] + params["positional_embedding"])
    length = geometry.context_length
    mask = torch.full((length, length), -torch.inf, dtype=x.value.dtype, device=tokens.device)
    for layer in range(geometry.layers):
        prefix = f"transformer.resblocks.{layer}."
        x = _block(x, lambda name: Dual(params[name]), prefix, geometry, mask=mask.triu(1))
    last = x.value[torch.arange(len(tokens)), tokens.argmax(-1)]
    last = F.layer_norm(
        last, last.shape[-1:], params["ln_final.weight"], params["ln_final.bias"], LAYER_NORM_EPS
    )
    return last @ params["text_projection"]


def make_head(text_features: Tensor, logit_scale: float) -> Tensor:
    """The frozen zero-shot classifier of one task (paper, appendix A, "Fine-tuning"): per class
    the normalised mean of the normalised prompt features, times exp(logit_scale).

    Args:
        text_features: (classes, templates, embed_dim), not normalised.
        logit_scale: natural logarithm of CLIP's temperature factor.
    Returns:
        head (classes, embed_dim); logits are `classify(features, head)`.
    """
    means = F.normalize(F.normalize(text_features, dim=-1).mean(1), dim=-1)
    return means * math.exp(logit_scale)


def classify(features: Tensor, head: Tensor) -> Tensor:
    """Logits (B, classes) of raw features (B, embed_dim): head times the L2-normalised feature."""
    return F.normalize(features, dim=-1) @ head.T
