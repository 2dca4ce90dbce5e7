"""The rank of task vectors, and of what they were merged into: singular values of each matrix."""

from __future__ import annotations  # names of torch

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..merging.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


class Spectrum(NamedTuple):
    """What singular values σ₁ ≥ … ≥ σ_r of a matrix τ say of its rank; each is at most r or 1.

    Attributes:
        stable_rank: ‖τ‖_F² / σ₁². effective_rank: exp(H(p)), p = σ / Σσ (Roy & Vetterli, 2007).
        top_energy: the share of Σσ² that the largest ⌊r / T⌋, at least one, have: what TSV-M keeps
            of each of T tasks (arXiv 2412.00081).
    """

    stable_rank: float
    effective_rank: float
    top_energy: float


def singular_values(matrix: Tensor) -> np.ndarray:
    """Of a matrix (m, n), largest first, float64 (min(m, n),); LAPACK is faster on a tall one."""
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    try:
        sigma = torch.linalg.svdvals(tall)
    except torch.linalg.LinAlgError:  # the fast algorithm did not converge
        sigma = torch.linalg.svdvals(tall.double())
    return sigma.double().cpu().numpy()


def spectrum(sigma: np.ndarray, tasks: int) -> Spectrum | None:
    """The spectrum of singular values (r,), largest first; a zero matrix has none."""
    if not sigma[0] > 0:
        return None
    energies, shares = (sigma / sigma[0]) ** 2, sigma[sigma > 0] / sigma.sum()
    entropy = -float(shares @ np.log(shares))
    total, top = float(energies.sum()), float(energies[: max(1, len(sigma) // tasks)].sum())
    return Spectrum(total, float(np.exp(entropy)), top / total)
