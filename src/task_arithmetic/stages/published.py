"""A task vector from fine-tuned weights that somebody else has published."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..core.encoder import Encoder
from ..errors import UserError
from ..files.checkpoint import Checkpoint, read_checkpoint
from ..files.download import Download
from ..files.fine_tuned import Imported, Moves, task_vector
from ..files.paths import PathLike
from ..files.tensors import write_tensors
from ..language import imports as of_texts
from ..vision import imports as of_images
from . import modalities

READERS = {"vision": of_images.read_fine_tuned, "language": of_texts.read_fine_tuned}


class Published(NamedTuple):
    """A checkpoint, and where it came from, for the vector's header."""

    checkpoint: Checkpoint
    source: dict[str, Any]


def published(
    encoder_dir: PathLike,
    *,
    encoder: str,
    mode: str,
    task: str,
    settings: dict[str, Any],
    output: PathLike,
    files: Sequence[PathLike] | None = None,
    download: PathLike | None = None,
) -> None:
    """Write the task vector of published weights, as the vector stage does of fine-tuned ones.

    Args:
        encoder_dir: the encoder stage's folder. encoder, mode, task: names.
        settings: modality; mode: `train`, its patterns, and `linearized`.
        files: of a local checkpoint, see checkpoint_files. download: of a hub's: its record.
    Raises:
        UserError: as read_files, read_download and import_vector.
    """
    model = modalities.read_encoder(encoder_dir, settings.get("modality", "vision"))
    if files:
        found = read_files(files)
    elif download is not None:
        found = read_download(Download.read(download))
    else:
        raise UserError(f"The checkpoint of {task} is missing: give --files or --download.")
    how = settings["mode"]
    modes = {mode: Moves(how["train"], how["linearized"])}
    read = import_vector(model, Path(encoder_dir), found.checkpoint, modes, task, mode)
    write(read, found.source, modes[mode].patterns, encoder, output)


def read_files(files: Sequence[PathLike]) -> Published:
    """A local checkpoint. Raises UserError as read_checkpoint."""
    found = read_checkpoint(files)
    return Published(found, {"path": found.place, "files": found.hashes})


def read_download(record: Download) -> Published:
    """A hub's checkpoint. Raises UserError: a file is gone from the cache; as read_checkpoint."""
    files = [path for paths in record.paths().values() for path in paths]
    return Published(
        read_checkpoint(files, record.repo), record.source("repo", "revision", "commit", "files")
    )


def import_vector(
    encoder: Encoder,
    encoder_dir: Path,
    checkpoint: Checkpoint,
    modes: Mapping[str, Moves],
    task: str = "",
    mode: str | None = None,
) -> Imported:
    """The task vector of a checkpoint of any form. Raises UserError as its modality's
    read_fine_tuned and files.fine_tuned.task_vector."""
    found = READERS[encoder.modality.name](checkpoint, encoder, encoder_dir)
    return task_vector(checkpoint, found, encoder, modes, task, mode)


def write(
    read: Imported, source: dict[str, Any], patterns: list[str], encoder: str, output: PathLike
) -> None:
    """Write an imported vector's file, and say on stderr how it was read."""
    vector = read.vector
    for note in read.notes:
        print(note, file=sys.stderr)
    made_by = {
        "stage": "vector",
        "encoder": encoder,
        "mode": vector.mode,
        "task": vector.task,
        "settings": {"mode": {"train": patterns, "linearized": vector.linearized}},
        "theta0_sha256": vector.base,
        "source": source,
    }
    write_tensors(output, vector.tensors, made_by)
