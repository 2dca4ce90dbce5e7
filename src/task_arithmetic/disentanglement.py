"""Disentanglement error of two tasks over a grid of coefficients (paper, Eq. 2, Figures 6, 8)."""

import numpy as np
import torch

from .data import read_manifest, read_split, sample_indices
from .encoder import classify, encode, encode_linearized, read_encoder
from .evaluate import BATCH, read_vector
from .finetune import best_device, read_head
from .metrics import write_rows
from .pixels import to_pixels


def disentanglement(
    encoder_dir, *, encoder, mode, seed, tasks, heads, data_dirs, vectors, settings, output
) -> None:
    """ξ(α1, α2) on a grid, for the representation and for the classification module.

    Writes `representation_disentanglement` and `classification_disentanglement` rows: alpha = α1,
    other_alpha = α2, on `samples` random test images of each task (all of them if there are fewer).

    Args:
        tasks, heads, data_dirs, vectors: two of each.
        settings: low, high, points, samples, linearized, limit.
    """
    device = best_device()
    theta0, about = read_encoder(encoder_dir, device)
    parts = []
    for head_path, data_dir in zip(heads, data_dirs, strict=True):
        head = read_head(head_path, read_manifest(data_dir), about, device)
        images, _ = read_split(data_dir, "test", settings["limit"])
        chosen = sample_indices(len(images), settings["samples"])
        parts.append((torch.from_numpy(np.array(images[chosen])), head))
    taus = [read_vector(path, about, device) for path in vectors]
    alphas = np.linspace(settings["low"], settings["high"], settings["points"]).round(12).tolist()
    errors = disentanglement_errors(theta0, about, taus, parts, alphas, settings["linearized"])
    rows = [
        {"metric": f"{module}_disentanglement", "alpha": a, "other_alpha": b, "value": grid[i, j]}
        for module, grid in errors.items()
        for i, a in enumerate(alphas)
        for j, b in enumerate(alphas)
    ]
    at = {"task": tasks[0], "other_task": tasks[1], "split": "test"}
    write_rows(output, rows, encoder=encoder, mode=mode, seed=seed, **at)


@torch.inference_mode()
def disentanglement_errors(theta0, about, taus, parts, alphas, linearized: bool) -> dict:
    """ξ(α1, α2) = Σ_t E_x dist(f(x; θ0 + α_t τ_t), f(x; θ0 + α1 τ1 + α2 τ2)) (paper, Eq. 2).

    Representation: dist is the Kullback–Leibler divergence from the softmax of the individual
    model's raw features to that of the unified model's. Classification: whether the predicted
    class changes. A cell whose other coefficient is 0 adds exactly 0 for its task.

    Args:
        taus: two task vectors. parts: for each task, images uint8 (N, H, W, 3) and its head.
        alphas: the values of α1 and of α2; linearized: evaluate through f_lin.
    Returns:
        {"representation", "classification"}: float64 (len(alphas), len(alphas)), first axis α1.
    """
    errors = {name: np.zeros((len(alphas),) * 2) for name in ("representation", "classification")}
    for t, (images, head) in enumerate(parts):
        for start in range(0, len(images), BATCH):
            pixels = to_pixels(images[start : start + BATCH].to(head.device), about)
            features = _features_at(theta0, about, taus, pixels, linearized)
            individual = [features(*((a, 0.0) if t == 0 else (0.0, a))) for a in alphas]
            for i, a in enumerate(alphas):
                for j, b in enumerate(alphas):
                    if (b if t == 0 else a) == 0:
                        continue
                    alone = individual[i if t == 0 else j]
                    # on the other axis the unified model is the other task's individual model
                    unified = features(a, b)
                    shares = len(pixels) / len(images)
                    errors["representation"][i, j] += shares * float(divergence(alone, unified))
                    errors["classification"][i, j] += shares * float(changed(alone, unified, head))
    return errors


def _features_at(theta0, about, taus, pixels, linearized: bool):
    """The function (α1, α2) → raw features of θ0 + α1 τ1 + α2 τ2 on one batch."""
    geometry = about["geometry"]
    if linearized:  # f_lin is affine in τ: two tangents give every cell
        value, first = encode_linearized(theta0, taus[0].tensors, pixels, geometry)
        _, second = encode_linearized(theta0, taus[1].tensors, pixels, geometry)
        return lambda a, b: value + a * first + b * second

    def features(a, b):
        tau = a * taus[0] + b * taus[1]
        return encode(tau.apply(theta0), pixels, geometry)

    return features


def divergence(individual, unified):
    """Mean over images of KL(softmax(individual) ‖ softmax(unified)), features (B, E), in nats."""
    p, q = (features.double().log_softmax(-1) for features in (individual, unified))
    return (p.exp() * (p - q)).sum(-1).clamp_min(0).mean()


def changed(individual, unified, head):
    """Share of images whose predicted class differs between the two models."""
    first, second = (classify(features, head).argmax(-1) for features in (individual, unified))
    return (first != second).double().mean()
