"""How far task vectors lie in the subspace of what they were merged into, and what merging leaves
of their improvement (Iso, arXiv 2502.04959, Equation 5 and Figure 3a)."""

from __future__ import annotations  # names of torch

from typing import TYPE_CHECKING

import numpy as np

from ..merging.lazy import torch
from ..merging.linear import svd

if TYPE_CHECKING:
    from torch import Tensor

ERROR = 0.05  # of M by its leading triples, relative in ‖·‖_F


def subspace(merged: Tensor) -> Tensor:
    """U_k (m, k): the k leading left singular vectors of M (m, n), k the smallest with
    ‖M − M_k‖_F ≤ 0.05 ‖M‖_F. It does not change with the scale of M; of a zero matrix k = 0."""
    found = svd(merged)
    energies = found.sigma.double().square()
    lost = energies.sum() - energies.cumsum(0)  # by the leading 1, 2, … triples
    count = int((lost > ERROR**2 * energies.sum()).sum()) + min(1, len(energies))
    return found.u[:, :count]


def alignment(basis: Tensor, tau: Tensor) -> float | None:
    """‖U_k U_kᵀ τ‖_F / ‖τ‖_F of a task's matrix τ (m, n), in [0, 1]; one of zeros has none.

    Args:
        basis: U_k (m, k), of what it was merged into.
    """
    norm = float(torch.linalg.vector_norm(tau, dtype=torch.float64))
    if norm == 0:
        return None
    inside = float(torch.linalg.vector_norm(basis.T @ tau, dtype=torch.float64))
    return min(1.0, inside / norm)


def improvement(merged: np.ndarray, individual: np.ndarray, pretrained: np.ndarray) -> np.ndarray:
    """Normalized accuracy improvement (acc_merged − acc_0) / (acc_individual − acc_0), of arrays of
    one shape or that broadcast; NaN where fine-tuning improved nothing."""
    gained = individual - pretrained
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(gained <= 0, np.nan, (merged - pretrained) / gained)
