"""What is kept of a dataset's rows: held to its definition, and written into the manifest."""

import itertools
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import UserError
from .hashes import sha256_of, sha256_of_file
from .labels import has_scores, noun
from .local import Definition, first
from .manifest import SPLITS, Manifest
from .source import Source

SOURCE = "repo", "revision", "commit", "files"  # what a manifest says of a download


class Overlap(NamedTuple):
    """Rows that stand in the data more than once: how many of a split stand in it again, and of two
    splits, "train-test" and the other pairs, how many different ones stand in both."""

    within: dict[str, int]
    between: dict[str, int]


class Kept(NamedTuple):
    """What is kept of a source: split → labels, split → number of rows; and sentences on what a
    person should know of it."""

    labels: dict[str, np.ndarray]
    counts: dict[str, int]
    overlap: Overlap
    notes: list[str]


def check_kept(
    source: Source,
    labels: dict[str, np.ndarray],
    rows: Mapping[str, Sequence[Hashable]],
    notes: Sequence[str] = (),
    example: Callable[[], str] | None = None,
) -> Kept:
    """Hold the rows that are kept to the definition, and print the notes into the job's log.

    Args:
        labels: split → labels. rows: split → as many rows, or digests of them.
        notes: that there are beside the source's.
        example: says where a row is that stands in two splits.
    Raises:
        UserError: as check_counts; too many rows that stand in two splits.
    """
    task, definition = source.task, source.definition
    counts = {split: len(each) for split, each in labels.items()}
    every = [*source.notes, *notes, *check_counts(source, labels)]
    every += [] if has_scores(definition) else contradictions(rows, labels, noun(definition))
    for note in every:
        print(f"Task {task}: {note}.", file=sys.stderr)
    different = {split: set(found) for split, found in rows.items()}
    overlap = Overlap(
        {split: len(found) - len(different[split]) for split, found in rows.items()},
        {
            f"{a}-{b}": len(different[a] & different[b])
            for a, b in itertools.combinations(SPLITS, 2)
        },
    )
    if problem := too_many_shared(task, definition, counts, overlap.between):
        where = f" ({example()})" if example else ""
        raise UserError(f"{problem.removesuffix('.')}{where}.")
    return Kept(labels, counts, overlap, every)


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


def write_manifest(folder: Path, source: Source, kept: Kept, hashes: dict[str, str]) -> None:
    """Write manifest.json beside the files of a task. hashes: split → hash of its rows."""
    files = {path.name: sha256_of_file(path) for path in sorted(folder.iterdir())}
    download = source.download
    Manifest(
        task=source.task,
        classes=source.classes,
        files=files,
        data_sha256=sha256_of([source.classes, files]),
        sha256=hashes,
        validation_indices_sha256=sha256_of(source.parts["validation"].rows.tolist()),
        definition=source.definition,
        source=None if download is None else download.source(*SOURCE),
        source_classes=source.own,
        in_words=source.in_words,
        counts=kept.counts,
        repeated_within_split=kept.overlap.within,
        shared_between_splits=kept.overlap.between,
        notes=kept.notes,
    ).write(folder)


def contradictions(
    rows: Mapping[str, Sequence[Hashable]], labels: Mapping[str, np.ndarray], kind: str
) -> list[str]:
    """A note if some rows stand in the data with different labels: one of them is wrong.

    Args:
        rows: split → rows, or digests of them; labels: split → as many labels.
    """
    found: dict[Hashable, set[int]] = {}
    for split, each in rows.items():
        for row, label in zip(each, labels[split], strict=True):
            found.setdefault(row, set()).add(int(label))
    count = sum(len(different) > 1 for different in found.values())
    return [f"{count:,} {kind}{'s' * (count > 1)} with more than one label"] * (count > 0)


def too_many_shared(
    task: str, definition: Definition, counts: dict[str, int], shared: dict[str, int]
) -> str | None:
    """A sentence if more rows stand in two splits than the definition's `shared_images` or
    `shared_texts` allows, a share of the smaller split (default 0).

    Args:
        counts: split → rows; shared: as Overlap.between.
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
