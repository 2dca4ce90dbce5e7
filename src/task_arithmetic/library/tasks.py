"""A labelled data set as a value, as one encoder reads it."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import checks
from ..config.definitions import FORMS
from ..config.sentences import hold
from ..config.settings import data_settings, head_settings
from ..core.encoder import Examples
from ..errors import UserError
from ..files.manifest import SPLITS, read_manifest
from ..files.paths import PathLike
from .cache import cached, defined, downloaded, is_path, run_stage
from .encoders import Encoder

TEMPLATES = ["a photo of a {}."]


@dataclass(frozen=True, repr=False, eq=False)
class Task:
    """A labelled data set as one encoder reads it.

    Attributes:
        name: its name. encoder: at θ0, whose head of the task it is.
        data_dir, head: its prepared data, and its zero-shot head, or prompts and answers.
        limit: split → only so many examples of it, drawn at random; None: all.
    """

    name: str
    encoder: Encoder
    data_dir: Path
    head: Path
    limit: dict[str, int] | None = None

    @property
    def classes(self) -> list[str]:
        """The classes' names in label order; none if labels are scores."""
        return read_manifest(self.data_dir).classes

    def examples(self, split: str, encoder: Encoder) -> Examples:
        """The examples of train, validation or test, as the modality reads them. Raises UserError:
        the task was loaded for another encoder."""
        ours, theirs = ((e.base, e.seal, e.prompts) for e in (self.encoder, encoder))
        if ours != theirs:
            raise UserError(
                f"Task {self.name} was loaded for another encoder than this {encoder.name}: load "
                "it with load_task(..., encoder)."
            )
        return encoder.modality.read_examples(
            self.head, self.data_dir, split, self.limit, encoder.device
        )

    def __repr__(self) -> str:
        counts = read_manifest(self.data_dir).counts
        shown = ", ".join(f"{count:,} {split}" for split, count in counts.items())
        return f"Task({self.name}, {len(self.classes)} classes, {shown})"


def load_task(
    source: PathLike,
    encoder: Encoder,
    *,
    templates: list[str] | str | None = None,
    name: str | None = None,
    limit: dict[str, int] | None = None,
    **definition: Any,
) -> Task:
    """A labelled data set as an encoder reads it, prepared once.

    Args:
        source: a folder or file of images (class folders, a data set saved by `datasets`, parquet,
            CSV, JSON lines) or of texts; or a name of config/tasks, which goes before a folder of
            that name: ./name is the folder.
        templates: of images: prompts with one {} for the class name, or "open_clip"; of a folder
            "a photo of a {}." if none are given.
        name: what to call it; by default as the source.
        limit: split → only so many examples of it, drawn at random.
        definition: any other key of a task's definition (`task-arithmetic schema --of tasks`).
    Raises:
        UserError: what is wrong with the data or their definition.
    """
    if not isinstance(encoder, Encoder):
        raise UserError(
            f"load_encoder gives the encoder that a task is loaded for; found {encoder!r}."
        )
    if encoder.tau.tensors:
        raise UserError(
            f"A task vector was added to this {encoder.name}: load the task for the encoder as "
            "load_encoder gave it; it can then be evaluated with either."
        )
    if not isinstance(source, str | os.PathLike) or not isinstance(limit or {}, dict):
        raise UserError(
            f"A task is a name or a path, its limit a mapping; found {source!r}, {limit!r}."
        )
    for split, count in (limit or {}).items():
        if split not in SPLITS or not (isinstance(count, int) and count >= 1):
            raise UserError(
                f"limit has {split}: {count!r}: give whole numbers above 0 of {', '.join(SPLITS)}."
            )
    place = Path(os.path.normpath(source))
    key = name or (place.name if place.is_dir() else place.stem)
    if not isinstance(key, str) or key != os.path.basename(key) or key in (".", ".."):
        raise UserError(f"A task cannot be called {key!r}: give a `name` that is no path.")
    given = {**definition, **({"templates": templates} if templates is not None else {})}
    if is_path("tasks", source):
        task: dict[str, Any] = {"path": str(source), **given}
        modality = "language" if "prompts" in task else "vision"
        if modality == "vision":
            task.setdefault("templates", TEMPLATES)
    else:
        own = defined("tasks", str(source))
        modality, task = own.modality, own.given() | given
    where = f"Task {key}"
    model: Any = hold(FORMS["tasks"][modality], task, where)
    checks.check_definition(model, where)
    if modality != encoder.modality.name:
        kinds = {"vision": "images", "language": "texts"}
        raise UserError(
            f"Task {key} is of {kinds[modality]}, and encoder {encoder.name} reads "
            f"{kinds[encoder.modality.name]}: choose one of the other."
        )
    sets = list(task.get("prompts", {}))
    prompts = encoder.prompts or (sets[0] if len(sets) == 1 else None)
    if sets and prompts not in sets:
        advice = f"name a prompt set of the task {prompts}" if prompts else "give a task with one"
        raise UserError(
            f"Task {key} has the prompt sets {', '.join(sets)}, and encoder {encoder.name} reads "
            f"{prompts or 'none in particular'}: {advice}, or take an encoder of config/encoders "
            "that names one of them."
        )
    settings = json.loads(data_settings(model))
    if "embedded" in task:
        settings["path"] = str(cached("embedded", modality, task["embedded"]))
        if not Path(settings["path"]).exists():
            run_stage("embedded", {"task": task["embedded"], "output": settings["path"]})
    data_dir = cached("data", modality, key, settings)
    if not data_dir.exists():
        record = downloaded(key, model, data_dir)
        run_stage(
            "data", {"task": key, "settings": settings, "output": str(data_dir), "download": record}
        )
    asked = json.loads(head_settings(model, prompts))
    data = read_manifest(data_dir).data_sha256
    head = cached("head", modality, key, asked, data, encoder.seal)
    head = head.with_name(f"{head.name}.safetensors")
    if not head.exists():
        files = {"encoder_dir": str(encoder.folder), "data_dir": str(data_dir)}
        run_stage("head", {**files, "settings": asked, "output": str(head)})
    return Task(key, encoder, data_dir, head, limit)
