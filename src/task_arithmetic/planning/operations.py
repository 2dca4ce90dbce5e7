"""Arithmetic of a pass through an encoder, counted."""

import math
from collections.abc import Iterable

from ..core.vectors import moved_names
from ..language.geometry import T5
from ..vision.geometry import ViT


def flops(kind: str, geometry: ViT, mode: dict | None) -> float:
    """Arithmetic for one image (or prompt), a multiplication and an addition as two operations.

    Of matrix products only, and of every token in every layer. A pass back, or one of a tangent,
    costs as much as the pass forward, but for the products with weights that do not move, and
    twice as much in the products of attention, where both sides vary.

    Args:
        kind: image: f(x; θ); linearized: f_lin; step: one image of a training step; prompt: one
            text through the text tower; read: no arithmetic to speak of.
        mode: a mode's definition, of `step` and `linearized`.
    """
    if kind == "read":
        return 0.0
    if kind == "prompt":
        text = geometry.text
        assert text is not None
        length, width = text.context_length, text.width
        weights = 4 * width * width + 2 * width * text.mlp_width
        return text.layers * (2 * length * weights + 4 * length * length * width)
    shapes, tokens = geometry.shapes(), geometry.tokens

    def of_weights(names: Iterable[str]) -> int:
        at = {name: 2 * math.prod(shapes[name]) for name in names if len(shapes[name]) > 1}
        at.pop("positional_embedding", None)
        uses = {"conv1.weight": tokens - 1, "proj": 1}
        return sum(product * uses.get(name, tokens) for name, product in at.items())

    weights, pairs = of_weights(shapes), 4 * tokens**2 * geometry.width * geometry.layers
    forward = weights + pairs
    if kind == "image" or mode is None:
        return forward
    moved = of_weights(moved_names(shapes, mode["train"]))
    again = weights - of_weights(["conv1.weight"]) + moved + 2 * pairs  # a tangent, or backward
    passes = 1 + mode["linearized"] if kind == "step" else 1
    return forward + passes * again


def t5_flops(kind: str, geometry: T5, mode: dict | None, source: int, target: int) -> float:
    """Arithmetic for one example of `source` and `target` tokens, counted as `flops` does.

    Args:
        kind: text: f(x; θ) at every target token, given at once or generated one by one, which
            with a cache takes as many operations; linearized: f_lin; step: one example of a
            training step; read: no arithmetic to speak of.
        mode: a mode's definition, of `step` and `linearized`.
    """
    if kind == "read":
        return 0.0
    shapes, head = geometry.shapes(), geometry.head

    def tokens(name: str) -> int:  # that a weight is multiplied with
        if name == head:
            return target
        if len(shapes[name]) < 2 or name == "shared.weight" or "relative_attention" in name:
            return 0
        reads = name.startswith("encoder.") or "EncDecAttention.k" in name
        return source if reads or "EncDecAttention.v" in name else target

    def of_weights(names: Iterable[str]) -> int:
        return sum(2 * math.prod(shapes[name]) * tokens(name) for name in names)

    per_layer = geometry.layers * source**2, geometry.decoder_layers * (target + source)
    pairs = 4 * geometry.heads * geometry.d_kv * (per_layer[0] + per_layer[1] * target)
    weights = of_weights(shapes)
    forward = weights + pairs
    if kind == "text" or mode is None:
        return forward
    again = weights + of_weights(moved_names(shapes, mode["train"])) + 2 * pairs
    passes = 1 + mode["linearized"] if kind == "step" else 1
    return forward + passes * again
