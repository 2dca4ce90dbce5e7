"""What is on disk for the tasks of a configuration, held to what is expected: counts, class names,
rows in two splits, files that belong to their manifest.

Only manifests and the headers of arrays are read, and lines of texts counted; no image is hashed
again.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..answer import answer
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
NOT_MADE = "not made"
ARRAYS = ("images", "labels", "digests")  # of each split
LEAST_ALIKE = 0.5  # share of labels whose two names have a word in common, if not compared


class Found(NamedTuple):
    """What is on disk for a task.

    Attributes:
        state: a commit of the hub, local, not made, or not readable. problems: what is wrong.
        counts, expected: of rows in each split, and of classes (none: labels are scores).
        own_names: how the data's own class names compare: same, differ or none.
        shared, repeated: rows in two splits, and twice in one. stored: at what size.
    """

    task: str
    state: str
    problems: list[str]
    counts: dict[str, int] = {}
    expected: Mapping[str, int] = {}
    own_names: str = "–"
    shared: int | None = None
    repeated: int | None = None
    stored: str = "–"
    bytes: int = 0
    notes: tuple[str, ...] = ()

    def cells(self) -> list[str]:
        """Its row of the table, as COLUMNS."""
        if not self.counts:
            return [self.task, self.state, *["–"] * (len(COLUMNS) - 2)]
        keys = [*SPLITS, "classes"]
        counts = [f"{self.counts.get(key)}/{self.expected.get(key, '–')}" for key in keys]
        counts[-1] = counts[-1] if "classes" in self.counts else "scores"
        numbers = [str(self.shared), str(self.repeated), self.stored, megabytes(self.bytes)]
        return [self.task, self.state, *counts, self.own_names, *numbers]


class Examined(NamedTuple):
    """What is on disk for a configuration's tasks.

    Attributes:
        lengths: of an encoder of texts, sentences on its tasks' longest inputs. make: the command
            that makes the data of the tasks that are `missing`. shared: sentences on rows that two
            tasks share. problems: all that is wrong.
    """

    tasks: list[Found]
    lengths: dict[str, list[str]]
    missing: list[str]
    make: str
    shared: list[str]
    problems: list[str]


def doctor(*paths: PathLike, basedir: PathLike = ROOT, as_json: bool = False) -> None:
    """Print one table of the configuration's tasks and its control task, and what is wrong below.

    Args:
        paths: configuration files, each over the one before and the first over config.yaml.
        basedir: the folder that holds config.yaml, config/ and workflow/.
    Raises:
        UserError: there is a problem, or the configuration is wrong.
    """
    experiment = read_config(*paths, basedir=basedir)
    tasks = list(experiment.definitions.tasks)
    found = [_found(experiment, task) for task in tasks]
    problems = [problem for each in found for problem in each.problems]
    texts, lengths = experiment.part("language"), dict[str, list[str]]()
    for encoder in texts.encoders:
        try:
            lengths[encoder] = input_lengths(encoder, texts.tasks)
        except UserError as error:
            problems.append(str(error))
    missing = [each.task for each in found if each.state == NOT_MADE and not each.problems]
    make, shared = to_make(missing, paths), shared_between_tasks(tasks)
    examined = Examined(found, lengths, missing, make, shared, problems)
    answer(examined, _lines(examined), as_json)
    if problems:
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UserError(f"The data have {count}, named above: mend that and run again.")


def _lines(examined: Examined) -> Iterator[str]:
    found = examined.tasks
    yield from aligned([COLUMNS, *(each.cells() for each in found)], left=2)
    yield f"Counts: found/expected. Disk in all: {megabytes(sum(each.bytes for each in found))}"
    for encoder, lengths in examined.lengths.items():
        if lengths:
            yield f"Longest input of {encoder}, in tokens: {', '.join(lengths)}"
    if examined.missing:
        yield f"Not made yet: {', '.join(examined.missing)}. To make them:"
        yield f"  {examined.make}"
    yield from examined.shared
    yield from (f"Task {each.task}: {note}." for each in found for note in each.notes)
    yield from (f"- {problem}" for problem in examined.problems)


def _found(experiment: Experiment, task: str) -> Found:
    if not (DATA_DIR / task / "manifest.json").is_file():
        return Found(task, NOT_MADE, last_failure(task))
    try:
        definition = json.loads(data_settings(experiment.definitions.tasks[task]))
        return examine(task, definition, DATA_DIR / task)
    except UserError as error:  # a manifest that cannot be read
        return Found(task, "not readable", [str(error)])


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
    if definition.has_scores:
        del found["classes"]
    repeated = sum(made.repeated_within_split.values())
    commit = ((made.source or {}).get("commit") or "local")[:7]
    rows = sum(shared.values()), repeated
    return Found(
        task, commit, problems, found, expected, names, *rows, stored, size, tuple(made.notes)
    )


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
