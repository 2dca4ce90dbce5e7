"""The download stage: a task's, an encoder's or a checkpoint's files come from a model hub."""

from collections.abc import Callable
from functools import partial
from typing import Any

from ..files.definition import Definition
from ..files.hub import (
    Commit,
    checkpoint_files,
    dataset_files,
    download,
    model_files,
    open_clip_files,
)
from ..files.paths import PathLike
from ..vision.geometry import weights_repository


def write_download(settings: dict[str, Any], output: PathLike) -> None:
    """Download a task's data or weights and record what was got.

    Args:
        settings: kind "task": name, hub (owner/name), optional config and revision, train and test
            (names of the source's splits; None: not needed); kind "encoder": name, and model and
            pretrained (open_clip's names), or hub and optional revision: a repository in
            transformers' form; kind "checkpoint": name, hub, optional revision.
        output: JSON, see Download: kind, name, repo, revision, commit, files: of each its path,
            size (bytes) and sha256.
    Raises:
        UserError: open_clip has no such weights; and as hub.download.
    """
    kind, name = settings["kind"], settings["name"]
    choose: Callable[[Commit], dict[str, list[str]]] = model_files
    if kind == "checkpoint":
        choose = checkpoint_files
    elif kind == "task":
        choose = partial(dataset_files, definition=Definition.of(name, settings))
    elif "hub" not in settings:
        choose = open_clip_files
    repo = settings["hub"] if "hub" in settings else weights_repository(name, settings)
    download(kind, name, repo, settings.get("revision"), choose).write(output)
