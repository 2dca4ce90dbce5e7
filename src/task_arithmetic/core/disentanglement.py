"""Disentanglement error of two tasks (paper, Eq. 2)."""

import numpy as np
import torch

from ..progress import SILENT, Progress
from ..vision.clip import classify
from ..vision.modality import chunks, features, features_linearized


@torch.inference_mode()
def disentanglement_errors(
    theta0,
    about,
    taus,
    parts,
    alphas,
    linearized: bool,
    symmetric: bool = False,
    progress: Progress = SILENT,
) -> dict:
    """ξ(α1, α2) = Σ_t E_x dist(f(x; θ0 + α_t τ_t), f(x; θ0 + α1 τ1 + α2 τ2)) (paper, Eq. 2).

    Representation: dist is the Kullback–Leibler divergence from the softmax of the individual
    model's raw features to that of the unified model's. Classification: whether the predicted
    class changes. A cell whose other coefficient is 0 adds exactly 0 for its task.

    Args:
        taus: two task vectors. parts: for each task, images uint8 (N, H, W, 3), their weights
            (N,) in the mean, and its head.
        alphas: the values of α1 and of α2; linearized: evaluate through f_lin.
        symmetric: the mean of both directions of the divergence, as the published code has it.
    Returns:
        {"representation", "classification"}: float64 (len(alphas), len(alphas)), first axis α1.
    """
    errors = {name: np.zeros((len(alphas),) * 2) for name in ("representation", "classification")}
    for t, (images, weights, head) in enumerate(parts):
        at = 0
        for chunk in chunks({t: (images, np.zeros(len(images)), head)}, about):
            batches = [pixels for _, pixels, _, _ in chunk]
            features_at = _features_at(theta0, about, taus, batches, linearized)
            # the unified models of the cells on the task's own axis are its individual models
            individual = [features_at(*((a, 0.0) if t == 0 else (0.0, a))) for a in alphas]
            share = torch.from_numpy(weights[at : at + len(individual[0])]).to(head.device)
            at += len(share)
            progress.at(t * len(images) + at, 2 * len(images), "image")
            for i, a in enumerate(alphas):
                for j, b in enumerate(alphas):
                    if (b if t == 0 else a) == 0:
                        continue
                    alone, unified = individual[i if t == 0 else j], features_at(a, b)
                    distance = divergence(alone, unified)
                    if symmetric:
                        distance = (distance + divergence(unified, alone)) / 2
                    errors["representation"][i, j] += float(share @ distance)
                    errors["classification"][i, j] += float(share @ changed(alone, unified, head))
    return errors


def _features_at(theta0, about, taus, batches, linearized: bool):
    """The function (α1, α2) → raw features of θ0 + α1 τ1 + α2 τ2 of all images of the batches."""
    if linearized:  # f_lin is affine in τ: two tangents give every cell

        def tangent(tau):
            parts = [features_linearized(theta0, tau, batch, about) for batch in batches]
            return [torch.cat(results) for results in zip(*parts, strict=True)]

        (value, first), (_, second) = (tangent(tau) for tau in taus)
        return lambda a, b: value + a * first + b * second

    def at(a, b):
        theta = (a * taus[0] + b * taus[1]).apply(theta0)
        return torch.cat([features(theta, batch, about) for batch in batches])

    return at


def divergence(individual, unified):
    """KL(softmax(individual) ‖ softmax(unified)) of each image, features (B, E), in nats: (B,)
    float64."""
    p, q = (features.double().log_softmax(-1) for features in (individual, unified))
    return (p.exp() * (p - q)).sum(-1).clamp_min(0)


def changed(individual, unified, head):
    """Whether the predicted class of each image differs between the two models: (B,) float64."""
    first, second = (classify(features, head).argmax(-1) for features in (individual, unified))
    return (first != second).double()
