"""Disentanglement error of two tasks over a grid of coefficients (paper, Eq. 2, Figures 6, 8)."""

import numpy as np
import torch

from ..core.disentanglement import disentanglement_errors
from ..files.manifest import read_manifest, sample_indices
from ..files.metrics import write_rows
from ..progress import SILENT, Progress
from ..vision.images import read_split
from ..vision.modality import read_encoder, read_head
from .evaluate import read_vector

# What the published code reads: the first batches of the test split, in its order.
CPU = torch.device("cpu")
REFERENCE_BATCH, REFERENCE_BATCHES = 128, 16


def disentanglement(
    encoder_dir,
    *,
    encoder,
    mode,
    seed,
    tasks,
    heads,
    data_dirs,
    vectors,
    settings,
    output,
    device=CPU,
    progress: Progress = SILENT,
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
        theta0,
        about,
        taus,
        parts,
        alphas,
        settings["linearized"],
        symmetric=reference,
        progress=progress,
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
