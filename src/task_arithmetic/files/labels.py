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

from ..errors import first
from .definition import Definition

HIDDEN = -1  # the label by which hubs mark rows whose labels are secret
Names = list[str] | None  # of a dataset's classes, if it has any


def same_names(definition: Definition, places: Mapping[str, Names]) -> Names:
    """The names of classes, which several places must give alike; places: what gives them → them.

    Raises:
        UserError: they differ.
    """
    (one, names), *others = places.items()
    for other, found in others:
        if found == names:
            continue
        if found is None or names is None:
            difference = f"{len(found or names or [])} names and none"
        else:
            pairs = enumerate(itertools.zip_longest(found, names, fillvalue="nothing"))
            label, (theirs, ours) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
            difference = f"label {label} is {theirs!r}, not {ours!r}"
        raise definition.error(
            f"{other} names its classes otherwise than {one}: {difference}; write both with the "
            "same list of names."
        )
    return names


def names_in_words(
    definition: Definition, labels: Mapping[str, np.ndarray], notes: list[str]
) -> Names:
    """The classes of labels that are words, in the order of their characters, which is noted; None
    if they are numbers, which may be written as texts.

    Args:
        labels: split → labels as they are. notes: to which this one is added.
    """
    in_words = {any(isinstance(x, str) for x in values): role for role, values in labels.items()}
    if len(in_words) > 1:
        raise definition.error(
            f"the column {definition.label!r} holds words in its {in_words[True]} split and "
            f"numbers in its {in_words[False]} split; write both alike."
        )
    words = sorted({value for values in labels.values() for value in values if is_word(value)})
    if True not in in_words or all(re.fullmatch(r"0|[1-9]\d*", word) for word in words):
        return None
    notes.append(f"labels are words: its {len(words)} classes are {first(words)}, in this order")
    return words


def is_word(value: object) -> bool:
    """Whether a label is a word."""
    return isinstance(value, str) and value.strip() != ""


def labels_of(
    definition: Definition, role: str, rows: np.ndarray, values: Any, own: Names, classes: int
) -> np.ndarray:
    """Labels as Source has them, of the rows of a role.

    Args:
        values: of each row its label as it is. own: the dataset's own class names.
    Raises:
        UserError: a row without a label, or whose label is hidden, no number, or outside.
    """
    scores, what = definition.has_scores, f"{role} {definition.noun}s"
    in_words = not scores and any(isinstance(value, str) for value in values)
    hidden = [v is None or v == HIDDEN or (in_words and not is_word(v)) for v in values]
    if any(hidden) and (not scores or all(hidden) or None in values):
        row = hidden.index(True)
        why = (
            f"its labels are hidden; set `{role}` in its definition to a split that shows them"
            if all(hidden)
            else f"{sum(hidden):,} of {len(hidden):,} labels are missing; complete the dataset"
        )
        raise definition.error(f"row {rows[row]} of the {what} has label {values[row]}: {why}.")
    if in_words:
        numbers = {value: int(value) for value in values} if own is None else {}
        places = numbers or {name: label for label, name in enumerate(own or [])}
        values = [places.get(value, value) for value in values]
    try:
        found = np.asarray(list(values))
        if found.dtype.kind not in "biuf":
            raise ValueError(f"the first is {values[0]!r}")
        labels: np.ndarray = found.astype(np.float32 if scores else np.int64)
        if not scores and (labels != found).any():
            raise ValueError("some are fractions")
    except (TypeError, ValueError) as error:
        raise definition.error(
            f"the column {definition.label!r} of its {what} is not a label of "
            f"{'' if scores else 'whole '}numbers ({error}); mend the dataset, or set `label` to "
            "another column."
        ) from None
    wrong = np.flatnonzero(~np.isfinite(labels) if scores else (labels < 0) | (labels >= classes))
    if len(wrong):
        says = "which is no finite score" if scores else f"outside its {classes} classes"
        raise definition.error(
            f"row {rows[wrong[0]]} of the {what} has label {labels[wrong[0]]}, {says}; mend the "
            f"dataset{'' if scores else ' or `classes`'}."
        )
    return labels


def class_names(definition: Definition, own: Names) -> list[str]:
    """The class names in label order: the definition's `classes`, else the dataset's own.

    The dataset's own names must be those that `classes` stands for, in the same order, up to
    case, punctuation and a leading one-letter folder: a wrong order would give wrong numbers
    without an error. Names that only count (0, 1, 2 …) say nothing, and are not compared.
    """
    given = definition.classes or own
    if given == "open_clip":
        from open_clip import IMAGENET_CLASSNAMES

        given = IMAGENET_CLASSNAMES
    if not given:
        raise definition.error(
            "its labels have no names; list them as `classes` in its definition."
        )
    classes = [str(name) for name in given]
    if len(classes) < 2:
        raise definition.error(
            f"it has one class alone, {classes[0]!r}, which every image is; a task needs at least "
            "two."
        )
    same = alike(classes)
    if same and definition.alike_classes == "error":
        raise definition.error(
            f"its classes {same[0]!r} and {same[1]!r} are the same to a model that reads their "
            "names; name one otherwise in `classes`, or set `alike_classes: allow`."
        )
    if not own:
        return classes
    meant = classes if definition.source_classes is None else definition.source_classes
    counting = [str(name).strip() for name in own] == list(map(str, range(len(own))))
    for key, listed in (("classes", classes), ("source_classes", meant)):
        if len(listed) != len(own):
            raise definition.error(
                f"its definition lists {len(listed)} {key}, its dataset has {len(own)}; correct "
                f"`{key}`."
            )
        if isinstance(meant, str) or counting:  # any
            return classes
    keys = zip(*_keys(own, meant), strict=True)
    for i, (theirs, ours, both) in enumerate(zip(own, meant, keys, strict=True)):
        if len(set(both)) > 1:
            raise definition.error(
                f"label {i} is {theirs!r} in its dataset and {ours!r} in its definition; put "
                "`classes` in the dataset's order, or list the dataset's own names as "
                "`source_classes` if they mean the same."
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
