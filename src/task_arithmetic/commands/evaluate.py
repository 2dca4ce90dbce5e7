"""The accuracy of any encoder, with any task vectors added, on any tasks."""

import math
import statistics
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from ..answer import answer
from ..errors import UserError
from ..files.manifest import read_manifest
from ..files.paths import PathLike
from ..files.tensors import read_made_by
from ..library import Encoder, MergedVector, TaskVector, load_encoder, load_task, merge
from ..library import evaluate as accuracies
from ..library.cache import is_path
from ..library.vectors import check_file
from ..planning.text import aligned
from ..stages.evaluate import MERGED
from .words import check_once


class Accuracy(NamedTuple):
    """What was measured on a task: of how many examples, as fractions.

    Attributes:
        zero_shot: of the encoder without vectors; None: there are none.
    """

    task: str
    examples: int
    accuracy: float
    zero_shot: float | None


class Evaluated(NamedTuple):
    """The accuracies of an encoder, at θ0 + α·τ if there are vectors.

    Attributes:
        mode: of the vectors. through: f, or f_lin, which a linearized mode is evaluated through.
    """

    encoder: str
    vectors: list[str]
    mode: str
    alpha: float | None
    through: str
    split: str
    tasks: list[Accuracy]
    mean: Accuracy


def evaluate(
    encoder: str,
    vectors: list[str],
    alpha: float | None,
    tasks: list[str],
    split: str,
    templates: list[str] | None,
    classes: list[str] | None,
    device: str | None,
    as_json: bool = False,
) -> None:
    """Print the accuracy of an encoder on tasks: top-1 of images, exact match or Spearman's ρ of
    texts; with vectors, that of θ0 + α Σ τ and, beside it, of θ0.

    Args:
        encoder, tasks, templates, classes, device: see load_encoder and load_task; no device: a GPU
            if there is one.
        vectors: files of task vectors, or of one merged vector θ0 + A + α·B. alpha: None: 1.
    Raises:
        UserError: what load_encoder, load_task, merge and evaluate refuse.
    """
    if alpha is not None and not vectors:
        raise UserError("--alpha multiplies vectors: give some by --vectors, or leave it out.")
    if alpha is not None and not math.isfinite(alpha):
        raise UserError(f"--alpha must be a number; found {alpha}.")
    check_once(vectors)
    own: dict[str, Any] = {"templates": templates, **_classes(classes or [])}
    model = load_encoder(encoder, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    scale = 1.0 if alpha is None else alpha
    moved = _with(model, vectors, scale)
    folders = {task for task in tasks if is_path("tasks", task)}
    if (templates or classes) and not folders:
        raise UserError(
            "--templates and --classes are of folders of images, and no task is one: a named task "
            "has its own in config/tasks."
        )
    loaded = [load_task(task, model, **own if task in folders else {}) for task in tasks]
    found = accuracies(moved, loaded, split)
    before = accuracies(model, loaded, split) if vectors else {}
    rows = [
        Accuracy(task.name, read_manifest(task.data_dir).counts[split], found[task.name],
                 before.get(task.name))
        for task in loaded
    ]  # fmt: skip
    mean = Accuracy(
        "mean of the tasks",
        sum(row.examples for row in rows),
        statistics.fmean(found.values()),
        statistics.fmean(before.values()) if before else None,
    )
    how = "f_lin" if moved.tau.linearized else "f"
    of = moved.tau.mode, scale if vectors else None
    evaluated = Evaluated(model.name, vectors, *of, how, split, rows, mean)
    answer(evaluated, _lines(evaluated), as_json)


def _classes(words: list[str]) -> dict[str, list[str]]:
    """The keys of a definition that OWN=NAME of each class, or NAME, stand for."""
    if not words:
        return {}
    pairs = [word.rpartition("=") for word in words]
    names = {"classes": [name for _, _, name in pairs]}
    if not any(equals for _, equals, _ in pairs):
        return names
    return {**names, "source_classes": [own or name for own, _, name in pairs]}


def _with(encoder: Encoder, paths: list[str], alpha: float) -> Encoder:
    """θ0 + α Σ τ, or θ0 + A + α·B of one merged vector's file."""
    if not paths:
        return encoder
    of = [load_vector(path) for path in paths]
    if len(of) == 1:
        return encoder + alpha * of[0]
    plain = [vector for vector in of if isinstance(vector, TaskVector)]
    if len(plain) < len(of):
        raise UserError(
            "A merged vector with an offset, θ0 + A + α·B, is added alone: give its file without "
            "others."
        )
    return encoder + alpha * merge(plain)


def load_vector(path: PathLike) -> TaskVector | MergedVector:
    """A vector's file, with or without an offset. Raises UserError as TaskVector.load does."""
    check_file(path)
    is_merged = read_made_by(path).get("stage") == MERGED
    return MergedVector.load(path) if is_merged else TaskVector.load(path)


def _lines(found: Evaluated) -> Iterator[str]:
    what = found.encoder
    if found.vectors:
        vectors = f"{len(found.vectors)} vector{'s' * (len(found.vectors) > 1)}"
        what += f" + {found.alpha:g} · {vectors} of mode {found.mode or 'unknown'}"
    yield f"{what}, through {found.through}, on {found.split} (%)"
    yield ""
    head = ["task", "n", "accuracy", *["zero-shot"] * bool(found.vectors)]
    rows = [head]
    for row in [*found.tasks, *[found.mean] * (len(found.tasks) > 1)]:
        shares = [row.accuracy, *([] if row.zero_shot is None else [row.zero_shot])]
        rows.append([row.task, f"{row.examples:,}", *(f"{100 * share:.2f}" for share in shares)])
    yield from aligned(rows, left=1)
