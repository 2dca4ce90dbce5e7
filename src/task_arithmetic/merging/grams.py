"""What RegMean needs to know of a task: the Gram matrices of what the layers of its model read."""

from __future__ import annotations  # names of torch

from typing import TYPE_CHECKING, NamedTuple

from ..errors import UserError
from ..progress import SILENT, Progress
from .lazy import torch
from .matrices import PROJECTION, is_matrix

if TYPE_CHECKING:
    from torch import Tensor

    from ..core.encoder import Encoder, Examples
    from ..core.vectors import TaskVector

BATCH = 32  # examples of one pass


class Collected(NamedTuple):
    """grams: matrix → Xᵀ X / tokens, float32 (in, in). examples: how many they are of."""

    grams: dict[str, Tensor]
    examples: int


def collect(
    encoder: Encoder,
    tau: TaskVector,
    examples: Examples,
    count: int = 256,
    seed: int = 0,
    linearized: bool = False,
    precision: str = "float32",
    progress: Progress = SILENT,
) -> Collected:
    """Xᵀ X / tokens of every matrix that τ moves, X (tokens, in) its layer's inputs in the
    individual model θ0 + τ on train examples, without their labels; see the modality's
    `visit_inputs`. Products are summed in float64.

    Args:
        tau: on θ0's device. examples: of its task, of the split train.
        count: how many of them are drawn, by the seed alone; all if there are fewer.
        linearized: the model is f_lin(x; θ0 + τ) = f(x; θ0) + ∇f(x; θ0)·τ, in which each matrix
            acts on the inputs at θ0: X is that of θ0.
    Raises:
        UserError: no example is asked for, or inputs that are not finite.
    """
    from ..core.precision import check_finite
    from ..core.schedule import batch_indices

    if count < 1:
        raise UserError(f"Gram matrices are of at least 1 example of each task; found {count}.")
    names = sorted(name for name in tau.keys() if is_matrix(name, tau[name].dim()))
    modality, sums, tokens = encoder.modality, dict[str, "Tensor"](), dict.fromkeys(names, 0)
    for name in names:
        inputs = tau[name].shape[0 if name == PROJECTION else 1]
        sums[name] = torch.zeros(inputs, inputs, dtype=torch.float64, device=encoder.device)

    def add(name: str, x: Tensor) -> None:
        wide = x.double()
        sums[name].addmm_(wide.T, wide)
        tokens[name] += len(x)

    available = modality.count(examples)
    total = min(count, available)
    drawn = batch_indices(0, available, total, seed)
    with torch.no_grad():
        params = encoder.theta0 if linearized else tau.apply(encoder.theta0)
        along = tau.tensors if linearized else None
        for at in range(0, total, BATCH):
            chosen = drawn[at : at + BATCH]
            modality.visit_inputs(params, along, examples, chosen, names, add, precision)
            progress.at(at + len(chosen), total, modality.unit)
    grams = {}
    for name, found in sums.items():
        check_finite(found)
        if not tokens[name]:
            raise RuntimeError(f"no layer of the encoder told its inputs for {name}")
        grams[name] = (found / tokens[name]).float()
    return Collected(grams, total)
