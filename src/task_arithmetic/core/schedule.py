"""The recipe of a training: its steps, their rates, their examples (paper, appendix A)."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Recipe:
    """How to fine-tune; the defaults are the paper's for images (appendix A).

    Attributes:
        steps, batch_size: of the whole run, and the examples of one step.
        learning_rate: reached after `warmup_steps`; then by `schedule`, see learning_rate_at.
        weight_decay: AdamW's, of every moved tensor. gradient_clip: largest norm; 0: none.
        checkpoint_steps: steps between two states that are saved.
        crop_scale: of images: share of the area that a random crop keeps, least and most.
    """

    steps: int
    batch_size: int = 128
    learning_rate: float = 1e-5
    schedule: str = "cosine"
    warmup_steps: int = 200
    weight_decay: float = 0.1
    gradient_clip: float = 1.0
    checkpoint_steps: int = 500
    crop_scale: tuple[float, float] = (0.9, 1.0)


def learning_rate_at(step: int, recipe: Recipe) -> float:
    """Linear warm-up to the base rate, then a cosine to 0 (paper, appendix A), or no change.

    Args:
        step: from 0. recipe: with `schedule` cosine or constant.
    """
    base, warmup = recipe.learning_rate, recipe.warmup_steps
    if step < warmup:
        return base * (step + 1) / warmup
    if recipe.schedule == "constant":
        return base
    return base * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (recipe.steps - warmup)))


def batch_indices(step: int, count: int, batch_size: int, seed: int) -> np.ndarray:
    """Which examples one training step reads: an endless chain of permutations, one per epoch, cut
    in batches.

    A function of its arguments alone; batches run over the ends of epochs, so that none is short.
    """
    at = np.arange(step * batch_size, (step + 1) * batch_size)
    orders: dict[Any, np.ndarray] = {
        epoch: np.random.Generator(np.random.PCG64([seed, epoch])).permutation(count)
        for epoch in range(at[0] // count, at[-1] // count + 1)
    }
    return np.asarray([orders[i // count][i % count] for i in at])
