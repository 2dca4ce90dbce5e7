"""Fine-tuned T5s of transformers, under our names, which are its own."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..core.encoder import Encoder
from ..files import fine_tuned
from ..files.checkpoint import Checkpoint
from ..files.fine_tuned import FineTuned
from ..files.paths import PathLike
from ..files.tensors import check_tensors
from .geometry import t5_geometry
from .modality import Language, read_encoder

COPIES = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]  # of shared.weight


def write_published(
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
    """The published stage, of a T5: see files.fine_tuned.write_published."""
    model = read_encoder(encoder_dir)
    found = fine_tuned.published(files, download, task)
    tensors = read_fine_tuned(found.checkpoint, model, Path(encoder_dir))
    fine_tuned.write_published(found, tensors, model, encoder, mode, task, settings, output)


def read_fine_tuned(checkpoint: Checkpoint, encoder: Encoder, encoder_dir: Path) -> FineTuned:
    """θ_t of a T5ForConditionalGeneration, in one file or in shards, or of a file of ours.

    Args:
        encoder: θ0. encoder_dir: its folder.
    Raises:
        UserError: another architecture, a tensor that lacks or is too many, embeddings that are
            tied and differ.
    """
    assert isinstance(encoder.modality, Language)
    geometry, tensors = encoder.modality.geometry, dict(checkpoint.tensors)
    if checkpoint.config:
        ours, theirs = asdict(geometry), asdict(t5_geometry(encoder.name, checkpoint.config))
        if differs := [f"{k} {theirs[k]}, not {v}" for k, v in ours.items() if theirs[k] != v]:
            raise checkpoint.error(
                f"has by its config.json {'; '.join(differs)} as {encoder.name} has: it belongs to "
                "another encoder."
            )
    for name in [*COPIES, *(["lm_head.weight"] if geometry.tied else [])]:
        copy = tensors.pop(name, None)
        if copy is None:
            continue
        if not torch.equal(tensors.setdefault("shared.weight", copy), copy):
            raise checkpoint.error(
                f"has a {name} that is not its shared.weight, as that of {encoder.name} is: it "
                "belongs to another encoder."
            )
    needed = set() if checkpoint.made_by else set(encoder.theta0)
    shapes = {n: tuple(t.shape) for n, t in encoder.theta0.items() if n in tensors or n in needed}
    check_tensors(checkpoint.place, tensors, shapes)
    return fine_tuned.fine_tuned(checkpoint, tensors)
