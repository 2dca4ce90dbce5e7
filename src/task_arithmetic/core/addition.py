"""Task addition: normalized accuracy, and the choice of α by it (paper, section 3.4)."""

from collections.abc import Sequence

import numpy as np


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
