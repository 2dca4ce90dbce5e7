"""Iso-C: the sum of the task vectors with all singular values made equal."""

from __future__ import annotations  # names of torch

from typing import TYPE_CHECKING, Any

from .linear import polar_by_gram, svd, warn_of_lost_rank
from .matrices import SpectralOptions, over_matrices
from .method import Method, Part
from .sum import sum_of

if TYPE_CHECKING:
    from torch import Tensor


def merge_matrix(part: Part, options: SpectralOptions, state: Any = None) -> Tensor:
    """M = σ̄ U Vᵀ, σ̄ = mean(σ) of Σ τ_t = U diag(σ) Vᵀ (out, in); also of one task M ≠ τ.

    Warns:
        LostRank: some σ are 0; M is 0 in their directions, which are arbitrary.
    """
    summed = sum_of(part)
    if found := polar_by_gram(summed):
        return found.factor.mul_(float(found.sigma.mean()))
    u, sigma, vt = svd(summed)
    rank = min(summed.shape)
    if len(sigma) < rank:
        warn_of_lost_rank(
            f"{part.name}: the sum of the vectors has rank {len(sigma)} of {rank}; only these "
            "directions get equal singular values, and the others none."
        )
    return sigma.sum() / rank * u @ vt


METHOD = Method(
    name="iso_c",
    title="Iso-C",
    paper="No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces",
    arxiv="2502.04959",
    equation=r"M = \bar\sigma\, U V^\top, \quad \sum_t \tau_t = U \operatorname{diag}(\sigma) "
    r"V^\top, \quad \bar\sigma = \operatorname{mean}(\sigma)",
    scope="matrix",
    grid=(0.1, 3.0, 0.1),
    merge=over_matrices(merge_matrix),
    options=SpectralOptions,
)
