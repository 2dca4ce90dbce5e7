"""Disentanglement error of two tasks over a grid of coefficients (paper, Eq. 2, Figures 6, 8)."""

import numpy as np
import torch

from . import jobs
from .arrays import read_manifest, read_split, sample_indices
from .device import torch_device
from .encoder import classify, read_encoder
from .evaluate import read_vector
from .metrics import write_rows
from .vision import chunks, features, features_linearized, read_head

# What the published code reads: the first batches of the test split, in its order.
REFERENCE_BATCH, REFERENCE_BATCHES = 128, 16


def disentanglement(
    encoder_dir, *, encoder, mode, seed, tasks, heads, data_dirs, vectors, settings, output
) -> None:
    """ξ(α1, α2) on a grid, for the representation and for the classification module.

    Writes `representation_disentanglement` and `classification_disentanglement` rows: alpha = α1,
    other_alpha = α2, on `samples` random test images of each task (all of them if there are fewer).
    Always in float32: ξ is a difference of features that are close to each other.

    Args:
        tasks, heads, data_dirs, vectors: two of each.
        settings: low, high, points, samples, linearized, limit, reference_scaling (as the
            published code normalises, see reference_weights).
    """
    device = torch_device()
    theta0, about = read_encoder(encoder_dir, device)
    reference = settings.get("reference_scaling", False)
    parts = []
    for head_path, data_dir in zip(heads, data_dirs, strict=True):
        head = read_head(head_path, read_manifest(data_dir), about, device)
        images, _ = read_split(data_dir, "test", settings["limit"])
        if reference:
            weights = reference_weights(len(images))
            chosen = np.arange(len(weights))
        else:
            chosen = sample_indices(len(images), settings["samples"])
            weights = np.full(len(chosen), 1 / len(chosen))
        parts.append((np.array(images[chosen]), weights, head))
    taus = [read_vector(path, theta0) for path in vectors]
    alphas = np.linspace(settings["low"], settings["high"], settings["points"]).round(12).tolist()
    errors = disentanglement_errors(
        theta0, about, taus, parts, alphas, settings["linearized"], symmetric=reference
    )
    rows = [
        {"metric": f"{module}_disentanglement", "alpha": a, "other_alpha": b, "value": grid[i, j]}
        for module, grid in errors.items()
        for i, a in enumerate(alphas)
        for j, b in enumerate(alphas)
    ]
    at = {"task": tasks[0], "other_task": tasks[1], "split": "test"}
    write_rows(output, rows, encoder=encoder, mode=mode, seed=seed, **at)


def reference_weights(count: int) -> np.ndarray:
    """Weights of the first images of a test split of `count`, as the published code normalises:
    the sum of the means of the first 16 batches of 128, divided by the number of all batches.

    A large test split is thus understated: 16 of 156 batches of 19,850 images are read, and their
    sum is divided by 156.
    """
    read = np.arange(min(count, REFERENCE_BATCH * REFERENCE_BATCHES)) // REFERENCE_BATCH
    return 1 / np.bincount(read)[read] / -(-count // REFERENCE_BATCH)


@torch.inference_mode()
def disentanglement_errors(
    theta0, about, taus, parts, alphas, linearized: bool, symmetric: bool = False
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
            jobs.progress(t * len(images) + at, 2 * len(images), "image")
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
