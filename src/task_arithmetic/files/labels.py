"""Labels and the names of classes: what a dataset's splits must agree in, and with a definition.

The worst mistakes on data are here: labels shifted by one, or names in another order, give wrong
numbers without an error.
"""

import itertools
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import UserError
from .local import Definition, first

HIDDEN = -1  # the label by which hubs mark rows whose labels are secret


def noun(definition: Definition) -> str:
    """What a row of a task is."""
    return "text" if "texts" in definition else "image"


def has_scores(definition: Definition) -> bool:
    """Whether a task's labels are scores, not classes."""
    return definition.get("metric") == "spearman"


def label_column(dataset: Any, definition: Definition) -> np.ndarray:
    """The column of labels as it is: an array of objects (N,)."""
    values = dataset[definition.get("label", "label")][:]
    return np.fromiter(values, object, len(values))


def strata_of(values: np.ndarray) -> np.ndarray:
    """Whole numbers from 0 that are equal where the values are."""
    return np.unique([str(value) for value in values], return_inverse=True)[1]


def own_names(
    task: str,
    definition: Definition,
    parts: Mapping[str, tuple[Any, np.ndarray]],
    found: Mapping[str, np.ndarray],
    notes: list[str],
) -> list[str] | None:
    """The dataset's own class names, in which its splits must agree; None if its labels are numbers
    without names. Of labels in words: these in the order of their characters, which is noted."""
    column = definition.get("label", "label")
    names = {
        role: getattr(dataset.features[column], "names", None)
        for role, (dataset, _) in parts.items()
    }
    (one, theirs), *others = names.items()
    for role, own in others:
        if difference := differ(theirs, own):
            raise UserError(
                f"Task {task}: its {role} split names its classes otherwise than its {one} split: "
                f"{difference}; write both with the same list of names."
            )
    if theirs is not None:
        return theirs
    in_words = {
        role: any(isinstance(value, str) for value in values) for role, values in found.items()
    }
    if not any(in_words.values()):
        return None
    if not all(in_words.values()):
        word, number = (
            next(r for r, is_so in in_words.items() if is_so == x) for x in (True, False)
        )
        raise UserError(
            f"Task {task}: the column {column!r} holds words in its {word} split and numbers in "
            f"its {number} split; write both alike."
        )
    words = sorted({value for values in found.values() for value in values if is_word(value)})
    if all(re.fullmatch(r"0|[1-9]\d*", word) for word in words):  # numbers, written as texts
        return None
    notes.append(f"labels are words: its {len(words)} classes are {first(words)}, in this order")
    return words


def is_word(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != ""


def differ(one: list[str] | None, other: list[str] | None) -> str:
    """Where two lists of class names differ; empty if nowhere."""
    if one is None or other is None:
        return "" if one is other else f"{len(one or other or [])} names and none"
    for label, (a, b) in enumerate(itertools.zip_longest(one, other)):
        if a != b:
            says = "does not exist" if b is None else f"is {b!r}"
            rest = "which the other lacks" if a is None else f"not {a!r}"
            return f"label {label} {says}, {rest}"
    return ""


def labels_of(
    task: str,
    definition: Definition,
    role: str,
    rows: np.ndarray,
    values: Any,
    own: list[str] | None,
    classes: int,
) -> np.ndarray:
    """Labels as Source has them, of the rows of a role.

    Raises:
        UserError: a row without a label, or whose label is hidden, no number, or outside.
    """
    scores, what = has_scores(definition), f"{role} {noun(definition)}s"
    column = definition.get("label", "label")
    in_words = not scores and any(isinstance(value, str) for value in values)
    hidden = [v is None or v == HIDDEN or (in_words and not is_word(v)) for v in values]
    if any(hidden) and (not scores or all(hidden) or None in values):
        row = hidden.index(True)
        raise UserError(
            f"Task {task}: row {rows[row]} of the {what} has label {values[row]}: "
            + (
                f"its labels are hidden; set `{role}` in its definition to a split that shows them."
                if all(hidden)
                else f"{sum(hidden):,} of {len(hidden):,} labels are missing; complete the dataset."
            )
        )
    if in_words:
        numbered = {value: int(value) for value in values} if own is None else {}
        places = numbered or {name: label for label, name in enumerate(own or [])}
        values = [places.get(value, value) for value in values]
    try:
        numbers = np.asarray(list(values))
        if numbers.dtype.kind not in "biuf":
            raise ValueError(f"the first is {values[0]!r}")
        labels: np.ndarray = numbers.astype(np.float32 if scores else np.int64)
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


def class_names(task: str, definition: Definition, own: list[str] | None) -> list[str]:
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
    if len(classes) < 2:
        raise UserError(
            f"Task {task}: it has one class alone, {classes[0]!r}, which every image is; a task "
            "needs at least two."
        )
    same = alike(classes)
    if same and definition.get("alike_classes", "error") == "error":
        raise UserError(
            f"Task {task}: its classes {same[0]!r} and {same[1]!r} are the same to a model that "
            "reads their names; name one otherwise in `classes`, or set `alike_classes: allow`."
        )
    if not own:
        return classes
    meant = definition.get("source_classes", classes)
    counting = [str(name).strip() for name in own] == list(map(str, range(len(own))))
    for key, listed in (("classes", classes), ("source_classes", meant)):
        if len(listed) != len(own):
            raise UserError(
                f"Task {task}: its definition lists {len(listed)} {key}, its dataset has "
                f"{len(own)}; correct `{key}`."
            )
        if meant == "any" or counting:
            return classes
    keys = zip(*_keys(own, meant), strict=True)
    for i, (theirs, ours) in enumerate(zip(own, meant, strict=True)):
        if len(set(next(keys))) > 1:
            raise UserError(
                f"Task {task}: label {i} is {theirs!r} in its dataset and {ours!r} in its "
                "definition; put `classes` in the dataset's order, or list the dataset's own "
                "names as `source_classes` if they mean the same."
            )
    return classes


def alike(names: Sequence[str]) -> tuple[str, str] | None:
    """The first two names that are equal up to case, spaces and the form of Unicode."""
    seen: dict[str, str] = {}
    for name in names:
        key = " ".join(unicodedata.normalize("NFC", name).casefold().split())
        if key in seen:
            return seen[key], name
        seen[key] = name
    return None


def out_of_order(words: Sequence[str], names: Sequence[str]) -> tuple[int, str] | None:
    """The first label whose word is the name of another label, and that word; None if there is
    none. Words that are no label's name mean what they may."""
    named, said = _keys(names, words)
    places = {name: label for label, name in enumerate(named)}
    for label, (word, key) in enumerate(zip(words, said, strict=True)):
        if places.get(key, label) != label:
            return label, word
    return None


def _keys(*lists: Sequence[str]) -> list[list[str]]:
    """Names as they are compared: without case, punctuation and a leading folder or, where that
    makes two of a list the same (C and C++), as they are but for case."""
    exact = [
        [unicodedata.normalize("NFC", str(name)).casefold() for name in names] for names in lists
    ]
    plain = [[_plain(name) for name in names] for names in exact]
    clear = all(all(keys) and len(set(keys)) == len(keys) for keys in plain)
    return plain if clear else exact


def _plain(name: str) -> str:
    """A class name without punctuation and a leading folder: a/art_gallery → art gallery."""
    name = re.sub(r"^/?[a-z]/", "", name)
    kept = [c if unicodedata.category(c)[0] in "LMN" else " " for c in name]
    return " ".join("".join(kept).split())
