"""An encoder f(x; θ0), and what training and evaluation ask of what it reads: images or texts.

Inputs are pixels, float (B, 3, S, S), or tokens, int64 (B, S); targets are labels, int64 (B,), or
tokens (B, T). vision/modality.py and language/modality.py are the two modalities that there are.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from .inputs import Visit
from .outcomes import Outcomes
from .schedule import Recipe
from .vectors import TaskVector

Tensors = dict[str, Tensor]
CPU = torch.device("cpu")
Examples = Any  # of one task and split, as the modality reads them; `head` is what the loss needs


class Modality(Protocol):
    """f(x; θ), its linearization, its loss and its measure.

    Attributes:
        name: vision or language. unit: what one example is: image or text.
        may_fail: whether a task may have no accuracy above 0 without a mistake.
    """

    name: ClassVar[str]
    unit: ClassVar[str]
    may_fail: ClassVar[bool]

    def read_examples(
        self, head: Any, data_dir: Any, split: str, limit: Mapping[str, int] | None,
        device: torch.device | str,
    ) -> Examples:  # fmt: skip
        """The examples of a split of a task's folder, and the task's head."""

    def remarks(self, head: Any) -> list[dict[str, Any]]:
        """Rows of metrics on how a task's examples are read."""

    def read_batch(
        self, examples: Examples, step: int, seed: int, recipe: Recipe
    ) -> tuple[Tensor, ...]:
        """The examples of one training step, on the CPU: a function of step and seed alone."""

    def to_inputs(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets of what read_batch gave, on its device."""

    def outputs(self, params: Tensors, inputs: Tensor, targets: Tensor) -> Tensor:
        """f(x; θ)."""

    def outputs_linearized(
        self, params: Tensors, tau: Tensors, inputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """f(x; θ0) and ∇f(x; θ0)·τ; only the first has a graph."""

    def loss(self, outputs: Tensor, targets: Tensor, head: Tensor | None) -> Tensor:
        """The mean loss of outputs."""

    def candidates(
        self, examples: Examples, step: int, size: int, seed: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Inputs of some examples of validation or test, and as targets all that each of them may
        be answered, (B · classes, …) or nothing, (B, 0): a function of step and seed alone, which
        reads no label."""

    def log_probabilities(self, outputs: Tensor, examples: Examples) -> Tensor:
        """log p (B, classes) of all answers, of the outputs of `candidates`; has their graph."""

    def accuracies(
        self,
        theta0: Tensors,
        tau: TaskVector,
        alphas: Sequence[float],
        splits: Mapping[Any, Examples],
        linearized: bool,
        precision: str,
        offset: TaskVector | None = None,
    ) -> dict[Any, np.ndarray]:
        """Key of a split → accuracies (alphas,) of θ0 + A + α·τ on it, A the offset, if there is
        one; through f_lin if linearized."""

    def outcomes(
        self,
        theta0: Tensors,
        tau: TaskVector,
        alphas: Sequence[float],
        splits: Mapping[Any, Examples],
        linearized: bool,
        precision: str,
        offset: TaskVector | None = None,
    ) -> dict[Any, Outcomes]:
        """The same example by example."""

    def count(self, examples: Examples) -> int:
        """How many examples these are."""

    def visit_inputs(
        self,
        params: Tensors,
        tau: Tensors | None,
        examples: Examples,
        chosen: np.ndarray,
        names: Collection[str],
        visit: Visit,
        precision: str,
    ) -> None:
        """One pass over the chosen train examples, as an evaluation would read them and without
        their labels: visit(name, X), X (tokens, in), for what the layer of each named matrix reads.
        Padding does not count. A layer may be told in several parts.

        Args:
            params: θ of f, or of f_lin θ0, beside τ: there X is taken at θ0.
        """


class Classifier(Modality, Protocol):
    """A modality whose encoder gives features that a frozen head classifies: Eq. 2 is of these."""

    def batches(self, images: np.ndarray, device: torch.device) -> Iterator[list[Tensor]]:
        """Images as lists of batches of inputs, each list as much as memory should hold."""

    def features(self, theta: Tensors, pixels: Tensor) -> Tensor:
        """f(x; θ), float32 (B, embed_dim)."""

    def features_linearized(
        self, theta0: Tensors, tau: TaskVector, pixels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """f(x; θ0) and ∇f(x; θ0)·τ, float32 (B, embed_dim)."""

    def classify(self, features: Tensor, head: Tensor) -> Tensor:
        """Logits (B, classes)."""


@dataclass(frozen=True, eq=False)
class Encoder:
    """An encoder at its pretrained weights.

    Attributes:
        name: its name. theta0: θ0, float32, by name. modality: what it reads, and computes.
        base: SHA-256 of θ0, which task vectors carry. seal: a hash of all that is said of it.
    """

    name: str
    theta0: Tensors
    modality: Modality
    base: str
    seal: str

    @property
    def device(self) -> torch.device:
        return next(iter(self.theta0.values())).device
