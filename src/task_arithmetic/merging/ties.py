"""TIES: trim each task vector to its largest entries, elect a sign for each entry, and merge the
entries that have it."""

from __future__ import annotations  # names of torch

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

from .lazy import torch
from .method import Merged, Method, Options, Part, option
from .pieces import entrywise, pieces
from .sum import added

if TYPE_CHECKING:
    from torch import Tensor


COUNTED = 2**18  # entries: many for each of the bins that they are counted in
LOW_BITS = 16  # of a float32's pattern, in which magnitudes have the order of their values


@dataclass(frozen=True)
class TiesOptions(Options):
    keep: float = option(0.2, "share of the entries that is kept", low=0, high=1, open_low=True)
    entries: int = option(
        0,
        "what `keep` is a share of: 0, the entries that moved; or a count, for parity: 87849216 is "
        "the tower of ViT-B-32, 113448705 what TALL's checkpoints hold of it",
        low=0,
    )
    agg: Literal["mean", "sum"] = option("mean", "mean or sum of the entries that have the sign")
    elect: bool = option(True, "elect signs; without: trimming alone")
    scope: Literal["model", "tensor"] = option(
        "model", "the largest entries of the whole model, or of each tensor"
    )


@dataclass(frozen=True)
class Elected:
    """Of a whole model.

    Attributes:
        thresholds: of each task c_t, the smallest magnitude that is kept.
        parts: the model's.
    """

    thresholds: tuple[float, ...]
    parts: Iterable[Part] = ()

    @cached_property
    def majority(self) -> float:
        """The sign of the sum of all elected signs: theirs that are kept and cancel. These are so
        rare that the walk over all parts, which this takes, is done when the first is met."""
        least, found = _below(self.thresholds), 0.0
        for part in self.parts:
            for own in pieces(part.deltas):
                found += float(_vote(_trimmed(own, least)).sum(dtype=torch.float64))
        return float(found > 0) - float(found < 0)


def first_pass(parts: Iterable[Part], options: TiesOptions) -> Elected | None:
    """Thresholds of the whole model, in two walks over `parts` and the memory of one tensor; None
    for `scope: tensor`, where each tensor has its own."""
    return None if options.scope == "tensor" else elected(parts, options)


def elected(parts: Iterable[Part], options: TiesOptions) -> Elected:
    """Thresholds of these parts, which are walked over several times."""
    return Elected(thresholds(parts, options.keep, options.entries), parts)


def thresholds(parts: Iterable[Part], keep: float, entries: int = 0) -> tuple[float, ...]:
    """Of each task c_t, the k-th largest |τ_t| of all parts, exactly; k = ⌈keep · entries⌉, at most
    the entries of the task that moved, which are those that are not 0. 0 if none did.

    A histogram of the upper bits of the magnitudes says in which of 2¹⁵ bins the k-th lies, one of
    the lower bits within that bin which it is.
    """
    high: list[Tensor] = []
    moved: list[int] = []
    for part in parts:
        if not high:
            high = [torch.zeros(2**15, dtype=torch.int64) for _ in part.deltas]
            moved = [0] * len(high)
        for t, delta in enumerate(part.deltas):
            for (own,) in pieces([delta], COUNTED):
                moved[t] += int(torch.count_nonzero(own))
                high[t] += _counts(_pattern(own) >> LOW_BITS, 2**15)
    share = Fraction(str(keep))  # 0.07 of 100 is 7, which it is not in binary
    ranks = [min(math.ceil(share * (entries or n)), n) for n in moved]
    bins = [_bin_of(counts, rank) for counts, rank in zip(high, ranks, strict=True)]
    low = [torch.zeros(2**LOW_BITS, dtype=torch.int64) for _ in bins]
    for part in parts:
        for t, delta in enumerate(part.deltas):
            within = [
                pattern[(pattern >> LOW_BITS) == bins[t].place]
                for pattern in (_pattern(own) for (own,) in pieces([delta], COUNTED))
            ]
            low[t] += _counts(torch.cat(within) & (2**LOW_BITS - 1), 2**LOW_BITS)
    patterns = [
        (high_bin.place << LOW_BITS) + _bin_of(counts, high_bin.rank).place if n else 0
        for counts, high_bin, n in zip(low, bins, moved, strict=True)
    ]
    return tuple(torch.tensor(patterns, dtype=torch.int32).view(torch.float32).tolist())


class _Bin(NamedTuple):
    place: int
    rank: int  # within the bin, from its largest: 1, 2, …


def _bin_of(counts: Tensor, rank: int) -> _Bin:
    """The bin of the rank-th largest (1: the largest) of what was counted."""
    from_top = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(from_top, rank))
    above = int(from_top[place] - counts.flip(0)[place])
    return _Bin(len(counts) - 1 - place, rank - above)


def _pattern(delta: Tensor) -> Tensor:
    """The bits of |τ| as int32: as large as the values are."""
    return delta.abs().view(torch.int32)


def _counts(values: Tensor, bins: int) -> Tensor:
    return torch.bincount(values, minlength=bins).cpu()


def merge(part: Part, options: TiesOptions, state: Elected | None = None) -> Merged:
    """τ̂_t = τ_t where |τ_t| ≥ c_t, else 0; γ = sgn(Σ τ̂_t), and where it is 0 the majority of all γ;
    M = mean (or sum) of the τ̂_t ≠ 0 of sign γ, 0 where there is none. One tensor of any shape.

    Args:
        state: first_pass's, of the whole model.
    """
    whole = elected([part], options) if options.scope == "tensor" else state
    if whole is None:
        raise TypeError("ties with scope: model needs the state that its first_pass gives")
    least = _below(whole.thresholds)

    def joined(deltas: list[Tensor]) -> Tensor:
        kept, sign = _trimmed(deltas, least), None
        if options.elect:
            sign = _vote(kept)
            cancelled = (sign == 0) & (added([each.abs() for each in kept]) > 0)
            if bool(cancelled.any()):
                sign += whole.majority * cancelled
            kept = [(each * sign).clamp_min_(0) for each in kept]  # magnitudes of the sign
        summed = added(kept)
        if options.agg == "mean":
            summed /= added([each.sign().abs_() for each in kept]).clamp_min_(1)
        return summed if sign is None else summed.mul_(sign)

    return Merged(None, entrywise(joined, part.deltas))


def _below(thresholds: Sequence[float]) -> list[float]:
    """Of each the next smaller float32, at least 0: |τ| is above it if it is at least the
    threshold, and not 0."""
    found = torch.tensor(thresholds, dtype=torch.float32)
    below: list[float] = found.nextafter(torch.zeros_like(found)).tolist()
    return below


def _trimmed(deltas: Sequence[Tensor], least: Sequence[float]) -> list[Tensor]:
    """τ̂_t: entries of magnitudes above `least`, and else 0."""
    shrink = torch.nn.functional.hardshrink
    return [shrink(delta, c) for delta, c in zip(deltas, least, strict=True)]


def _vote(kept: Sequence[Tensor]) -> Tensor:
    """sgn(Σ τ̂_t), summed in float64, where the order of the tasks does not matter."""
    summed = kept[0].double()
    for each in kept[1:]:
        summed += each
    return summed.sign().to(kept[0].dtype)


METHOD = Method(
    name="ties",
    title="TIES",
    paper="TIES-Merging: Resolving Interference When Merging Models",
    arxiv="2306.01708",
    equation=r"M = \operatorname{mean}_{t:\,\operatorname{sgn} \hat\tau_t = \gamma} \hat\tau_t, "
    r"\quad \gamma = \operatorname{sgn} \sum_t \hat\tau_t, "
    r"\quad \hat\tau_t = [\,|\tau_t| \ge c_t\,] \odot \tau_t",
    scope="element",
    grid=(0.1, 1.6, 0.1),
    merge=merge,
    options=TiesOptions,
    first_pass=first_pass,
)
