"""What is kept of a dataset's rows: held to its definition, and written into the manifest."""

import itertools
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import UserError, first
from .definition import Definition
from .hashes import sha256_of, sha256_of_file
from .manifest import SPLITS, Manifest
from .source import Source


def check_kept(
    source: Source,
    labels: Mapping[str, np.ndarray],
    rows: Mapping[str, Sequence[Hashable]],
    notes: Sequence[str] = (),
    example: Callable[[], str] | None = None,
) -> Manifest:
    """Hold the rows that are kept to the definition, and print the notes into the job's log.

    Args:
        labels: split → labels. rows: split → as many rows, or digests of them.
        notes: that there are beside the source's.
        example: says where a row is that stands in two splits.
    Returns:
        the manifest, but for its files.
    Raises:
        UserError: as check_counts; too many rows that stand in two splits.
    """
    definition = source.definition
    every = [*source.notes, *notes, *check_counts(source, labels)]
    every += [] if definition.has_scores else contradictions(rows, labels, definition.noun)
    for note in every:
        print(f"Task {definition.task}: {note}.", file=sys.stderr)
    counts = {split: len(each) for split, each in labels.items()}
    different = {split: set(found) for split, found in rows.items()}
    shared = {
        f"{a}-{b}": len(different[a] & different[b]) for a, b in itertools.combinations(SPLITS, 2)
    }
    if problem := too_many_shared(definition, counts, shared):
        where = f" ({example()})" if example else ""
        raise UserError(f"{problem.removesuffix('.')}{where}.")
    download = source.download
    return Manifest(
        task=definition.task,
        classes=source.classes,
        files={},
        validation_indices_sha256=sha256_of(source.parts["validation"].rows.tolist()),
        definition=dict(definition.given),
        source=download.source("repo", "revision", "commit", "files") if download else None,
        source_classes=source.own,
        in_words=source.in_words,
        counts=counts,
        repeated_within_split={x: len(rows[x]) - len(different[x]) for x in rows},
        shared_between_splits=shared,
        notes=every,
    )


def write_manifest(folder: Path, manifest: Manifest, hashes: dict[str, str]) -> None:
    """Write manifest.json beside the files of a task. hashes: split → hash of its rows."""
    files = {path.name: sha256_of_file(path) for path in sorted(folder.iterdir())}
    data = sha256_of([manifest.classes, files])
    replace(manifest, files=files, data_sha256=data, sha256=hashes).write(folder)


def check_counts(source: Source, labels: Mapping[str, np.ndarray]) -> list[str]:
    """Hold what is kept of each split to the definition's `expected`, and every class to having
    rows; returns sentences on classes that lack some.

    Raises:
        UserError: other counts; a class of which some are trained on and none tested, or some
            tested and none trained on, which no mean over the test rows would show.
    """
    definition, classes = source.definition, source.classes
    found = {split: len(each) for split, each in labels.items()} | {"classes": len(classes)}
    for what, count in definition.expected.items():
        if found[what] != count:
            raise definition.error(
                f"{found[what]} {what} instead of the expected {count}; check its dataset's "
                "revision, config and splits."
            )
    if not classes:
        return []
    has = {split: np.bincount(each, minlength=len(classes)) > 0 for split, each in labels.items()}
    learnt, kind = has["train"], definition.noun
    one_sided = np.flatnonzero(learnt != has["test"])
    if learnt.any() and len(one_sided) and definition.missing_classes == "error":
        lacks = [
            f"{classes[i]!r} (no {'test' if learnt[i] else 'train'} {kind})" for i in one_sided
        ]
        raise definition.error(
            f"a mean over its test {kind}s would hide the "
            f"{'class' if len(lacks) == 1 else 'classes'} {first(lacks)}; complete the dataset, or "
            "set `missing_classes: allow` in its definition."
        )
    notes = []
    for split in SPLITS:
        empty = [repr(classes[i]) for i in np.flatnonzero(~has[split])] if has[split].any() else []
        if empty:
            many = "one class has" if len(empty) == 1 else f"{len(empty)} classes have"
            notes.append(f"{many} no {split} {kind}: {first(empty)}")
    return notes


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
    return [f"{count:,} {kind}{'s' * (count > 1)} with more than one label"] if count else []


def too_many_shared(
    definition: Definition, counts: Mapping[str, int], shared: Mapping[str, int]
) -> str | None:
    """A sentence if more rows stand in two splits than the definition's `shared_images` or
    `shared_texts` allows, a share of the smaller split (default 0).

    Args:
        counts: split → rows; shared: as in a Manifest.
    """
    kind = definition.noun
    most = definition.shared_texts if definition.texts else definition.shared_images
    for pair, count in shared.items():
        a, b = pair.split("-")
        if count > most * min(counts[a], counts[b]):
            return (
                f"Task {definition.task}: {a} and {b} have {count:,} {kind}{'s' * (count > 1)} in "
                f"common; let each stand in one of the two, or set `shared_{kind}s` in its "
                "definition to the share that may be."
            )
    return None
