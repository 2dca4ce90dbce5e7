"""Unified models for other libraries: a folder that transformers, open_clip or FusionBench loads,
or a task vector, with its card."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import UserError, nearest
from ..files.paths import PathLike, atomic_path
from ..merging.method import options_of
from ..merging.methods import find
from .card import Made, Score, Source, measure, write_card
from .checks import expect
from .encoders import Encoder
from .formats import FORMATS, SHARD_BYTES, check_format
from .tasks import Task
from .vectors import TaskVector

PROJECTION = "proj"  # of the image tower


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes:
        folder: where it lies. to: its format. scores: if it was evaluated, of each task.
    """

    folder: Path
    to: str
    scores: list[Score]


def export(
    encoder: Encoder,
    folder: PathLike,
    to: str = "transformers",
    *,
    tasks: Sequence[Task] | Task = (),
    vectors: Iterable[TaskVector | Source] = (),
    method: str = "",
    options: Mapping[str, Any] | None = None,
    merged: Source | None = None,
    alpha: float | None = None,
    chosen: str = "",
    evaluate: bool = False,
    license: str = "",
    as_nonlinear: bool = False,
    keep_base_projection: bool = False,
    precision: str = "auto",
    shard_bytes: int = SHARD_BYTES,
    command: str = "",
) -> Exported:
    """Write θ0 + τ as another library loads it, with a card for the hub (README.md) and merge.yaml.

    Args:
        encoder: what load_encoder gave, plus a task vector: `clip + alpha * merged`.
        folder: a new one; it is there whole, or not at all.
        to: transformers (of CLIP and T5); open_clip: the whole CLIP, its text tower θ0's, and the
            heads of `tasks`; fusion_bench: transformers, and a model pool; vector: τ alone.
        tasks: what load_task gave: heads of open_clip, and what the card says of data.
        vectors, method, options, merged, alpha, chosen: what the card says of τ: the vectors, what
            `merge` was given with them, the file of what was merged before, α and how it was
            chosen, in words.
        evaluate: the card has the accuracies of θ0, of the individual models whose vectors are
            given and of the exported model on the test splits of `tasks`.
        license: an identifier of the hub's, such as mit, of what is exported.
        as_nonlinear: a vector of f_lin is used in f, which is another model.
        keep_base_projection: the projection stays θ0's, as in FusionBench.
        precision: of evaluations. shard_bytes: the most that a file of transformers has.
        command: what the card gives as the command that makes the folder again.
    Raises:
        UserError: `folder` is there; an unknown format, or one that has no place for the encoder;
            nothing was added; τ is of f_lin; its mode moved the projection, which FusionBench has
            not; `evaluate` without tasks; no space.
    """
    expect(encoder, Encoder, "load_encoder")
    check_place(folder)
    check_known(to)
    loaded = [tasks] if isinstance(tasks, Task) else list(tasks)
    for task in loaded:
        expect(task, Task, "load_task")
    if method:
        own = {k: v for k, v in (options or {}).items() if k not in ("seed", "layer_scale")}
        options_of(find(method), own)
    if evaluate and not loaded:
        raise UserError("There is no task to evaluate on: give `tasks`.")
    check_format(encoder, to)
    exported, dropped, nonlinear = _as_exported(encoder, to, as_nonlinear, keep_base_projection)
    every = [each if isinstance(each, Source) else _source(each) for each in vectors]
    how: dict[str, Any] = {"method": method, "given": options or {}, "merged": merged}
    how |= {"alpha": alpha, "chosen": chosen, "license": license, "command": command}
    made = Made(to, every, dropped=dropped, nonlinear=nonlinear, **how)
    scores = measure(exported, loaded, every, precision) if evaluate else []
    path = Path(os.path.normpath(folder))
    with atomic_path(path) as temporary:
        temporary.mkdir()
        files = FORMATS[to](exported, temporary, loaded, shard_bytes)
        write_card(temporary, path.name, exported, made, loaded, scores, files)
    return Exported(path, to, scores)


def check_known(to: str) -> None:
    """Raises UserError: there is no such format."""
    if to not in FORMATS:
        raise UserError(
            f"There is no format {to!r}{nearest(str(to), FORMATS)}: choose one of "
            f"{', '.join(FORMATS)}."
        )


def check_place(folder: PathLike) -> None:
    """Raises UserError: something is there, which is never written over, or no folder can be."""
    if not isinstance(folder, str | os.PathLike) or not str(folder):
        raise UserError(f"{folder!r} is no name of a folder: give one that is not there yet.")
    path = Path(folder)
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} is there already, and nothing is written over: give another name.")
    above = next(each for each in path.absolute().parents if each.exists())
    if not above.is_dir():
        raise UserError(f"{above} is a file, so that {path} cannot be made: give another place.")


def _source(vector: TaskVector) -> Source:
    expect(vector, TaskVector, "finetune")
    return Source.of(vector)


def _as_exported(
    encoder: Encoder, to: str, as_nonlinear: bool, keep_base_projection: bool
) -> tuple[Encoder, bool, bool]:
    """The encoder that the folder will hold; whether its projection was put back to θ0's, and
    whether what was trained in f_lin is used in f."""
    tau = encoder.tau
    if not tau.tensors:
        raise UserError(
            f"Nothing was added to this {encoder.name}: give `encoder + alpha * merged`, not the "
            "pretrained encoder."
        )
    nonlinear = tau.linearized and to != "vector"
    if nonlinear and not as_nonlinear:
        raise UserError(
            f"{tau.mode} trains the linearized encoder f_lin, whose θ0 + τ in f is another model "
            "than the one that was trained: give --as-nonlinear (as_nonlinear=True) to export that "
            "one, or export to vector."
        )
    moved = PROJECTION in tau.keys() and bool(tau[PROJECTION].any())
    if to == "fusion_bench" and moved and not keep_base_projection:
        raise UserError(
            f"{tau.mode} moved the projection, which FusionBench takes from the pretrained model, "
            "so that it would score another model: give --keep-base-projection "
            "(keep_base_projection=True) to export that one, or export to transformers."
        )
    dropped = moved and keep_base_projection
    tensors = {k: v for k, v in tau.tensors.items() if not (dropped and k == PROJECTION)}
    linearized = tau.linearized and not nonlinear
    held = TaskVector(tensors, tau.mode, linearized, tau.base, tau.task)
    return replace(encoder, tau=held), dropped, nonlinear
