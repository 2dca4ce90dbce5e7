"""Merging task vectors into one, tensor by tensor."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch

from ..core.encoder import CPU
from ..core.vectors import TaskVector, check_base
from ..errors import UserError
from ..files.hashes import sha256_of_file
from ..files.paths import PathLike
from ..files.tensors import open_tensors, write_tensors
from ..merging.merge import merge_parts
from ..merging.method import Part, options_of
from ..merging.methods import find
from ..progress import SILENT, Progress
from .evaluate import read_vector_header
from .settings import Settings


@dataclass(frozen=True, kw_only=True)
class MergeSettings(Settings):
    """method: a name of merging.methods; options: its own."""

    method: str = "sum"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class VectorFiles:
    """The parts of vectors' files, in the order of the tensors' names: one tensor of each file is
    in memory at a time. May be walked over again."""

    paths: Sequence[PathLike]
    tasks: Sequence[str]
    seed: int
    device: torch.device

    @property
    def names(self) -> list[str]:
        """Of the tensors that any of the vectors moves, sorted."""
        found: set[str] = set()
        for path in self.paths:
            with open_tensors(path) as file:
                found |= set(file.keys())
        return sorted(found)

    def __iter__(self) -> Iterator[Part]:
        with ExitStack() as stack:
            opened = [
                stack.enter_context(open_tensors(path, "pt", self.device)) for path in self.paths
            ]
            for name in self.names:
                held = [file.get_tensor(name) if name in file.keys() else None for file in opened]  # noqa: SIM118
                like = next(tensor for tensor in held if tensor is not None)
                deltas = [torch.zeros_like(like) if t is None else t for t in held]
                yield Part(name, [delta.float() for delta in deltas], self.tasks, self.seed)


def merge(
    *,
    encoder: str,
    mode: str,
    seed: int,
    tasks: list[str],
    vectors: list[PathLike],
    settings: dict[str, Any],
    output: PathLike,
    device: torch.device = CPU,
    progress: Progress = SILENT,
) -> None:
    """Merge task vectors by a method and write the merged one, B of θ(α) = θ0 + α·B.

    Args:
        tasks, vectors: of each task its name, which what is drawn depends on, and its file.
        settings: see MergeSettings.
        output: a vector's file; its header has the method, its options and the vectors' hashes.
    Raises:
        UserError: vectors of different encoders or modes, an unknown method or option, a method
            that needs more than vectors, values that are not finite.
    """
    how = MergeSettings.of(settings)
    method = find(how.method)
    options = options_of(method, how.options)
    if method.needs != "vectors":
        raise UserError(
            f"The merging method {method.name} needs {method.needs} data of every task beside the "
            "vectors, which are not collected: choose one that needs vectors alone."
        )
    if len(tasks) != len(vectors) or len(set(tasks)) != len(tasks):
        raise UserError(
            f"There are {len(vectors)} vectors and {len(set(tasks))} different tasks: give each "
            "vector the name of its own task."
        )
    headers = [read_vector_header(path) for path in vectors]
    first = headers[0]
    for path, header in zip(vectors, headers, strict=True):
        check_base(first, header)
        if (header.mode, header.linearized) != (first.mode, first.linearized):
            raise UserError(
                f"{path} is of mode {header.mode}, and {vectors[0]} of {first.mode}: merge vectors "
                "of one mode."
            )
    parts = VectorFiles(vectors, tasks, seed, device)
    merged: dict[str, torch.Tensor] = {}
    count = len(parts.names)
    for name, each in merge_parts(parts, method, options):
        merged[name] = each.direction
        progress.at(len(merged), count, "tensor")
    write_tensors(output, merged, _made_by(first, encoder, seed, how, tasks, vectors))


def _made_by(
    like: TaskVector,
    encoder: str,
    seed: int,
    how: MergeSettings,
    tasks: list[str],
    vectors: list[PathLike],
) -> dict[str, Any]:
    """The header of a vector that was merged: what makes it one, and what it was made of."""
    sources = {task: sha256_of_file(path) for task, path in zip(tasks, vectors, strict=True)}
    return {
        "stage": "vector",
        "encoder": encoder,
        "mode": like.mode,
        "seed": seed,
        "settings": {"mode": {"linearized": like.linearized}},
        "theta0_sha256": like.base,
        "merging": {"method": how.method, "options": dict(how.options), "sources": sources},
    }
