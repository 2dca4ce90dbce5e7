"""The grid of α and the choice of α (paper, appendix A)."""

from collections.abc import Sequence

import numpy as np

from ..errors import UserError


def normalized(found: Sequence[np.ndarray], own: Sequence[float]) -> np.ndarray:
    """Accuracies of the unified model over each task's individual one (paper, section 3.4). A task
    whose individual model has no accuracy above 0, as one of texts may have, is left out; if none
    is left, accuracies stay as they are.

    Args:
        found: of each task, accuracies (alphas,). own: of each task, its individual accuracy.
    Returns:
        float64 (alphas, tasks).
    """
    defined = [values / o for values, o in zip(found, own, strict=True) if o > 0]
    return np.stack(defined or list(found), axis=1)


def choose_alpha(alphas: Sequence[float], accuracies: np.ndarray) -> int:
    """Index of the α with the largest mean normalized accuracy; the first wins a tie.

    Args:
        accuracies: normalized, (alphas, tasks), of the validation split only (paper, appendix A).
    """
    return int(np.argmax(np.mean(accuracies, axis=1)))


def choose_negation(
    target: np.ndarray, control: np.ndarray, pretrained_control: float, keep: float
) -> int:
    """Index of the α with the lowest target accuracy among those whose control accuracy is at
    least keep × the pretrained model's (paper, appendix A); the first wins a tie.

    Args:
        target, control: accuracies on validation, one for each α.
    Raises:
        UserError: no α keeps the control accuracy (α = 0 always does).
    """
    kept = (
        np.asarray(control) >= keep * pretrained_control - 1e-9
    )  # "at least" includes rounded equality
    if not kept.any():
        raise UserError(
            f"No α of the grid keeps {keep:.0%} of the pretrained control accuracy: let `alphas` "
            "start at 0."
        )
    return int(np.argmin(np.where(kept, target, np.inf)))


MOST_ALPHAS = 201


def alpha_grid(start: float, stop: float, step: float) -> list[float]:
    """start, start + step, …, stop, each rounded to 10 decimals, so that 0.15 is 0.15.

    Raises:
        UserError: not 0 ≤ start < stop ≤ 2, no whole number of steps, or too many of them.
    """
    if not 0 <= start < stop <= 2:
        raise UserError(
            f"alphas must have 0 <= start < stop <= 2; found start {start} and stop {stop}."
        )
    if not step > 0:
        raise UserError(f"alphas.step must be above 0; found {step}.")
    count = (stop - start) / step
    if count > MOST_ALPHAS - 1 + 1e-6:
        raise UserError(
            f"alphas has {int(count) + 1} values from {start} to {stop} in steps of {step}; make "
            f"alphas.step larger: at most {MOST_ALPHAS} are allowed."
        )
    if abs(count - round(count)) > 1e-6 or round(count) < 1:
        raise UserError(
            f"alphas.step ({step}) must divide the way from {start} to {stop} into whole steps."
        )
    return [round(start + i * step, 10) for i in range(round(count) + 1)]
