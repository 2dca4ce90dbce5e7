"""Disentanglement error of two tasks (paper, Eq. 2), and accuracy and loss in the same passes."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..progress import SILENT, Progress
from .encoder import Classifier, Encoder
from .precision import check_finite
from .vectors import TaskVector

MODULES = ("representation", "classification")


class Sample(NamedTuple):
    """Images of a task: uint8 (N, H, W, 3), their weights (N,) in the mean of ξ, their labels,
    int64 (N,), and the task's head."""

    images: np.ndarray
    weights: np.ndarray
    labels: np.ndarray
    head: Tensor


class PerImage(NamedTuple):
    """The distance of each image of a task, without its weight, averaged over cells: float32 (N,),
    of both modules over the whole grid, and over its cells in [0, 1]² (NaN where it has none)."""

    representation: np.ndarray
    classification: np.ndarray
    representation_inside: np.ndarray
    classification_inside: np.ndarray


class Errors(NamedTuple):
    """What was measured at every (α1, α2): float64 (len(alphas), len(alphas)), first axis α1.

    Attributes:
        representation, classification: ξ of both modules.
        accuracy, loss: of θ0 + α1 τ1 + α2 τ2, top-1 and mean cross-entropy in nats: each a plain
            mean over a task's images, whatever their weights, and then over the two tasks.
        per_image: of each task.
    """

    representation: np.ndarray
    classification: np.ndarray
    accuracy: np.ndarray
    loss: np.ndarray
    per_image: list[PerImage]


@torch.inference_mode()
def disentanglement_errors(
    encoder: Encoder,
    taus: Sequence[TaskVector],
    samples: Sequence[Sample],
    alphas: Sequence[float],
    linearized: bool,
    symmetric: bool = False,
    progress: Progress = SILENT,
) -> Errors:
    """ξ(α1, α2) = Σ_t E_x dist(f(x; θ0 + α_t τ_t), f(x; θ0 + α1 τ1 + α2 τ2)) (paper, Eq. 2).

    Representation: dist is the Kullback–Leibler divergence from the softmax of the individual
    model's raw features to that of the unified model's. Classification: whether the predicted
    class changes. A cell whose other coefficient is 0 adds exactly 0 for its task.

    Args:
        encoder: of a modality that is a Classifier. taus, samples: of two tasks.
        alphas: the values of α1 and of α2; linearized: evaluate through f_lin.
        symmetric: the mean of both directions of the divergence, as the published code has it.
    Raises:
        UserError: features that are not finite.
    """
    modality = cast(Classifier, encoder.modality)
    grids, of_tasks = np.zeros((4, len(alphas), len(alphas))), list[PerImage]()
    found = Errors(grids[0], grids[1], grids[2], grids[3], of_tasks)
    inside = [i for i, a in enumerate(alphas) if -1e-9 <= a <= 1 + 1e-9]
    for t, (images, weights, labels, head) in enumerate(samples):
        at, own = 0, []
        for batches in modality.batches(images, encoder.device):
            features_at = _features_at(encoder.theta0, modality, taus, batches, linearized)
            # the unified models of the cells on the task's own axis are its individual models
            individual = [features_at(*((a, 0.0) if t == 0 else (0.0, a))) for a in alphas]
            rows = slice(at, at + len(individual[0]))
            share, truth = (torch.from_numpy(of[rows]) for of in (weights, labels))
            share, truth = share.to(encoder.device), truth.to(encoder.device)
            at += len(share)
            progress.at(t * len(images) + at, 2 * len(images), "image")
            distances = torch.zeros(2, len(alphas), len(alphas), len(share))
            for i, a in enumerate(alphas):
                for j, b in enumerate(alphas):
                    alone = individual[i if t == 0 else j]
                    apart = (b if t == 0 else a) != 0
                    unified = features_at(a, b) if apart else alone
                    check_finite(torch.stack([alone.norm(), unified.norm()]))
                    logits = modality.classify(unified, head)
                    right = (logits.argmax(-1) == truth).sum()
                    found.accuracy[i, j] += float(right) / len(images) / len(samples)
                    loss = F.cross_entropy(logits.double(), truth, reduction="sum")
                    found.loss[i, j] += float(loss) / len(images) / len(samples)
                    if not apart:
                        continue
                    distance = divergence(alone, unified)
                    if symmetric:
                        distance = (distance + divergence(unified, alone)) / 2
                    flips = changed(modality.classify(alone, head), logits)
                    found.representation[i, j] += float(share @ distance)
                    found.classification[i, j] += float(share @ flips)
                    distances[:, i, j] = torch.stack([distance, flips])
            within = distances[:, inside][:, :, inside]
            own.append(torch.cat([distances.mean((1, 2)), within.mean((1, 2))]).numpy())
        of_tasks.append(PerImage(*np.concatenate([np.zeros((4, 0), np.float32), *own], 1)))
    return found


def _features_at(
    theta0: dict[str, Tensor],
    modality: Classifier,
    taus: Sequence[TaskVector],
    batches: list[Tensor],
    linearized: bool,
) -> Callable[[float, float], Tensor]:
    """The function (α1, α2) → raw features of θ0 + α1 τ1 + α2 τ2 of all images of the batches."""
    if linearized:  # f_lin is affine in τ: two tangents give every cell

        def tangent(tau: TaskVector) -> list[Tensor]:
            parts = [modality.features_linearized(theta0, tau, batch) for batch in batches]
            return [torch.cat(results) for results in zip(*parts, strict=True)]

        (value, first), (_, second) = (tangent(tau) for tau in taus)
        return lambda a, b: value + a * first + b * second

    def at(a: float, b: float) -> Tensor:
        theta = (a * taus[0] + b * taus[1]).apply(theta0)
        return torch.cat([modality.features(theta, batch) for batch in batches])

    return at


def divergence(individual: Tensor, unified: Tensor) -> Tensor:
    """KL(softmax(individual) ‖ softmax(unified)) of each image, features (B, E), in nats: (B,)
    float64."""
    p, q = (features.double().log_softmax(-1) for features in (individual, unified))
    return (p.exp() * (p - q)).sum(-1).clamp_min(0)


def changed(first: Tensor, second: Tensor) -> Tensor:
    """Whether the predicted class of each image differs, logits (B, classes): (B,) float64."""
    return (first.argmax(-1) != second.argmax(-1)).double()
