"""A labelled dataset as its task's definition wants it: our splits, its labels, its class names.

What images (data.py) and texts (texts.py) have in common; a third kind of data starts here.
"""

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import UserError, root_cause
from .download import EVERYTHING, Download
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
from .lists import read_list
from .local import (
    WHOLE,
    Classes,
    Table,
    find,
    first,
    holds_folders,
    listing,
    wanted_splits,
)
from .manifest import SPLITS
from .paths import PathLike, read_json

VALIDATION_FRACTION, VALIDATION_MAX, SPLIT_SEED, TEST_SEED = 0.1, 5000, 0, 1
OTHER_NAMES = {"val", "valid", "validation", "dev"}  # of folders that look like a validation split

Definition = dict[str, Any]  # the data stage's settings
Rows = tuple[Any, np.ndarray]  # a dataset and which of its rows


class Part(NamedTuple):
    """Rows of a dataset: which, ascending, and their labels, see Source."""

    dataset: Any
    rows: np.ndarray
    labels: np.ndarray

    def take(self, indices: np.ndarray) -> "Part":
        return Part(self.dataset, self.rows[indices], self.labels[indices])


class Source(NamedTuple):
    """A labelled dataset, cut into our splits.

    Attributes:
        parts: split → its rows. Labels are int64 (N,) below the number of classes, or float32 (N,)
            scores.
        own: the dataset's own class names, if it has any.
        classes: the class names in label order; none if labels are scores.
        in_words: whether the labels are words, whose order nobody has given.
        download: what it is of, if it is a hub's.
        notes: sentences on what a person should know of the data.
    """

    task: str
    definition: Definition
    download: Download | None
    parts: dict[str, Part]
    own: list[str] | None
    classes: list[str]
    in_words: bool
    notes: list[str]

    def labels(self) -> dict[str, np.ndarray]:
        """Split → labels."""
        return {split: part.labels for split, part in self.parts.items()}


def read_source(
    task: str, definition: Definition, download: PathLike | None, cache: Path
) -> Source:
    """Open a task's dataset and draw its splits.

    Args:
        definition: the data stage's slice, see prepare.write_task and prepare.write_texts.
        download: of a hub's dataset: the record of its Download; else None.
        cache: a folder for what `datasets` prepares for itself.
    Raises:
        UserError: a missing split or column, an empty split, class names that differ between splits
            or from the definition's, a bad label, a class that is only trained on or only tested.
    """
    check_unchanged(task, definition)
    record = None if download is None else Download.read(download)
    roles, notes = _roles(task, definition, record, cache)
    scores = has_scores(definition)
    found = {role: label_column(of, definition)[rows] for role, (of, rows) in roles.items()}
    own = None if scores else own_names(task, definition, roles, found, notes)
    classes = [] if scores else class_names(task, definition, own)
    parts = {}
    for role, (dataset, rows) in roles.items():
        labels = labels_of(task, definition, role, rows, found[role], own, len(classes))
        parts[role] = Part(dataset, rows, labels)
    if "validation" not in parts:
        held_from = "train" if "train" in parts else "test"
        whole = parts[held_from]
        strata = None if scores or not definition.get("stratified", True) else whole.labels
        try:
            kept, held = hold_out(len(whole.rows), definition.get("validation"), strata)
        except UserError as error:
            raise UserError(f"Task {task}: {error}") from None
        parts |= {"validation": whole.take(held), held_from: whole.take(kept)}
    parts.setdefault("train", parts["test"].take(np.arange(0)))
    parts = {split: parts[split] for split in SPLITS}
    named = {"classes", "source_classes"} & set(definition)
    in_words = bool(own) and not named and any(is_word(v) for v in found["test"])
    return Source(task, definition, record, parts, own, classes, in_words, notes)


def check_unchanged(task: str, definition: Definition) -> None:
    """The files at a definition's `path` are those that the run was planned with."""
    if "files" in definition and definition["files"] != listing(definition):
        raise UserError(
            f"Task {task}: {definition['path']} changed since this run was planned: run the same "
            "snakemake command again, which takes it as it is now."
        )


# --- Splits and columns --------------------------------------------------------------------------


def _roles(
    task: str, definition: Definition, record: Download | None, cache: Path
) -> tuple[dict[str, Rows], list[str]]:
    """train, validation and test as far as the source has them; and notes."""
    splits, notes = _open(task, definition, record, cache)
    wanted = {role: ({"train": "train", "test": "test"} | definition).get(role) for role in SPLITS}
    names = {role: name for role, name in wanted.items() if isinstance(name, str)}
    if WHOLE in splits and "split" in definition:
        return _named_rows(task, definition, splits[WHOLE], names, notes), notes
    if WHOLE in splits:
        names = {"train" if "train" in names else "test": WHOLE}
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
        dataset, rows = found["train"]
        size = round(definition["test"] * len(rows))
        stratify = not has_scores(definition) and definition.get("stratified", True)
        strata = strata_of(label_column(dataset, definition)) if stratify else None
        try:
            train, test = hold_out(len(rows), size, strata, TEST_SEED)
        except UserError as error:
            raise UserError(f"Task {task}: {error} (`test` asks for {size}.)") from None
        found |= {"train": (dataset, train), "test": (dataset, test)}
    return found, notes


def _named_rows(
    task: str, definition: Definition, dataset: Any, names: dict[str, str], notes: list[str]
) -> dict[str, Rows]:
    """train, validation and test of rows that a column puts into splits; others are noted."""
    _check_columns(task, dataset, definition)
    column = definition["split"]
    values = np.asarray([str(value) for value in dataset[column][:]])
    rows = {role: np.flatnonzero(values == name) for role, name in names.items()}
    for role, found in rows.items():
        if not len(found):
            raise UserError(
                f"Task {task}: no row has {names[role]!r} in its column {column!r} "
                f"(it has {first(sorted(set(values)), 5)}); set `train` and `test` in its "
                "definition."
            )
    if others := sorted({str(value) for value in values} - set(names.values())):
        unused = [f"{value} ({(values == value).sum():,} rows)" for value in others]
        says = f"rows of other splits in {column!r} are not read: {first(unused)}"
        notes.append(says + _hint(others))
    return {role: (dataset, found) for role, found in rows.items()}


def _hint(unused: list[str]) -> str:
    """What to do if something that is not read looks like a validation split."""
    looks = [name for name in unused if name.lower() in OTHER_NAMES]
    return f"; set `validation: {looks[0]}` to validate on it" if looks else ""


def _open(
    task: str, definition: Definition, record: Download | None, cache: Path
) -> tuple[Mapping[str, Any], list[str]]:
    """The splits that a definition names, as `datasets` has them; and notes on what is not read."""
    import datasets

    datasets.disable_progress_bars()
    notes: list[str] = []
    try:
        if record is not None and EVERYTHING in record.files:
            folder = str(record.folder())
            if all(holds_folders(Path(folder, name)) for name in wanted_splits(definition)):
                return _open(task, {**definition, "path": folder}, None, cache)
            config = definition.get("config")
            return datasets.load_dataset(folder, config, cache_dir=str(cache)), notes
        found: Mapping[str, Table | Classes]
        if record is not None:
            found = {k: Table("parquet", list(map(str, of))) for k, of in record.paths().items()}
        elif "path" in definition:
            found, unused = find(task, definition)
            if unused:
                many = "is" if len(unused) == 1 else f"{len(unused)} files and folders are"
                says = f"of {definition['path']} {many} not read: {first(unused)}"
                notes.append(says + _hint([name.rstrip("/") for name in unused]))
        else:
            raise UserError(f"Task {task} is a hub's: give the record of its download.")
        return {name: _opened(task, definition, of, cache) for name, of in found.items()}, notes
    except UserError:
        raise
    except Exception as error:
        where = definition.get("path", definition.get("hub"))
        raise UserError(
            f"Task {task}: {where} cannot be read as a dataset ({root_cause(error)}); check its "
            "definition."
        ) from error


def _opened(task: str, definition: Definition, found: Table | Classes, cache: Path) -> Any:
    """Rows as `datasets` has them."""
    import datasets

    image, label = definition.get("image", "image"), definition.get("label", "label")
    if isinstance(found, Classes):
        features = {image: datasets.Image(), label: datasets.ClassLabel(names=found.names)}
        rows = {image: found.paths, label: found.labels}
        return datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    first_file = found.files[0]
    if found.kind == "saved":
        state = Path(first_file) / "state.json"
        if state.is_file() and not read_json(state)["_data_files"]:
            raise _empty(task, state.parent.name)
        return datasets.load_from_disk(first_file)
    if found.kind == "list":
        columns, folder = read_list(first_file, label), Path(first_file).parent
        if noun(definition) == "text" or image not in columns:
            return datasets.Dataset.from_dict(columns)
        columns[image] = [
            {"path": value and str(folder / str(value)), "bytes": None} for value in columns[image]
        ]
        return datasets.Dataset.from_dict(columns).cast_column(image, datasets.Image())
    names = {file: _parquet_names(file, label) for file in found.files}
    for file in found.files:
        if difference := differ(names[first_file], names[file]):
            raise UserError(
                f"Task {task}: {file} names its classes otherwise than {first_file}: "
                f"{difference}; write them with the same list of names."
            )
    paths = [glob.escape(str(Path(file).resolve())) for file in found.files]
    return datasets.load_dataset("parquet", data_files=paths, split="train", cache_dir=str(cache))


def _parquet_names(file: str, column: str) -> list[str] | None:
    """The class names of a column that a parquet file itself gives, if any."""
    import datasets
    import pyarrow.parquet

    features = datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(file))
    return getattr(features.get(column), "names", None)


def _check_columns(task: str, dataset: Any, definition: Definition) -> None:
    """A split has the columns that the definition names, and images where it says so."""
    image, features = definition.get("image", "image"), dataset.features
    wanted = {definition.get("label", "label"): "label"}
    wanted |= {image: "image"} if noun(definition) == "image" else {}
    wanted |= dict.fromkeys(definition.get("texts", []), "texts")
    wanted |= {definition["split"]: "split"} if "split" in definition else {}
    for column, key in wanted.items():
        if column not in features:
            raise UserError(
                f"Task {task}: its dataset has no column {column!r} (it has "
                f"{', '.join(dataset.column_names)}); set `{key}` in its definition."
            )
        if key == "image" and not _holds_images(features[column]):
            kind = getattr(features[column], "dtype", None) or type(features[column]).__name__
            others = [name for name, feature in features.items() if _holds_images(feature)]
            also = f" (images may be in {', '.join(others)})" * bool(others)
            raise UserError(
                f"Task {task}: the column {column!r} of its dataset holds {kind} instead of "
                f"images; set `image` to the column of images{also}, or give a list (CSV, JSON "
                "lines) if these are paths."
            )


def _holds_images(feature: Any) -> bool:
    """Whether a column's type is one from which images are read: an image, the bytes of its file,
    or a dictionary with these. A path is none, outside of a list: nothing would tell that its file
    has changed."""
    import datasets

    if isinstance(feature, dict):
        return {"bytes", "path"} >= set(feature) and "bytes" in feature
    kinds = "binary", "large_binary"
    return isinstance(feature, datasets.Image) or getattr(feature, "dtype", "") in kinds


def _empty(task: str, split: str) -> UserError:
    return UserError(f"Task {task}: its split {split!r} is empty; choose another split.")


def hold_out(
    count: int,
    size: int | None = None,
    strata: Sequence[int] | np.ndarray | None = None,
    seed: int = SPLIT_SEED,
) -> tuple[np.ndarray, np.ndarray]:
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
