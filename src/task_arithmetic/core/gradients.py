"""A loss of f(x; θ) or of f_lin(x; θ0 + τ), and its gradient in the tensors that move."""

from collections.abc import Callable

import torch
from torch import Tensor

from .encoder import Modality, Tensors
from .precision import autocast

Loss = Callable[[Tensor], Tensor]  # outputs → a scalar


def gradient(
    loss: Loss,
    modality: Modality,
    theta0: Tensors,
    theta: Tensors,
    inputs: Tensor,
    targets: Tensor,
    precision: str = "float32",
) -> tuple[Tensor, list[Tensor]]:
    """L(f(x; θ)) and its gradient in each moved tensor θ; the others are θ0's."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in theta.items()}
    full = next(iter(theta.values())).dtype  # autocast gives narrower ones
    with autocast(precision, inputs.device):
        outputs = modality.outputs({**theta0, **leaves}, inputs, targets)
    found = loss(outputs.to(full))
    return found.detach(), list(torch.autograd.grad(found, list(leaves.values())))


def linearized_gradient(
    loss: Loss,
    modality: Modality,
    theta0: Tensors,
    tau: Tensors,
    inputs: Tensor,
    targets: Tensor,
    precision: str = "float32",
) -> tuple[Tensor, list[Tensor]]:
    """L(f(x; θ0) + ∇f(x; θ0)·τ) and its gradient in each tensor of τ (paper, section 2, "NTK
    Linearization").

    The gradient is the vector-Jacobian product of f at θ0 with ∂L/∂f_lin: θ0 takes the part of
    the leaf, τ that of a constant.
    """
    full = next(iter(tau.values())).dtype  # autocast gives narrower ones
    anchor = {name: theta0[name].detach().requires_grad_() for name in tau}
    with autocast(precision, inputs.device):
        value, tangent = modality.outputs_linearized({**theta0, **anchor}, tau, inputs, targets)
    del tau  # its memory is the gradient's, if no one else holds it
    outputs = (value.detach().to(full) + tangent.to(full)).requires_grad_()
    found = loss(outputs)
    (slope,) = torch.autograd.grad(found, outputs)
    # A sum: torch checks a vector given with a tensor by importing two seconds of sympy.
    product = (value * slope.to(value.dtype)).sum()
    return found.detach(), list(torch.autograd.grad(product, list(anchor.values())))
