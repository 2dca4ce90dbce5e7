"""Fine-tuning step by step (paper, section 2 and appendix A, "Fine-tuning").

Every step's examples are a function of (seed, step) alone, so that a run that is taken up again
goes on exactly where it stopped.
"""

import math
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from ..errors import UserError
from .encoder import Examples, Modality, Tensors
from .gradients import linearized_gradient
from .precision import autocast, out_of_memory
from .schedule import Recipe
from .vectors import moved_names

READ_AHEAD = 2  # batches


class Training:
    """An encoder that is fine-tuned in one mode.

    Args:
        theta0: pretrained tensors. modality: what they compute.
        head: what the loss needs of the task.
        train: patterns of the names of tensors that move; linearized: train f_lin instead of f.
        mode: its name, for messages. precision: see precision.autocast.
        micro_batch: examples of one forward pass; None: the whole batch.
    Attributes:
        theta: the moved tensors, which steps update. base: θ0, without those that theta replaces
            unless the mode is linearized. moments: AdamW's state of each tensor of theta.
        done: steps done. lock: held while theta, moments and done change.
    Raises:
        UserError: a pattern that matches nothing.
    """

    def __init__(
        self,
        theta0: Tensors,
        modality: Modality,
        head: Tensor | None,
        recipe: Recipe,
        train: list[str],
        *,
        linearized: bool = False,
        mode: str = "this mode",
        precision: str = "float32",
        micro_batch: int | None = None,
    ) -> None:
        names = moved_names(theta0, train, mode)
        self.theta: Tensors = {name: theta0[name].clone().requires_grad_() for name in names}
        held = {name: tensor for name, tensor in theta0.items() if name not in self.theta}
        self.base: Tensors = dict(theta0) if linearized else held
        self.moments: dict[str, Tensors] = {
            name: {
                "step": torch.zeros((), device=tensor.device),
                "exp_avg": torch.zeros_like(theta0[name]),
                "exp_avg_sq": torch.zeros_like(theta0[name]),
            }
            for name, tensor in self.theta.items()
        }
        self.modality, self.head, self.recipe = modality, head, recipe
        self.linearized, self.precision, self.micro_batch = linearized, precision, micro_batch
        self.done, self.lock = 0, threading.RLock()

    @property
    def device(self) -> torch.device:
        return next(iter(self.theta.values())).device

    def step(self, inputs: Tensor, targets: Tensor, learning_rate: float) -> float:
        """One AdamW step on one batch; returns its mean cross-entropy.

        The step is skipped, and NaN returned, if the loss or its gradient is not finite.

        Args:
            inputs: pixels, float (B, 3, S, S), or tokens, int64 (B, S). targets: labels, int64
                (B,), or tokens (B, T), where a negative one is padding.
        """
        return self.update(self.gradient(inputs, targets), learning_rate)

    def update(self, loss: float, learning_rate: float) -> float:
        """Clip the gradient and step, if it and the loss are finite; returns the loss, or NaN."""
        if not math.isfinite(loss):
            return loss
        limit = self.recipe.gradient_clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.theta.values(), limit)
        if not math.isfinite(norm):
            return math.nan
        self._adamw(learning_rate)
        self.done += 1
        return loss

    def gradient(self, inputs: Tensor, targets: Tensor) -> float:
        """Set theta's .grad to the gradient of the batch's mean loss, which is returned.

        Micro-batches accumulate their share of the mean, over labels or over all target tokens, so
        that the gradient is that of the whole batch. Where they do not fit into the GPU's memory,
        they are halved, for the rest of the run.
        """
        add = self.add_linearized_gradient if self.linearized else self.add_gradient
        while True:
            micro = self.micro_batch or len(inputs)
            for tensor in self.theta.values():
                tensor.grad = None
            loss = torch.zeros(())
            try:
                for i in range(0, len(inputs), micro):
                    part = slice(i, i + micro)
                    whole = micro >= len(inputs)
                    share = 1.0 if whole else _counted(targets[part]) / _counted(targets)
                    added = add(inputs[part], targets[part], share)
                    loss = added if i == 0 else loss + added
                return float(loss)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if micro == 1:
                    raise UserError(
                        "One example alone does not fit into the GPU's memory while training: use "
                        "a GPU with more memory, or a smaller encoder."
                    ) from None
            self.micro_batch = micro = (micro + 1) // 2
            torch.cuda.empty_cache()
            print(
                f"Out of GPU memory: going on with {micro} {self.modality.unit}s at a time, which "
                f"add up to the same batch of {len(inputs)}; `micro_batch: {micro}` in the "
                "encoder's definition keeps it.",
                file=sys.stderr,
            )

    def add_gradient(self, inputs: Tensor, targets: Tensor, share: float = 1.0) -> Tensor:
        """Add the gradient of share · L(f(x; θ)) to theta's .grad; returns share · L."""
        params = {**self.base, **self.theta}
        with self._autocast():
            outputs = self.modality.outputs(params, inputs, targets)
        loss = share * self.modality.loss(outputs.to(self._dtype), targets, self.head)
        loss.backward()
        return loss.detach()

    def add_linearized_gradient(
        self, inputs: Tensor, targets: Tensor, share: float = 1.0
    ) -> Tensor:
        """Add the gradient in τ of share · L(f(x; θ0) + ∇f(x; θ0)·τ) to theta's .grad; returns
        share · L (paper, section 2, "NTK Linearization"); τ = θ − θ0."""

        def loss(outputs: Tensor) -> Tensor:
            return share * self.modality.loss(outputs, targets, self.head)

        theta0 = self.base
        found, gradients = linearized_gradient(
            loss,
            self.modality,
            theta0,
            {name: tensor.detach() - theta0[name] for name, tensor in self.theta.items()},
            inputs,
            targets,
            self.precision,
        )
        for leaf, gradient in zip(self.theta.values(), gradients, strict=True):
            leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient
        return found

    @torch.no_grad()
    def _adamw(self, learning_rate: float) -> None:
        """Update theta by AdamW (Loshchilov & Hutter, 2019), weight decay on every moved tensor.

        torch's functional form: its optimizer classes import the compiler, four seconds a job.
        """
        moments = self.moments.values()
        adamw(
            list(self.theta.values()),
            [tensor.grad for tensor in self.theta.values()],  # type: ignore[misc]
            [m["exp_avg"] for m in moments],
            [m["exp_avg_sq"] for m in moments],
            max_exp_avg_sqs=[],
            state_steps=[m["step"] for m in moments],
            lr=learning_rate,
            weight_decay=self.recipe.weight_decay,
            beta1=0.9,
            beta2=0.999,
            eps=1e-8,
            fused=True,
            amsgrad=False,
            maximize=False,
        )

    def _autocast(self) -> AbstractContextManager[None]:
        return autocast(self.precision, self.device)

    @property
    def _dtype(self) -> torch.dtype:
        return next(iter(self.theta.values())).dtype


def _counted(targets: Tensor) -> int:
    """Labels or target tokens, without padding."""
    return int((targets >= 0).sum())


def batches(
    modality: Modality,
    examples: Examples,
    numbers: Iterable[int],
    seed: int,
    recipe: Recipe,
    device: torch.device,
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each step of `numbers` its inputs and targets, as the modality makes them, on the device.
    A GPU finds the next ones read ahead."""

    def read(number: int) -> list[Tensor]:
        parts = modality.read_batch(examples, number, seed, recipe)
        return [part.pin_memory() for part in parts] if device.type == "cuda" else list(parts)

    for parts in read_ahead(read, numbers, READ_AHEAD if device.type == "cuda" else 0):
        yield modality.to_inputs(*(part.to(device, non_blocking=True) for part in parts))


def read_ahead(
    read: Callable[[int], list[Tensor]], numbers: Iterable[int], depth: int
) -> Iterator[list[Tensor]]:
    """read(number) for each of `numbers`, in order; up to `depth` later ones are read meanwhile."""
    if not depth:
        yield from map(read, numbers)
        return
    with ThreadPoolExecutor(1) as reader:
        waiting = []
        for number in numbers:
            waiting.append(reader.submit(read, number))
            if len(waiting) > depth:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()
