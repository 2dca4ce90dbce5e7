"""Disentanglement error of two tasks (paper, Eq. 2)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from ..progress import SILENT, Progress
from .encoder import Classifier, Encoder
from .precision import check_finite
from .vectors import TaskVector


class Sample(NamedTuple):
    """Images of a task: uint8 (N, H, W, 3), their weights (N,) in the mean, and the task's head."""

    images: np.ndarray
    weights: np.ndarray
    head: Tensor


@torch.inference_mode()
def disentanglement_errors(
    encoder: Encoder,
    taus: Sequence[TaskVector],
    samples: Sequence[Sample],
    alphas: Sequence[float],
    linearized: bool,
    symmetric: bool = False,
    progress: Progress = SILENT,
) -> dict[str, np.ndarray]:
    """ξ(α1, α2) = Σ_t E_x dist(f(x; θ0 + α_t τ_t), f(x; θ0 + α1 τ1 + α2 τ2)) (paper, Eq. 2).

    Representation: dist is the Kullback–Leibler divergence from the softmax of the individual
    model's raw features to that of the unified model's. Classification: whether the predicted
    class changes. A cell whose other coefficient is 0 adds exactly 0 for its task.

    Args:
        encoder: of a modality that is a Classifier. taus, samples: of two tasks.
        alphas: the values of α1 and of α2; linearized: evaluate through f_lin.
        symmetric: the mean of both directions of the divergence, as the published code has it.
    Returns:
        {"representation", "classification"}: float64 (len(alphas), len(alphas)), first axis α1.
    Raises:
        UserError: features that are not finite.
    """
    modality = cast(Classifier, encoder.modality)
    errors = {name: np.zeros((len(alphas),) * 2) for name in ("representation", "classification")}
    for t, (images, weights, head) in enumerate(samples):
        at = 0
        for batches in modality.batches(images, encoder.device):
            features_at = _features_at(encoder.theta0, modality, taus, batches, linearized)
            # the unified models of the cells on the task's own axis are its individual models
            individual = [features_at(*((a, 0.0) if t == 0 else (0.0, a))) for a in alphas]
            share = torch.from_numpy(weights[at : at + len(individual[0])]).to(encoder.device)
            at += len(share)
            progress.at(t * len(images) + at, 2 * len(images), "image")
            for i, a in enumerate(alphas):
                for j, b in enumerate(alphas):
                    if (b if t == 0 else a) == 0:
                        continue
                    alone, unified = individual[i if t == 0 else j], features_at(a, b)
                    check_finite(torch.stack([alone.norm(), unified.norm()]))
                    distance = divergence(alone, unified)
                    if symmetric:
                        distance = (distance + divergence(unified, alone)) / 2
                    first, second = (modality.classify(f, head) for f in (alone, unified))
                    errors["representation"][i, j] += float(share @ distance)
                    errors["classification"][i, j] += float(share @ changed(first, second))
    return errors


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
