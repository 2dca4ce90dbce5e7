"""WUDI: the matrix that differs least from each task's in the directions of the task's own rows."""

from __future__ import annotations  # names of torch

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from .lazy import torch
from .linear import solve_right
from .matrices import SpectralOptions, over_matrices
from .method import Method, Part, option
from .sum import sum_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class WudiOptions(SpectralOptions):
    solver: Literal["closed", "adam"] = option(
        "closed", "the minimum itself, or the published early stop on the way to it"
    )
    weighted: bool = option(True, "divide each task's term by its squared norm")
    ridge: float = option(1e-6, "of closed: as a share of the Gram matrices' mean diagonal", low=0)
    steps: int = option(300, "of adam", low=1)
    learning_rate: float = option(1e-5, "of adam", low=0, open_low=True)


class Quadratic(NamedTuple):
    """Σ_t w_t ‖(M − τ_t) τ_tᵀ‖² up to a constant: tr(M G Mᵀ) − 2 tr(M Aᵀ), with
    A = Σ w_t τ_t τ_tᵀ τ_t (out, in) and G = Σ w_t τ_tᵀ τ_t (in, in), float64."""

    a: Tensor
    gram: Tensor


def quadratic(part: Part, weighted: bool) -> Quadratic:
    """What WUDI minimises: w_t = 1 / ‖τ_t‖², or 1. A task that is zero has no term."""
    first = part.deltas[0]
    a = torch.zeros_like(first, dtype=torch.float64)
    gram = torch.zeros(first.shape[1], first.shape[1], dtype=torch.float64, device=first.device)
    for delta in part.deltas:
        tau = delta.double()
        squared = float(tau.square().sum())
        if squared == 0:
            continue
        weight = 1 / squared if weighted else 1.0
        own = weight * tau.T @ tau
        gram += own
        a += (weight * tau @ tau.T) @ tau if len(tau) < len(own) else tau @ own
    return Quadratic(a, gram)


def merge_matrix(part: Part, options: WudiOptions, state: Any = None) -> Tensor:
    """argmin_M Σ_t w_t ‖(M − τ_t) τ_tᵀ‖² of matrices τ_t (out, in), w_t = 1 / ‖τ_t‖².

    `closed`: M = A (G + ρ tr(G)/in · I)⁻¹ in float64 (see Quadratic); ρ = 0: A G⁺. Where the
    tasks' rows just fill the inputs (T · out ≈ in, as of c_proj) G is nearly singular, and with
    a small ρ the norm of M is many times that of Σ τ_t; ρ = 0.01 to 0.1 keeps it small.
    `adam`: some steps of Adam from Σ τ_t, as published; what it reaches depends on the scale of τ.
    """
    a, gram = quadratic(part, options.weighted)
    if not gram.any():
        return torch.zeros_like(part.deltas[0])
    if options.solver == "adam":
        return _adam(sum_of(part), a, gram, options)
    gram.diagonal().add_(options.ridge * gram.trace() / len(gram))
    return solve_right(a, gram, part.name).to(part.deltas[0].dtype).contiguous()


def _adam(start: Tensor, a: Tensor, gram: Tensor, options: WudiOptions) -> Tensor:
    """Adam (β 0.9 and 0.999, ε 1e-8) in float32 along the gradient 2 (M G − A)."""
    a, gram = a.to(start.dtype), gram.to(start.dtype)
    first, second = torch.zeros_like(start), torch.zeros_like(start)
    for step in range(1, options.steps + 1):
        gradient = 2 * torch.addmm(a, start, gram, beta=-1)
        first.lerp_(gradient, 0.1)
        second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        size = (second / (1 - 0.999**step)).sqrt_().add_(1e-8)
        start.addcdiv_(first, size, value=-options.learning_rate / (1 - 0.9**step))
    return start


METHOD = Method(
    name="wudi",
    title="WUDI",
    paper="Whoever Started the Interference Should End It: Guiding Data-Free Model Merging via "
    "Task Vectors",
    arxiv="2503.08099",
    equation=r"M = \operatorname{argmin}_M \sum_t \frac{1}{\|\tau_t\|^2} "
    r"\bigl\|(M - \tau_t)\, \tau_t^\top\bigr\|^2",
    scope="matrix",
    grid=(0.1, 1.5, 0.1),
    merge=over_matrices(merge_matrix),
    options=WudiOptions,
)
