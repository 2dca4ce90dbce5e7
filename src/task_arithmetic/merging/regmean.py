"""RegMean: the matrix whose outputs differ least from each task's on the task's own inputs."""

from __future__ import annotations  # names of torch

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

from ..errors import UserError
from ..progress import SILENT, Progress
from .coefficients import check_data, deltas_of, is_linearized
from .grams import collect
from .lazy import torch
from .linear import solve_right
from .matrices import MatrixOptions, over_matrices, place_of
from .method import Data, Merged, Method, Part, option
from .pieces import is_finite

if TYPE_CHECKING:
    from torch import Tensor

    from ..core.encoder import Encoder
    from ..core.vectors import TaskVector


Grams = Mapping[str, "Sequence[Tensor]"]  # matrix → of each task XᵀX / tokens, (in, in)


@dataclass(frozen=True)
class RegmeanOptions(MatrixOptions):
    off_diagonal: float = option(
        0.95, "factor of the Gram matrices' entries off the diagonal", low=0, high=1
    )
    images: int = option(256, "how many examples of each task the inputs are of", low=1)
    forward: bool = option(
        False, "RegMean++: each block's inputs come from the merged blocks below"
    )


def merge_matrix(part: Part, options: RegmeanOptions, state: Grams | None = None) -> Tensor:
    """M = (Σ τ_t G̃_t) (Σ G̃_t)⁻¹ in float64, τ_t (out, in). G_t = X_tᵀ X_t / tokens, X_t (tokens,
    in) the layer's inputs on task t in that task's model, and G̃_t is G_t with `off_diagonal` times
    its entries off the diagonal.

    Args:
        state: G_t of every matrix, in the order of the tasks.
    Raises:
        UserError: a matrix has no Gram matrices, or they are of another shape or not finite.
    Warns:
        LostRank: the inputs do not span the layer's input.
    """
    inputs, tasks = part.deltas[0].shape[1], len(part.deltas)
    grams = (state or {}).get(part.name, ())
    if len(grams) != tasks or any(gram.shape != (inputs, inputs) for gram in grams):
        shapes = ", ".join(str(tuple(gram.shape)) for gram in grams) or "none"
        raise UserError(
            f"regmean needs {tasks} Gram matrices of {inputs} × {inputs} inputs for {part.name}; "
            f"found {shapes}: collect them of every task's model."
        )
    if not all(map(is_finite, grams)):
        raise UserError(
            f"A Gram matrix of {part.name} has values that are not finite: collect them again."
        )
    top = torch.zeros_like(part.deltas[0], dtype=torch.float64)
    bottom = torch.zeros(inputs, inputs, dtype=torch.float64, device=top.device)
    factor = options.off_diagonal  # G̃ = γ G + (1 − γ) diag(G), without a G̃ of each task
    for delta, gram in zip(part.deltas, grams, strict=True):
        tau, own = delta.double(), gram.to(bottom)
        top.addmm_(tau, own, alpha=factor).addcmul_(tau, own.diagonal(), value=1 - factor)
        bottom += own
    diagonal = bottom.diagonal().clone()
    bottom.mul_(factor).diagonal().copy_(diagonal)
    return solve_right(top, bottom, part.name).to(part.deltas[0].dtype).contiguous()


def merge(
    part: Part, options: RegmeanOptions, state: Grams | Mapping[str, Tensor] | None = None
) -> Merged:
    """M of one tensor of any shape: of a matrix see merge_matrix, of others `other`.

    Args:
        state: what `learn` gave.
    Raises:
        UserError: see merge_matrix; or with `forward` nothing was learnt of the tensor.
    """
    if not options.forward:
        return over_matrices(merge_matrix)(part, options, state)
    found = (state or {}).get(part.name)
    if not isinstance(found, torch.Tensor):
        raise UserError(
            f"regmean with `forward` merges {part.name} while it reads examples: give what its "
            "`learn` gave as `state`, or the encoder and the tasks."
        )
    return Merged(None, found)


def learn(data: Data, options: RegmeanOptions, progress: Progress) -> Grams | Mapping[str, Tensor]:
    """G_t of every matrix that the vectors move, over `images` train examples of each task; of a
    linearized vector at θ0, see grams.collect. With `forward` the merged tensors, see _forward."""
    if options.forward:
        return _forward(data, options, progress)
    return _grams(data, [(data.encoder, tau) for tau in data.vectors], options, progress)


def _grams(
    data: Data,
    models: Iterable[tuple[Encoder, TaskVector]],
    options: RegmeanOptions,
    progress: Progress,
) -> Grams:
    """G_t of every matrix that a model's vector moves, of each task's model."""
    found: dict[str, list[Tensor]] = {}
    for (encoder, tau), examples in zip(models, data.examples("train"), strict=True):
        of_examples = examples, options.images, data.seed
        how = tau.linearized, data.precision, progress
        for name, gram in collect(encoder, tau, *of_examples, *how).grams.items():
            found.setdefault(name, []).append(gram)
    return found


def _forward(data: Data, options: RegmeanOptions, progress: Progress) -> Mapping[str, Tensor]:
    """Name → M of RegMean++ (arXiv 2508.03121): block after block, where the G_t of a block are of
    the task's own model with all that lies below the block merged, at α = 1. In f_lin every layer
    reads what it reads at θ0, whatever is merged below it: there it is RegMean."""
    from ..core.vectors import TaskVector  # beside torch

    examples = check_data(data, "regmean", "train")
    data = replace(data, examples=lambda split: examples)  # read once
    deltas, plain = deltas_of(data, options), replace(options, forward=False)
    layers = [list(names) for _, names in groupby(sorted(deltas, key=_depth), _depth)]
    layers = [list(deltas)] if is_linearized(data) else layers
    params, found = data.encoder.theta0, dict[str, "Tensor"]()

    def model(tau: TaskVector, at: int) -> tuple[Encoder, TaskVector]:
        """The task's model from a layer on, and of its vector that layer alone."""
        own, above = (
            TaskVector(
                {n: tau[n] for names in some for n in names if n in tau.keys()},
                linearized=tau.linearized,
            )
            for some in (layers[at : at + 1], layers[at + 1 :])
        )
        return replace(data.encoder, theta0=above.apply(params)), own

    for at, names in enumerate(layers):
        grams = _grams(data, (model(tau, at) for tau in data.vectors), plain, SILENT)
        merged = {n: merge(Part(n, deltas[n], data.tasks), plain, grams).direction for n in names}
        params = TaskVector(merged).apply(params)
        found |= merged
        progress.at(at + 1, len(layers), "layer")
    return found


def _depth(name: str) -> tuple[int, int]:
    """Where a tensor acts: before all blocks, in one of them, between encoder and decoder, last."""
    if place := place_of(name):
        return int(place.stack == "decoder.block"), place.block
    if name.startswith(("ln_post", "proj", "decoder.", "lm_head")):
        return 2, 0
    return (1, -1) if name.startswith("encoder.") else (0, -1)


METHOD = Method(
    name="regmean",
    title="RegMean",
    paper="Dataless Knowledge Fusion by Merging Weights of Language Models",
    arxiv="2212.09849",
    equation=r"M = \Bigl(\sum_t \tau_t \tilde G_t\Bigr) \Bigl(\sum_t \tilde G_t\Bigr)^{-1}, \quad "
    r"G_t = X_t^\top X_t / n_t, \quad \tilde G_t = \gamma G_t + (1 - \gamma) "
    r"\operatorname{diag} G_t",
    needs="unlabelled",
    scope="matrix",
    grid=(0.1, 2.0, 0.1),
    learn=learn,
    merge=merge,
    options=RegmeanOptions,
)
