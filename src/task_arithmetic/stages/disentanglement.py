"""Disentanglement error of two tasks over a grid of coefficients (paper, Eq. 2, Figures 6, 8)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..core.disentanglement import MODULES, Sample, disentanglement_errors
from ..core.encoder import CPU
from ..core.outcomes import Outcomes
from ..files.hashes import sha256_of
from ..files.manifest import sample_indices
from ..files.metrics import write_rows
from ..files.outcomes import Answered, Named, sample_of, write_outcomes
from ..files.paths import PathLike
from ..progress import SILENT, Progress
from . import modalities
from .evaluate import vector_of
from .settings import Settings

# What the published code reads: the first batches of the test split, in its order.
REFERENCE_BATCH, REFERENCE_BATCHES = 128, 16


@dataclass(frozen=True, kw_only=True)
class DisentanglementSettings(Settings):
    """linearized: evaluate through f_lin. low, high, points: the grid of both coefficients.
    samples: random test images of each task. reference_scaling: as the published code normalises,
    see reference_weights."""

    linearized: bool
    low: float
    high: float
    points: int
    samples: int
    reference_scaling: bool = False


def disentanglement(
    encoder_dir: PathLike,
    *,
    encoder: str,
    mode: str,
    seed: int,
    tasks: list[str],
    heads: list[PathLike],
    data_dirs: list[PathLike],
    vectors: list[PathLike],
    settings: dict[str, Any],
    output: PathLike,
    outcomes: PathLike | None = None,
    device: torch.device = CPU,
    progress: Progress = SILENT,
) -> None:
    """ξ(α1, α2) on a grid, for the representation and for the classification module.

    Writes `representation_disentanglement` and `classification_disentanglement` rows: alpha = α1,
    other_alpha = α2, on `samples` random test images of each task (all of them if there are fewer).
    In the same passes `plane_accuracy` and `plane_loss` of θ0 + α1 τ1 + α2 τ2: means over the
    images of each task that are read, whatever their weights in ξ, and then over the tasks.
    Always in float32: ξ is a difference of features that are close to each other.

    Args:
        tasks, heads, data_dirs, vectors: two of each.
        settings: see DisentanglementSettings.
        outcomes: where the part of each image in the mean of ξ over the grid is written, and over
            its cells in [0, 1]² (`…_inside`): their means over images, summed over both tasks, are
            these means of ξ.
    """
    how = DisentanglementSettings.of(settings)
    model = modalities.read_encoder(encoder_dir, device=device)
    samples = []
    for head, data_dir in zip(heads, data_dirs, strict=True):
        images, labels, classes = model.modality.read_examples(
            head, data_dir, "test", how.limit, device
        )
        if how.reference_scaling:
            weights = reference_weights(len(images))
            chosen = np.arange(len(weights))
        else:
            chosen = sample_indices(len(images), how.samples)
            weights = np.full(len(chosen), 1 / len(chosen))
        samples.append(Sample(np.array(images[chosen]), weights, labels[chosen], classes))
    taus = [vector_of(path, model) for path in vectors]
    alphas = np.linspace(how.low, how.high, how.points).round(12).tolist()
    found = disentanglement_errors(
        model,
        taus,
        samples,
        alphas,
        how.linearized,
        symmetric=how.reference_scaling,
        progress=progress,
    )
    metrics = {f"{module}_disentanglement": getattr(found, module) for module in MODULES}
    metrics |= {"plane_accuracy": found.accuracy, "plane_loss": found.loss}
    rows = [
        {"metric": metric, "alpha": a, "other_alpha": b, "value": grid[i, j]}
        for metric, grid in metrics.items()
        for i, a in enumerate(alphas)
        for j, b in enumerate(alphas)
    ]
    at = {"task": tasks[0], "other_task": tasks[1], "split": "test"}
    write_rows(output, rows, encoder=encoder, mode=mode, seed=seed, **at)
    if outcomes is not None:
        kept: list[Named] = []
        for task, other, data_dir, sample, parts in zip(
            tasks, reversed(tasks), data_dirs, samples, found.per_image, strict=True
        ):
            which = [sample_of(data_dir, "test", how.limit), how.samples, how.reference_scaling]
            for name, distance in parts._asdict().items():
                module, _, inside = name.partition("_")
                metric = f"{module}_disentanglement{'_inside' * bool(inside)}"
                images = len(distance), sha256_of(which)[:16]
                whose = Answered("test", metric, task, (None,), *images, encoder, mode, seed, other)
                if np.isfinite(distance).all():
                    values = distance * sample.weights * len(distance)
                    kept.append((whose, Outcomes(values[None].astype(np.float32))))
        write_outcomes(outcomes, kept)


def reference_weights(count: int) -> np.ndarray:
    """Weights of the first images of a test split of `count`, as the published code normalises:
    the sum of the means of the first 16 batches of 128, divided by the number of all batches.

    A large test split is thus understated: 16 of 156 batches of 19,850 images are read, and their
    sum is divided by 156.
    """
    read = np.arange(min(count, REFERENCE_BATCH * REFERENCE_BATCHES)) // REFERENCE_BATCH
    return 1 / np.bincount(read)[read] / -(-count // REFERENCE_BATCH)
