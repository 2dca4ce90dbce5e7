"""What stands twice in the prepared data of a configuration's tasks: in two splits, in two tasks.

Two images are one if all pixels of the whole decoded images are the same. The data stage has hashed
each image so; these hashes are read, of texts the rows themselves. Images that are only alike, such
as copies in another size, are not found.
"""

import itertools
import json as encoding
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

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


def audit(*paths: PathLike, json: bool = False, basedir: PathLike = ROOT) -> None:
    """Print what stands in two splits of a task, and what in two tasks; and which tasks' data are
    not prepared.

    Args:
        paths: configuration files, each over the one before and the first over config.yaml.
        json: as a JSON list of Shared, without the pairs of tasks that share nothing.
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
    within, between = list(within_tasks(rows, made)), list(between_tasks(rows))
    not_made = to_make([task for task in tasks if task not in made], paths)
    if json:
        found = [each._asdict() for each in [*within, *between]]
        print(encoding.dumps(found, indent=1, ensure_ascii=False))
        print(*not_made, sep="\n", end="\n" * bool(not_made), file=sys.stderr)
        return
    if made:
        counts = {(each.task, each.split, each.other_split): str(each.rows) for each in within}
        lines = [["task", *SPLITS, *("∩".join(pair) for pair in PAIRS)]]
        for task in made:
            sizes = [str(len(rows[task, split])) for split in SPLITS]
            lines.append([task, *sizes, *(counts[task, *pair] for pair in PAIRS)])
        print("Different rows of each split, and those that stand in two splits:")
        print("\n".join(aligned(lines, left=1)))
        print("Those that stand in two tasks:" + " none" * (not between))
        for line in aligned([[*map(str, each)] for each in between], left=4):
            print(line)
    print(*not_made, ALIKE, sep="\n")


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


def to_make(tasks: Sequence[str], paths: Sequence[PathLike]) -> list[str]:
    """What to say of tasks whose data are not prepared; nothing if there are none.

    Args:
        paths: the configuration's files.
    """
    if not tasks:
        return []
    given = " ".join(["--configfile", *map(str, paths)]) + " " if paths else ""
    targets = " ".join(str(DATA_DIR / task / "manifest.json") for task in tasks)
    return [
        f"Not made yet: {', '.join(tasks)}. To make them:",
        f"  snakemake --cores all {given}-- {targets}",
    ]
