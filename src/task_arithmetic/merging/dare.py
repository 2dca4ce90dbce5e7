"""DARE: drop most entries of each task vector at random, scale up the rest, and merge."""

from __future__ import annotations  # names of torch

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from . import mean, sum, ties
from .lazy import torch
from .method import Merged, Method, Options, Part, option
from .pieces import entrywise

if TYPE_CHECKING:
    from torch import Tensor


THEN = {"sum": sum.METHOD, "mean": mean.METHOD, "ties": ties.METHOD}


@dataclass(frozen=True)
class DareOptions(Options):
    drop: float = option(0.9, "share of the entries that is dropped", low=0, high=1, open_high=True)
    then: Literal["sum", "mean", "ties"] = option("sum", "how the remaining entries are merged")
    keep: float = option(
        0.2, "of ties: the share of the remaining entries", low=0, high=1, open_low=True
    )

    draw: int = option(0, "which of several draws: under a label of its own each", low=0)

    @property
    def ties(self) -> ties.TiesOptions:
        return ties.TiesOptions(keep=self.keep)


def dropped(part: Part, p: float, draw: int = 0) -> Part:
    """τ̃_t = z ⊙ τ_t / (1 − p), z ~ Bernoulli(1 − p) for each entry. What is drawn depends on seed,
    task, tensor and draw alone: not on the order of any, nor on the device."""
    deltas = []
    for task, delta in zip(part.tasks, part.deltas, strict=True):
        deltas.append(_dropped(part, task, delta, p, draw))
    return replace(part, deltas=deltas)


def _dropped(part: Part, task: str, delta: Tensor, p: float, draw: int) -> Tensor:
    of = [part.seed, task, part.name, *[draw] * (draw > 0)]
    digest = hashlib.sha256("\n".join(map(str, of)).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def left(own: list[Tensor]) -> Tensor:
        kept = torch.rand(len(own[0]), generator=generator).ge_(p)
        return (own[0] / (1 - p)).mul_(kept.to(own[0].device))

    return entrywise(left, [delta])


@dataclass(frozen=True)
class _Dropped:
    """Parts after dropping, drawn again, and the same, on every walk."""

    parts: Iterable[Part]
    drop: float
    draw: int

    def __iter__(self) -> Iterator[Part]:
        return (dropped(part, self.drop, self.draw) for part in self.parts)


def first_pass(parts: Iterable[Part], options: DareOptions) -> Any:
    """What ties needs of the whole model; of sum and mean nothing."""
    if options.then != "ties":
        return None
    return ties.first_pass(_Dropped(parts, options.drop, options.draw), options.ties)


def merge(part: Part, options: DareOptions, state: Any = None) -> Merged:
    """M = merge(τ̃_1, …, τ̃_T) of one tensor of any shape; of sum and mean its expectation is theirs.

    Args:
        state: of first_pass.
    """
    left = dropped(part, options.drop, options.draw)
    if options.then == "ties":
        return ties.merge(left, options.ties, state)
    return THEN[options.then].merge(left, options, None)


METHOD = Method(
    name="dare",
    title="DARE",
    paper="Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free "
    "Lunch",
    arxiv="2311.03099",
    equation=r"M = \sum_t \frac{z_t \odot \tau_t}{1 - p}, "
    r"\quad z_t \sim \operatorname{Bernoulli}(1 - p)",
    scope="element",
    grid=sum.METHOD.grid,
    grid_by=lambda options: THEN[options.then].grid,
    merge=merge,
    random=True,
    options=DareOptions,
    first_pass=first_pass,
)
