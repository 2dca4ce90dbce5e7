"""AdaMerging: the coefficients with which the merged model is surest of its predictions."""

from __future__ import annotations  # names of torch

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..errors import UserError
from ..progress import Progress
from .coefficients import EVERY, Coefficients, check_data, deltas_of, is_linearized, merge, weighted
from .lazy import torch
from .method import Cost, Data, Method, Options, option

if TYPE_CHECKING:
    from torch import Tensor

    from ..core.encoder import Encoder, Examples, Tensors


@dataclass(frozen=True)
class AdamergingOptions(Options):
    level: Literal["layer", "task"] = option(
        "layer", "a coefficient for each task and tensor, or for each task"
    )
    split: Literal["validation", "test"] = option(
        "validation", "whose examples are read, without labels; test is transductive"
    )
    start: float = option(0.3, "every coefficient before the first step")
    steps: int = option(500, "of Adam", low=1)
    learning_rate: float = option(1e-3, "of Adam", low=0, open_low=True)
    batch: int = option(16, "how many examples of each task a step reads", low=1)


def entropy(log_probabilities: Tensor) -> Tensor:
    """The mean over examples of −Σ_c p_c log p_c; log p is (B, classes)."""
    return -(log_probabilities.exp() * log_probabilities).sum(-1).mean()


@dataclass(frozen=True)
class Objective:
    """L(λ): the mean over tasks of the mean entropy of the merged model's predictions.

    Attributes:
        encoder: at θ0. deltas: tensor → of each task τ_t. linearized: they are used in f_lin.
        precision: of passes: auto, bf16 or float32.
    """

    encoder: Encoder
    deltas: Mapping[str, Sequence[Tensor]]
    linearized: bool = False
    precision: str = "float32"

    def gradient(
        self, coefficients: Tensor, batches: Iterable[tuple[Examples, Tensor, Tensor]]
    ) -> tuple[float, Tensor]:
        """L and ∂L/∂λ_{t,n} = ⟨∂L/∂θ_n, τ_{t,n}⟩ at θ = θ0 + Σ λ_t τ_t: no graph goes through the
        sum. Through f_lin alike, with the gradient in its τ.

        Args:
            coefficients: (T, tensors), the tensors in the order of `deltas`.
            batches: of each task its examples, and inputs and answers of some of them.
        Returns:
            L; float64 (T, tensors), on the CPU.
        """
        columns = zip(self.deltas.items(), coefficients.T.tolist(), strict=True)
        moved = {name: weighted(deltas, column) for (name, deltas), column in columns}
        if not self.linearized:
            moved = {name: self.encoder.theta0[name] + tensor for name, tensor in moved.items()}
        loss, slopes = 0.0, [torch.zeros_like(tensor) for tensor in moved.values()]
        for batch in batches:
            loss += self._add(slopes, moved, *batch) / len(coefficients)
        found = [
            torch.stack([(slope * delta).sum(dtype=torch.float64) for delta in deltas])
            for slope, deltas in zip(slopes, self.deltas.values(), strict=True)
        ]
        return loss, torch.stack(found, dim=1).cpu() / len(coefficients)

    def _add(
        self,
        slopes: list[Tensor],
        moved: Tensors,
        examples: Examples,
        inputs: Tensor,
        answers: Tensor,
        share: float = 1.0,
    ) -> float:
        """Add the gradient in `moved`, θ or the τ of f_lin, of share · the mean entropy to
        `slopes`; returns share · the mean entropy. What does not fit into the GPU's memory is
        computed in halves."""
        from ..core.gradients import gradient, linearized_gradient  # imports torch
        from ..core.precision import out_of_memory

        def loss(outputs: Tensor) -> Tensor:
            return share * entropy(self.encoder.modality.log_probabilities(outputs, examples))

        of = linearized_gradient if self.linearized else gradient
        given = loss, self.encoder.modality, self.encoder.theta0, moved
        try:
            found, gradients = of(*given, inputs, answers, self.precision)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if len(inputs) == 1:
                raise UserError(
                    "One example alone does not fit into the GPU's memory while coefficients are "
                    "learnt: use a GPU with more memory, or a smaller encoder."
                ) from None
        else:
            for slope, own in zip(slopes, gradients, strict=True):
                slope += own
            return float(found)
        torch.cuda.empty_cache()
        half, each = (len(inputs) + 1) // 2, len(answers) // len(inputs)
        parts = zip(inputs.split(half), answers.split(half * each), strict=True)
        return math.fsum(
            self._add(slopes, moved, examples, *part, share * len(part[0]) / len(inputs))
            for part in parts
        )


def learn(data: Data, options: AdamergingOptions, progress: Progress) -> Coefficients:
    """λ after some steps of Adam (β 0.9 and 0.999, ε 1e-8) from `start` down the entropy; λ float32
    and not clamped. What a step reads depends on seed, task and step alone, not on the device.

    Raises:
        UserError: not one vector and one set of examples for each task, or an entropy that is not
            finite.
    """
    examples = check_data(data, "adamerging", options.split)
    deltas = deltas_of(data, options)
    objective = Objective(data.encoder, deltas, is_linearized(data), data.precision)
    modality, device = data.encoder.modality, data.encoder.device
    by_layer = options.level == "layer"
    shape = len(data.tasks), len(deltas) if by_layer else 1
    found = torch.full(shape, options.start, dtype=torch.float32)
    first, second = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
    for step in range(options.steps):
        batches = (
            (of, *modality.candidates(of, step, options.batch, _seed(data.seed, task), device))
            for task, of in zip(data.tasks, examples, strict=True)
        )
        loss, gradient = objective.gradient(found.expand(-1, len(deltas)), batches)
        if not by_layer:  # one λ for all tensors of a task
            gradient = gradient.sum(1, keepdim=True)
        if not (math.isfinite(loss) and bool(gradient.isfinite().all())):
            raise UserError(
                f"The entropy or its gradient is {loss} at step {step + 1} of {options.steps} of "
                "adamerging: lower learning_rate."
            )
        first.lerp_(gradient, 0.1)
        second.lerp_(gradient.square(), 0.001)
        size = (second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
        change = options.learning_rate / (1 - 0.9 ** (step + 1)) * first / size
        found = (found.double() - change).float()
        progress.at(step + 1, options.steps, "step", entropy=loss)
    names = list(deltas) if by_layer else [EVERY]
    return Coefficients(
        {
            (task, name): value
            for task, row in zip(data.tasks, found.tolist(), strict=True)
            for name, value in zip(names, row, strict=True)
        }
    )


def _seed(seed: int, task: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}\n{task}".encode()).digest()[:8], "big")


METHOD = Method(
    name="adamerging",
    title="AdaMerging",
    paper="AdaMerging: Adaptive Model Merging for Multi-Task Learning",
    arxiv="2310.02575",
    equation=r"M = \sum_t \lambda_t \tau_t, \quad \lambda = "
    r"\operatorname{argmin}_\lambda \frac{1}{T} \sum_t \mathbb{E}_x H\bigl(p_t(x; "
    r"\theta_0 + M)\bigr)",
    needs="unlabelled",
    scope="element",
    grid=(1.0, 1.0, 1.0),  # one value
    merge=merge,
    options=AdamergingOptions,
    learn=learn,
    cost=lambda options, tasks: Cost(options.steps, options.batch),
)
