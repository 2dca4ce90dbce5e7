"""Arithmetic of a pass through an encoder, counted."""

import math
from typing import NamedTuple

from ..config.geometries import Geometry
from ..core.vectors import moved_names
from ..language.geometry import T5
from ..vision.geometry import ViT
from ..vision.parts import EMBEDDING, parts_of

SOURCE, TARGET = 64, 4  # tokens of an input and of an answer, on average: assumed


class Moved(NamedTuple):
    """What a mode moves, by patterns over the tensors' names, and whether f is linearized."""

    patterns: list[str]
    linearized: bool


def flops(
    kind: str,
    geometry: Geometry,
    moved: Moved | None = None,
    source: int = SOURCE,
    target: int = TARGET,
) -> float:
    """Arithmetic for one example, a multiplication and an addition as two operations.

    Of matrix products only, and of every token in every layer. A pass back, or one of a tangent,
    costs as much as the pass forward, but for the products with weights that do not move, and
    twice as much in the products of attention, where both sides vary.

    Args:
        kind: image or text: f(x; θ), of a text at every target token, given at once or generated
            one by one, which with a cache takes as many operations; linearized: f_lin; step: one
            example of a training step; linearity: f at each part of τ, see vision.parts, and f_lin
            at the single ones; prompt: one text through CLIP's text tower; read: no arithmetic to
            speak of.
        moved: of `step`, `linearized` and `linearity`.
        source, target: tokens of a T5's input and answer.
    """
    if kind == "read":
        return 0.0
    if kind == "prompt":
        text = geometry.text if isinstance(geometry, ViT) else None
        assert text is not None  # what asks for it has one
        length, width = text.context_length, text.width
        weights = 4 * width * width + 2 * width * text.mlp_width
        return float(text.layers * (2 * length * weights + 4 * length * length * width))
    shapes = geometry.shapes()
    if isinstance(geometry, T5):
        uses = _of_texts(geometry, source, target)
    else:
        uses = _of_images(geometry)
    products = {name: 2 * math.prod(shapes[name]) * times for name, times in uses.items()}
    pairs = _pairs(geometry, source, target)
    forward = sum(products.values()) + pairs
    if kind in ("image", "text") or moved is None:
        return float(forward)
    again = sum(products.values()) - products.get("conv1.weight", 0) + 2 * pairs
    names = moved_names(shapes, moved.patterns)
    if kind == "linearity":
        single, joint = parts_of(names)
        passed = forward * (1 + 2 * len(single) + len(joint))
        own = sum(products.get(name, 0) for name in names)
        return passed + own + again * sum(_above(part, geometry.layers) for part in single)
    again += sum(products.get(name, 0) for name in names)
    passes = 1 + moved.linearized if kind == "step" else 1
    return float(forward + passes * again)


def _above(part: str, layers: int) -> float:
    """The share of the blocks that a part's tangent passes, its own among them."""
    block = part.partition(".")[0]
    return 1 - int(block) / layers if block.isdecimal() else float(part == EMBEDDING)


def _pairs(g: Geometry, source: int, target: int) -> int:
    """Operations of the products of tokens with each other."""
    if isinstance(g, T5):
        answered = g.decoder_layers * (target + source) * target
        return 4 * g.heads * g.d_kv * (g.layers * source**2 + answered)
    return 4 * g.tokens**2 * g.width * g.layers


def _of_images(geometry: ViT) -> dict[str, int]:
    """Tensor → the tokens that it is multiplied with."""
    own = {"conv1.weight": geometry.tokens - 1, "proj": 1, "positional_embedding": 0}
    matrices = [name for name, shape in geometry.shapes().items() if len(shape) > 1]
    return {name: own.get(name, geometry.tokens) for name in matrices}


def _of_texts(geometry: T5, source: int, target: int) -> dict[str, int]:
    found, table = {}, () if geometry.tied else ("shared.weight",)  # a table is not multiplied with
    for name, shape in geometry.shapes().items():
        reads = name.startswith("encoder.") or "EncDecAttention.k" in name
        found[name] = source if reads or "EncDecAttention.v" in name else target
        if len(shape) < 2 or "relative_attention" in name or name in table:
            found[name] = 0
    return found
