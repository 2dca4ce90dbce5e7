"""Which tensors are weight matrices, where in the encoder they lie, and what becomes of the others:
one rule for all methods that merge matrices as a whole.

Names are open_clip's of images (transformer.resblocks.N.attn.in_proj_weight, …, proj) and
transformers' of T5 (encoder.block.N.layer.M.SelfAttention.q.weight, …). The authors of TSV-M and
Iso merge every tensor with two dimensions as a matrix (`matrices: all2d`), those of WUDI the four
of a block alone; the rest is averaged (arXiv 2412.00081, 2502.04959, 2503.08099).
"""

from __future__ import annotations  # names of torch

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from .lazy import torch
from .method import Merged, Options, Part, option
from .sum import sum_of

if TYPE_CHECKING:
    from torch import Tensor


BLOCK = re.compile(r"(?:^|\.)(?P<stack>transformer\.resblocks|(?:en|de)coder\.block)\.(\d+)\.")
QKV = "in_proj_weight"  # queries, keys and values in one tensor, one below the other
PROJECTION = "proj"  # open_clip multiplies from the right with it: stored (in, out)


@dataclass(frozen=True)
class MatrixOptions(Options):
    """Options of every method that merges matrices as a whole."""

    other: Literal["mean", "sum", "zero"] = option(
        "mean", "what becomes of tensors that are no matrix: biases, norms, embeddings, conv1"
    )


@dataclass(frozen=True)
class SpectralOptions(MatrixOptions):
    """Options of methods for which it matters what a matrix is."""

    matrices: Literal["blocks", "all2d"] = option(
        "blocks", "matrices of blocks and proj, or everything that has two dimensions"
    )
    qkv: Literal["fused", "split"] = option(
        "fused", "open_clip's queries, keys and values as one matrix, or as three"
    )


class Place(NamedTuple):
    """The block that a tensor lies in: its stack (transformer.resblocks, encoder.block or
    decoder.block) and its number, from 0."""

    stack: str
    block: int


def place_of(name: str) -> Place | None:
    """Where a tensor lies; None: outside all blocks."""
    found = BLOCK.search(name)
    return Place(found["stack"], int(found[2])) if found else None


def is_matrix(name: str, dimensions: int, matrices: str = "blocks") -> bool:
    """Whether a tensor is merged as a matrix: one with two dimensions of a linear layer inside a
    block, or proj; with `all2d` any with two dimensions but the text tower's projection."""
    if dimensions != 2 or name == "text_projection":
        return False
    inside = place_of(name) is not None and "relative_attention_bias" not in name
    return matrices == "all2d" or inside or name == PROJECTION


def over_matrices(merge: Callable[[Part, Any, Any], Tensor]) -> Callable[[Part, Any, Any], Merged]:
    """A method of any tensor, from a function of one matrix.

    Args:
        merge: (Part of matrices W float32 (out, in), options, state) → the merged matrix. It gets
            proj transposed, and with `qkv: split` each third of a fused tensor by itself.
    """

    def merge_any(part: Part, options: MatrixOptions, state: Any) -> Merged:
        spectral = options if isinstance(options, SpectralOptions) else SpectralOptions()
        shape = part.deltas[0].shape
        if not is_matrix(part.name, len(shape), spectral.matrices):
            return Merged(None, merge_other(part, options.other))
        if part.name == PROJECTION:
            turned = replace(part, deltas=[delta.T for delta in part.deltas])
            return Merged(None, merge(turned, options, state).T.contiguous())
        if spectral.qkv == "split" and part.name.endswith(QKV):
            thirds = zip(*(delta.chunk(3) for delta in part.deltas), strict=True)
            merged = [merge(replace(part, deltas=third), options, state) for third in thirds]
            return Merged(None, torch.cat(merged))
        return Merged(None, merge(part, options, state))

    return merge_any


def merge_other(part: Part, how: str) -> Tensor:
    """What becomes of a tensor that is no matrix: (1/T) Σ τ_t, Σ τ_t or zero."""
    if how == "zero":
        return torch.zeros_like(part.deltas[0])
    summed = sum_of(part)
    return summed.div_(len(part.deltas)) if how == "mean" else summed
