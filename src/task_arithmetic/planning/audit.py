"""What stands twice in the prepared data of a configuration's tasks: in two splits, in two tasks.

Two images are one if all pixels of the whole decoded images are the same. The data stage has hashed
each image so; these hashes are read, of texts the rows themselves. Images that are only alike, such
as copies in another size, are not found.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..answer import answer
from ..config.reading import ROOT, read_config
from ..files.hashes import check_file
from ..files.manifest import SPLITS, read_manifest
from ..files.paths import PathLike, missing
from .text import aligned

DATA_DIR = Path("results/shared/data")  # a folder for each task
PAIRS = [("train", "test"), ("train", "validation"), ("validation", "test")]
ALIKE = (
    "Exact copies alone are counted: every pixel of the whole image is the same. Images that are "
    "only alike are not looked for; digits of MNIST and EMNIST, say, come from the same forms."
)

Rows = dict[tuple[str, str], set[bytes]]  # task, split → its different rows


class Shared(NamedTuple):
    """How many different rows stand in a split of one task and in a split of the same or another
    one. Texts count with their labels."""

    task: str
    split: str
    other_task: str
    other_split: str
    rows: int


class Audited(NamedTuple):
    """What stands twice.

    Attributes:
        sizes: of each prepared task, how many different rows each split has. shared: of each task
            each two splits, and of two tasks those that share anything. missing: tasks whose data
            are not prepared. make: the command that prepares them.
    """

    sizes: dict[str, dict[str, int]]
    shared: list[Shared]
    missing: list[str]
    make: str


def audit(*paths: PathLike, basedir: PathLike = ROOT, as_json: bool = False) -> None:
    """Print what stands in two splits of a task, and what in two tasks; and which tasks' data are
    not prepared.

    Args:
        paths: configuration files, each over the one before and the first over config.yaml.
        basedir: the folder that holds config.yaml, config/ and workflow/.
    Raises:
        UserError: the configuration is wrong, or data are damaged or lack a file.
    """
    tasks = list(read_config(*paths, basedir=basedir).definitions.tasks)
    made = [task for task in tasks if (DATA_DIR / task / "manifest.json").is_file()]
    for task in made:
        for name, sha256 in read_manifest(DATA_DIR / task).files.items():
            if name.endswith(("_digests.npy", ".jsonl")):
                if not (path := DATA_DIR / task / name).is_file():
                    raise missing(path)
                check_file(path, sha256)
    rows = read_rows(made)
    sizes = {task: {split: len(rows[task, split]) for split in SPLITS} for task in made}
    lacking = [task for task in tasks if task not in made]
    shared = [*within_tasks(rows, made), *between_tasks(rows)]
    audited = Audited(sizes, shared, lacking, to_make(lacking, paths))
    answer(audited, _lines(audited), as_json)


def _lines(audited: Audited) -> Iterator[str]:
    counts = {each[:4]: str(each.rows) for each in audited.shared}
    table = [["task", *SPLITS, *("∩".join(pair) for pair in PAIRS)]]
    for task, sizes in audited.sizes.items():
        within = (counts[task, one, task, other] for one, other in PAIRS)
        table.append([task, *map(str, sizes.values()), *within])
    between = [[*map(str, each)] for each in audited.shared if each.task != each.other_task]
    if audited.sizes:
        yield "Different rows of each split, and those that stand in two splits:"
        yield from aligned(table, left=1)
        yield "Those that stand in two tasks:" + " none" * (not between)
        yield from aligned(between, left=4)
    if audited.missing:
        yield f"Not made yet: {', '.join(audited.missing)}. To make them:"
        yield f"  {audited.make}"
    yield ALIKE


def read_rows(tasks: Sequence[str]) -> Rows:
    """The different rows of what is prepared of some tasks: of images the 16 bytes of their hashes,
    of texts the lines."""
    found = {}
    for task, split in itertools.product(tasks, SPLITS):
        images, texts = (DATA_DIR / task / f"{split}{end}" for end in ("_digests.npy", ".jsonl"))
        if images.is_file():
            found[task, split] = set(map(bytes, np.load(images)))
        elif texts.is_file():
            found[task, split] = set(texts.read_bytes().split(b"\n")) - {b""}
    return found


def within_tasks(rows: Rows, tasks: Sequence[str]) -> Iterator[Shared]:
    """Of each task what stands in two of its splits."""
    for task, (one, other) in itertools.product(tasks, PAIRS):
        yield Shared(task, one, task, other, len(rows[task, one] & rows[task, other]))


def between_tasks(rows: Rows) -> Iterator[Shared]:
    """What stands in two tasks, where anything does."""
    for one, other in itertools.combinations(rows, 2):
        if one[0] != other[0] and (count := len(rows[one] & rows[other])):
            yield Shared(*one, *other, count)


def to_make(tasks: Sequence[str], paths: Sequence[PathLike]) -> str:
    """The command that prepares some tasks' data; empty if there are none.

    Args:
        paths: the configuration's files.
    """
    given = " ".join(["--configfile", *map(str, paths)]) + " " if paths else ""
    targets = " ".join(str(DATA_DIR / task / "manifest.json") for task in tasks)
    return f"snakemake --cores all {given}-- {targets}" if tasks else ""
