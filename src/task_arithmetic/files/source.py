"""A labelled dataset as its task's definition wants it: our splits, its labels, its class names.

What images (data.py) and texts (texts.py) have in common; a third kind of data starts here.
"""

import glob
import itertools
import sys
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import UserError, root_cause
from .hashes import sealed, sha256_of, sha256_of_file
from .labels import (
    class_names,
    differ,
    has_scores,
    is_word,
    label_column,
    labels_of,
    noun,
    own_names,
    strata_of,
)
from .local import (
    WHOLE,
    Classes,
    Table,
    find,
    first,
    holds_folders,
    listing,
    read_list,
    wanted_splits,
)
from .manifest import FORMAT, SPLITS
from .paths import read_json, write_json

VALIDATION_FRACTION, VALIDATION_MAX, SPLIT_SEED, TEST_SEED = 0.1, 5000, 0, 1
OTHER_NAMES = {"val", "valid", "validation", "dev"}  # of folders that look like a validation split


class Source(NamedTuple):
    """A labelled dataset, cut into our splits.

    Attributes:
        parts: split → the dataset that it is drawn from, and its rows there, ascending.
        labels: split → int64 (N,) below the number of classes, or float32 (N,) scores.
        own: the dataset's own class names, if it has any.
        classes: the class names in label order; none if labels are scores.
        in_words: whether the labels are words, whose order nobody has given.
        record: what hub.download recorded, if it is a hub's.
        notes: sentences on what a person should know of the data.
    """

    task: str
    definition: dict
    record: dict | None
    parts: dict[str, tuple[Any, np.ndarray]]
    labels: dict[str, np.ndarray]
    own: list[str] | None
    classes: list[str]
    in_words: bool
    notes: list[str]

    def counts(self) -> dict[str, int]:
        """Split → rows."""
        return {split: len(rows) for split, (_, rows) in self.parts.items()}


def read_source(task: str, definition: dict, download, cache: Path) -> Source:
    """Open a task's dataset and draw its splits.

    Args:
        definition: the data stage's slice, see data.write_task and texts.write_texts.
        download: of a hub's dataset: what hub.download recorded, as a file; else None.
        cache: a folder for what `datasets` prepares for itself.
    Raises:
        UserError: a missing split or column, an empty split, class names that differ between splits
            or from the definition's, a bad label, a class that is only trained on or only tested.
    """
    check_unchanged(task, definition)
    record = None if download is None else read_json(download)
    parts, notes = _roles(task, definition, record, cache)
    scores, classes = has_scores(definition), []
    found = {
        role: label_column(dataset, definition)[rows] for role, (dataset, rows) in parts.items()
    }
    own = None if scores else own_names(task, definition, parts, found, notes)
    if not scores:
        classes = class_names(task, definition, own)
    labels = {
        role: labels_of(task, definition, role, rows, found[role], own, len(classes))
        for role, (_, rows) in parts.items()
    }
    if "validation" not in parts:
        held_from = "train" if "train" in parts else "test"
        strata = None if scores or not definition.get("stratified", True) else labels[held_from]
        dataset, rows = parts[held_from]
        try:
            kept, held = hold_out(len(rows), definition.get("validation"), strata)
        except UserError as error:
            raise UserError(f"Task {task}: {error}") from None
        parts["validation"], labels["validation"] = (dataset, rows[held]), labels[held_from][held]
        parts[held_from], labels[held_from] = (dataset, rows[kept]), labels[held_from][kept]
    nothing = np.arange(0)
    parts.setdefault("train", (parts["test"][0], nothing))
    labels.setdefault("train", labels["test"][nothing])
    parts, labels = ({split: of[split] for split in SPLITS} for of in (parts, labels))
    named = {"classes", "source_classes"} & set(definition)
    in_words = bool(own) and not named and any(is_word(v) for v in found["test"])
    return Source(task, definition, record, parts, labels, own, classes, in_words, notes)


def check_counts(source: Source, labels: dict[str, np.ndarray]) -> list[str]:
    """Hold what is kept of each split to the definition's `expected`, and every class to having
    rows; returns sentences on classes that lack some.

    Raises:
        UserError: other counts; a class of which some are trained on and none tested, or some
            tested and none trained on, which no mean over the test rows would show.
    """
    task, definition, classes = source.task, source.definition, source.classes
    found = {split: len(each) for split, each in labels.items()} | {"classes": len(classes)}
    for what, count in definition.get("expected", {}).items():
        if found[what] != count:
            raise UserError(
                f"Task {task}: {found[what]} {what} instead of the expected {count}; check its "
                "dataset's revision, config and splits."
            )
    if not classes:
        return []
    has = {split: np.bincount(each, minlength=len(classes)) > 0 for split, each in labels.items()}
    learnt, kind = has["train"], noun(definition)
    one_sided = learnt != has["test"] if learnt.any() else np.zeros_like(learnt)
    if one_sided.any() and definition.get("missing_classes", "error") == "error":
        lacks = [
            f"{classes[i]!r} (no {'test' if learnt[i] else 'train'} {kind})"
            for i in np.flatnonzero(one_sided)
        ]
        raise UserError(
            f"Task {task}: a mean over its test {kind}s would hide the "
            f"{'class' if len(lacks) == 1 else 'classes'} {first(lacks)}; complete the dataset, or "
            "set `missing_classes: allow` in its definition."
        )
    notes = []
    for split in SPLITS:
        empty = [classes[i] for i in np.flatnonzero(~has[split])] if has[split].any() else []
        if empty:
            count = "one class has" if len(empty) == 1 else f"{len(empty)} classes have"
            notes.append(f"{count} no {split} {kind}: {first(list(map(repr, empty)))}")
    return notes


def write_manifest(
    folder: Path, source: Source, hashes: dict, counts: dict, overlap: dict, notes: list[str]
) -> None:
    """Write manifest.json beside the files of a task: what they are and what they were made from.

    Args:
        hashes: split → hash of its rows. counts: split → rows that are kept. overlap: what
            `count_overlap` says of them. notes: sentences on what a person should know of them.
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
        "in_words": source.in_words,
        "validation_indices_sha256": sha256_of(held.tolist()),
        "counts": counts,
        "sha256": hashes,
        "notes": notes,
        **overlap,
        "data_sha256": sha256_of([source.classes, files]),
        "files": files,
    }
    write_json(folder / "manifest.json", sealed(manifest))


def check_unchanged(task: str, definition: dict) -> None:
    """The files at a definition's `path` are those that the run was planned with."""
    if "files" in definition and definition["files"] != listing(definition):
        raise UserError(
            f"Task {task}: {definition['path']} changed since this run was planned: run the same "
            "snakemake command again, which takes it as it is now."
        )


def say_notes(task: str, notes: list[str]) -> None:
    """Print what a person should know of a task's data into the job's log."""
    for note in notes:
        print(f"Task {task}: {note}.", file=sys.stderr)


# --- Splits and columns --------------------------------------------------------------------------


def _roles(task: str, definition: dict, record, cache: Path) -> tuple[dict, list[str]]:
    """train, validation and test as far as the source has them: of each its dataset and rows; and
    notes."""
    splits, notes = _open(task, definition, record, cache)
    roles = {"train": "train", "test": "test"} | definition
    names = {role: roles.get(role) for role in SPLITS}
    names = {role: name for role, name in names.items() if isinstance(name, str)}
    if WHOLE in splits and "split" in definition:
        return _named_rows(task, definition, splits[WHOLE], names, notes), notes
    if WHOLE in splits:
        names = {role: WHOLE for role in ["train" if "train" in names else "test"]}
    for name in names.values():
        if name not in splits:
            raise UserError(
                f"Task {task}: its dataset has no split {name!r} (it has {', '.join(splits)}); set "
                "`train` and `test` in its definition."
            )
        if len(splits[name]) == 0:
            raise _empty(task, name)
        _check_columns(task, splits[name], definition)
    found = {role: (splits[name], np.arange(len(splits[name]))) for role, name in names.items()}
    if "test" not in found:  # to be drawn
        dataset, _ = found["train"]
        size = round(definition["test"] * len(dataset))
        stratify = not has_scores(definition) and definition.get("stratified", True)
        strata = strata_of(label_column(dataset, definition)) if stratify else None
        try:
            train, test = hold_out(len(dataset), size, strata, TEST_SEED)
        except UserError as error:
            raise UserError(f"Task {task}: {error} (`test` asks for {size}.)") from None
        found |= {"train": (dataset, train), "test": (dataset, test)}
    return found, notes


def _named_rows(task: str, definition: dict, dataset, names: dict[str, str], notes) -> dict:
    """train, validation and test of rows that a column puts into splits; others are noted."""
    _check_columns(task, dataset, definition)
    values = np.asarray([str(value) for value in dataset[definition["split"]][:]])
    rows = {role: np.flatnonzero(values == name) for role, name in names.items()}
    for role, found in rows.items():
        if not len(found):
            raise UserError(
                f"Task {task}: no row has {names[role]!r} in its column {definition['split']!r} "
                f"(it has {first(sorted(set(values)), 5)}); set `train` and `test` in its "
                "definition."
            )
    others = {str(value) for value in values} - set(names.values())
    unused = [f"{value} ({(values == value).sum():,} rows)" for value in sorted(others)]
    looks = [value for value in sorted(others) if value.lower() in OTHER_NAMES]
    hint = f"; set `validation: {looks[0]}` to validate on it" if looks else ""
    if unused:
        column = definition["split"]
        notes.append(f"rows of other splits in {column!r} are not read: {first(unused)}{hint}")
    return {role: (dataset, found) for role, found in rows.items()}


def _open(task: str, definition: dict, record: dict | None, cache: Path):
    """The splits that a definition names, as `datasets` has them; and notes on what is not read."""
    import datasets

    from .hub import EVERYTHING, located, snapshot_dir

    datasets.disable_progress_bars()
    where, notes = definition.get("path", definition.get("hub")), []
    try:
        if record is not None:
            files = located(record)
            if EVERYTHING in files:
                folder = str(snapshot_dir(record, files))
                if all(holds_folders(Path(folder, name)) for name in wanted_splits(definition)):
                    return _open(task, {**definition, "path": folder}, None, cache)
                opened = datasets.load_dataset(
                    folder, definition.get("config"), cache_dir=str(cache)
                )
                return opened, notes
            found = {name: Table("parquet", list(map(str, paths))) for name, paths in files.items()}
        elif "path" in definition:
            local = find(task, definition)
            found, unused = local.splits, local.unused
            notes += [_unused(definition, unused)] * bool(unused)
        else:
            raise UserError(f"Task {task} is a hub's: give the record of its download.")
        return {name: _opened(task, definition, of, cache) for name, of in found.items()}, notes
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"Task {task}: {where} cannot be read as a dataset ({root_cause(error)}); check its "
            "definition."
        ) from error


def _unused(definition: dict, unused: list[str]) -> str:
    """A note on files and folders that are not read."""
    looks = [name for name in unused if name.rstrip("/").lower() in OTHER_NAMES]
    hint = f"; set `validation: {looks[0].rstrip('/')}` to validate on it" if looks else ""
    many = "is" if len(unused) == 1 else f"{len(unused)} files and folders are"
    return f"of {definition['path']} {many} not read: {first(unused)}{hint}"


def _opened(task: str, definition: dict, found: Table | Classes, cache: Path):
    """Rows as `datasets` has them."""
    import datasets

    image, label = definition.get("image", "image"), definition.get("label", "label")
    if isinstance(found, Classes):
        features = {image: datasets.Image(), label: datasets.ClassLabel(names=found.names)}
        rows = {image: found.paths, label: found.labels}
        return datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    if found.kind == "saved":
        state = Path(found.files[0]) / "state.json"
        if state.is_file() and not read_json(state)["_data_files"]:
            raise _empty(task, state.parent.name)
        return datasets.load_from_disk(found.files[0])
    if found.kind == "list":
        columns: dict[str, list[Any]]
        columns, folder = read_list(found.files[0], label), Path(found.files[0]).parent
        if noun(definition) == "image" and image in columns:
            columns[image] = [
                {"path": value and str(folder / str(value)), "bytes": None}
                for value in columns[image]
            ]
            return datasets.Dataset.from_dict(columns).cast_column(image, datasets.Image())
        return datasets.Dataset.from_dict(columns)
    names = {str(file): _parquet_names(file, label) for file in found.files}
    first_file = found.files[0]
    for file in found.files:
        if difference := differ(names[first_file], names[file]):
            raise UserError(f"Task {task}: {file} names its classes otherwise than {first_file}: "
                            f"{difference}; write them with the same list of names.")  # fmt: skip
    paths = [glob.escape(str(Path(file).resolve())) for file in found.files]
    return datasets.load_dataset("parquet", data_files=paths, split="train", cache_dir=str(cache))


def _parquet_names(file: str, column: str) -> list[str] | None:
    """The class names of a column that a parquet file itself gives, if any."""
    import datasets
    import pyarrow.parquet

    features = datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(file))
    return getattr(features.get(column), "names", None)


def _check_columns(task: str, dataset, definition: dict) -> None:
    """A split has the columns that the definition names, and images where it says so."""
    wanted = {definition.get("label", "label"): "label"}
    if noun(definition) == "image":
        wanted[definition.get("image", "image")] = "image"
    wanted |= dict.fromkeys(definition.get("texts", []), "texts")
    wanted |= {definition["split"]: "split"} if "split" in definition else {}
    for column, key in wanted.items():
        if column not in dataset.column_names:
            raise UserError(
                f"Task {task}: its dataset has no column {column!r} (it has "
                f"{', '.join(dataset.column_names)}); set `{key}` in its definition."
            )
        if key == "image" and not holds_images(dataset.features[column]):
            others = [name for name, kind in dataset.features.items() if holds_images(kind)]
            also = f" (images may be in {', '.join(others)})" * bool(others)
            raise UserError(
                f"Task {task}: the column {column!r} of its dataset holds "
                f"{_kind(dataset.features[column])} instead of images; set `image` to the column "
                f"of images{also}, or give a list (CSV, JSON lines) if these are paths."
            )


def holds_images(feature) -> bool:
    """Whether a column's type is one from which images are read: an image, the bytes of its file,
    or a dictionary with these. A path is none, outside of a list: nothing would tell that its file
    has changed."""
    import datasets

    if isinstance(feature, dict):
        return {"bytes", "path"} >= set(feature) and "bytes" in feature
    kinds = "binary", "large_binary"
    return isinstance(feature, datasets.Image) or getattr(feature, "dtype", "") in kinds


def _kind(feature) -> str:
    """A column's type in a word or two."""
    return str(getattr(feature, "dtype", None) or type(feature).__name__)


def _empty(task: str, split: str) -> UserError:
    return UserError(f"Task {task}: its split {split!r} is empty; choose another split.")


def hold_out(count: int, size: int | None = None, strata=None, seed: int = SPLIT_SEED):
    """The indices that stay and those that are held out, each in ascending order.

    Held out are the last ones of a seeded permutation: `size` in all or, of each class, its share
    of `size` as near as it can be without all of a class being held out.

    Args:
        size: min(10 % of count, 5,000) if None (paper, appendix A: "a small held-out proportion of
            the training set").
        strata: int (count,), each row's class; None: without regard to classes.
    """
    if size is None:
        size = min(int(VALIDATION_FRACTION * count), VALIDATION_MAX)
    if not 0 < size < count:
        raise UserError(
            f"cannot hold out {size} of {count} rows for validation; set `validation` in the "
            f"definition to a number from 1 to {count - 1}."
        )
    order = np.random.Generator(np.random.PCG64(seed)).permutation(count)
    if strata is None:
        return np.sort(order[:-size]), np.sort(order[-size:])
    strata = np.asarray(strata)
    of = np.bincount(strata)
    share, first_rows = of * size / count, np.full(len(of), count)
    np.minimum.at(first_rows, strata[order], np.arange(count))
    quota = np.minimum(np.floor(share).astype(int), np.maximum(of - 1, 0))
    for most in (np.maximum(of - 1, 0), of):  # all of a class only if there is no other way
        while (lacks := size - quota.sum()) > 0 and (quota < most).any():
            free = np.flatnonzero(quota < most)
            quota[free[np.lexsort((first_rows[free], (quota - share)[free]))][:lacks]] += 1
    by_class = order[np.argsort(strata[order], kind="stable")]
    ends = np.cumsum(of)
    held = np.concatenate([by_class[end - n : end] for end, n in zip(ends, quota, strict=True)])
    return np.setdiff1d(np.arange(count), held), np.sort(held)


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


def contradictions(rows: dict, labels: dict, kind: str) -> list[str]:
    """A note if some rows stand in the data with different labels: one of them is wrong.

    Args:
        rows: split → rows, or digests of them; labels: split → as many labels.
    """
    found: dict[Hashable, set] = {}
    for split, each in rows.items():
        for row, label in zip(each, labels[split], strict=True):
            found.setdefault(row, set()).add(int(label))
    count = sum(len(different) > 1 for different in found.values())
    return [f"{count:,} {kind}{'s' * (count > 1)} with more than one label"] * (count > 0)


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
                f"let each stand in one of the two, or set `shared_{kind}s` in its definition to "
                "the share that may be."
            )
    return None
