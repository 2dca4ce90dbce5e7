"""How far α may be from the chosen one before accuracy falls."""

from typing import NamedTuple

import numpy as np


class Plateau(NamedTuple):
    """An interval of α. at_edge: it ends where the grid does, and may be wider."""

    low: float
    high: float
    at_edge: bool

    @property
    def width(self) -> float:
        return self.high - self.low


def plateau(
    alphas: np.ndarray, values: np.ndarray, chosen: float, share: float = 0.95
) -> Plateau | None:
    """The connected interval around a chosen α in which accuracy is at least a share of its
    maximum, between the points of the grid by linear interpolation.

    Args:
        alphas: the grid (A,), increasing. values: accuracies there (A,). chosen: one of the grid's,
            or between two.
    Returns:
        None: accuracy is below that at the chosen α itself.
    """
    least = share * values.max()
    if np.interp(chosen, alphas, values) < least:
        return None
    low, high = (
        _crossing(alphas[side], values[side], chosen, least) for side in (np.s_[::-1], np.s_[::1])
    )
    edges = alphas[0], alphas[-1]
    return Plateau(
        edges[0] if low is None else low,
        edges[1] if high is None else high,
        low is None or high is None,
    )


def _crossing(alphas: np.ndarray, values: np.ndarray, chosen: float, least: float) -> float | None:
    """The first α beyond the chosen one, in the order of the grid, where values fall below `least`;
    None: they do not."""
    beyond = (alphas - chosen) * (alphas[-1] - alphas[0]) > 0
    below = np.flatnonzero(beyond & (values < least))
    if not len(below):
        return None
    i = below[0]
    share = (values[i - 1] - least) / (values[i - 1] - values[i])
    return float(alphas[i - 1] + share * (alphas[i] - alphas[i - 1]))
