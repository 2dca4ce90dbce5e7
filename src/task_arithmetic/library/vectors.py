"""A task vector as a value that can be kept in a file."""

import hashlib
import os
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from ..core import vectors
from ..errors import UserError
from ..files.paths import PathLike
from ..files.tensors import read_made_by, write_tensors
from ..stages.evaluate import read_vector


class TaskVector(vectors.TaskVector):
    __doc__ = vectors.TaskVector.__doc__

    @classmethod
    def load(cls, path: PathLike, device: torch.device | str = "cpu") -> Self:
        """Read a vector's file, of `save` or of a run (results/<run>/vectors). Raises UserError if
        it is missing or holds no task vector."""
        if not isinstance(path, str | os.PathLike) or not os.path.isfile(path):
            raise UserError(f"There is no file {path!r} of a task vector: give the path of one.")
        found = read_vector(path, torch_device(device))
        held = read_made_by(path).get("tensors_sha256")
        if held and held != _digest(found.tensors):
            raise UserError(f"{path} is not as it was saved: its numbers have changed since.")
        return cls(found.tensors, found.mode, found.linearized, found.base, found.task)

    def to(self, device: torch.device | str) -> Self:
        """The same vector on a device."""
        return super().to(torch_device(device))

    def save(self, path: PathLike) -> None:
        """Write the vector to a safetensors file, whose header has its mode, task and base, and a
        hash of its numbers, which `load` checks."""
        if not isinstance(path, str | os.PathLike) or os.path.isdir(path):
            raise UserError(f"{path!r} is no name of a file: give one for the task vector.")
        made_by = {
            "stage": "vector",
            "mode": self.mode,
            "task": self.task,
            "settings": {"mode": {"linearized": self.linearized}},
            "theta0_sha256": self.base,
            "tensors_sha256": _digest(self.tensors),
        }
        write_tensors(path, self.tensors, made_by)


def _digest(tensors: Mapping[str, Tensor]) -> str:
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
