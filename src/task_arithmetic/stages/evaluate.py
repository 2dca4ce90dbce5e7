"""What all evaluations share: reading an encoder, vectors and examples, and one computation: the
accuracy of θ0 + A + α·τ, for each α of a grid, on one or more splits, through f or f_lin."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.encoder import Encoder, Examples
from ..core.outcomes import Outcomes
from ..core.vectors import TaskVector
from ..errors import UserError
from ..files.paths import PathLike
from ..files.tensors import check_tensors, read_made_by, read_tensors, write_tensors
from . import modalities
from .settings import EncoderSettings

VECTOR, MERGED = "vector", "merged vector"  # what files without and with an A call themselves
OFFSET, DIRECTION = "offset.", "direction."  # what the names of A and B begin with
Splits = dict[str, dict[str, Examples]]  # split → task → examples


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings(EncoderSettings):
    """linearized: evaluate through f_lin."""

    linearized: bool = False


def load(
    encoder_dir: PathLike,
    files: Mapping[str, tuple[PathLike, PathLike]],
    settings: EncoderSettings,
    device: torch.device | str,
) -> tuple[Encoder, Splits]:
    """An encoder, and for validation and test the tasks' examples, as its modality reads them.

    Args:
        files: task → its head and its data folder.
    """
    encoder = modalities.read_encoder(encoder_dir, settings.modality, device)
    splits = {
        split: {
            task: encoder.modality.read_examples(head, data_dir, split, settings.limit, device)
            for task, (head, data_dir) in files.items()
        }
        for split in ("validation", "test")
    }
    return encoder, splits


def accuracies(
    encoder: Encoder,
    tau: TaskVector,
    alphas: Sequence[float],
    splits: Mapping[str, Examples],
    settings: EvaluationSettings,
    offset: TaskVector | None = None,
) -> dict[str, np.ndarray]:
    """Key of a split → accuracies (alphas,), as `outcomes` gives them."""
    found = outcomes(encoder, tau, alphas, splits, settings, offset)
    return {key: each.accuracy() for key, each in found.items()}


def outcomes(
    encoder: Encoder,
    tau: TaskVector,
    alphas: Sequence[float],
    splits: Mapping[str, Examples],
    settings: EvaluationSettings,
    offset: TaskVector | None = None,
) -> dict[str, Outcomes]:
    """The modality's `outcomes` as a stage's settings say."""
    if offset is not None and len(alphas) == 1:  # one vector, and one pass of f_lin
        tau, alphas, offset = offset + alphas[0] * tau, [1.0], None
    how = settings.linearized, settings.precision, offset
    return encoder.modality.outcomes(encoder.theta0, tau, alphas, splits, *how)


def read_vector(path: PathLike, device: torch.device | str = "cpu") -> TaskVector:
    """A vector's file, of the stages vector and merge or of the library. Raises UserError if it is
    missing, is no safetensors file, or holds no task vector."""
    of = read_vector_header(path)
    return TaskVector(read_tensors(path, device), of.mode, of.linearized, of.base, of.task)


def read_vector_header(path: PathLike) -> TaskVector:
    """What a vector's file says of it, without its tensors; errors as of read_vector."""
    if read_made_by(path).get("stage") != VECTOR:
        raise UserError(
            f"{path} holds no task vector that says its mode and base (fine-tuned weights, "
            "perhaps): give a file of results/<run>/vectors or of save(), or make one by "
            "TaskVector(tensors, mode, linearized, base)."
        )
    return _said(path)


def _said(path: PathLike) -> TaskVector:
    made_by = read_made_by(path)
    linearized = made_by.get("settings", {}).get("mode", {}).get("linearized", False)
    mode, base, task = (made_by.get(key, "") for key in ("mode", "theta0_sha256", "task"))
    return TaskVector({}, mode, linearized, base, task)


def read_merged(
    path: PathLike, device: torch.device | str = "cpu"
) -> tuple[TaskVector | None, TaskVector]:
    """A and B of θ(α) = θ0 + A + α·B; of a vector's file no A. Errors as of read_vector."""
    if read_made_by(path).get("stage") != MERGED:
        return None, read_vector(path, device)
    of, tensors = _said(path), read_tensors(path, device)

    def part(start: str) -> TaskVector:
        named = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
        return TaskVector(named, of.mode, of.linearized, of.base)

    return part(OFFSET), part(DIRECTION)


def write_merged(
    path: PathLike,
    offset: Mapping[str, Tensor],
    direction: Mapping[str, Tensor],
    made_by: dict[str, Any],
) -> None:
    """Write what was merged: as a vector where there is no offset."""
    tensors = dict(direction)
    if offset:
        tensors = {OFFSET + name: tensor for name, tensor in offset.items()}
        tensors |= {DIRECTION + name: tensor for name, tensor in direction.items()}
    write_tensors(path, tensors, {**made_by, "stage": MERGED if offset else VECTOR})


def vector_of(path: PathLike, encoder: Encoder) -> TaskVector:
    """A task vector, on θ0's device, held to θ0's names and shapes.

    Raises:
        UserError: a file of another encoder, or no safetensors.
    """
    return _held_to(path, read_vector(path, encoder.device), encoder)


def merged_of(path: PathLike, encoder: Encoder) -> tuple[TaskVector | None, TaskVector]:
    """A, if there is one, and B of a merged vector's file, as vector_of gives a vector."""
    offset, direction = read_merged(path, encoder.device)
    held = _held_to(path, direction, encoder)
    return None if offset is None else _held_to(path, offset, encoder), held


def _held_to(path: PathLike, vector: TaskVector, encoder: Encoder) -> TaskVector:
    theta0 = encoder.theta0
    known = {name: theta0[name].shape for name in vector.tensors if name in theta0}
    check_tensors(path, vector.tensors, known)
    return vector
