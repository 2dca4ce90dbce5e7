"""What training and evaluation ask of a modality, images or texts.

A modality is a module with these functions: vision/modality.py and language/modality.py. Inputs are
pixels, float (B, 3, S, S), or tokens, int64 (B, S); targets labels, int64 (B,), or tokens (B, T).
"""

from typing import Any, Protocol

import numpy as np
from torch import Tensor

from .vectors import TaskVector

Tensors = dict[str, Tensor]


class Modality(Protocol):
    """f(x; θ) of an encoder, its linearization, its loss and its measure.

    Attributes:
        UNIT: what one example is: image or text.
        MAY_FAIL: whether a task may have no accuracy above 0 without a mistake.
    """

    UNIT: str
    MAY_FAIL: bool

    def read_batch(self, examples: Any, step: int, seed: int, recipe: Any) -> tuple[Tensor, ...]:
        """The examples of one training step, on the CPU."""

    def to_inputs(self, *parts: Any) -> tuple[Tensor, Tensor]:
        """Inputs and targets of what read_batch gave, and what is known of the encoder."""

    def outputs(self, params: Tensors, inputs: Tensor, targets: Tensor, about: Any) -> Tensor:
        """f(x; θ)."""

    def outputs_linearized(
        self, params: Tensors, tau: Tensors, inputs: Tensor, targets: Tensor, about: Any
    ) -> tuple[Tensor, Tensor]:
        """f(x; θ0) and ∇f(x; θ0)·τ; only the first has a graph."""

    def loss(self, outputs: Tensor, targets: Tensor, head: Any) -> Tensor:
        """The mean loss of outputs."""

    def accuracies(
        self,
        theta0: Tensors,
        about: Any,
        tau: TaskVector,
        alphas: list[float],
        splits: dict[Any, Any],
        linearized: bool,
        precision: str,
    ) -> dict[Any, np.ndarray]:
        """Key of a split → the accuracy of θ0 + α·τ on it for each α."""
