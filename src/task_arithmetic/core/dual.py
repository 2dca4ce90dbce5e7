"""Layers that carry a tangent beside their value: the forward derivative without a graph.

A model that is written over them gives f(x; θ0) and the directional derivative ∇f(x; θ0)·τ in one
pass. The value keeps its graph, the tangent never has one: the gradient of a loss in τ is exactly
the vector-Jacobian product at θ0 of the loss's gradient in f_lin, so no second-order graph is
built (paper, section 2, "NTK Linearization").
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LAYER_NORM_EPS = 1e-5


class Dual(NamedTuple):
    """A tensor and its tangent; no tangent means zero, and costs nothing."""

    value: Tensor
    tangent: Tensor | None = None


def each(linear_map: Callable[[Tensor], Tensor], x: Dual) -> Dual:
    """A linear map, its own derivative, of the value and of the tangent if there is one."""
    return Dual(linear_map(x.value), None if x.tangent is None else linear_map(x.tangent))


def total(like: Tensor, *terms: Tensor | None) -> Tensor | None:
    """The sum of the tangent's terms that exist, in the shape and precision of its value: autocast
    gives narrower products, which the residual stream must not be."""
    found = [t.to(like.dtype) for t in terms if t is not None]
    return sum(found[1:], found[0]).expand_as(like) if found else None


def add(a: Dual, b: Dual) -> Dual:
    value = a.value + b.value
    return Dual(value, total(value, a.tangent, b.tangent))


def prepend(token: Dual, x: Dual) -> Dual:
    """Put `token` (width,) before the tokens of every image (B, N, width)."""
    tokens = [each(lambda t: t.expand(len(x.value), 1, -1), token), x]
    value = torch.cat([t.value for t in tokens], dim=1)
    if all(t.tangent is None for t in tokens):
        return Dual(value)
    tangents = [torch.zeros_like(t.value) if t.tangent is None else t.tangent for t in tokens]
    return Dual(value, torch.cat([t.detach() for t in tangents], dim=1))


def linear(x: Dual, weight: Dual, bias: Dual | None = None) -> Dual:
    """x Wᵀ + b; tangent dx Wᵀ + x dWᵀ + db."""
    value = F.linear(x.value, weight.value, None if bias is None else bias.value)
    with torch.no_grad():
        tangent = total(
            value,
            None if x.tangent is None else F.linear(x.tangent, weight.value),
            None if weight.tangent is None else F.linear(x.value, weight.tangent),
            None if bias is None else bias.tangent,
        )
    return Dual(value, tangent)


def matmul(a: Dual, b: Dual) -> Dual:
    """a b; tangent da b + a db."""
    value = a.value @ b.value
    with torch.no_grad():
        tangent = total(
            value,
            None if a.tangent is None else a.tangent @ b.value,
            None if b.tangent is None else a.value @ b.tangent,
        )
    return Dual(value, tangent)


def multiply(a: Dual, b: Dual) -> Dual:
    """a ∘ b, elementwise; tangent da ∘ b + a ∘ db."""
    value = a.value * b.value
    with torch.no_grad():
        tangent = total(
            value,
            None if a.tangent is None else a.tangent * b.value,
            None if b.tangent is None else a.value * b.tangent,
        )
    return Dual(value, tangent)


def lookup(rows: Dual, indices: Tensor) -> Dual:
    """Rows of a table (N, width) at indices of any shape (…) → (…, width)."""
    return each(lambda t: F.embedding(indices, t), rows)


def layer_norm(x: Dual, weight: Dual, bias: Dual) -> Dual:
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


def rms_norm(x: Dual, weight: Dual, eps: float) -> Dual:
    """w·n with n = x / sqrt(mean(x²) + eps); tangent w·dn + n·dw,
    dn = (dx - n·mean(n·dx)) / sqrt(mean(x²) + eps), means over the last dimension.

    Evaluated in float32 at least, whatever autocast does to the products around it.
    """
    wide = x.value.to(torch.promote_types(x.value.dtype, torch.float32))
    inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    normal = wide * inverse
    value = weight.value * normal
    with torch.no_grad():
        through_x = None
        if x.tangent is not None:
            along = (normal * x.tangent).mean(-1, keepdim=True)
            through_x = weight.value * inverse * (x.tangent - normal * along)
        through_w = None if weight.tangent is None else normal * weight.tangent
        return Dual(value, total(value, through_x, through_w))


def softmax(x: Dual) -> Dual:
    """Softmax over the last dimension; its Jacobian is symmetric, so the kernel of its backward
    pass is its forward derivative too."""
    value = x.value.softmax(-1)
    if x.tangent is None:
        return Dual(value)
    with torch.no_grad():  # under autocast a tangent may be narrower than its value
        tangent = x.tangent.to(value.dtype)
        return Dual(value, torch.ops.aten._softmax_backward_data(tangent, value, -1, value.dtype))


def activation(x: Dual, kind: str) -> Dual:
    """gelu: x·Φ(x); gelu_new: its approximation by a tanh; relu: max(x, 0); quick_gelu: CLIP's
    x·sigmoid(1.702 x)."""
    if kind == "quick_gelu":
        value = x.value * torch.sigmoid(1.702 * x.value)
    elif kind == "relu":
        value = torch.relu(x.value)
    else:
        approximate = {"gelu": "none", "gelu_new": "tanh"}[kind]
        value = F.gelu(x.value, approximate=approximate)
    if x.tangent is None:
        return Dual(value)
    with torch.no_grad():  # elementwise: backward kernels are forward derivatives too
        tangent = x.tangent.to(value.dtype)
        if kind == "quick_gelu":  # is silu(1.702 x) / 1.702: the same slope
            return Dual(value, torch.ops.aten.silu_backward(tangent, 1.702 * x.value))
        if kind == "relu":
            return Dual(value, torch.ops.aten.threshold_backward(tangent, value, 0))
        slope = torch.ops.aten.gelu_backward
        return Dual(value, slope(tangent, x.value, approximate=approximate))
