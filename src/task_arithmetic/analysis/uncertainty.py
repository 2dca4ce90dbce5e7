"""How sure an accuracy is: the bootstrap over test examples and seeds, and the exact sign test.

Models that answered the same examples are resampled together: a draw counts each example as often
for one as for another, so that an interval of a difference is a paired one.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from ..core.outcomes import Outcomes

DRAWS = 2000
LEVEL = 0.95
NORMAL = 1.959964  # the 0.975 quantile of a normal distribution, and of Student's t
STUDENT = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
AT_ONCE = 2**23  # counts in memory at a time


def resampled(outcomes: Sequence[Outcomes], seed: int, draws: int = DRAWS) -> list[np.ndarray]:
    """Accuracies of bootstrap samples (Efron 1979) of the examples that all outcomes are of.

    A sample has N of the N examples, drawn with replacement; draw by draw it is the same for all.

    Args:
        outcomes: each (A, N), of the same N examples in the same order.
        seed: of the draws.
    Returns:
        of each outcomes float64 (draws, A).
    """
    count = outcomes[0].found.shape[1]
    generator, made = np.random.default_rng(seed), []
    plain = [each.found for each in outcomes if each.truth is None]
    right = np.concatenate(plain).T.astype(np.float64) if plain else None
    for start in range(0, draws, step := max(1, AT_ONCE // count)):
        rows = min(step, draws - start)
        drawn = generator.integers(0, count, (rows, count)) + count * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        means: Iterator[np.ndarray] = iter(())
        if right is not None:
            cuts = np.cumsum([len(each) for each in plain])[:-1]
            means = iter(np.split(counts.astype(np.float64) @ right / count, cuts, axis=1))
        made.append([
            next(means) if of.truth is None
            else np.stack([weighted_spearman(x, of.truth, counts) for x in of.found], axis=1)
            for of in outcomes
        ])  # fmt: skip
    return [np.concatenate(parts) for parts in zip(*made, strict=True)]


def weighted_spearman(a: np.ndarray, b: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Spearman's ρ of samples in which the pair (a_n, b_n) stands counts[d, n] times, ties by mean
    rank; 0 where one side is constant: float64 (D,).

    Args:
        a, b: (N,). counts: (D, N).
    """
    counts = counts.astype(np.float64)  # whose products BLAS knows
    total = counts.sum(axis=1, keepdims=True)

    def centred_ranks(values: np.ndarray) -> np.ndarray:
        distinct, inverse = np.unique(values, return_inverse=True)
        of_value = counts @ np.eye(len(distinct))[inverse]
        return (np.cumsum(of_value, axis=1) - (of_value - 1) / 2)[:, inverse] - (total + 1) / 2

    a, b = centred_ranks(a), centred_ranks(b)
    length = np.sqrt((counts * a * a).sum(axis=1) * (counts * b * b).sum(axis=1))
    product = (counts * a * b).sum(axis=1)
    return np.divide(product, length, out=np.zeros(len(length)), where=length > 0)


def seed_draws(seeds: int, draws: int = DRAWS) -> np.ndarray:
    """Which seeds a draw has, drawn with replacement: int64 (draws, seeds)."""
    return np.random.default_rng(0).integers(0, seeds, (draws, seeds))


def over_seeds(values: np.ndarray) -> np.ndarray:
    """Of values in all samples, of every seed (S, draws, …), the means over the seeds that each
    sample has (draws, …).

    What the choice of seeds adds is stretched by √(S/(S−1)) t₀.₉₇₅(S−1)/1.96, as Student's interval
    of a mean is wider than percentiles of samples: of two or three seeds these are far too narrow.
    """
    seeds, draws = values.shape[:2]
    chosen, mean = seed_draws(seeds, draws), values.mean(axis=0)
    drawn = np.mean([values[each, np.arange(draws)] for each in chosen.T], axis=0)
    stretch = math.sqrt(seeds / (seeds - 1)) * student(seeds - 1) / NORMAL if seeds > 1 else 1.0
    stretched: np.ndarray = mean + stretch * (drawn - mean)
    return stretched


def student(freedom: int) -> float:
    """The 0.975 quantile of Student's t; above ten degrees by its expansion, to 0.001."""
    if freedom <= len(STUDENT):
        return STUDENT[freedom - 1]
    z = NORMAL
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))


def interval(
    draws: np.ndarray, value: float | None = None, level: float = LEVEL
) -> tuple[float, float]:
    """The percentile interval of a statistic's bootstrap values (draws,); NaN, NaN where more of
    them are not defined than lie outside it on one side.

    Args:
        value: the statistic as measured, where it is no mean: noise moves such a statistic, as it
            does an absolute difference, and the samples' mean is moved back to it.
    """
    if np.isnan(draws).mean() > (1 - level) / 2:
        return math.nan, math.nan
    shift = 0.0 if value is None else value - float(np.nanmean(draws))
    low, high = np.nanpercentile(draws, [50 * (1 - level), 50 * (1 + level)])
    return float(low) + shift, float(high) + shift


def sign_test(differences: np.ndarray) -> tuple[int, int, float]:
    """How many differences are above and below 0, and the two-sided p of the exact sign test: the
    chance that a fair coin, thrown for each that is not 0, would be as uneven or more.

    Args:
        differences: (n,).
    """
    above, below = int((differences > 0).sum()), int((differences < 0).sum())
    n, fewer = above + below, min(above, below)
    terms = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(fewer + 1)
    ]
    tail = sum(math.exp(term - n * math.log(2)) for term in terms)
    return above, below, min(1.0, 2 * tail)


def task_draws(tasks: int, draws: int = DRAWS) -> np.ndarray:
    """How often each of a draw's tasks, drawn with replacement, is there: int64 (draws, tasks)."""
    drawn = np.random.default_rng(1).integers(0, tasks, (draws, tasks))
    return np.stack([np.bincount(row, minlength=tasks) for row in drawn])


def mean_over_pairs(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Means of what is of two different tasks, over the pairs of drawn tasks: float64 (draws,); NaN
    where a draw has but one task.

    Args:
        values: (T, T), of which the diagonal does not count. counts: (draws, T), of task_draws.
    """
    off = np.where(np.eye(len(values), dtype=bool), 0.0, values)
    pairs = counts.sum(axis=1) ** 2 - (counts**2).sum(axis=1)
    total = np.einsum("di,ij,dj->d", counts, off, counts)
    return np.divide(total, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
