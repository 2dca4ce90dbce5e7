"""Task negation: the choice of α (paper, appendix A)."""

import numpy as np

from ..errors import UserError


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
