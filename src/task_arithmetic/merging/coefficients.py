"""Coefficients that were found by data, and what is merged by them: M = Σ_t λ_t τ_t."""

from __future__ import annotations  # names of torch

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import UserError
from .method import Data, Merged, Options, Part

if TYPE_CHECKING:
    from torch import Tensor

    from ..core.encoder import Examples

EVERY = ""  # in place of a tensor's name: all tensors of a task


@dataclass(frozen=True)
class Coefficients:
    """λ of each task, or of each task and tensor.

    Attributes:
        values: (task, tensor, or EVERY) → λ.
    """

    values: Mapping[tuple[str, str], float]

    def of(self, task: str, tensor: str) -> float:
        """The coefficient of a task's tensor. Raises UserError: it has none."""
        for key in ((task, tensor), (task, EVERY)):
            if key in self.values:
                return self.values[key]
        raise UserError(
            f"There is no coefficient of {tensor} of {task}: learn them on the vectors that are "
            "merged, under the same names."
        )

    def as_rows(self) -> list[tuple[str, str, float]]:
        """(task, tensor or "", λ), for a file's header."""
        return [(task, tensor, value) for (task, tensor), value in self.values.items()]


def merge(part: Part, options: Options, state: Coefficients | None = None) -> Merged:
    """M = Σ_t λ_t τ_t of one tensor of any shape.

    Args:
        state: what the method's `learn` gave.
    Raises:
        UserError: nothing was learnt, or not of this tensor.
    """
    if state is None:
        raise UserError(
            "This merging method's coefficients are found by data: give what its `learn` gave as "
            "`state`, or the encoder and the tasks."
        )
    return Merged(None, weighted(part.deltas, [state.of(t, part.name) for t in part.tasks]))


def weighted(deltas: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    """Σ_t λ_t τ_t of one tensor, in the order of the tasks, in memory of its own."""
    summed = coefficients[0] * deltas[0]
    for delta, coefficient in zip(deltas[1:], coefficients[1:], strict=True):
        summed += coefficient * delta
    return summed


def deltas_of(data: Data, options: Options) -> dict[str, Sequence[Tensor]]:
    """Each tensor's τ_t, of every task, as `merge` is given them. Raises UserError: values
    that are not finite, or tensors of different shapes."""
    from .merge import InMemory, prepared  # imports torch

    parts = InMemory(data.vectors, data.tasks, data.seed)
    return {part.name: part.deltas for part in prepared(parts, options)}


def is_linearized(data: Data) -> bool:
    """Whether the vectors are used in f_lin; one that moves nothing has no say."""
    return any(vector.linearized for vector in data.vectors if vector.tensors)


def check_data(data: Data, name: str, split: str) -> Sequence[Examples]:
    """The tasks' examples of a split. Raises UserError: not one vector and one set of examples for
    each task, or two tasks of one name."""
    examples = data.examples(split)
    counts = len(data.vectors), len(set(data.tasks)), len(examples)
    if counts[0] == 0 or {*counts, len(data.tasks)} != {counts[0]}:
        raise UserError(
            f"The merging method {name} takes one vector and one set of examples for each task: "
            f"there are {counts[0]} vectors, {counts[1]} different tasks and {counts[2]} sets."
        )
    return examples
