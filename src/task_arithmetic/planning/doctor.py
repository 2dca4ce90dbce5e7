"""What is on disk for the tasks of a configuration, held to what is expected: counts, class names,
rows in two splits, files that belong to their manifest.

Only manifests and the headers of arrays are read, and lines of texts counted; no image is hashed
again.
"""

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..config.experiment import control_of
from ..config.reading import ROOT, read_config
from ..config.settings import data_settings
from ..errors import UserError
from ..files.checks import too_many_shared
from ..files.definition import Definition
from ..files.labels import class_names
from ..files.manifest import FORMAT, SPLITS
from ..files.paths import read_json
from ..files.tensors import open_tensors, read_made_by
from ..vision.images import DIGEST, RESOLUTION

DATA_DIR = Path("results/shared/data")  # a folder for each task
COLUMNS = [
    *("task", "commit", *SPLITS, "classes", "own names"),
    *("shared", "repeated", "stored", "disk"),
]
ARRAYS = ("images", "labels", "digests")  # of each split
LEFT = 2  # columns of text; the others are aligned to the right
LEAST_ALIKE = 0.5  # share of labels whose two names have a word in common, if not compared


def doctor(*paths: str | Path, basedir: str | Path = ROOT) -> None:
    """Print one table of the configuration's tasks and its control task, and what is wrong below.

    Args:
        paths: configuration files, each over the one before and the first over config.yaml.
        basedir: the folder that holds config.yaml, config/ and workflow/.
    Raises:
        UserError: there is a problem, or the configuration is wrong.
    """
    config = read_config(*paths, basedir=basedir)
    rows, problems, sizes, missing, notes = [COLUMNS], [], [], [], []
    parts = config["parts"]
    control = [control_of(config)] if control_of(config) else []
    tasks = {modality: part["tasks"] for modality, part in parts.items()}
    for task in [*tasks.get("vision", []), *control, *tasks.get("language", [])]:
        try:
            found = examine(task, json.loads(data_settings(config, task)), DATA_DIR / task)
        except UserError as error:  # no manifest, or one that cannot be read
            rows.append([task, "not readable"])
            problems.append(str(error))
            continue
        if found is None:
            rows.append([task, "not made"])
            problem = last_failure(task)
            if problem:
                problems.append(problem)
            else:
                missing.append(task)
        else:
            rows.append(found[0])
            problems += found[1]
            sizes.append(found[2])
            said = read_json(DATA_DIR / task / "manifest.json").get("notes", [])
            notes += [f"Task {task}: {note}." for note in said]
    print(aligned(rows))
    print("Counts: found/expected. Disk in all:", megabytes(sum(sizes)))
    for encoder in parts.get("language", {}).get("encoders", []):
        try:
            lengths = input_lengths(encoder, tasks["language"])
        except UserError as error:
            problems.append(str(error))
            continue
        if lengths:
            print(f"Longest input of {encoder}, in tokens: {', '.join(lengths)}")
    if missing:
        given = " ".join(["--configfile", *map(str, paths)]) + " " if paths else ""
        targets = " ".join(str(DATA_DIR / task / "manifest.json") for task in missing)
        print(f"Not made yet: {', '.join(missing)}. To make them:")
        print(f"  snakemake --cores all {given}-- {targets}")
    every = [*tasks.get("vision", []), *control, *tasks.get("language", [])]
    for line in [*shared_between_tasks(every), *notes]:
        print(line)
    for problem in problems:
        print(f"- {problem}")
    if problems:
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UserError(f"The data have {count}, named above: mend that and run again.")


def shared_between_tasks(tasks: list[str]) -> list[str]:
    """Of each two tasks, how many different rows stand in test of one and in train or validation of
    the other, or in validation of one and train of the other: what one task has learnt, or α was
    chosen on, is then measured under another one's name. Texts count with their labels."""
    found: dict[tuple[str, str], set] = {}
    for task, split in itertools.product(tasks, SPLITS):
        images, texts = (DATA_DIR / task / f"{split}{end}" for end in ("_digests.npy", ".jsonl"))
        if images.is_file():
            found[task, split] = set(map(bytes, np.load(images)))
        elif texts.is_file():
            found[task, split] = set(texts.read_bytes().split(b"\n")) - {b""}
    lines = []
    for one, other in itertools.permutations(tasks, 2):
        for split, learnt in (("test", "train"), ("test", "validation"), ("validation", "train")):
            if both := found.get((one, split), set()) & found.get((other, learnt), set()):
                lines.append(
                    f"Rows of {one}'s {split} that are in {other}'s {learnt}: {len(both):,}"
                )
    return lines


def last_failure(task: str) -> str | None:
    """The sentence in which the data stage of a task ended, if it failed."""
    log = Path(f"results/shared/logs/data/{task}.log")
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    start = "task-arithmetic data: "
    return lines[-1].removeprefix(start) if lines and lines[-1].startswith(start) else None


def examine(
    task: str, definition: dict, folder: str | Path
) -> tuple[list[str], list[str], int] | None:
    """Hold one task's folder to its definition.

    Args:
        definition: the data stage's slice of the configuration.
    Returns:
        its row of the table (texts as COLUMNS), its problems, its size in bytes; None if the folder
        has no manifest.
    Raises:
        UserError: a manifest that cannot be read, or of another format.
    """
    folder = Path(folder)
    if not (folder / "manifest.json").is_file():
        return None
    manifest = read_json(folder / "manifest.json")
    if manifest.get("format") != FORMAT:
        raise UserError(
            f"Task {task}: {folder} was made by another version (format "
            f"{manifest.get('format', 1)}, not {FORMAT}); delete it and run again."
        )
    problems, typed = [], Definition.of(task, definition)
    if manifest["definition"] != definition:
        differ = [k for k in definition | manifest["definition"]
                  if definition.get(k) != manifest["definition"].get(k)]  # fmt: skip
        problems.append(
            f"Task {task}: {folder} was made from another definition ({', '.join(sorted(differ))} "
            "changed since); run Snakemake again."
        )
    found = {**manifest["counts"], "classes": len(manifest["classes"])}
    expected = definition.get("expected", {})
    for what, count in expected.items():
        if found[what] != count:
            named = what if what == "classes" else f"{what} {typed.noun}s"
            problems.append(
                f"Task {task}: {found[what]:,} {named} instead of the expected {count:,}; check "
                "its dataset's revision, config and splits."
            )
    names, wrong_names = own_names(
        task, definition, manifest["classes"], manifest["source_classes"]
    )
    problems += [wrong_names] if wrong_names is not None else []
    shared = manifest["shared_between_splits"]
    sentence = too_many_shared(typed, manifest["counts"], shared)
    problems += [sentence] if sentence else []
    stored_as = stored_texts if typed.texts else stored_size
    stored, wrong = stored_as(task, folder, manifest["counts"])
    problems += wrong
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    commit = (manifest.get("source") or {}).get("commit")
    counts = [f"{found[key]}/{expected.get(key, '–')}" for key in [*SPLITS, "classes"]]
    counts[-1] = "scores" if typed.has_scores else counts[-1]
    repeated = sum(manifest["repeated_within_split"].values())
    row: list[str] = [
        task,
        commit[:7] if commit else "local",
        *counts,
        names,
        str(sum(shared.values())),
        str(repeated),
    ]
    return [*row, stored, megabytes(size)], problems, size


def own_names(
    task: str, definition: dict, classes: list[str], own: list[str] | None
) -> tuple[str, str | None]:
    """How a dataset's own class names compare with ours, and what is wrong, or None.

    Returns:
        "same" (up to case and punctuation), "differ", or "none" (also if they only count).
    """
    if own is None or (own != classes and own == [str(i) for i in range(len(own))]):
        return "none", None
    given = Definition(task, classes=classes)
    try:
        class_names(given, own)
        return "same", None
    except UserError as error:
        problem = str(error)
    meant = definition.get("source_classes")
    if meant is None:
        return "differ", problem
    try:
        class_names(replace(given, source_classes=meant), own)
    except UserError as error:
        return "differ", str(error)
    alike = sum(bool(_words(a) & _words(b)) for a, b in zip(own, classes, strict=True))
    if meant == "any" and alike < LEAST_ALIKE * len(own):
        return "differ", (
            f"Task {task}: only {alike} of its {len(own)} classes have a word in common with the "
            "dataset's own name of that label; check the order of `classes`."
        )
    return "differ", None


def _words(name: object) -> set[str]:
    return set(re.findall(r"[^\W_]+", str(name).lower()))


def stored_size(task: str, folder: Path, counts: dict) -> tuple[str, list[str]]:
    """The size at which evaluated images are stored, as text, and what is wrong with the arrays:
    their headers must be those that the manifest's counts ask for."""
    problems, sides, pixels = [], set(), None
    for name in ["train_sizes", *(f"{split}_{what}" for split in SPLITS for what in ARRAYS)]:
        path = folder / f"{name}.npy"
        try:
            array = np.load(path, mmap_mode="r")
        except FileNotFoundError:
            problems.append(f"Task {task}: {path} does not exist; delete {folder} and run again.")
            continue
        except (ValueError, EOFError, OSError) as error:
            problems.append(
                f"Task {task}: {path} is damaged ({error}); delete {folder} and run again."
            )
            continue
        split = name.split("_")[0]
        wanted, dtype = (counts[split],), np.int64  # of labels
        if name.endswith("digests"):
            wanted, dtype = (counts[split], DIGEST), np.uint8
        if name == "train_sizes":
            wanted, dtype = (counts[split], 2), np.int32
            pixels = int(array.prod(axis=-1, dtype=np.int64).sum())
        elif name == "train_images":
            wanted, dtype = (len(array) if pixels is None else pixels, 3), np.uint8
        elif name.endswith("images"):
            side = array.shape[1] if array.ndim == 4 else RESOLUTION
            wanted, dtype = (counts[split], side, side, 3), np.uint8
            sides.add(side)
        if array.shape != wanted or array.dtype != dtype:
            problems.append(
                f"Task {task}: {path} is {array.dtype} of shape {array.shape}, not "
                f"{np.dtype(dtype)} of {wanted} as its manifest asks; delete {folder} and run "
                "again."
            )
    return ", ".join(f"{side}×{side}" for side in sorted(sides)) or "–", problems


def stored_texts(task: str, folder: Path, counts: dict) -> tuple[str, list[str]]:
    """How texts are stored, and what is wrong with their files: each has a line for each row."""
    problems = []
    for split, count in counts.items():
        path = folder / f"{split}.jsonl"
        if not path.is_file():
            problems.append(f"Task {task}: {path} does not exist; delete {folder} and run again.")
            continue
        with open(path, "rb") as file:
            lines = sum(1 for _ in file)
        if lines != count:
            problems.append(
                f"Task {task}: {path} has {lines:,} lines, not {count:,} as its manifest asks; "
                f"delete {folder} and run again."
            )
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


def aligned(rows: list[list[str]]) -> str:
    """Rows of text in columns; a short row stands for a task without numbers."""
    full = [row + ["–"] * (len(COLUMNS) - len(row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if i < LEFT else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in full
    )
