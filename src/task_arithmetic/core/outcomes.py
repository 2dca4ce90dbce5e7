"""What a model answers, example by example: what every accuracy is a mean of."""

from typing import NamedTuple

import numpy as np


class Outcomes(NamedTuple):
    """The answers of A models to the same N examples.

    Attributes:
        found: whether each is right, bool (A, N); of a task of scores the numbers, float64 (A, N);
            or what else is a mean over examples, float32 (A, N).
        truth: of a task of scores the true ones, float64 (N,).
    """

    found: np.ndarray
    truth: np.ndarray | None = None

    def accuracy(self) -> np.ndarray:
        """Shares of right answers, or means, or Spearman's ρ with the true scores: float64 (A,)."""
        if self.truth is None:
            return self.found.mean(axis=1, dtype=np.float64)
        return np.array([spearman(answers, self.truth) for answers in self.found])


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's ρ: the correlation of ranks, ties by their mean; 0 where one side is constant."""

    def ranks(values: np.ndarray) -> np.ndarray:
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2)[inverse]

    a, b = ranks(a), ranks(b)
    a, b = a - a.mean(), b - b.mean()
    length = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / length) if length > 0 else 0.0
