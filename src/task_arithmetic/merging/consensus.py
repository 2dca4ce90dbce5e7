"""Consensus task arithmetic (TALL masks): the entries of the sum that several tasks use."""

from __future__ import annotations  # names of torch

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import UserError, nearest
from .lazy import torch
from .method import Merged, Method, Options, Part, option
from .pieces import entrywise, pieces
from .sum import added

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ConsensusOptions(Options):
    threshold: float = option(0.4, "λ: larger, and a task uses fewer entries", low=0)
    thresholds: Mapping[str, float] = option({}, "λ of single tasks, by their names", low=0)
    agree: int = option(2, "how many tasks must use an entry", low=1)


def masks(part: Part, options: ConsensusOptions) -> list[Tensor]:
    """Of each task m_t = [ |τ_t| > λ_t · |Σ τ − τ_t| ], bool, in the tensor's shape: the entries
    that it uses. They are compared in float64, where the order of the tasks does not matter.
    θ0 + m_t ⊙ Σ τ is the task's own model, by which λ_t may be chosen on validation.

    Raises:
        UserError: a threshold is of an unknown task.
    """
    held = _thresholds(part, options)
    found = [torch.empty_like(delta, dtype=torch.bool) for delta in part.deltas]
    for own in pieces([*found, *part.deltas]):
        for mask, used in zip(own, _used(own[len(held) :], held), strict=False):
            mask.copy_(used)
    return found


def _thresholds(part: Part, options: ConsensusOptions) -> list[float]:
    """Of each task λ_t. Raises UserError: one is of an unknown task."""
    for task in options.thresholds:
        if task not in part.tasks:
            known = list(part.tasks)
            near = nearest(task, known) or f"; they are {', '.join(known)}"
            raise UserError(f"thresholds of consensus names {task!r}, which is no task{near}.")
    return [options.thresholds.get(task, options.threshold) for task in part.tasks]


def _used(deltas: Sequence[Tensor], thresholds: Sequence[float]) -> Iterator[Tensor]:
    """m_t of some entries, bool."""
    wide = [delta.double() for delta in deltas]
    summed = added(wide)
    for delta, threshold in zip(wide, thresholds, strict=True):
        yield delta.abs() > (summed - delta).abs_().mul_(threshold)


def users(part: Part, options: ConsensusOptions) -> Tensor:
    """How many tasks use each entry, int64 in the tensor's shape."""
    return torch.stack(masks(part, options)).sum(0)


def merge(part: Part, options: ConsensusOptions, state: Any = None) -> Merged:
    """M = [ Σ m_t ≥ agree ] ⊙ Σ τ_t of one tensor of any shape.

    Raises:
        UserError: there are fewer tasks than must agree, which would leave nothing.
    """
    if len(part.deltas) < options.agree:
        raise UserError(
            f"consensus keeps what {options.agree} tasks use, and there is no more than "
            f"{len(part.deltas)}: give more vectors, or a smaller `agree`."
        )
    held = _thresholds(part, options)

    def shared(deltas: list[Tensor]) -> Tensor:
        count = torch.zeros_like(deltas[0], dtype=torch.int32)
        for used in _used(deltas, held):
            count += used
        return added(deltas).mul_(count >= options.agree)

    return Merged(None, entrywise(shared, part.deltas))


METHOD = Method(
    name="consensus",
    title="Consensus task arithmetic",
    paper="Localizing Task Information for Improved Model Merging and Compression",
    arxiv="2405.07813",
    equation=r"M = \Bigl[\,\sum_t m_t \ge 2\,\Bigr] \odot \tau, \quad "
    r"m_t = \bigl[\,|\tau_t| > \lambda_t |\tau - \tau_t|\,\bigr], \quad \tau = \sum_t \tau_t",
    scope="element",
    grid=(0.1, 1.0, 0.1),
    merge=merge,
    options=ConsensusOptions,
)
