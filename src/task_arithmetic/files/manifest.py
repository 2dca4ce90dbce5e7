"""The manifest of a task's folder, its splits, and draws from them."""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .hashes import read_sealed, sealed
from .paths import PathLike, mend, write_json

FORMAT = 4  # of a task's folder
SPLITS = ("train", "validation", "test")
SAMPLE_SEED = 0


@dataclass(frozen=True)
class Manifest:
    """What a task's files are, and what they were made from.

    Attributes:
        classes: names in label order; none if labels are scores. source_classes: the dataset's own.
        in_words: whether the dataset's labels are words, whose order nobody has given.
        files: name → SHA-256. data_sha256: of these and the classes. sha256: split → of its rows.
        definition: the data stage's settings. source: of a download, where it is from.
        counts, repeated_within_split: split → rows, and how many stand there again.
        shared_between_splits: "train-test" and the other pairs → rows that stand in both.
        notes: sentences on what a person should know of the data.
    """

    task: str
    classes: list[str]
    files: dict[str, str]
    data_sha256: str = ""
    sha256: dict[str, str] = field(default_factory=dict)
    validation_indices_sha256: str = ""
    definition: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] | None = None
    source_classes: list[str] | None = None
    in_words: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    repeated_within_split: dict[str, int] = field(default_factory=dict)
    shared_between_splits: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Write manifest.json beside the files."""
        write_json(folder / "manifest.json", sealed({"format": FORMAT, **asdict(self)}))


def read_manifest(data_dir: PathLike) -> Manifest:
    """manifest.json of a task's folder. Raises UserError if it is damaged or of another version."""
    path = Path(data_dir) / "manifest.json"
    found = read_sealed(path)
    if found.get("format") != FORMAT:
        raise UserError(
            f"{data_dir} was made by another version (format {found.get('format', 1)}, not "
            f"{FORMAT}): {mend(path)}."
        )
    return Manifest(
        **{each.name: found[each.name] for each in fields(Manifest) if each.name in found}
    )


def sample_indices(count: int, samples: int) -> np.ndarray:
    """A random subset of indices without replacement, ascending, always the same; all of them if
    there are no more than `samples`."""
    if samples >= count:
        return np.arange(count)
    generator = np.random.Generator(np.random.PCG64(SAMPLE_SEED))
    return np.sort(generator.permutation(count)[:samples])
