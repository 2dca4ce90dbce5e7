"""The grid of α (paper, appendix A)."""

from collections.abc import Sequence

from ..errors import UserError

MOST_ALPHAS = 201


def alpha_grid(
    start: float, stop: float, step: float, *, most: float = 2, where: str = "alphas"
) -> list[float]:
    """start, start + step, …, stop, each rounded to 10 decimals, so that 0.15 is 0.15.

    Args:
        most: the largest α that is allowed. where: what errors call the grid.
    Raises:
        UserError: not 0 ≤ start < stop ≤ most, no whole number of steps, or too many of them.
    """
    if not 0 <= start < stop <= most:
        raise UserError(
            f"{where} must have 0 <= start < stop <= {most:g}; found start {start} and stop {stop}."
        )
    if not step > 0:
        raise UserError(f"{where}.step must be above 0; found {step}.")
    count = (stop - start) / step
    if count > MOST_ALPHAS - 1 + 1e-6:
        raise UserError(
            f"{where} has {int(count) + 1} values from {start} to {stop} in steps of {step}; make "
            f"{where}.step larger: at most {MOST_ALPHAS} are allowed."
        )
    if abs(count - round(count)) > 1e-6 or round(count) < 1:
        raise UserError(
            f"{where}.step ({step}) must divide the way from {start} to {stop} into whole steps."
        )
    return alpha_values(start, stop, step)


def alpha_values(start: float, stop: float, step: float) -> list[float]:
    """The values of a grid that is right; start = stop is one value."""
    return [round(start + i * step, 10) for i in range(round((stop - start) / step) + 1)]


def end_of_grid(alpha: float, grid: Sequence[float]) -> str:
    """Which end of its grid an α is, beyond which a better one may lie: "largest", "smallest" or
    "", as 0, below which is nothing to look for, and the value of a grid of one."""
    if len(grid) < 2 or min(grid) < alpha < max(grid) or alpha == 0:
        return ""
    return "largest" if alpha >= max(grid) else "smallest"
