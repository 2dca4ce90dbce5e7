"""What is on disk for the tasks of a configuration, held to what is expected: counts, class names,
rows in two splits, files that belong to their manifest.

Only manifests and the headers of arrays are read, and lines of texts counted; no image is hashed
again.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..config.experiment import Experiment
from ..config.reading import ROOT, read_config
from ..config.settings import data_settings
from ..errors import UserError
from ..files.checks import too_many_shared
from ..files.definition import Definition, Settings
from ..files.labels import class_names
from ..files.manifest import SPLITS, read_manifest
from ..files.paths import PathLike
from ..files.tensors import open_tensors, read_made_by
from ..vision.images import DIGEST, RESOLUTION
from .audit import DATA_DIR, between_tasks, read_rows, to_make
from .text import aligned

COLUMNS = [
    *("task", "commit", *SPLITS, "classes", "own names"),
    *("shared", "repeated", "stored", "disk"),
]
ARRAYS = ("images", "labels", "digests")  # of each split
LEAST_ALIKE = 0.5  # share of labels whose two names have a word in common, if not compared


class Found(NamedTuple):
    """What is on disk for a task: its row of the table as COLUMNS, what is wrong, bytes, notes."""

    row: list[str]
    problems: list[str]
    size: int = 0
    notes: tuple[str, ...] = ()


def doctor(*paths: PathLike, basedir: PathLike = ROOT) -> None:
    """Print one table of the configuration's tasks and its control task, and what is wrong below.

    Args:
        paths: configuration files, each over the one before and the first over config.yaml.
        basedir: the folder that holds config.yaml, config/ and workflow/.
    Raises:
        UserError: there is a problem, or the configuration is wrong.
    """
    experiment = read_config(*paths, basedir=basedir)
    tasks = list(experiment.definitions.tasks)
    found = {task: _found(experiment, task) for task in tasks}
    rows = [each.row + ["–"] * (len(COLUMNS) - len(each.row)) for each in found.values()]
    print("\n".join(aligned([COLUMNS, *rows], left=2)))
    size = sum(each.size for each in found.values())
    print("Counts: found/expected. Disk in all:", megabytes(size))
    problems = [problem for each in found.values() for problem in each.problems]
    texts = experiment.part("language")
    for encoder in texts.encoders:
        try:
            if lengths := input_lengths(encoder, texts.tasks):
                print(f"Longest input of {encoder}, in tokens: {', '.join(lengths)}")
        except UserError as error:
            problems.append(str(error))
    missing = [t for t, each in found.items() if each.row[1] == "not made" and not each.problems]
    for line in [*to_make(missing, paths), *shared_between_tasks(tasks)]:
        print(line)
    for task, note in ((task, note) for task, each in found.items() for note in each.notes):
        print(f"Task {task}: {note}.")
    for problem in problems:
        print(f"- {problem}")
    if problems:
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UserError(f"The data have {count}, named above: mend that and run again.")


def _found(experiment: Experiment, task: str) -> Found:
    if not (DATA_DIR / task / "manifest.json").is_file():
        return Found([task, "not made"], last_failure(task))
    try:
        definition = json.loads(data_settings(experiment.definitions.tasks[task]))
        return examine(task, definition, DATA_DIR / task)
    except UserError as error:  # a manifest that cannot be read
        return Found([task, "not readable"], [str(error)])


def last_failure(task: str) -> list[str]:
    """The sentence in which the data stage of a task ended, if it failed."""
    log = Path(f"results/shared/logs/data/{task}.log")
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    start = "task-arithmetic data: "
    return [line.removeprefix(start) for line in lines[-1:] if line.startswith(start)]


def shared_between_tasks(tasks: list[str]) -> list[str]:
    """Of each two tasks, how many different rows stand in test of one and in train or validation of
    the other, or in validation of one and train of the other: what one task has learnt, or α was
    chosen on, is then measured under another one's name. Texts count with their labels."""
    lines = []
    for each in between_tasks(read_rows(tasks)):
        learnt, measured = sorted([each[:2], each[2:4]], key=lambda place: SPLITS.index(place[1]))
        if learnt[1] != measured[1]:
            where = f"{measured[0]}'s {measured[1]} that are in {learnt[0]}'s {learnt[1]}"
            lines.append(f"Rows of {where}: {each.rows:,}")
    return lines


# --- One task ------------------------------------------------------------------------------------


def examine(task: str, given: Settings, folder: Path) -> Found:
    """Hold one task's folder, which has a manifest, to its definition.

    Args:
        given: the data stage's slice of the configuration.
    Raises:
        UserError: a manifest that is damaged, or of another version.
    """
    made = read_manifest(folder)
    problems, definition = [], Definition.of(task, given)
    if made.definition != given:
        keys = sorted({*given, *made.definition})
        differ = [key for key in keys if given.get(key) != made.definition.get(key)]
        problems.append(
            f"Task {task}: {folder} was made from another definition ({', '.join(differ)} changed "
            "since); run Snakemake again."
        )
    found = {**made.counts, "classes": len(made.classes)}
    expected = definition.expected
    for what, count in expected.items():
        if found[what] != count:
            named = what if what == "classes" else f"{what} {definition.noun}s"
            problems.append(
                f"Task {task}: {found[what]:,} {named} instead of the expected {count:,}; check "
                "its dataset's revision, config and splits."
            )
    names, wrong_names = own_names(definition, made.classes, made.source_classes)
    shared = made.shared_between_splits
    too_many = too_many_shared(definition, made.counts, shared)
    problems += [sentence for sentence in (wrong_names, too_many) if sentence]
    stored_as = _stored_texts if definition.texts else _stored_images
    stored, wrong = stored_as(folder, made.counts)
    problems += [f"Task {task}: {each}; delete {folder} and run again." for each in wrong]
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    counts = [f"{found[key]}/{expected.get(key, '–')}" for key in [*SPLITS, "classes"]]
    counts[-1] = "scores" if definition.has_scores else counts[-1]
    repeated = sum(made.repeated_within_split.values())
    commit = ((made.source or {}).get("commit") or "local")[:7]
    numbers = [str(sum(shared.values())), str(repeated), stored, megabytes(size)]
    return Found([task, commit, *counts, names, *numbers], problems, size, tuple(made.notes))


def own_names(
    definition: Definition, classes: list[str], own: list[str] | None
) -> tuple[str, str | None]:
    """How a dataset's own class names compare with ours, and what is wrong, or None.

    Returns:
        "same" (up to case and punctuation), "differ", or "none" (also if they only count).
    """

    def wrong(meant: list[str] | str | None = None) -> str | None:
        try:
            class_names(Definition(definition.task, classes=classes, source_classes=meant), own)
        except UserError as error:
            return str(error)
        return None

    if own is None or (own != classes and own == [str(i) for i in range(len(own))]):
        return "none", None
    if not (problem := wrong()):
        return "same", None
    if (meant := definition.source_classes) is None:
        return "differ", problem
    alike = sum(bool(_words(a) & _words(b)) for a, b in zip(own, classes, strict=False))
    if meant == "any" and alike < LEAST_ALIKE * len(own):
        return "differ", (
            f"Task {definition.task}: only {alike} of its {len(own)} classes have a word in common "
            "with the dataset's own name of that label; check the order of `classes`."
        )
    return "differ", wrong(meant)


def _words(name: str) -> set[str]:
    return set(re.findall(r"[^\W_]+", name.lower()))


def _stored_images(folder: Path, counts: dict[str, int]) -> tuple[str, list[str]]:
    """The size at which evaluated images are stored, as text, and what is wrong with the arrays:
    their headers must be those that the manifest's counts ask for."""
    problems, sides, pixels = [], set(), None
    for name in ["train_sizes", *(f"{split}_{what}" for split in SPLITS for what in ARRAYS)]:
        path = folder / f"{name}.npy"
        try:
            array = np.load(path, mmap_mode="r")
        except FileNotFoundError:
            problems.append(f"{path} does not exist")
            continue
        except (ValueError, EOFError, OSError) as error:
            problems.append(f"{path} is damaged ({error})")
            continue
        split, what = name.split("_")
        count, side = counts[split], array.shape[1] if array.ndim == 4 else RESOLUTION
        shapes: dict[str, tuple[tuple[int, ...], type]] = {
            "sizes": ((count, 2), np.int32),
            "labels": ((count,), np.int64),
            "digests": ((count, DIGEST), np.uint8),
            "images": ((count, side, side, 3), np.uint8),
        }
        wanted, dtype = shapes[what]
        if name == "train_sizes":
            pixels = int(array.prod(axis=-1, dtype=np.int64).sum())
        elif name == "train_images":
            wanted = (len(array) if pixels is None else pixels, 3)
        elif what == "images":
            sides.add(side)
        if array.shape != wanted or array.dtype != dtype:
            problems.append(
                f"{path} is {array.dtype} of shape {array.shape}, not {np.dtype(dtype)} of "
                f"{wanted} as its manifest asks"
            )
    return ", ".join(f"{side}×{side}" for side in sorted(sides)) or "–", problems


def _stored_texts(folder: Path, counts: dict[str, int]) -> tuple[str, list[str]]:
    """How texts are stored, and what is wrong with their files: each has a line for each row."""
    problems = []
    for split, count in counts.items():
        path = folder / f"{split}.jsonl"
        if not path.is_file():
            problems.append(f"{path} does not exist")
            continue
        with open(path, "rb") as file:
            lines = sum(1 for _ in file)
        if lines != count:
            problems.append(f"{path} has {lines:,} lines, not {count:,} as its manifest asks")
    return "text", problems


def input_lengths(encoder: str, tasks: list[str]) -> list[str]:
    """Of each task whose tokens an encoder has: its longest input, and how many were cut."""
    found = []
    for task in tasks:
        path = Path(f"results/shared/encoders/{encoder}/heads/{task}.safetensors")
        if not path.is_file():
            continue
        with open_tensors(path) as file:
            ends = [file.get_tensor(f"{split}.ends") for split in SPLITS]
        longest = max(int(np.diff(each, prepend=0).max(initial=0)) for each in ends)
        cut = sum(read_made_by(path)["cut"].values())
        found.append(f"{task} {longest}" + f" ({cut:,} cut)" * (cut > 0))
    return found


def megabytes(size: float) -> str:
    """Bytes in units of 10⁶ or 10⁹."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
