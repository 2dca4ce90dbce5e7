"""The outcomes behind a file of metrics, example by example, beside it as safetensors: bits of what
is right, or the answers of a task of scores, each with a hash of the examples that they are of."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..core.outcomes import Outcomes
from ..errors import UserError
from .hashes import sha256_of
from .manifest import read_manifest
from .metrics import write_rows
from .paths import PathLike, atomic_path, mend
from .tensors import header, read_made_by, read_tensors


class Answered(NamedTuple):
    """Whose outcomes they are, in the words of metrics.Row; the others as there.

    Attributes:
        alphas: of each row its α; None: it has none.
        examples: how many there are. sample: a hash of which: two are of the same examples if and
            only if they have the same.
    """

    split: str
    metric: str
    task: str
    alphas: tuple[float | None, ...]
    examples: int
    sample: str
    encoder: str = ""
    mode: str = ""
    seed: int | None = None
    other_task: str = ""
    method: str = ""


Named = tuple[Answered, Outcomes]


@dataclass
class Answers:
    """What a stage keeps of its evaluations: rows of metrics, and the outcomes behind them.

    Attributes:
        data_dirs: task → its folder. limit: as the settings have it.
    """

    data_dirs: Mapping[str, PathLike]
    limit: Mapping[str, int] | None
    rows: list[dict[str, Any]] = field(default_factory=list)
    kept: list[Named] = field(default_factory=list)

    def add(
        self,
        found: Outcomes,
        metric: str,
        split: str,
        task: str,
        alphas: Sequence[float | None],
        examples_of: str | None = None,
        **of: Any,
    ) -> None:
        """Outcomes (alphas, N) of a split, and a row for each α.

        Args:
            examples_of: the task that was answered; None: `task`. of: other columns.
        """
        at = {"split": split, "metric": metric, "task": task, **of}
        for alpha, value in zip(alphas, found.accuracy(), strict=True):
            self.rows.append({**at, "alpha": alpha, "value": value})
        sample = sample_of(self.data_dirs[examples_of or task], split, self.limit)
        whose = Answered(**at, alphas=tuple(alphas), examples=found.found.shape[1], sample=sample)
        self.kept.append((whose, found))

    def write(self, rows: PathLike, outcomes: PathLike | None, **shared: Any) -> None:
        """Write both; `shared` columns are the same in all."""
        write_rows(rows, self.rows, **shared)
        if outcomes is not None:
            own = {key: value for key, value in shared.items() if value is not None}
            write_outcomes(outcomes, [(cell._replace(**own), found) for cell, found in self.kept])


def sample_of(data_dir: PathLike, split: str, limit: Mapping[str, int] | None = None) -> str:
    """A hash of which examples of a task's folder a split is, with their order and labels."""
    files = read_manifest(data_dir).files
    own = {
        name: value for name, value in files.items() if name.startswith((f"{split}_", f"{split}."))
    }
    return sha256_of([own, (limit or {}).get(split)])[:16]


def write_outcomes(path: PathLike, named: Iterable[Named]) -> None:
    """Write outcomes as they are; of bits eight to a byte, the first in the highest bit."""
    from safetensors.numpy import save_file

    tensors, cells = {}, []
    for place, (cell, (found, truth)) in enumerate(named):
        cells.append({**cell._asdict(), "alphas": list(cell.alphas)})
        plain = np.ascontiguousarray(found)
        tensors[str(place)] = np.packbits(plain, axis=1) if plain.dtype == bool else plain
        if truth is not None:
            tensors[f"{place}.truth"] = np.asarray(truth, dtype=np.float64)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, header({"stage": "outcomes", "cells": cells}))


def read_outcomes(path: PathLike) -> list[Named]:
    """Read them. Raises UserError: it is no such file, or is damaged."""
    made_by: dict[str, Any] = read_made_by(path)
    if made_by.get("stage") != "outcomes":
        raise UserError(f"{path} holds no outcomes of examples: {mend(path)}.")
    cells = [Answered(**{**cell, "alphas": tuple(cell["alphas"])}) for cell in made_by["cells"]]
    tensors, named = read_tensors(path, framework="np"), []
    for place, cell in enumerate(cells):
        found = tensors[str(place)]
        if found.dtype == np.uint8:
            found = np.unpackbits(found, axis=1, count=cell.examples).astype(bool)
        named.append((cell, Outcomes(found, tensors.get(f"{place}.truth"))))
    return named
