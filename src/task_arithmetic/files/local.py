"""What lies at a task's `path`: which files are read, and which are not.

A folder of images is read exactly so: <path>/<split>/<class>/**. A class is a folder right below
the split's, whatever its name; links are followed; what is not used is named. Instead of class
folders, a split may be a folder that `datasets` saved, parquet files, or a list (CSV, TSV, JSON
lines) of paths and labels; and `path` itself one of these, if the definition says which of its rows
are test. Nothing here imports more than Python itself before it opens a table.
"""

import csv
import glob
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from ..errors import UserError, first, nearest
from .definition import Definition
from .hashes import sha256_of
from .paths import PathLike, read_json
from .walk import File, is_image, is_image_name, lost_link, walk

LISTS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
SHARD = r"([-_.]?\d+(-of-\d+)?(-[0-9a-f]+)?)?\.parquet"  # after a split's name
WHOLE = ""  # the name of the one split of data that are not cut into splits


class Table(NamedTuple):
    """Rows in a folder that `datasets` saved, in parquet files, or in a list."""

    files: list[str]

    @property
    def kind(self) -> str:
        """saved, parquet or list."""
        if self.files[0].endswith(".parquet"):
            return "parquet"
        return "list" if self.files[0].endswith(LISTS) else "saved"


class Classes(NamedTuple):
    """Image files in a folder for each class: class → their paths, in the order of labels."""

    images: dict[str, list[str]]

    @property
    def names(self) -> list[str]:
        return list(self.images)

    @property
    def paths(self) -> list[str]:
        return [path for paths in self.images.values() for path in paths]

    @property
    def labels(self) -> list[int]:
        return [label for label, paths in enumerate(self.images.values()) for _ in paths]


Rows = Table | Classes


class Local(NamedTuple):
    """What a definition's `path` holds.

    Attributes:
        splits: split → where its rows are; WHOLE if they are not cut into splits.
        unused: files and folders (with a / at their end) below `path` that are not read.
    """

    splits: dict[str, Rows]
    unused: list[str]


# --- Files ---------------------------------------------------------------------------------------


def listing(definition: Definition) -> str:
    """A hash of the names, sizes and times of the files of a definition's `path`, and of those that
    its lists name: the folder's own time says nothing of what changes deeper in it."""
    path = definition.path
    if os.path.isdir(path):
        found = [file._replace(path=os.path.relpath(file.path, path)) for file in walk(path)]
        tables = [files[0] for name in definition.roles.values() for files in _forms(path, name)]
    else:
        found, tables = [_state(path)._replace(path="")], [path]
    for table in tables:
        for image in listed_images(table, definition.image):
            with suppress(OSError, ValueError):
                found.append(_state(image))
    return sha256_of(found)


def _state(path: str) -> File:
    about = os.stat(path)
    return File(path, about.st_size, about.st_mtime_ns, None)


def listed_images(file: str, column: str) -> list[str]:
    """The paths that a list names in a column, which are relative to its folder; none if it is none
    or cannot be read: the data stage says why."""
    if not file.endswith(LISTS):
        return []
    folder = os.path.dirname(file)
    try:
        return [os.path.join(folder, str(value)) for value in read_list(file).get(column, [])]
    except UserError:
        return []


# --- What there is -------------------------------------------------------------------------------


def find(definition: Definition) -> Local:
    """What a definition's `path` holds of its splits; those that a column names, and test if it is
    to be drawn, are rows of another.

    Raises:
        UserError: a split that is not there, that is there in two forms, or that holds no image; a
            file or folder that cannot be read; data that are not cut into splits where nothing says
            which rows are test.
    """
    path = definition.path
    if not os.path.exists(path):
        raise definition.error(
            f"there is nothing at {path}, its `path`; correct it in its definition."
        )
    try:
        splits, unused = _find(definition)
    except OSError as error:
        where = error.filename or path
        raise definition.error(f"{where} cannot be read ({error.strerror}).") from None
    # The classes of all splits are numbered together.
    names = sorted({name for of in splits.values() if isinstance(of, Classes) for name in of.names})
    for split, of in splits.items():
        if isinstance(of, Classes):
            splits[split] = Classes({name: of.images.get(name, []) for name in names})
    return Local(splits, [os.path.relpath(x, path) + os.sep * x.endswith(os.sep) for x in unused])


def _find(definition: Definition) -> Local:
    """As find; what is not read with its whole path."""
    path, names = definition.path, list(definition.roles.values())
    if _in_one_piece(definition):
        return _whole(definition)
    if definition.split is not None:
        raise definition.error(
            f"{path} is cut into splits, so that none can be named by a column; remove `split` "
            "from its definition."
        )
    if _is_file(path, "dataset_dict.json"):
        saved = read_json(os.path.join(path, "dataset_dict.json")).get("splits", [])
        for name in names:
            check_split(definition, f"dataset in {path}", name, saved)
        unused = [os.path.join(path, name, "") for name in saved if name not in names]
        return Local({name: Table([os.path.join(path, name)]) for name in names}, unused)
    splits: dict[str, Rows] = {}
    unused, used = [], set()
    for name in names:
        forms = _forms(path, name)
        if len(forms) > 1:
            both = " and ".join(os.path.relpath(files[0], path) for files in forms)
            raise definition.error(
                f"its split {name!r} is in {path} twice, as {both}; name the one that is meant in "
                f"its definition ({name}/ is the folder), or move the other elsewhere."
            )
        if not forms:
            there = [entry.name + os.sep * entry.is_dir() for entry in os.scandir(path)]
            check_split(definition, f"dataset in {path}", name, sorted(there))
        (files,) = forms
        used.update([*files, *listed_images(files[0], definition.image)])
        splits[name], more = _read(definition, files)
        unused += more
    return Local(splits, [*_others(path, used), *unused])


def check_split(definition: Definition, whose: str, name: str, known: Iterable[str]) -> None:
    """Raise a UserError unless `name` is among the splits that are known, of which folders may have
    a / at their end."""
    names = list(known)
    if name not in names:
        has = f"it has {first(names, 8)}" if names else "it is empty"
        near = nearest(name, [each.rstrip(os.sep) for each in names])
        raise definition.error(
            f"its {whose} has no split {name!r} ({has}){near}; set `train`, `test` and, if it has "
            "one, `validation` in its definition to its splits' names, or `test` to the share of "
            "its rows to be drawn (such as 0.2) if it has none."
        )


def _in_one_piece(definition: Definition) -> bool:
    """Whether data are not cut into splits: a file, a saved Dataset; or a folder of which the
    definition says so, without a folder or file of the name of its train split in it."""
    path = definition.path
    if os.path.isfile(path) or _is_file(path, "state.json"):
        return True
    drawn = definition.split is not None or isinstance(definition.test, float)
    if not drawn or _is_file(path, "dataset_dict.json"):
        return False
    forms = _forms(path, definition.train or "train")
    return not any(_holds_rows(files[0]) for files in forms)


def _holds_rows(path: str) -> bool:
    """Whether a file or folder is a split, and no class that is called as one."""
    known = os.path.isfile(path) or _is_file(path, "state.json")
    return known or holds_folders(path) or bool(_parquet(path))


def _others(folder: str, used: set[str]) -> Iterator[str]:
    """The files and folders below a folder that are not among the used ones, nor above one."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.path in used:
            continue
        if any(path.startswith(entry.path + os.sep) for path in used):
            yield from _others(entry.path, used)
        else:
            yield entry.path + os.sep * entry.is_dir()


def holds_folders(path: PathLike) -> bool:
    """Whether there is a folder with folders in it."""
    return os.path.isdir(path) and any(entry.is_dir() for entry in os.scandir(path))


def _is_file(folder: str, name: str) -> bool:
    return os.path.isfile(os.path.join(folder, name))


def _parquet(folder: str) -> list[str]:
    return sorted(glob.glob(f"{glob.escape(folder)}/*.parquet"))


def _forms(path: str, name: str) -> list[list[str]]:
    """The files of a split, in each form in which it is there; its name may be that of a file."""
    place = os.path.join(path, name)
    if name.endswith((*LISTS, ".parquet")):
        return [[place]] if os.path.isfile(place) else []
    forms = [[place]] if os.path.isdir(place) else []
    for folder in (path, os.path.join(path, "data")):
        inside = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        shards = [file for file in inside if re.fullmatch(re.escape(name) + SHARD, file)]
        if shards:
            forms.append([os.path.join(folder, file) for file in shards])
    return forms + [[place + suffix] for suffix in LISTS if os.path.isfile(place + suffix)]


def _whole(definition: Definition) -> Local:
    """Data that are not cut into splits: a file, a saved Dataset, parquet files, class folders."""
    path = definition.path
    problem = ""
    if not isinstance(definition.test, float) and definition.train is not None:
        problem = "; set `test` to the share of its rows to be drawn for test (such as 0.2)"
    elif isinstance(definition.validation, str):
        problem = ", of which `validation` names one; give the number of rows to hold out"
    if problem and definition.split is None:
        raise definition.error(
            f"{path} is not cut into splits{problem}, or `split`: the column that names each "
            "row's split."
        )
    found, unused = _read(definition, [path])
    return Local({WHOLE: found}, unused)


def _read(definition: Definition, files: list[str]) -> tuple[Rows, list[str]]:
    """The rows of files or of a folder, and what of it is not read."""
    place = files[0]
    if os.path.isfile(place) and not place.endswith((".parquet", *LISTS)):
        raise definition.error(
            f"{place} is no file of rows that can be read: give one that ends in .parquet, "
            f"{', '.join(LISTS[:-1])} or {LISTS[-1]}, or a folder."
        )
    if os.path.isfile(place) or _is_file(place, "state.json"):
        return Table(files), []
    if parquet := _parquet(place):
        inside = [os.path.join(place, name) for name in sorted(os.listdir(place))]
        return Table(parquet), [path for path in inside if path not in parquet]
    return _class_folders(definition, place)


def _class_folders(definition: Definition, folder: str) -> tuple[Classes, list[str]]:
    """The images of a folder of class folders. Class names are composed (NFC), as a name is written
    so on some systems and decomposed on others."""
    images: dict[str, list[str]] = {}
    unused: list[str] = []
    lost: list[str] = []
    composed = [(unicodedata.normalize("NFC", each.name), each) for each in os.scandir(folder)]
    for name, entry in sorted(composed, key=lambda each: (each[1].is_dir(), each[0])):
        if not os.path.exists(entry.path):
            lost.append(f"{entry.path} ({lost_link(entry.path)})")
        if not entry.is_dir():
            unused.append(entry.path)
            continue
        if name in images:
            raise definition.error(
                f"{folder} has two folders {name!r}, which differ only in how its letters are "
                "encoded; rename one."
            )
        images[name], others = [], []
        for file in walk(entry.path):
            if file.problem and not (os.path.islink(file.path) and is_image_name(file.path)):
                lost.append(f"{file.path} ({file.problem})")
            elif file.problem or is_image(file.path):  # one that is lost is a bad image
                images[name].append(file.path)
            else:
                others.append(file.path)
        unused += others if images[name] else [entry.path + os.sep]  # no image: no class
    if lost:
        raise definition.error(f"{first(lost)} cannot be read; mend that, or move it away.")
    if not any(images.values()):
        others = [os.path.relpath(path, folder) for path in unused]
        has = f" (it has {first(others, 4)})" if others else ""
        raise definition.error(f"{folder} holds no image; put <class>/<image> files there{has}.")
    return Classes({name: paths for name, paths in images.items() if paths}), unused


def outline(local: Local) -> str:
    """What a path holds, in a line."""
    parts = []
    for name, found in local.splits.items():
        if isinstance(found, Classes):
            about = f"{len(found.paths):,} images of {len(set(found.labels))} classes"
        else:
            about = found.kind if len(found.files) == 1 else f"{len(found.files)} parquet files"
        parts.append(f"{name} {about}".lstrip())
    unread = f"; not read: {first(local.unused, 8)}" if local.unused else ""
    return ", ".join(parts) + unread


# --- Lists of rows -------------------------------------------------------------------------------


def read_list(path: str, label: str | None = None) -> dict[str, list[Any]]:
    """Column → values of a CSV, TSV or JSON lines file. In CSV all are texts, an empty one is None,
    and the column `label` holds numbers if all of it are.

    Raises:
        UserError: it is no such file, or a row has other columns than the first.
    """
    table = path.endswith((".csv", ".tsv"))
    lines: list[Any]
    found: dict[str, list[Any]]
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            if table:
                mark = "\t" if path.endswith(".tsv") else ","
                header, *lines = [x for x in csv.reader(file, delimiter=mark, strict=True) if x]
                rows = [dict(zip(header, line, strict=True)) for line in lines]
            else:
                text = file.read()
                lines = [line for line in text.split("\n") if line.strip()]
                rows = json.loads(text) if text[:1] == "[" else [json.loads(x) for x in lines]
        columns = list(rows[0])
        if any(list(row) != columns and set(row) != set(columns) for row in rows):
            raise ValueError("not all rows have the same columns")
    except (ValueError, IndexError, TypeError, csv.Error) as error:
        raise UserError(
            f"{path} cannot be read as a list of rows ({error}); it needs a line of column names "
            "and a line for each row, or a JSON object on each line."
        ) from None
    found = {column: [row[column] for row in rows] for column in columns}
    if table:
        found = {column: [value or None for value in values] for column, values in found.items()}
    if table and label in found:
        found[label] = _numbers(found[label])
    return found


def _numbers(values: list[Any]) -> list[Any]:
    """Texts as whole numbers or numbers, if all are; 01 is a name."""
    whole = r"-?(0|[1-9]\d*)"
    for kind, form in ((int, whole), (float, whole + r"(\.\d*)?([eE][+-]?\d+)?")):
        if all(re.fullmatch(form, value) for value in values if value):
            return [kind(value) if value else None for value in values]
    return list(values)
