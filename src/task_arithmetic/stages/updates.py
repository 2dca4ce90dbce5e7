"""The weight matrices of task vectors beside those of what they were merged into."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import UserError
from ..files.metrics import read_rows
from ..files.paths import PathLike, mend
from ..files.tensors import open_tensors
from ..merging.matrices import PROJECTION, is_matrix
from ..merging.pieces import is_finite
from ..merging.sum import added
from .evaluate import DIRECTION, OFFSET

SUM = ""  # what rows call the sum


class Matrix(NamedTuple):
    """A weight matrix: of each task τ_t, and (method, M) of the sum and of each other method; all
    float32 (out, in). M is read when it is asked for."""

    name: str
    deltas: list[Tensor]
    merged: Iterator[tuple[str, Tensor]]


@dataclass(frozen=True)
class Updates:
    """Files of task vectors and of what they were merged into. One matrix of each vector and of one
    method is in memory at a time; queries, keys and values are one, as they are stored.

    Attributes:
        methods: labels of merging methods but the sum. merged: of each its file. unified: of each
            the metrics of its unified model, which say what α was chosen for it: where
            θ(α) = θ0 + A + α B has an A, M is A + α B; of others M is B, whose scale says nothing.
    """

    vectors: Sequence[PathLike]
    methods: Sequence[str]
    merged: Sequence[PathLike]
    unified: Sequence[PathLike]
    device: torch.device

    @property
    def names(self) -> list[str]:
        """Of the weight matrices that the vectors move, sorted."""
        with open_tensors(self.vectors[0]) as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        return sorted(name for name, shape in shapes.items() if is_matrix(name, len(shape)))

    def of(self, names: Sequence[str]) -> Iterator[Matrix]:
        """These matrices, one by one. Raises UserError: a value is not finite."""
        with ExitStack() as stack:

            def opened(paths: Sequence[PathLike]) -> list[Any]:
                return [stack.enter_context(open_tensors(p, "pt", self.device)) for p in paths]

            taus, merged = opened(self.vectors), opened(self.merged)
            for name in names:
                pairs = zip(self.vectors, taus, strict=True)
                deltas = [_read(path, file, name) for path, file in pairs]
                yield Matrix(name, deltas, self._merged(name, deltas, merged))

    def _merged(
        self, name: str, deltas: list[Tensor], files: list[Any]
    ) -> Iterator[tuple[str, Tensor]]:
        yield SUM, added(deltas)
        for method, path, file, metrics in zip(
            self.methods, self.merged, files, self.unified, strict=True
        ):
            if OFFSET + name in file.keys():  # noqa: SIM118
                offset, direction = (_read(path, file, part + name) for part in (OFFSET, DIRECTION))
                yield method, offset + chosen_alpha(metrics, method) * direction
            else:
                yield method, _read(path, file, name)


def _read(path: PathLike, file: Any, name: str) -> Tensor:
    tensor: Tensor = file.get_tensor(name).float()
    if not is_finite(tensor):
        raise UserError(f"{path} has values in {name} that are not finite: {mend(path)}.")
    turned = name in (PROJECTION, OFFSET + PROJECTION, DIRECTION + PROJECTION)
    return tensor.T if turned else tensor


def chosen_alpha(metrics: PathLike, method: str) -> float:
    """The α at which the unified model of a method was tested. Raises UserError: there is none."""
    found = {row.alpha for row in read_rows(metrics) if (row.method, row.split) == (method, "test")}
    if len(found) != 1:
        raise UserError(f"{metrics} has no one α chosen for {method}: {mend(metrics)}.")
    return found.pop()
