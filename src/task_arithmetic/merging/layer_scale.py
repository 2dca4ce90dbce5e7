"""LiNeS: what is merged counts the more, the deeper its block lies (arXiv 2410.17146). A wrapper
around any method."""

from __future__ import annotations  # names of torch

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .lazy import torch
from .matrices import place_of
from .method import Grid, Merged

GRID: Grid = (0.1, 1.0, 0.1)  # of b, which takes the place of α


@dataclass(frozen=True)
class Ramp:
    """s_l = base + α · l / (L − 1) of block l = 0 … L − 1; outside of all blocks s = base.

    Attributes:
        base: a. depths: L of each stack; T5's encoder and decoder each have their own.
    """

    base: float
    depths: Mapping[str, int]

    def slope(self, name: str) -> float:
        """l / (L − 1) of the block that a tensor lies in, and 0 outside of all blocks."""
        place = place_of(name)
        return place.block / max(self.depths[place.stack] - 1, 1) if place else 0.0


def ramp(names: Iterable[str], summed_l1: float, merged_l1: float, tasks: int) -> Ramp:
    """The ramp of several tasks' merged model: a = (‖Σ τ_t‖₁ / ‖M‖₁) / T, so that what is merged
    by any method starts as large as (1/T) Σ τ_t; of a merged vector that is zero 1/T.

    Args:
        names: of tensors that reach up to the last block of each stack: the encoder's.
        summed_l1, merged_l1: sums of magnitudes over the whole model.
    """
    depths: dict[str, int] = {}
    for place in filter(None, map(place_of, names)):
        depths[place.stack] = max(depths.get(place.stack, 0), place.block + 1)
    return Ramp((summed_l1 / merged_l1 if merged_l1 else 1.0) / tasks, depths)


def layer_scale(name: str, merged: Merged, scale: Ramp) -> Merged:
    """θ0 + a · M + b · (l / (L − 1)) · M: one tensor's offset, to which a · M is added, and its
    direction, whose α is LiNeS' b."""
    own = scale.base * merged.direction
    offset = own if merged.offset is None else merged.offset + own
    slope = scale.slope(name)
    direction = slope * merged.direction if slope else torch.zeros_like(merged.direction)
    return Merged(offset, direction)
