"""A task vector as a value that can be kept in a file."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ..core import vectors
from ..errors import UserError
from ..files.paths import PathLike
from ..files.tensors import read_made_by, write_tensors
from ..stages.evaluate import DIRECTION, OFFSET, read_merged, read_vector, write_merged


class TaskVector(vectors.TaskVector):
    __doc__ = vectors.TaskVector.__doc__

    @classmethod
    def load(cls, path: PathLike, device: torch.device | str = "cpu") -> Self:
        """Read a vector's file, of `save` or of a run (results/<run>/vectors). Raises UserError if
        it is missing or holds no task vector."""
        check_file(path)
        found = read_vector(path, torch_device(device))
        held = read_made_by(path).get("tensors_sha256")
        if held and held != digest(found.tensors):
            raise UserError(f"{path} is not as it was saved: its numbers have changed since.")
        return cls(found.tensors, found.mode, found.linearized, found.base, found.task)

    def to(self, device: torch.device | str) -> Self:
        """The same vector on a device."""
        return super().to(torch_device(device))

    def save(self, path: PathLike) -> None:
        """Write the vector to a safetensors file, whose header has its mode, task and base, and a
        hash of its numbers, which `load` checks."""
        _check_place(path)
        made_by = {
            "stage": "vector",
            "mode": self.mode,
            "task": self.task,
            "settings": {"mode": {"linearized": self.linearized}},
            "theta0_sha256": self.base,
            "tensors_sha256": digest(self.tensors),
        }
        write_tensors(path, self.tensors, made_by)


@dataclass(frozen=True, repr=False, eq=False)
class MergedVector:
    """Vectors that were merged to θ(α) = θ0 + A + α·B, as by LiNeS, whose A does not depend on α.

    `alpha * merged` is the task vector A + α·B, so that `encoder + alpha * merged` is the merged
    model; A and B themselves have the arithmetic of task vectors.

    Attributes:
        offset: A. direction: B.
    """

    offset: TaskVector
    direction: TaskVector

    def __mul__(self, alpha: float) -> TaskVector:
        return self.offset + alpha * self.direction

    __rmul__ = __mul__

    def __repr__(self) -> str:
        return f"MergedVector(A + α·B, A: {self.offset!r}, B: {self.direction!r})"

    def to(self, device: torch.device | str) -> Self:
        """The same on a device."""
        return type(self)(self.offset.to(device), self.direction.to(device))

    @classmethod
    def load(cls, path: PathLike, device: torch.device | str = "cpu") -> Self:
        """Read what `save` wrote. Raises UserError if it is missing, changed or something else."""
        check_file(path)
        offset, direction = read_merged(path, torch_device(device))
        if offset is None:
            raise UserError(
                f"{path} holds no merged vector with an offset: give a file of its save(), or load "
                "it with TaskVector.load."
            )
        held = read_made_by(path).get("tensors_sha256")
        if held and held != digest(_named(offset, direction)):
            raise UserError(f"{path} is not as it was saved: its numbers have changed since.")
        return cls(*(_of_library(part) for part in (offset, direction)))

    def save(self, path: PathLike) -> None:
        """Write both to one safetensors file, with a hash of their numbers, which `load` checks."""
        _check_place(path)
        made_by = {
            "mode": self.direction.mode,
            "settings": {"mode": {"linearized": self.direction.linearized}},
            "theta0_sha256": self.direction.base,
            "tensors_sha256": digest(_named(self.offset, self.direction)),
        }
        write_merged(path, self.offset.tensors, self.direction.tensors, made_by)


def _of_library(vector: vectors.TaskVector) -> TaskVector:
    return TaskVector(vector.tensors, vector.mode, vector.linearized, vector.base, vector.task)


def _named(offset: vectors.TaskVector, direction: vectors.TaskVector) -> dict[str, Tensor]:
    parts = ((OFFSET, offset), (DIRECTION, direction))
    return {start + name: t for start, part in parts for name, t in part.tensors.items()}


def check_file(path: PathLike) -> None:
    if not isinstance(path, str | os.PathLike) or not os.path.isfile(path):
        if isinstance(path, str | os.PathLike) and os.path.isdir(path):
            raise UserError(f"{path} is a folder: give the task vector's file in it.")
        raise UserError(f"There is no file {path!r} of a task vector: give the path of one.")


def _check_place(path: PathLike) -> None:
    if not isinstance(path, str | os.PathLike) or os.path.isdir(path):
        raise UserError(f"{path!r} is no name of a file: give one for the task vector.")


def digest(tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def torch_device(device: torch.device | str) -> torch.device:
    """A device by name. Raises UserError: it is none, or is not in this machine."""
    try:
        found = torch.device(device)
        if found.type != "meta":
            torch.zeros((), device=found)
            return found
    except (RuntimeError, AssertionError, TypeError):
        pass
    raise UserError(
        f"There is no device {device!r} on this machine: give cpu"
        f"{', or cuda' if torch.cuda.is_available() else ''}."
    )
