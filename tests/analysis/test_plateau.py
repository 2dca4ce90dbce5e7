"""The interval of α around the chosen one in which accuracy stays."""

import numpy as np
import pytest

from task_arithmetic.analysis.plateau import plateau


def walked(alphas, values, chosen, share, points=200_001):
    """Steps to the left and to the right of α* until accuracy is too low."""
    fine = np.linspace(alphas[0], alphas[-1], points)
    enough = np.interp(fine, alphas, values) >= share * values.max()
    at = np.argmin(abs(fine - chosen))
    low = high = at
    while low > 0 and enough[low - 1]:
        low -= 1
    while high < points - 1 and enough[high + 1]:
        high += 1
    return fine[low], fine[high], low == 0 or high == points - 1


@pytest.mark.parametrize("seed", range(40))
def test_it_is_what_one_reaches_by_small_steps(seed):
    random = np.random.default_rng(seed)
    alphas = np.linspace(0.1, 1.3, random.integers(2, 14))
    values = random.uniform(0.5, 1.0, len(alphas))
    chosen = alphas[np.argmax(values)]
    share = random.uniform(0.6, 0.99)
    low, high, at_edge = walked(alphas, values, chosen, share)
    found = plateau(alphas, values, chosen, share)
    assert found.low == pytest.approx(low, abs=2e-5)
    assert found.high == pytest.approx(high, abs=2e-5)
    assert found.at_edge == at_edge
    assert found.width == pytest.approx(high - low, abs=4e-5)


def test_another_hill_beyond_a_valley_does_not_count():
    alphas = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    values = np.array([0.9, 1.0, 0.8, 0.99, 0.5])
    low, high, at_edge = plateau(alphas, values, 0.25)
    assert (low, high) == pytest.approx((0.125, 0.3125)) and not at_edge


def test_the_grid_may_end_before_accuracy_falls():
    alphas, flat = np.array([0.0, 0.5, 1.0]), np.array([1.0, 1.0, 0.97])
    assert plateau(alphas, flat, 0.0) == (0.0, 1.0, True)
    assert plateau(alphas, np.array([0.1, 1.0, 0.97]), 1.0)[1:] == (1.0, True)


def test_there_is_none_where_the_chosen_alpha_is_too_bad():
    """As where α is chosen by other numbers than these."""
    assert plateau(np.array([0.0, 0.5, 1.0]), np.array([0.5, 1.0, 0.9]), 1.0) is None
