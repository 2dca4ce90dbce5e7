"""A labelled dataset as its task's definition wants it: our splits, its labels, its class names.

What images (vision/prepare.py) and texts (language/prepare.py) have in common; a third kind of data
starts here.
"""

import glob
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import UserError, first, root_cause
from .definition import SPLIT_WORDS, Definition, Settings
from .download import EVERYTHING, Download
from .labels import Names, class_names, is_word, labels_of, names_in_words, same_names
from .local import WHOLE, Classes, Rows, Table, check_split, find, holds_folders, listing, read_list
from .manifest import SPLITS
from .paths import PathLike, read_json

VALIDATION_FRACTION, VALIDATION_MAX, SPLIT_SEED, TEST_SEED = 0.1, 5000, 0, 1


class Part(NamedTuple):
    """Rows of a dataset: which, ascending, and their labels as they are or, in a Source, as it has
    them."""

    dataset: Any
    rows: np.ndarray
    labels: np.ndarray

    def take(self, indices: np.ndarray) -> "Part":
        """Some of the rows."""
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

    definition: Definition
    download: Download | None
    parts: dict[str, Part]
    own: Names
    classes: list[str]
    in_words: bool
    notes: list[str]

    def labels(self) -> dict[str, np.ndarray]:
        """Split → labels."""
        return {split: part.labels for split, part in self.parts.items()}


def read_source(task: str, settings: Settings, download: PathLike | None, cache: Path) -> Source:
    """Open a task's dataset and draw its splits.

    Args:
        settings: the data stage's slice, see prepare.write_task and prepare.write_texts.
        download: of a hub's dataset: the record of its Download; else None.
        cache: a folder for what `datasets` prepares for itself.
    Raises:
        UserError: a missing split or column, an empty split, class names that differ between splits
            or from the definition's, a bad label, a class that is only trained on or only tested.
    """
    definition = Definition.of(task, settings)
    check_unchanged(definition)
    record = None if download is None else Download.read(download)
    found, notes = _roles(definition, record, cache)
    own: Names = None
    classes: list[str] = []
    if not definition.has_scores:
        features = {role: part.dataset.features[definition.label] for role, part in found.items()}
        names = {f"its {role} split": getattr(x, "names", None) for role, x in features.items()}
        given = {role: part.labels for role, part in found.items()}
        own = same_names(definition, names) or names_in_words(definition, given, notes)
        classes = class_names(definition, own)
    parts = {}
    for role, (dataset, rows, values) in found.items():
        labels = labels_of(definition, role, rows, values, own, len(classes))
        parts[role] = Part(dataset, rows, labels)
    if "validation" not in parts:
        held_from = "train" if "train" in parts else "test"
        whole, size = parts[held_from], definition.validation
        assert not isinstance(size, str)  # or it would be a split
        kept, held = _drawn(definition, whole, "validation", size, whole.labels, SPLIT_SEED)
        parts |= {"validation": held, held_from: kept}
    parts.setdefault("train", parts["test"].take(np.arange(0)))
    parts = {split: parts[split] for split in SPLITS}
    named = definition.classes is not None or definition.source_classes is not None
    in_words = bool(own) and not named and any(is_word(value) for value in found["test"].labels)
    return Source(definition, record, parts, own, classes, in_words, notes)


def check_unchanged(definition: Definition) -> None:
    """The files at a definition's `path` are those that the run was planned with."""
    if definition.files is not None and definition.files != listing(definition):
        raise definition.error(
            f"{definition.path} changed since this run was planned: run the same snakemake command "
            "again, which takes it as it is now."
        )


# --- Splits and columns --------------------------------------------------------------------------


def _roles(
    definition: Definition, record: Download | None, cache: Path
) -> tuple[dict[str, Part], list[str]]:
    """train, validation and test as far as the source has them; and notes."""
    splits, notes = _open(definition, record, cache)
    names = definition.roles
    if WHOLE in splits:
        names = {"train" if definition.train is not None else "test": WHOLE}
    found = {}
    for role, name in names.items():
        check_split(definition, "dataset", name, splits)
        dataset = splits[name]
        if len(dataset) == 0:
            raise _empty(definition, name)
        _check_columns(definition, dataset)
        labels = dataset[definition.label][:]
        labels = np.fromiter(labels, object, len(labels))
        found[role] = Part(dataset, np.arange(len(dataset)), labels)
    if WHOLE in splits and definition.split is not None:
        return _named_rows(definition, found[role], notes), notes
    if "test" not in found:
        whole = found["train"]
        strata = np.unique([str(value) for value in whole.labels], return_inverse=True)[1]
        size = round(float(definition.test) * len(whole.rows))
        train, test = _drawn(definition, whole, "test", size, strata, TEST_SEED)
        found |= {"train": train, "test": test}
    return found, notes


def _drawn(
    definition: Definition, whole: Part, key: str, size: int | None, strata: np.ndarray, seed: int
) -> tuple[Part, Part]:
    """The rows that stay and those that are held out, see hold_out."""
    stratify = definition.stratified and not definition.has_scores
    try:
        kept, held = hold_out(len(whole.rows), size, strata if stratify else None, seed, key)
    except UserError as error:
        raise definition.error(str(error)) from None
    return whole.take(kept), whole.take(held)


def _named_rows(definition: Definition, whole: Part, notes: list[str]) -> dict[str, Part]:
    """train, validation and test of rows that a column puts into splits; others are noted."""
    column = definition.split
    values = np.asarray([str(value) for value in whole.dataset[column][:]])
    parts = {}
    for role, name in definition.roles.items():
        parts[role] = whole.take(np.flatnonzero(values == name))
        if not len(parts[role].rows):
            raise definition.error(
                f"no row has {name!r} in its column {column!r} (it has "
                f"{first(sorted(set(values)), 5)}); set `train` and `test` in its definition."
            )
    if others := sorted({str(value) for value in values} - set(definition.roles.values())):
        unused = [f"{value} ({(values == value).sum():,} rows)" for value in others]
        says = f"rows of other splits in {column!r} are not read: {first(unused)}"
        notes.append(says + _hint(others))
    return parts


def _hint(unused: list[str]) -> str:
    """What to do if something that is not read looks like a validation split."""
    looks = [name for name in unused if name.lower() in SPLIT_WORDS["validation"]]
    return f"; set `validation: {looks[0]}` to validate on it" if looks else ""


def _open(
    definition: Definition, record: Download | None, cache: Path
) -> tuple[Mapping[str, Any], list[str]]:
    """The splits that a definition names, as `datasets` has them; and notes on what is not read."""
    import datasets

    datasets.disable_progress_bars()
    notes: list[str] = []
    found: Mapping[str, Rows]
    try:
        if record is not None and EVERYTHING in record.files:
            folder = str(record.folder())
            if not all(holds_folders(Path(folder, x)) for x in definition.roles.values()):
                whole = datasets.load_dataset(folder, definition.config, cache_dir=str(cache))
                return whole, notes
            definition, record = replace(definition, path=folder), None
        if record is not None:
            found = {k: Table(list(map(str, of))) for k, of in record.paths().items()}
        elif definition.path:
            found, unused = find(definition)
            if unused:
                many = "is" if len(unused) == 1 else f"{len(unused)} files and folders are"
                says = f"of {definition.path} {many} not read: {first(unused)}"
                notes.append(says + _hint([name.rstrip("/") for name in unused]))
        else:
            raise definition.error("it is a hub's: give the record of its download.")
        return {name: _opened(definition, of, cache) for name, of in found.items()}, notes
    except UserError:
        raise
    except Exception as error:
        raise definition.error(
            f"{definition.path or definition.hub} cannot be read as a dataset "
            f"({root_cause(error)}); check its definition."
        ) from error


def _opened(definition: Definition, found: Rows, cache: Path) -> Any:
    """Rows as `datasets` has them."""
    import datasets

    image, label = definition.image, definition.label
    if isinstance(found, Classes):
        features = {image: datasets.Image(), label: datasets.ClassLabel(names=found.names)}
        rows = {image: found.paths, label: found.labels}
        return datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    place = Path(found.files[0])
    if found.kind == "saved":
        if (place / "state.json").is_file() and not read_json(place / "state.json")["_data_files"]:
            raise _empty(definition, place.name)
        return datasets.load_from_disk(str(place))
    if found.kind == "list":
        columns = read_list(str(place), label)
        if definition.texts or image not in columns:
            return datasets.Dataset.from_dict(columns)
        columns[image] = [
            {"path": value and str(place.parent / str(value)), "bytes": None}
            for value in columns[image]
        ]
        return datasets.Dataset.from_dict(columns).cast_column(image, datasets.Image())
    same_names(definition, {file: _parquet_names(file, label) for file in found.files})
    paths = [glob.escape(str(Path(file).resolve())) for file in found.files]
    return datasets.load_dataset("parquet", data_files=paths, split="train", cache_dir=str(cache))


def _parquet_names(file: str, column: str) -> Names:
    """The class names of a column that a parquet file itself gives, if any."""
    import datasets
    import pyarrow.parquet

    features = datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(file))
    return getattr(features.get(column), "names", None)


def _check_columns(definition: Definition, dataset: Any) -> None:
    """A split has the columns that the definition names, and images where it says so."""
    features = dataset.features
    wanted = {definition.label: "label", **dict.fromkeys(definition.texts, "texts")}
    wanted |= {} if definition.texts else {definition.image: "image"}
    wanted |= {definition.split: "split"} if definition.split is not None else {}
    for column, key in wanted.items():
        if column not in features:
            raise definition.error(
                f"its dataset has no column {column!r} (it has {', '.join(dataset.column_names)}); "
                f"set `{key}` in its definition."
            )
        if key == "image" and not _holds_images(features[column]):
            kind = getattr(features[column], "dtype", None) or type(features[column]).__name__
            others = [name for name, feature in features.items() if _holds_images(feature)]
            also = f" (images may be in {', '.join(others)})" if others else ""
            raise definition.error(
                f"the column {column!r} of its dataset holds {kind} instead of images; set `image` "
                f"to the column of images{also}, or give a list (CSV, JSON lines) if these are "
                "paths."
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


def _empty(definition: Definition, split: str) -> UserError:
    return definition.error(f"its split {split!r} is empty; choose another split.")


def hold_out(
    count: int,
    size: int | None = None,
    strata: Sequence[int] | np.ndarray | None = None,
    seed: int = SPLIT_SEED,
    key: str = "validation",
) -> tuple[np.ndarray, np.ndarray]:
    """The indices that stay and those that are held out, each in ascending order.

    Held out are the last ones of a seeded permutation: `size` in all or, of each class, its share
    of `size` as near as it can be without all of a class being held out.

    Args:
        size: min(10 % of count, 5,000) if None (paper, appendix A: "a small held-out proportion of
            the training set").
        strata: int (count,), each row's class; None: without regard to classes.
        key: of a definition, which says how many.
    """
    if size is None:
        size = min(int(VALIDATION_FRACTION * count), VALIDATION_MAX)
    if not 0 < size < count:
        raise UserError(
            f"cannot hold out {size} of {count} rows for {key}; set `{key}` in the definition so "
            f"that it asks for 1 to {count - 1}."
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
