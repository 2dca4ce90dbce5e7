"""Iso-CTS: Iso-C with room for directions that are of one task alone."""

from __future__ import annotations  # names of torch

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

from . import iso_c
from .lazy import torch
from .linear import polar, svd, warn_of_lost_rank
from .matrices import SpectralOptions, over_matrices
from .method import Method, Part, option
from .sum import sum_of

if TYPE_CHECKING:
    from torch import Tensor

# Of ‖τ_t‖: singular values of a projected τ_t that may be rounding alone (some 2e-6 at most).
ROUNDED = 1e-5


@dataclass(frozen=True)
class IsoCtsOptions(SpectralOptions):
    common: float = option(0.8, "share of the directions that is common to all", low=0, high=1)


class Directions(NamedTuple):
    """How many of a matrix's directions are common, and how many each task has for itself."""

    common: int
    each: int


def directions(rank: int, tasks: int, common: float) -> Directions:
    """k = ⌊common · rank⌋, s = round((rank − k) / T) · T (half to even), k ← rank − s; each task
    has s / T. s is at most what T divides of the rank."""
    each = round((rank - math.floor(Fraction(str(common)) * rank)) / tasks)
    each = min(each, rank // tasks)
    return Directions(rank - each * tasks, each)


def merge_matrix(part: Part, options: IsoCtsOptions, state: Any = None) -> Tensor:
    """M = σ̄ polar(Û) polar(V̂)ᵀ of matrices τ_t (out, in). U_k, σ, V_k are the k leading triples of
    Σ τ_t; each task adds the s/T leading ones of R_t = τ_t − U_k U_kᵀ τ_t; Û, V̂ join all of them,
    and σ̄ is the mean of all their σ. With no room for the tasks (s = 0) it is Iso-C.

    Warns:
        LostRank: some σ are 0 (M is 0 in their directions), vectors are nearly dependent, or there
            is no room for the tasks' own directions.
    """
    rank, tasks = min(part.deltas[0].shape), len(part.deltas)
    count = directions(rank, tasks, options.common)
    if count.each == 0:
        if options.common < 1:
            warn_of_lost_rank(
                f"{part.name}: {tasks} tasks are too many for directions of their own among "
                f"{rank} with common = {options.common:g}; Iso-CTS is Iso-C here."
            )
        return iso_c.merge_matrix(part, options)
    shared = svd(sum_of(part)).top(count.common)
    left = (delta - shared.u @ (shared.u.T @ delta) for delta in part.deltas)
    # what rounding leaves of a task within the common directions is none of its own
    found = [
        svd(own, ROUNDED * float(delta.norm())).top(count.each)
        for own, delta in zip(left, part.deltas, strict=True)
    ]
    found.append(shared)
    u, vt = torch.cat([each.u for each in found], 1), torch.cat([each.vt for each in found])
    sigma = torch.cat([each.sigma for each in found])
    if not len(sigma):
        return torch.zeros_like(part.deltas[0])
    if len(sigma) < rank:
        warn_of_lost_rank(
            f"{part.name}: the vectors give {len(sigma)} of {rank} directions; only these get "
            "equal singular values, and the others none."
        )
    return sigma.sum() / rank * polar(u, part.name) @ polar(vt, part.name)


METHOD = Method(
    name="iso_cts",
    title="Iso-CTS",
    paper=iso_c.METHOD.paper,
    arxiv=iso_c.METHOD.arxiv,
    equation=r"M = \bar\sigma \operatorname{polar}([U_1 \cdots U_T\, U_k]) "
    r"\operatorname{polar}([V_1 \cdots V_T\, V_k])^\top, \quad "
    r"\sum_t \tau_t \approx U_k \Sigma_k V_k^\top, \quad "
    r"\tau_t - U_k U_k^\top \tau_t \approx U_t \Sigma_t V_t^\top",
    scope="matrix",
    grid=(0.1, 3.0, 0.1),
    merge=over_matrices(merge_matrix),
    options=IsoCtsOptions,
)
