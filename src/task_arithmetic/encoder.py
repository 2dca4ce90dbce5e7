"""The encoder f(x; θ) as a pure function of named tensors, and its linearization.

`encode` computes a plain CLIP ViT image tower from a dictionary of tensors under open_clip's
names. `encode_linearized` carries a tangent through the same layers: one pass gives f(x; θ0) and
the directional derivative ∇f(x; θ0)·τ. Nothing here needs open_clip; clip.py brings its weights.
"""

import math
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .artifacts import check_file, check_tensors, read_sealed, read_tensors
from .geometry import image_tower_shapes

Tensors = dict[str, Tensor]
IMAGE_TOWER, TEXT_TOWER, MERGES = "image_tower.safetensors", "text_tower.safetensors", "merges.gz"
LAYER_NORM_EPS = 1e-5


class Dual(NamedTuple):
    """A tensor and its tangent; no tangent means zero, and costs nothing."""

    value: Tensor
    tangent: Tensor | None = None


# --- The image tower -----------------------------------------------------------------------------


def encode(params: Tensors, pixels: Tensor, geometry: dict) -> Tensor:
    """f(x; θ): the raw image features, before L2 normalisation (paper, section 2).

    Args:
        params: the image tower's tensors under open_clip's names, see `image_tower_shapes`.
        pixels: normalised images, float (B, 3, S, S), S = geometry["image_size"].
        geometry: image_size, patch_size, width, layers, heads, mlp_width, embed_dim, activation.
    Returns:
        features (B, embed_dim), differentiable in every tensor of `params`.
    """
    return _image_tower(params, {}, pixels, geometry).value


def encode_linearized(
    params: Tensors, tau: Tensors, pixels: Tensor, geometry: dict
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


def _image_tower(params: Tensors, tau: Tensors, pixels: Tensor, geometry: dict) -> Dual:
    def p(name):
        return Dual(params[name], tau.get(name))

    size, patch, width = geometry["image_size"], geometry["patch_size"], geometry["width"]
    side = size // patch
    patches = pixels.reshape(-1, 3, side, patch, side, patch).permute(0, 2, 4, 1, 3, 5)
    patches = patches.reshape(-1, side * side, 3 * patch * patch)  # (B, N, 3·p·p)
    x = _linear(Dual(patches), _each(lambda t: t.reshape(width, -1), p("conv1.weight")))
    x = _prepend(p("class_embedding"), x)  # (B, 1 + N, width)
    x = _add(x, p("positional_embedding"))
    x = _layer_norm(x, p("ln_pre.weight"), p("ln_pre.bias"))
    for layer in range(geometry["layers"]):
        # Only the class token is read from the last block: nothing else of it is computed.
        only_first = layer == geometry["layers"] - 1
        x = _block(x, p, f"transformer.resblocks.{layer}.", geometry, only_first=only_first)
    x = _each(lambda t: t[:, 0], x)
    x = _layer_norm(x, p("ln_post.weight"), p("ln_post.bias"))
    return _linear(x, _each(lambda t: t.T, p("proj")))


def _block(x: Dual, p, prefix: str, geometry: dict, mask=None, only_first=False) -> Dual:
    """One pre-norm residual attention block; `only_first` returns its first token alone."""
    tokens = _layer_norm(x, p(prefix + "ln_1.weight"), p(prefix + "ln_1.bias"))
    queries = tokens
    if only_first:
        queries, x = _each(lambda t: t[:, :1], tokens), _each(lambda t: t[:, :1], x)
    x = _add(x, _attention(queries, tokens, p, prefix + "attn.", geometry["heads"], mask))
    h = _layer_norm(x, p(prefix + "ln_2.weight"), p(prefix + "ln_2.bias"))
    h = _linear(h, p(prefix + "mlp.c_fc.weight"), p(prefix + "mlp.c_fc.bias"))
    h = _activation(h, geometry["activation"])
    h = _linear(h, p(prefix + "mlp.c_proj.weight"), p(prefix + "mlp.c_proj.bias"))
    return _add(x, h)


def _attention(queries: Dual, tokens: Dual, p, prefix: str, heads: int, mask=None) -> Dual:
    """Multi-head attention of `queries` (B, Q, width) over `tokens` (B, N, width)."""
    width = tokens.value.shape[-1]
    head = width // heads
    weight, bias = p(prefix + "in_proj_weight"), p(prefix + "in_proj_bias")

    def project(x: Dual, rows: slice) -> list[Dual]:
        """Rows of the stacked q, k, v projection → one (B, heads, N, head) for each."""
        x = _linear(x, _each(lambda t: t[rows], weight), _each(lambda t: t[rows], bias))
        x = _each(lambda t: t.unflatten(-1, (-1, heads, head)).permute(2, 0, 3, 1, 4), x)
        return [_each(lambda t, i=i: t[i], x) for i in range(len(x.value))]

    (q,) = project(queries, slice(width))
    k, v = project(tokens, slice(width, None))
    if q.tangent is None and k.tangent is None and v.tangent is None:
        mixed = Dual(F.scaled_dot_product_attention(q.value, k.value, v.value, attn_mask=mask))
    else:  # the fused kernel has no forward derivative
        scale = head**-0.5
        scores = _matmul(_each(lambda t: t * scale, q), _each(lambda t: t.mT, k))
        if mask is not None:
            scores = Dual(scores.value + mask, scores.tangent)
        mixed = _matmul(_softmax(scores), v)
    mixed = _each(lambda t: t.transpose(1, 2).flatten(2), mixed)
    return _linear(mixed, p(prefix + "out_proj.weight"), p(prefix + "out_proj.bias"))


# --- Layers over Dual: the value keeps its graph, the tangent never has one ----------------------


def _each(linear_map, x: Dual) -> Dual:
    """A linear map, its own derivative, of the value and of the tangent if there is one."""
    return Dual(linear_map(x.value), None if x.tangent is None else linear_map(x.tangent))


def _total(like: Tensor, *terms: Tensor | None) -> Tensor | None:
    """The sum of the tangent's terms that exist, in the shape and precision of its value: autocast
    gives narrower products, which the residual stream must not be."""
    found = [t.to(like.dtype) for t in terms if t is not None]
    return sum(found[1:], found[0]).expand_as(like) if found else None


def _add(a: Dual, b: Dual) -> Dual:
    value = a.value + b.value
    return Dual(value, _total(value, a.tangent, b.tangent))


def _prepend(token: Dual, x: Dual) -> Dual:
    """Put `token` (width,) before the tokens of every image (B, N, width)."""
    tokens = [_each(lambda t: t.expand(len(x.value), 1, -1), token), x]
    value = torch.cat([t.value for t in tokens], dim=1)
    if all(t.tangent is None for t in tokens):
        return Dual(value)
    tangents = [torch.zeros_like(t.value) if t.tangent is None else t.tangent for t in tokens]
    return Dual(value, torch.cat([t.detach() for t in tangents], dim=1))


def _linear(x: Dual, weight: Dual, bias: Dual | None = None) -> Dual:
    """x Wᵀ + b; tangent dx Wᵀ + x dWᵀ + db."""
    value = F.linear(x.value, weight.value, None if bias is None else bias.value)
    with torch.no_grad():
        tangent = _total(
            value,
            None if x.tangent is None else F.linear(x.tangent, weight.value),
            None if weight.tangent is None else F.linear(x.value, weight.tangent),
            None if bias is None else bias.tangent,
        )
    return Dual(value, tangent)


def _matmul(a: Dual, b: Dual) -> Dual:
    """a b; tangent da b + a db."""
    value = a.value @ b.value
    with torch.no_grad():
        tangent = _total(
            value,
            None if a.tangent is None else a.tangent @ b.value,
            None if b.tangent is None else a.value @ b.tangent,
        )
    return Dual(value, tangent)


def _layer_norm(x: Dual, weight: Dual, bias: Dual) -> Dual:
    """w·n + b with n = (x - mean) / std; tangent w·dn + n·dw + db,
    dn = (dx - mean(dx) - n·mean(n·dx)) / std, means over the last dimension."""
    shape = x.value.shape[-1:]
    value, mean, inverse_std = torch.native_layer_norm(
        x.value, shape, weight.value, bias.value, LAYER_NORM_EPS
    )
    if x.tangent is None and weight.tangent is None and bias.tangent is None:
        return Dual(value)
    tangent = None
    with torch.no_grad():
        if weight.tangent is not None:  # n·dw + db
            zero = torch.zeros_like(weight.tangent) if bias.tangent is None else bias.tangent
            tangent = F.layer_norm(x.value, shape, weight.tangent, zero, LAYER_NORM_EPS)
        elif bias.tangent is not None:
            tangent = bias.tangent.expand_as(value)
        if x.tangent is not None:
            # the Jacobian of n is symmetric: the kernel of its backward pass gives dn
            dn, _, _ = torch.ops.aten.native_layer_norm_backward(
                x.tangent, x.value, shape, mean, inverse_std, None, None, [True, False, False]
            )
            through_x = dn * weight.value
            tangent = through_x if tangent is None else tangent + through_x
    return Dual(value, tangent)


def _softmax(x: Dual) -> Dual:
    """Softmax over the last dimension; its Jacobian is symmetric, so the kernel of its backward
    pass is its forward derivative too."""
    value = x.value.softmax(-1)
    if x.tangent is None:
        return Dual(value)
    with torch.no_grad():  # under autocast a tangent may be narrower than its value
        tangent = x.tangent.to(value.dtype)
        return Dual(value, torch.ops.aten._softmax_backward_data(tangent, value, -1, value.dtype))


def _activation(x: Dual, kind: str) -> Dual:
    """GELU x·Φ(x), or CLIP's QuickGELU x·sigmoid(1.702 x)."""
    if kind == "gelu":
        value = F.gelu(x.value)
    else:
        gate = torch.sigmoid(1.702 * x.value)
        value = x.value * gate
    if x.tangent is None:
        return Dual(value)
    with torch.no_grad():
        if kind == "gelu":  # elementwise: its backward kernel is its forward derivative too
            return Dual(value, torch.ops.aten.gelu_backward(x.tangent.to(value.dtype), x.value))
        # x·sigmoid(1.702 x) is silu(1.702 x) / 1.702: the same slope
        return Dual(value, torch.ops.aten.silu_backward(x.tangent.to(value.dtype), 1.702 * x.value))


# --- The text tower and the heads ----------------------------------------------------------------


def encode_text(params: Tensors, tokens: Tensor, geometry: dict) -> Tensor:
    """CLIP's text features, before L2 normalisation; only heads need them.

    Args:
        params: the text tower's tensors under open_clip's names.
        tokens: int64 (B, context_length); the end-of-text token has the largest id.
        geometry: width, layers, heads, embed_dim, activation, context_length, vocab_size.
    Returns:
        features (B, embed_dim).
    """
    x = Dual(params["token_embedding.weight"][tokens] + params["positional_embedding"])
    length = geometry["context_length"]
    mask = torch.full((length, length), -torch.inf, dtype=x.value.dtype, device=tokens.device)
    for layer in range(geometry["layers"]):
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


# --- Reading θ0 ----------------------------------------------------------------------------------


def read_encoder(encoder_dir, device="cpu") -> tuple[Tensors, dict]:
    """θ0 of the image tower and what encoder.json says of it.

    Returns:
        tensors (float32) under open_clip's names; the description: name, geometry, mean, std
        (per RGB channel, for pixels in 0–1), logit_scale, image_tower_sha256 …
    Raises:
        UserError: a file is missing or damaged, is not safetensors, or does not fit the geometry.
    """
    encoder_dir = Path(encoder_dir)
    about = read_sealed(encoder_dir / "encoder.json")
    check_file(encoder_dir / IMAGE_TOWER, about.get("image_tower_sha256"))
    params = read_tensors(encoder_dir / IMAGE_TOWER, device)
    check_tensors(encoder_dir / IMAGE_TOWER, params, image_tower_shapes(about["geometry"]))
    return params, about
