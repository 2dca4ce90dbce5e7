"""Disentanglement error of all pairs of tasks at one α (paper, Eq. 2)."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from ..progress import SILENT, Progress
from .disentanglement import changed, divergence
from .encoder import Classifier, Encoder, Examples
from .precision import check_finite
from .vectors import TaskVector


class PairErrors(NamedTuple):
    """ξ_ij of both modules: float64 (T, T), symmetric, 0 on the diagonal."""

    representation: np.ndarray
    classification: np.ndarray


@torch.inference_mode()
def pair_errors(
    encoder: Encoder,
    taus: Sequence[Callable[[], TaskVector]],
    samples: Sequence[Callable[[], Examples]],
    alpha: float,
    linearized: bool,
    progress: Progress = SILENT,
) -> PairErrors:
    """ξ_ij of every two tasks: half of Eq. 2 at α1 = α2 = α.

    It is the mean of both directions: over images of task i dist(f(x; θ0 + α τ_i),
    f(x; θ0 + α (τ_i + τ_j))), over those of j likewise from θ0 + α τ_j. Both dist are those of
    core.disentanglement. At α = 0 all is 0, and nothing is passed.

    Args:
        encoder: of a modality that is a Classifier.
        taus, samples: of each task what reads its vector, and its images with their head: two
            vectors and the images of one task are held at a time.
        linearized: evaluate through f_lin.
    Raises:
        UserError: features that are not finite.
    """
    modality, theta0, tasks = cast(Classifier, encoder.modality), encoder.theta0, range(len(taus))
    found = PairErrors(*np.zeros((2, len(taus), len(taus))))

    def value(tau: TaskVector, sample: Examples) -> Tensor:
        theta = tau.apply(theta0, alpha)
        chunks = modality.batches(sample.images, encoder.device)
        return torch.cat([modality.features(theta, batch) for chunk in chunks for batch in chunk])

    def value_and_step(tau: TaskVector, sample: Examples) -> tuple[Tensor, Tensor]:
        chunks = modality.batches(sample.images, encoder.device)
        parts = [modality.features_linearized(theta0, tau, b) for chunk in chunks for b in chunk]
        at_theta0, tangent = (torch.cat(part) for part in zip(*parts, strict=True))
        return at_theta0, alpha * tangent

    def individual(t: int) -> Tensor:
        if not linearized:
            return value(taus[t](), samples[t]())
        start, step = value_and_step(taus[t](), samples[t]())
        return start + step

    def unified() -> Iterator[tuple[int, int, Tensor, Tensor]]:
        """A task, another one, features of the unified model of both on images of the first, and
        its head."""
        for j in tasks:
            second = taus[j]()
            for i in tasks if linearized else range(j):
                if linearized and i != j:  # f_lin is affine: the other's tangent is added
                    sample = samples[i]()
                    yield i, j, alone[i] + value_and_step(second, sample)[1], sample.head
                elif i != j:
                    both = taus[i]() + second
                    for t, other in ((i, j), (j, i)):
                        sample = samples[t]()
                        yield t, other, value(both, sample), sample.head

    if alpha == 0:
        return found
    alone = [individual(t) for t in tasks]
    for done, (t, other, features, head) in enumerate(unified(), 1):
        progress.at(done, len(taus) * (len(taus) - 1), "pass")
        check_finite(torch.stack([alone[t].norm(), features.norm()]))
        first, second = (modality.classify(each, head) for each in (alone[t], features))
        found.representation[t, other] = divergence(alone[t], features).mean().item()
        found.classification[t, other] = changed(first, second).mean().item()
    return PairErrors(*((each + each.T) / 2 for each in found))
