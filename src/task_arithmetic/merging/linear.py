"""Linear algebra that methods share: singular values, polar factors, solving, and lost rank."""

from __future__ import annotations  # names of torch

import warnings
from typing import TYPE_CHECKING, NamedTuple

from .lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


EPS = 2.0**-52  # of float64
NOISE = 16  # of singular values, in ε of the largest
# Smallest singular value of joined unit vectors that are as good as dependent. Of a task that is
# given twice it is some 1e-7; of 8 independent tasks that fill 768 dimensions it may be 1e-4.
DEPENDENT = 1e-5
ILL_CONDITIONED = 1e-3  # σ_min / σ_max of matrices of which polar_by_gram is no longer as exact


class LostRank(UserWarning):
    """A matrix has directions that its data do not determine."""


class Svd(NamedTuple):
    """X ≈ U diag(σ) Vᵀ: U (m, k), σ (k,), largest first, Vᵀ (k, n), k ≤ min(m, n)."""

    u: Tensor
    sigma: Tensor
    vt: Tensor

    def top(self, count: int) -> Svd:
        """The largest `count` triples, in memory of their own if they are fewer: what is left of
        eight matrices then takes an eighth."""
        if count >= len(self.sigma):
            return self
        return Svd(self.u[:, :count].clone(), self.sigma[:count].clone(), self.vt[:count].clone())


def svd(matrix: Tensor, floor: float = 0.0) -> Svd:
    """The singular value decomposition of X, float32 (m, n), without the triples whose σ is zero to
    rounding, σ ≤ 16 ε σ₁, or at most `floor`, where X is a difference of larger matrices: their
    vectors are arbitrary. A zero matrix has none.

    (Of matrices of low rank, zeros come out as up to 7 ε σ₁; NumPy's max(m, n) · ε · σ₁ would take
    the smallest of a matrix of full rank, 768 × 768, for zeros.)
    """
    try:
        u, sigma, vt = _thin(matrix)
    except torch.linalg.LinAlgError:  # the fast algorithm did not converge
        u, sigma, vt = (each.to(matrix.dtype) for each in _thin(matrix.double()))
    least = (NOISE * torch.finfo(matrix.dtype).eps * sigma[:1]).clamp_min(floor)
    return Svd(u, sigma, vt).top(int((sigma > least).sum()))


def _thin(matrix: Tensor) -> Svd:
    """LAPACK is nearly twice as fast on a tall matrix as on the same matrix turned."""
    if matrix.shape[0] >= matrix.shape[1]:
        return Svd(*torch.linalg.svd(matrix, full_matrices=False))
    v, sigma, ut = torch.linalg.svd(matrix.T, full_matrices=False)
    return Svd(ut.T, sigma, v.T)


class Polar(NamedTuple):
    """factor: U Vᵀ of the SVD of X, in its shape. sigma: its singular values, float64, no order."""

    factor: Tensor
    sigma: Tensor


def polar_by_gram(matrix: Tensor) -> Polar | None:
    """U Vᵀ = X (XᵀX)^(−1/2), by the eigenvalues of XᵀX (of a wide X of XXᵀ) in float64: where one
    side is twice the other this takes four fifths of the time of a float32 SVD, and is as exact.

    Returns:
        None where it is not: X is nearer to square, or its smallest singular value is less than a
        thousandth of the largest.
    """
    short, long = sorted(matrix.shape)
    if not 0 < 2 * short <= long:
        return None
    is_tall = matrix.shape[1] == short
    wide = matrix.double() if is_tall else matrix.T.double()
    values, vectors = torch.linalg.eigh(wide.T @ wide)
    if not float(values[0]) > ILL_CONDITIONED**2 * float(values[-1]):
        return None
    sigma = values.sqrt()
    inverse = (vectors / sigma @ vectors.T).to(matrix.dtype)
    return Polar(matrix @ inverse if is_tall else inverse @ matrix, sigma)


def polar(matrix: Tensor, name: str) -> Tensor:
    """U Vᵀ of the SVD of X (m, n): the nearest matrix with orthonormal columns (or rows).

    Args:
        matrix: joined unit vectors. name: the tensor that they are of, for the warning.
    Warns:
        LostRank: the vectors are nearly dependent (σ < 1e-5), so that where theirs go is arbitrary.
    """
    if found := polar_by_gram(matrix):
        return found.factor
    u, sigma, vt = _thin(matrix)
    if len(sigma) and float(sigma[-1]) < DEPENDENT:
        warn_of_lost_rank(
            f"{name}: the tasks' singular vectors are nearly dependent (smallest singular value "
            f"{float(sigma[-1]):.1e}), as of a task that is given twice: their part of the merged "
            "matrix is arbitrary."
        )
    return u @ vt


def solve_right(right: Tensor, gram: Tensor, name: str) -> Tensor:
    """X with X G = A, that is A G⁻¹; of a singular G the smallest one, A G⁺.

    Args:
        right: A, float64 (m, n). gram: G, float64 (n, n), symmetric, no eigenvalue below 0.
    Warns:
        LostRank: G is singular.
    """
    factor, failed = torch.linalg.cholesky_ex(gram)
    if not int(failed):
        pivots = factor.diagonal()  # a G that is singular to rounding may have a factor
        if float(pivots.min()) > float(pivots.max()) * (len(gram) * EPS) ** 0.5:
            return torch.cholesky_solve(right.T, factor).T
    values, vectors = torch.linalg.eigh(gram)
    kept = values > values.max().clamp_min(0) * len(gram) * EPS
    warn_of_lost_rank(
        f"{name}: the inputs span {int(kept.sum())} of {len(gram)} dimensions; nothing is added in "
        "the others."
    )
    vectors = vectors[:, kept]
    return (right @ vectors / values[kept]) @ vectors.T


def warn_of_lost_rank(sentence: str) -> None:
    warnings.warn(sentence, LostRank, stacklevel=2)
