"""Task vectors from fine-tuned weights that somebody else has published."""

import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

from ..config.definitions import Checkpoint, Mode
from ..config.reading import read_yaml
from ..config.sentences import hold
from ..config.settings import download_settings
from ..errors import UserError, nearest
from ..files.checkpoint import checkpoint_files
from ..files.download import Download
from ..files.fine_tuned import (
    Imported,
    Moves,
    Published,
    read_download,
    read_files,
    task_vector,
)
from ..files.paths import PathLike
from ..files.shipped import ROOT
from ..language import imports as of_texts
from ..vision import imports as of_images
from .cache import cache_dir, run_stage
from .checks import expect
from .encoders import Encoder
from .vectors import TaskVector

READERS = {"vision": of_images.read_fine_tuned, "language": of_texts.read_fine_tuned}


class Read(NamedTuple):
    """An imported vector with what its file says beside: its source, its mode's patterns."""

    imported: Imported
    source: dict[str, object]
    patterns: list[str]


def import_vector(
    source: PathLike,
    encoder: Encoder,
    task: str = "",
    mode: str | None = None,
    revision: str | None = None,
) -> TaskVector:
    """The task vector τ = θ_t − θ0 of fine-tuned weights in the form of transformers, open_clip or
    this package; it says on stderr what moved.

    Args:
        source: a folder or a file of weights, or a hub's repository, owner/name.
        encoder: θ0, as load_encoder gives it. task: the vector's.
        mode: a name of config/modes, in which what moved must lie; None: it is recognised.
        revision: of a hub's repository.
    Raises:
        UserError: no weights, or of another encoder; see files.fine_tuned.task_vector.
    """
    read = read_published(source, encoder, task, mode, revision)
    for note in read.imported.notes:
        print(note, file=sys.stderr)
    of = read.imported.vector
    return TaskVector(of.tensors, of.mode, of.linearized, of.base, of.task)


def read_published(
    source: PathLike,
    encoder: Encoder,
    task: str = "",
    mode: str | None = None,
    revision: str | None = None,
) -> Read:
    """As import_vector, with what a vector's file says beside."""
    expect(encoder, Encoder, "load_encoder")
    modes = _modes(encoder.modality.name)
    if mode is not None and mode not in modes:
        near = nearest(mode, modes)
        raise UserError(f"There is no mode {mode!r}{near}; it is one of {', '.join(modes)}.")
    found = _found(source, revision)
    tensors = READERS[encoder.modality.name](found.checkpoint, encoder, encoder.folder)
    read = task_vector(found.checkpoint, tensors, encoder, modes, task, mode)
    return Read(read, found.source, modes[read.vector.mode].patterns)


def _modes(modality: str) -> dict[str, Moves]:
    """All of config/modes that are for a modality, of the working directory over the shipped."""
    found = {}
    for place in (ROOT, Path()):
        for file in sorted((place / "config/modes").glob("*.yaml")):
            mode = hold(Mode, read_yaml(file), str(file))
            if patterns := mode.patterns(modality):
                found[file.stem] = Moves(patterns, mode.linearized)
    return found


def _found(source: PathLike, revision: str | None) -> Published:
    """A local checkpoint, or a hub's, which is downloaded."""
    if os.path.exists(source):
        if revision is not None:
            raise UserError(f"{source} lies here and has no revision: leave it out.")
        return read_files(checkpoint_files(source))
    name = str(source)
    if name.count("/") != 1 or name.startswith((".", "/")) or Path(name).parent.is_dir():
        raise UserError(
            f"There is no {source}: give a folder or a file of fine-tuned weights, or owner/name "
            "of a hub's repository."
        )
    pinned = {} if revision is None else {"revision": revision}
    checkpoint = Checkpoint(hub=str(source), **pinned)
    record = cache_dir() / "checkpoint" / f"{checkpoint.name}.json"
    settings = json.loads(download_settings(checkpoint.name, checkpoint))
    run_stage("download", {"settings": settings, "output": str(record)})
    return read_download(Download.read(record))
