"""A labelled dataset as its task's definition wants it: our splits, its labels, its class names.

What images (data.py) and texts (texts.py) have in common; a third kind of data starts here.
"""

import itertools
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .arrays import FORMAT, SPLITS
from .artifacts import UserError, read_json, sealed, sha256_of, sha256_of_file, write_json

VALIDATION_FRACTION, VALIDATION_MAX, SPLIT_SEED = 0.1, 5000, 0
HIDDEN = -1  # the label by which hubs mark rows whose labels are secret


class Source(NamedTuple):
    """A labelled dataset, cut into our splits.

    Attributes:
        parts: split → the dataset that it is drawn from, and its rows there, ascending.
        own: the dataset's own class names, if it has any.
        classes: the class names in label order; none if labels are scores.
        record: what hub.download recorded, if it is a hub's.
    """

    task: str
    definition: dict
    record: dict | None
    parts: dict[str, tuple[Any, np.ndarray]]
    own: list[str] | None
    classes: list[str]

    def counts(self) -> dict[str, int]:
        """Split → rows."""
        return {split: len(rows) for split, (_, rows) in self.parts.items()}


def noun(definition: dict) -> str:
    """What a row of a task is."""
    return "text" if "texts" in definition else "image"


def has_scores(definition: dict) -> bool:
    """Whether a task's labels are scores, not classes."""
    return definition.get("metric") == "spearman"


def read_source(task: str, definition: dict, download, cache: Path) -> Source:
    """Open a task's dataset and draw its splits.

    Args:
        definition: the data stage's slice, see data.write_task and texts.write_texts.
        download: of a hub's dataset: what hub.download recorded, as a file; else None.
        cache: a folder for what `datasets` prepares for itself.
    Raises:
        UserError: a missing split or column, an empty split, other class names than the
            definition's, other counts than expected.
    """
    record = None if download is None else read_json(download)
    datasets = _open(task, definition, record, cache)
    train_name = definition.get("train", "train")
    test = _split(task, datasets, definition.get("test", "test"), definition)
    train = None if train_name is None else _split(task, datasets, train_name, definition)
    held_from = test if train is None else train
    own = getattr(held_from.features[definition.get("label", "label")], "names", None)
    if not has_scores(definition):
        _check_classes(task, held_from.features, definition.get("label", "label"))
    classes = [] if has_scores(definition) else class_names(task, definition, own)
    try:
        kept, held = draw_validation(len(held_from), definition.get("validation"))
    except UserError as error:
        raise UserError(f"Task {task}: {error}") from None
    nothing = np.arange(0)
    parts = {
        "train": (test, nothing) if train is None else (train, kept),
        "validation": (held_from, held),
        "test": (test, kept) if train is None else (test, np.arange(len(test))),
    }
    source = Source(task, definition, record, parts, own, classes)
    found = {**source.counts(), "classes": len(classes)}
    for what, count in definition.get("expected", {}).items():
        if found[what] != count:
            raise UserError(
                f"Task {task}: {found[what]} {what} instead of the expected {count}; check its "
                "dataset's revision, config and splits."
            )
    return source


def write_manifest(folder: Path, source: Source, hashes: dict, overlap: dict) -> None:
    """Write manifest.json beside the files of a task: what they are and what they were made from.

    Args:
        hashes: split → hash of its rows. overlap: what `count_overlap` says of them.
    """
    files = {path.name: sha256_of_file(path) for path in sorted(folder.iterdir())}
    record, (_, held) = source.record, source.parts["validation"]
    manifest = {
        "format": FORMAT,
        "task": source.task,
        "definition": source.definition,
        "source": record and {k: record[k] for k in ("repo", "revision", "commit", "files")},
        "classes": source.classes,
        "source_classes": source.own,
        "validation_indices_sha256": sha256_of(held.tolist()),
        "counts": source.counts(),
        "sha256": hashes,
        **overlap,
        "data_sha256": sha256_of([source.classes, files]),
        "files": files,
    }
    write_json(folder / "manifest.json", sealed(manifest))


def _check_classes(task: str, features, column: str) -> None:
    """Labels are whole numbers, perhaps with names, and no words."""
    if "string" in str(getattr(features[column], "dtype", "")):
        raise UserError(
            f"Task {task}: the column {column!r} holds texts instead of classes; make classes of "
            f"them (`dataset.class_encode_column({column!r})`), or set `label` to another column."
        )


# --- Splits and columns --------------------------------------------------------------------------


def _open(task: str, definition: dict, record: dict | None, cache: Path):
    """The dataset's own splits, through `datasets`."""
    import datasets

    from .hub import EVERYTHING, located, snapshot_dir

    datasets.disable_progress_bars()
    where = definition.get("path", definition.get("hub"))
    try:
        if "path" in definition:
            folder = Path(where)
            if not folder.is_dir():
                raise UserError(f"Task {task}: there is no folder {folder}; correct its `path`.")
            if (folder / "dataset_dict.json").is_file():
                for state in sorted(folder.glob("*/state.json")):
                    if not read_json(state)["_data_files"]:
                        raise _empty(task, state.parent.name)
                return datasets.load_from_disk(str(folder))
            if noun(definition) == "text":
                raise UserError(
                    f"Task {task}: {folder} is no folder of `save_to_disk` of `datasets` (it has "
                    "no dataset_dict.json); save its splits there as a DatasetDict."
                )
            return datasets.load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(cache))
        if record is None:
            raise UserError(f"Task {task} is a hub's: give the record of its download.")
        files = located(record)
        if EVERYTHING in files:
            folder = snapshot_dir(record, files)
            return datasets.load_dataset(
                str(folder), definition.get("config"), cache_dir=str(cache)
            )
        paths = {split: [str(path) for path in found] for split, found in files.items()}
        return datasets.load_dataset("parquet", data_files=paths, cache_dir=str(cache))
    except UserError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UserError(
            f"Task {task}: {where} cannot be read as a dataset ({type(error).__name__}: {reason}); "
            "check its definition."
        ) from error


def _split(task: str, datasets, name: str, definition: dict):
    """One of the dataset's own splits, with the columns that the definition names."""
    if name not in datasets:
        folder = Path(definition.get("path", "")) / name
        if "path" in definition and folder.is_dir() and noun(definition) == "image":
            raise UserError(
                f"Task {task}: {folder} holds no image; put <class>/<image> files there."
            )
        raise UserError(
            f"Task {task}: its dataset has no split {name!r} (it has {', '.join(datasets)}); set "
            "`train` and `test` in its definition."
        )
    dataset = datasets[name]
    if len(dataset) == 0:
        raise _empty(task, name)
    wanted = {definition.get("label", "label"): "label"}
    if noun(definition) == "image":
        wanted[definition.get("image", "image")] = "image"
    wanted |= dict.fromkeys(definition.get("texts", []), "texts")
    for column, key in wanted.items():
        if column not in dataset.column_names:
            raise UserError(
                f"Task {task}: its dataset has no column {column!r} (it has "
                f"{', '.join(dataset.column_names)}); set `{key}` in its definition."
            )
    return dataset


def _empty(task: str, split: str) -> UserError:
    return UserError(f"Task {task}: its split {split!r} is empty; choose another split.")


def draw_validation(count: int, size: int | None = None, seed: int = SPLIT_SEED):
    """The indices that stay in train and those held out, each in ascending order.

    The held-out ones are the last `size` of a seeded permutation without stratification;
    size = min(10 % of count, 5,000) unless given (paper, appendix A: "a small held-out
    proportion of the training set").
    """
    if size is None:
        size = min(int(VALIDATION_FRACTION * count), VALIDATION_MAX)
    if not 0 < size < count:
        raise UserError(
            f"cannot hold out {size} of {count} rows for validation; set `validation` in the "
            "definition to a number between them."
        )
    order = np.random.Generator(np.random.PCG64(seed)).permutation(count)
    return np.sort(order[:-size]), np.sort(order[-size:])


# --- Labels and classes --------------------------------------------------------------------------


def labels_of(source: Source, split: str) -> np.ndarray:
    """A split's labels: int64 (N,) below the number of classes, or float32 (N,) if they are scores.

    Raises:
        UserError: a row without a label, or whose label is hidden, no number, or outside.
    """
    task, definition, classes = source.task, source.definition, len(source.classes)
    dataset, rows = source.parts[split]
    scores, what = has_scores(definition), f"{split} {noun(definition)}s"
    column = definition.get("label", "label")
    every = dataset[column][:]
    chosen = [every[row] for row in rows]
    hidden = [label is None or label == HIDDEN for label in chosen]
    if any(hidden) and (not scores or all(hidden) or None in chosen):
        role = "test" if split == "test" or definition.get("train", "train") is None else "train"
        row = rows[hidden.index(True)]
        raise UserError(
            f"Task {task}: row {row} of the {what} has label {every[row]}: its labels are hidden; "
            f"set `{role}` in its definition to a split that shows them."
        )
    try:
        numbers = np.asarray(chosen)
        if numbers.dtype.kind not in "biuf":
            raise ValueError(f"the first is {chosen[0]!r}")
        labels = numbers.astype(np.float32 if scores else np.int64)
        if not scores and (labels != numbers).any():
            raise ValueError("some are fractions")
    except (TypeError, ValueError) as error:
        raise UserError(
            f"Task {task}: the column {column!r} of its {what} is not a label of "
            f"{'' if scores else 'whole '}numbers ({error}); mend the dataset, or set `label` to "
            "another column."
        ) from None
    wrong = np.flatnonzero(~np.isfinite(labels) if scores else (labels < 0) | (labels >= classes))
    if len(wrong):
        says = "which is no finite score" if scores else f"outside its {classes} classes"
        mend = "the dataset" if scores else "the dataset or `classes`"
        raise UserError(
            f"Task {task}: row {rows[wrong[0]]} of the {what} has label {labels[wrong[0]]}, "
            f"{says}; mend {mend}."
        )
    return labels


def class_names(task: str, definition: dict, own: list[str] | None) -> list[str]:
    """The class names in label order: the definition's `classes`, else the dataset's own.

    The dataset's own names must be those that `classes` stands for, in the same order, up to
    case, punctuation and a leading one-letter folder: a wrong order would give wrong numbers
    without an error. Names that only count (0, 1, 2 …) say nothing, and are not compared.
    """
    classes = definition.get("classes") or own
    if classes == "open_clip":
        from open_clip import IMAGENET_CLASSNAMES

        classes = list(IMAGENET_CLASSNAMES)
    if not classes:
        raise UserError(
            f"Task {task}: its labels have no names; list them as `classes` in its definition."
        )
    classes = [str(name) for name in classes]
    if own and len(own) != len(classes):
        raise UserError(
            f"Task {task}: its definition lists {len(classes)} classes, its dataset has "
            f"{len(own)}; correct `classes`."
        )
    meant = definition.get("source_classes", classes)
    if (
        not own
        or meant == "any"
        or [_plain(name) for name in own] == list(map(str, range(len(own))))
    ):
        return classes
    if len(meant) != len(own):
        raise UserError(
            f"Task {task}: its definition lists {len(meant)} source_classes, its dataset has "
            f"{len(own)}; correct `source_classes`."
        )
    for i, (theirs, ours) in enumerate(zip(own, meant, strict=True)):
        if _plain(theirs) != _plain(ours):
            raise UserError(
                f"Task {task}: label {i} is {theirs!r} in its dataset and {ours!r} in its "
                "definition; put `classes` in the dataset's order, or list the dataset's own "
                "names as `source_classes` if they mean the same."
            )
    return classes


def _plain(name: str) -> str:
    """A class name without case, punctuation and a leading folder: a/art_gallery → art gallery."""
    name = re.sub(r"^/?[a-z]/", "", str(name).lower())
    return " ".join(re.findall(r"[^\W_]+", name))


# --- Rows in two splits --------------------------------------------------------------------------


def count_overlap(rows: dict[str, Sequence[Hashable]]) -> dict[str, dict[str, int]]:
    """Of split → rows, or digests of them: how many different ones stand in two splits, and how
    many stand in one of them again."""
    different = {split: set(found) for split, found in rows.items()}
    return {
        "repeated_within_split": {k: len(found) - len(different[k]) for k, found in rows.items()},
        "shared_between_splits": {
            f"{a}-{b}": len(different[a] & different[b])
            for a, b in itertools.combinations(SPLITS, 2)
        },
    }


def too_many_shared(task: str, definition: dict, counts: dict, shared: dict) -> str | None:
    """A sentence if more rows stand in two splits than the definition's `shared_images` or
    `shared_texts` allows, a share of the smaller split (default 0).

    Args:
        counts: split → rows; shared: "train-test" and the other pairs → rows in both.
    """
    kind = noun(definition)
    for pair, count in shared.items():
        a, b = pair.split("-")
        if count > definition.get(f"shared_{kind}s", 0) * min(counts[a], counts[b]):
            return (
                f"Task {task}: {a} and {b} have {count:,} {kind}{'s' * (count > 1)} in common; "
                f"remove them from one of the two, or set `shared_{kind}s` in its definition to "
                "the share that may be."
            )
    return None
