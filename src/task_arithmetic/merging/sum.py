"""Task arithmetic's own merging: the sum of the task vectors (paper, section 2)."""

from __future__ import annotations  # names of torch

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..core.vectors import Vector, check_alike
from ..errors import UserError
from .method import Merged, Method, Options, Part

if TYPE_CHECKING:
    from torch import Tensor


def total(vectors: Iterable[Vector]) -> Vector:
    """Σ τ_t, reading one vector at a time: memory does not grow with the number of tasks.

    Args:
        vectors: at least one, all of the same mode.
    Returns:
        a new vector; of tensors of different dtypes the wider one, as of `+`.
    Raises:
        UserError: there is none; or they are of different modes or encoders.
    """
    summed: Vector | None = None
    for vector in vectors:
        if summed is None:
            summed = vector.copy()
            continue
        summed.task = ""
        check_alike(summed, vector)
        if vector.keys() != summed.keys():
            raise UserError("The task vectors to add are of different modes or encoders.")
        for name, tensor in vector.tensors.items():
            held = summed.tensors[name]
            summed.tensors[name] = (
                held.add_(tensor) if held.dtype == tensor.dtype else held + tensor
            )
    if summed is None:
        raise UserError("There is no task vector to add: give at least one.")
    return summed


def sum_of(part: Part) -> Tensor:
    """Σ τ_t in the deltas' precision and the order of the tasks, in memory of its own."""
    return added(part.deltas)


def added(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of tensors in their order, in memory of its own."""
    summed = tensors[0].clone()
    for tensor in tensors[1:]:
        summed += tensor
    return summed


def merge(part: Part, options: Options, state: Any = None) -> Merged:
    """M = Σ τ_t of one tensor of any shape: what `total` gives, bit for bit."""
    return Merged(None, sum_of(part))


METHOD = Method(
    name="sum",
    title="Task arithmetic",
    paper="Editing Models with Task Arithmetic",
    arxiv="2212.04089",
    equation=r"M = \sum_t \tau_t",
    scope="element",
    grid=(0.0, 1.0, 0.05),
    merge=merge,
)
