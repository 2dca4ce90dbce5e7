"""What all evaluations share: reading an encoder, vectors and examples, and one computation: the
accuracy of θ0 + α·τ, for each α of a grid, on one or more splits, through f or through f_lin."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..core.encoder import Encoder, Examples
from ..core.vectors import TaskVector
from ..errors import UserError
from ..files.paths import PathLike
from ..files.tensors import check_tensors, open_tensors, read_made_by, read_tensors
from . import modalities
from .settings import EncoderSettings

OFFSET = "offset."  # what the names of a merged vector's A begin with
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
) -> dict[str, np.ndarray]:
    """The modality's `accuracies` as a stage's settings say."""
    how = settings.linearized, settings.precision
    return encoder.modality.accuracies(encoder.theta0, tau, alphas, splits, *how)


def read_vector(path: PathLike, device: torch.device | str = "cpu") -> TaskVector:
    """A vector's file, of the stages vector and merge or of the library. Raises UserError if it is
    missing, is no safetensors file, or holds no task vector."""
    of = read_vector_header(path)
    return TaskVector(read_tensors(path, device), of.mode, of.linearized, of.base, of.task)


def read_vector_header(path: PathLike) -> TaskVector:
    """What a vector's file says of it, without its tensors; errors as of read_vector."""
    made_by = read_made_by(path)
    if made_by.get("stage") != "vector":
        raise UserError(
            f"{path} holds no task vector that says its mode and base (fine-tuned weights, "
            "perhaps): give a file of results/<run>/vectors or of save(), or make one by "
            "TaskVector(tensors, mode, linearized, base)."
        )
    linearized = made_by.get("settings", {}).get("mode", {}).get("linearized", False)
    said = (made_by.get(key, "") for key in ("mode", "theta0_sha256", "task"))
    mode, base, task = said
    return TaskVector({}, mode, linearized, base, task)


def offset_of(path: PathLike, encoder: Encoder) -> TaskVector | None:
    """A of a merged vector's file, θ(α) = θ0 + A + α B, whose B vector_of gives; None: zero. On
    θ0's device; held to its shapes as vector_of's."""
    of = read_vector_header(path)
    with open_tensors(path, "pt", encoder.device) as file:
        names = [name for name in file.keys() if name.startswith(OFFSET)]  # noqa: SIM118
        held = {name.removeprefix(OFFSET): file.get_tensor(name) for name in names}
    if not held:
        return None
    return _held_to(path, TaskVector(held, of.mode, of.linearized, of.base), encoder)


def vector_of(path: PathLike, encoder: Encoder) -> TaskVector:
    """A task vector, on θ0's device, held to θ0's names and shapes.

    Raises:
        UserError: a file of another encoder, or no safetensors.
    """
    vector = read_vector(path, encoder.device)
    held = {n: tensor for n, tensor in vector.tensors.items() if not n.startswith(OFFSET)}
    vector = TaskVector(held, vector.mode, vector.linearized, vector.base, vector.task)
    return _held_to(path, vector, encoder)


def _held_to(path: PathLike, vector: TaskVector, encoder: Encoder) -> TaskVector:
    theta0 = encoder.theta0
    known = {name: theta0[name].shape for name in vector.tensors if name in theta0}
    check_tensors(path, vector.tensors, known)
    return vector
