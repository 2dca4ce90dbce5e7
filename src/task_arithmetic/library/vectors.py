"""A task vector as a value that can be kept in a file."""

from pathlib import Path
from typing import Self

import torch

from ..core import vectors
from ..errors import UserError
from ..files.paths import PathLike
from ..files.tensors import write_tensors
from ..stages.evaluate import read_vector


class TaskVector(vectors.TaskVector):
    __doc__ = vectors.TaskVector.__doc__

    @classmethod
    def load(cls, path: PathLike, device: torch.device | str = "cpu") -> Self:
        """Read a vector's file, of `save` or of a run (results/<run>/vectors). Raises UserError if
        it is missing or holds no task vector."""
        found = read_vector(path, device)
        return cls(found.tensors, found.mode, found.linearized, found.base)

    def save(self, path: PathLike) -> None:
        """Write the vector to a safetensors file whose header has its mode and its base."""
        if Path(path).is_dir():
            raise UserError(f"{path} is a folder: give the name of a file for the task vector.")
        mode = {"linearized": self.linearized}
        made_by = {"stage": "vector", "mode": self.mode, "settings": {"mode": mode}}
        write_tensors(path, self.tensors, {**made_by, "theta0_sha256": self.base})
