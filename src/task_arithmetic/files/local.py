"""What lies at a task's `path`: which files are read, and which are not.

A folder of images is read exactly so: <path>/<split>/<class>/**. A class is a folder right below
the split's, whatever its name; links are followed; what is not used is named. Instead of class
folders, a split may be a folder that `datasets` saved, parquet files, or a list (CSV, TSV, JSON
lines) of paths and labels; and `path` itself one of these, if the definition says which of its rows
are test. Nothing here imports more than Python itself before it opens a table.
"""

import glob
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError, nearest
from .hashes import sha256_of
from .lists import LISTS, read_list
from .paths import PathLike
from .walk import is_image, is_image_name, lost_link, walk

SHARD = r"([-_.]?\d+(-of-\d+)?(-[0-9a-f]+)?)?\.parquet"  # after a split's name
WHOLE = ""  # the name of the one split of data that are not cut into splits
NAMED = 20  # unused files and folders that a note names

Definition = Mapping[str, Any]  # the data stage's settings


class Local(NamedTuple):
    """What a definition's `path` holds.

    Attributes:
        splits: split → where its rows are; WHOLE if they are not cut into splits.
        unused: files and folders (with a / at their end) below `path` that are not read.
    """

    splits: dict[str, "Table | Classes"]
    unused: list[str]


class Table(NamedTuple):
    """Rows that `datasets` saved, of parquet files, or of a list."""

    kind: str  # saved, parquet or list
    files: list[str]


class Classes(NamedTuple):
    """Image files in a folder for each class: of each file its path and its class's number."""

    names: list[str]
    paths: list[str]
    labels: list[int]


# --- Files ---------------------------------------------------------------------------------------


def listing(definition: Definition) -> str:
    """A hash of the names, sizes and times of the files of a definition's `path`, and of those that
    its lists name: the folder's own time says nothing of what changes deeper in it."""
    path = definition["path"]
    if os.path.isdir(path):
        found = [(os.path.relpath(f.path, path), *f[1:]) for f in walk(path)]
        splits = [files[0] for n in wanted_splits(definition) for files in _forms(path, n)]
    else:
        about = os.stat(path)
        found, splits = [("", about.st_size, about.st_mtime_ns, None)], [path]
    for file in splits:
        for image in listed_images(file, definition.get("image", "image")):
            with suppress(OSError, ValueError):
                about = os.stat(image)
                found.append((image, about.st_size, about.st_mtime_ns, None))
    return sha256_of(found)


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


def find(task: str, definition: Definition) -> Local:
    """What a definition's `path` holds of its splits; those that a column names, and test if it is
    to be drawn, are rows of another.

    Raises:
        UserError: a split that is not there, that is there in two forms, or that holds no image; a
            file or folder that cannot be read; data that are not cut into splits where nothing says
            which rows are test.
    """
    path = definition["path"]
    if not os.path.exists(path):
        raise UserError(
            f"Task {task}: there is nothing at {path}, its `path`; correct it in its definition."
        )
    try:
        return _find(task, definition, path)
    except OSError as error:
        where = error.filename or path
        raise UserError(f"Task {task}: {where} cannot be read ({error.strerror}).") from None


def _find(task: str, definition: Definition, path: str) -> Local:
    names = wanted_splits(definition)
    saved = _saved_splits(task, path) if _is_file(path, "dataset_dict.json") else None
    if _in_one_piece(definition, path):
        return _whole(task, definition, path)
    if "split" in definition:
        raise UserError(
            f"Task {task}: {path} is cut into splits, so that none can be named by a column; "
            "remove `split` from its definition."
        )
    if saved is not None:
        for name in names:
            if name not in saved:
                raise _no_split(task, name, path, saved)
        unused = [name + os.sep for name in saved if name not in names]
        return Local({n: Table("saved", [os.path.join(path, n)]) for n in names}, unused)
    splits: dict[str, Table | Classes] = {}
    unused, used = [], set()
    for name in names:
        forms = _forms(path, name)
        if len(forms) > 1:
            both = " and ".join(os.path.relpath(files[0], path) for files in forms)
            raise UserError(
                f"Task {task}: its split {name!r} is in {path} twice, as {both}; name the one that "
                f"is meant in its definition ({name}/ is the folder), or move the other elsewhere."
            )
        if not forms:
            found = [entry.name + os.sep * entry.is_dir() for entry in os.scandir(path)]
            raise _no_split(task, name, path, sorted(found))
        (files,) = forms
        used.update(files)
        if os.path.isdir(files[0]):
            splits[name], more = _read_folder(task, files[0])
            unused += more
        else:
            splits[name] = _table(files)
            used.update(listed_images(files[0], definition.get("image", "image")))
    return Local(_same_classes(splits), _relative(path, [*_others(path, used), *unused]))


def _in_one_piece(definition: Definition, path: str) -> bool:
    """Whether data are not cut into splits: a file, a saved Dataset; or a folder of which the
    definition says so, without a folder or file of the name of its train split in it."""
    if os.path.isfile(path) or _is_file(path, "state.json"):
        return True
    drawn = "split" in definition or isinstance(definition.get("test"), float)
    if not drawn or _is_file(path, "dataset_dict.json"):
        return False
    forms = _forms(path, definition.get("train") or "train")
    return not any(_holds_rows(files[0]) for files in forms)


def _holds_rows(path: str) -> bool:
    """Whether a file or folder is a split, and no class that is called as one."""
    return os.path.isfile(path) or _is_file(path, "state.json") or holds_folders(path) or bool(
        glob.glob(f"{glob.escape(path)}/*.parquet"))  # fmt: skip


def _same_classes(splits: dict[str, "Table | Classes"]) -> dict[str, "Table | Classes"]:
    """Splits of class folders, numbered by the classes of all."""
    names = sorted({x for of in splits.values() if isinstance(of, Classes) for x in of.names})
    places = {name: label for label, name in enumerate(names)}
    for split, of in splits.items():
        if isinstance(of, Classes):
            labels = [places[of.names[label]] for label in of.labels]
            splits[split] = Classes(names, of.paths, labels)
    return splits


def _others(folder: str, used: set[str]) -> Iterator[str]:
    """The files and folders below a folder that are not among the used ones, nor above one."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.path in used:
            continue
        if any(path.startswith(entry.path + os.sep) for path in used):
            yield from _others(entry.path, used)
        else:
            yield entry.path + os.sep * entry.is_dir()


def _relative(path: str, unused: list[str]) -> list[str]:
    return [os.path.relpath(name, path) + os.sep * name.endswith(os.sep) for name in unused]


def _no_split(task: str, name: str, path: str, known: list[str]) -> UserError:
    splits = [entry.rstrip(os.sep) for entry in known]
    has = f"it has {first(known, 8)}" if known else "it is empty"
    return UserError(
        f"Task {task}: its dataset in {path} has no split {name!r} ({has}){nearest(name, splits)}; "
        "set `train`, `test` and, if it has one, `validation` in its definition to its splits' "
        "names, or `test` to the share of its rows to be drawn (such as 0.2) if it has none."
    )


def wanted_splits(definition: Definition) -> list[str]:
    """The names of the source's splits that a definition asks for."""
    roles = definition.get("train", "train"), definition.get("validation")
    return [name for name in (*roles, definition.get("test", "test")) if isinstance(name, str)]


def holds_folders(path: PathLike) -> bool:
    """Whether there is a folder with folders in it."""
    return os.path.isdir(path) and any(entry.is_dir() for entry in os.scandir(path))


def _is_file(folder: str, name: str) -> bool:
    return os.path.isfile(os.path.join(folder, name))


def _saved_splits(task: str, path: str) -> list[str]:
    """The splits of a saved DatasetDict."""
    try:
        content = Path(path, "dataset_dict.json").read_text(encoding="utf-8")
        return json.loads(content)["splits"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"Task {task}: dataset_dict.json in {path} is damaged ({error}); save the dataset anew."
        ) from None


def _forms(path: str, name: str) -> list[list[str]]:
    """The files of a split, in each form in which it is there; its name may be that of a file."""
    if name.endswith((*LISTS, ".parquet")):
        return [[name] for name in [os.path.join(path, name)] if os.path.isfile(name)]
    forms = [[folder] for folder in [os.path.join(path, name)] if os.path.isdir(folder)]
    for folder in (path, os.path.join(path, "data")):
        inside = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        shards = [file for file in inside if re.fullmatch(re.escape(name) + SHARD, file)]
        forms += [[os.path.join(folder, file) for file in shards]] * bool(shards)
    lists = [os.path.join(path, name + suffix) for suffix in LISTS]
    return forms + [[file] for file in lists if os.path.isfile(file)]


def _whole(task: str, definition: Definition, path: str) -> Local:
    """Data that are not cut into splits: a file, a saved Dataset, parquet files, class folders."""
    drawn = isinstance(definition.get("test"), float) or definition.get("train", "train") is None
    if "split" not in definition and not drawn:
        raise UserError(
            f"Task {task}: {path} is not cut into splits; set `test` to the share of its rows to "
            "be drawn for test (such as 0.2), or `split` to the column that names each row's split."
        )
    if "split" not in definition and isinstance(definition.get("validation"), str):
        raise UserError(
            f"Task {task}: {path} is not cut into splits, of which `validation` names one; give "
            "the number of rows to hold out, or `split`: the column that names each row's split."
        )
    if os.path.isfile(path):
        return Local({WHOLE: _table([path])}, [])
    found, unused = _read_folder(task, path)
    if isinstance(found, Classes) and "split" in definition:
        raise UserError(
            f"Task {task}: `split` names a column, but {path} holds folders of images; remove it."
        )
    return Local({WHOLE: found}, _relative(path, unused))


def _table(files: list[str]) -> Table:
    if files[0].endswith(".parquet"):
        return Table("parquet", files)
    if files[0].endswith(LISTS):
        return Table("list", files)
    raise UserError(
        f"{files[0]} is no file of rows that can be read: give one that ends in .parquet, "
        f"{', '.join(LISTS[:-1])} or {LISTS[-1]}, or a folder."
    )


def _read_folder(task: str, folder: str) -> tuple[Table | Classes, list[str]]:
    """The rows of a folder, and what of it is not read."""
    if _is_file(folder, "state.json"):
        return Table("saved", [folder]), []
    parquet = sorted(glob.glob(f"{glob.escape(folder)}/*.parquet"))
    if parquet:
        others = sorted(set(os.listdir(folder)) - {os.path.basename(file) for file in parquet})
        return Table("parquet", parquet), [os.path.join(folder, name) for name in others]
    return _class_folders(task, folder)


def _class_folders(task: str, folder: str) -> tuple[Classes, list[str]]:
    """The images of a folder of class folders. Class names are sorted, and composed (NFC), as a
    name is written on some systems and decomposed on others."""
    classes: dict[str, str] = {}
    paths: list[str] = []
    labels: list[int] = []
    unused: list[str] = []
    lost: list[str] = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        name = unicodedata.normalize("NFC", entry.name)
        if name in classes and entry.is_dir():
            raise UserError(
                f"Task {task}: {folder} has two folders {name!r}, which differ only in how its "
                "letters are encoded; rename one."
            )
        if entry.is_dir():
            classes[name] = entry.path
        elif os.path.exists(entry.path):
            unused.append(entry.path)
        else:
            lost.append(f"{entry.path} ({lost_link(entry.path)})")
    names = []
    for name in sorted(classes):
        names.append(name)
        before = len(paths), len(unused), len(lost)
        for file in walk(classes[name]):
            if file.problem and not (os.path.islink(file.path) and is_image_name(file.path)):
                lost.append(f"{file.path} ({file.problem})")
            elif file.problem or is_image(file.path):  # one that is lost is a bad image
                paths.append(file.path)
                labels.append(len(names) - 1)
            else:
                unused.append(file.path)
        if before[0] == len(paths) and before[2] == len(lost):  # no image: no class
            names.pop()
            unused[before[1] :] = [classes[name] + os.sep]
    if lost:
        raise UserError(f"Task {task}: {first(lost)} cannot be read; mend that, or move it away.")
    if not paths:
        raise UserError(
            f"Task {task}: {folder} holds no image; put <class>/<image> files there"
            + (f" (it has {first([os.path.relpath(f, folder) for f in unused], 4)})" * bool(unused))
            + "."
        )
    return Classes(names, paths, labels), unused


def first(names: list[str], most: int = NAMED) -> str:
    """The first of many names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def outline(local: Local) -> str:
    """What a path holds, in a line."""
    parts = []
    for name, found in local.splits.items():
        if isinstance(found, Classes):
            about = f"{len(found.paths):,} images of {len(set(found.labels))} classes"
        else:
            about = found.kind if len(found.files) == 1 else f"{len(found.files)} parquet files"
        parts.append(f"{name} {about}".lstrip())
    return "; ".join(
        [", ".join(parts), *[f"not read: {first(local.unused, 8)}"] * bool(local.unused)]
    )
