"""Entry by entry, in pieces that stay in a processor's cache: on a CPU memory that is new costs
several times what is computed in it."""

from __future__ import annotations  # names of torch

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from .lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

PIECE = 2**16  # entries


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are finite: those whose sum is, in a tenth of the time; or they are too
    large to sum."""
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def pieces(tensors: Sequence[Tensor], most: int = PIECE) -> Iterator[list[Tensor]]:
    """The same entries of tensors of one shape, flat and in order; on a GPU all at once. Views of
    contiguous tensors."""
    flat = [tensor.reshape(-1) for tensor in tensors]
    size = most if flat[0].device.type == "cpu" else max(len(flat[0]), 1)
    for at in range(0, len(flat[0]), size):
        yield [each[at : at + size] for each in flat]


def entrywise(function: Callable[[list[Tensor]], Tensor], deltas: Sequence[Tensor]) -> Tensor:
    """A function of several tensors' entries, float32 in their shape and memory of its own.

    Args:
        function: of each delta's entries, flat, all of one length → as many.
    """
    result = torch.empty(deltas[0].shape, dtype=deltas[0].dtype, device=deltas[0].device)
    for found, *own in pieces([result, *deltas]):
        found.copy_(function(own))
    return result
