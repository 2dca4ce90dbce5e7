"""TSV-M: the leading singular vectors of all tasks, made orthogonal to each other."""

from __future__ import annotations  # names of torch

from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .lazy import torch
from .linear import polar, svd
from .matrices import SpectralOptions, over_matrices
from .method import Method, Part

if TYPE_CHECKING:
    from torch import Tensor


def merge_matrix(part: Part, options: SpectralOptions, state: Any = None) -> Tensor:
    """M = polar(Û) diag(S) polar(V̂)ᵀ with Û = [U_1[:, :k] … U_T[:, :k]], V̂ and S alike, of the SVD
    of each τ_t (out, in), k = ⌊min(out, in) / T⌋. Triples with σ = 0, whose vectors are arbitrary,
    are left out: they would turn the others.

    Raises:
        UserError: there are more tasks than dimensions.
    Warns:
        LostRank: the tasks' vectors are nearly dependent.
    """
    rank, tasks = min(part.deltas[0].shape), len(part.deltas)
    count = rank // tasks
    if count == 0:
        raise UserError(
            f"tsv shares the {rank} dimensions of {part.name} among {tasks} tasks, which are more: "
            "give fewer vectors, or take `matrices: blocks`."
        )
    found = [svd(delta).top(count) for delta in part.deltas]
    left = torch.cat([each.u for each in found], 1)
    right = torch.cat([each.vt for each in found])
    sigma = torch.cat([each.sigma for each in found])
    if not len(sigma):
        return torch.zeros_like(part.deltas[0])
    return polar(left, part.name) * sigma @ polar(right, part.name)


METHOD = Method(
    name="tsv",
    title="TSV-M",
    paper="Task Singular Vectors: Reducing Task Interference in Model Merging",
    arxiv="2412.00081",
    equation=r"M = \operatorname{polar}([U_1 \cdots U_T])\, \operatorname{diag}"
    r"(\sigma_1, \dots, \sigma_T)\, \operatorname{polar}([V_1 \cdots V_T])^\top, \quad "
    r"\tau_t \approx U_t \operatorname{diag}(\sigma_t) V_t^\top",
    scope="matrix",
    grid=(0.1, 3.0, 0.1),
    merge=over_matrices(merge_matrix),
    options=SpectralOptions,
)
