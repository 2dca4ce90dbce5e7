"""From fine-tuned weights to a task vector: the base is θ0's, and a mode moved what differs."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.encoder import Encoder
from ..core.vectors import TaskVector, moved_names
from ..errors import UserError, first
from .checkpoint import Checkpoint, read_checkpoint
from .download import Download
from .paths import PathLike
from .tensors import write_tensors

SAME = 1e-6  # largest |Δ| of a tensor that was not fine-tuned
Tensors = dict[str, Tensor]


class Moves(NamedTuple):
    """A mode: patterns over an encoder's tensors, and whether it trains f_lin."""

    patterns: list[str]
    linearized: bool


class FineTuned(NamedTuple):
    """What a checkpoint says of an encoder's tensors.

    Attributes:
        tensors: θ_t under θ0's names, or τ; what is not there is as in θ0.
        is_tau: whether they are τ. linearized: whether they were trained in f_lin.
    """

    tensors: Tensors
    is_tau: bool = False
    linearized: bool = False


class Published(NamedTuple):
    """A checkpoint, and where it came from, for the vector's header."""

    checkpoint: Checkpoint
    source: dict[str, Any]


class Imported(NamedTuple):
    """A task vector that was read, and sentences on how."""

    vector: TaskVector
    notes: list[str]


def fine_tuned(checkpoint: Checkpoint, tensors: Tensors, linearized: bool = False) -> FineTuned:
    """The tensors of a checkpoint, once they have θ0's names."""
    of_mode = checkpoint.made_by.get("settings", {}).get("mode", {})
    is_tau = checkpoint.made_by.get("stage") == "vector"
    return FineTuned(tensors, is_tau, linearized or of_mode.get("linearized", False))


def task_vector(
    checkpoint: Checkpoint,
    found: FineTuned,
    encoder: Encoder,
    modes: Mapping[str, Moves],
    task: str = "",
    mode: str | None = None,
) -> Imported:
    """τ = θ_t − θ0 (paper, Definition 1) of the tensors that a mode moves, float32.

    What is not moved must equal θ0, to 1e-6; of weights in half precision θ0 is rounded as they
    are before it is compared.

    Args:
        encoder: θ0. modes: the known ones.
        mode: what moved must lie in it; None: the one that a file of ours names, or of the known
            ones, as linearized as the file says, the smallest that moves all that moved.
    Raises:
        UserError: numbers that are not finite, another base, nothing moved, what a mode does not
            move.
    """
    theta0, base = encoder.theta0, checkpoint.made_by.get("theta0_sha256")
    if base and base != encoder.base:
        raise checkpoint.error(
            f"was fine-tuned from another base ({base[:8]}) than {encoder.name} "
            f"({encoder.base[:8]}): name the encoder that it was fine-tuned from."
        )
    distance = {name: _distance(checkpoint, found, encoder, name) for name in found.tensors}
    moved = [name for name, largest in distance.items() if largest > SAME]
    if not moved:
        raise checkpoint.error(f"is {encoder.name} itself: none of its tensors was fine-tuned.")
    chosen = mode or _recognised(checkpoint, found, encoder, modes, moved)
    moves = modes[chosen]
    if found.linearized and not moves.linearized:
        raise checkpoint.error(
            f"was fine-tuned in f_lin, and {chosen} is not linearized: name a linearized mode."
        )
    names = moved_names(theta0, moves.patterns, chosen)
    rest = {name: value for name, value in distance.items() if name not in names}
    if outside := [name for name in moved if name in rest]:
        raise checkpoint.error(
            f"differs from {encoder.name} in {first(outside, 3)} by up to "
            f"{max(rest[name] for name in outside):.2g}, which {chosen} does not move: it was "
            "fine-tuned from another base or in another mode; name its own."
        )
    tau = {name: _moved(found, theta0, name) for name in names}
    _check_near(checkpoint, encoder, tau)
    notes = [
        f"{len(moved)} of {len(names)} tensors of {chosen} moved; all others equal those of "
        f"{encoder.name} (largest difference {max(rest.values(), default=0.0):.1e})."
    ]
    kinds = {str(t.dtype).removeprefix("torch.") for t in found.tensors.values()} - {"float32"}
    if kinds:
        notes.append(
            f"{checkpoint.place} is in {', '.join(sorted(kinds))}, widened to float32: the vector "
            "has the rounding of its weights."
        )
    of = TaskVector(tau, chosen, moves.linearized, encoder.base, task)
    return Imported(of, notes)


def _distance(checkpoint: Checkpoint, found: FineTuned, encoder: Encoder, name: str) -> float:
    """The largest |Δ| of one tensor."""
    tensor = found.tensors[name]
    if not tensor.is_floating_point():
        raise checkpoint.error(f"has {name} in {tensor.dtype}: its weights must be real numbers.")
    if not torch.isfinite(tensor).all():
        raise checkpoint.error(
            f"has numbers in {name} that are not finite: its training broke down; take another."
        )
    if found.is_tau:
        return float(tensor.abs().max())
    rounded = encoder.theta0[name].to(tensor.dtype)
    return float((tensor.float() - rounded.float()).abs().max())


def _moved(found: FineTuned, theta0: Tensors, name: str) -> Tensor:
    """τ of one tensor; zero of one that the checkpoint lacks."""
    if name not in found.tensors:
        return torch.zeros_like(theta0[name])
    tensor = found.tensors[name].float()
    return tensor if found.is_tau else tensor - theta0[name]


def _recognised(
    checkpoint: Checkpoint,
    found: FineTuned,
    encoder: Encoder,
    modes: Mapping[str, Moves],
    moved: list[str],
) -> str:
    """The mode that a file of ours names, or the smallest that moves all that moved."""
    if (said := checkpoint.made_by.get("mode")) in modes:
        return str(said)
    fits: list[tuple[int, str]] = []
    for name, moves in modes.items():
        with suppress(UserError):  # a mode for other encoders
            own = moved_names(encoder.theta0, moves.patterns, name)
            if moves.linearized == found.linearized and set(moved) <= set(own):
                fits.append((sum(encoder.theta0[x].numel() for x in own), name))
    if not fits:
        raise checkpoint.error(
            f"moved {first(moved, 3)}, which none of the modes ({', '.join(modes)}) moves: write "
            "one to config/modes and name it."
        )
    return min(fits)[1]


def _check_near(checkpoint: Checkpoint, encoder: Encoder, tau: Tensors) -> None:
    """Fine-tuning does not go as far as the weights are long; weights that were trained apart are
    farther than that from each other. Of matrices: norms' weights are alike in all models."""

    def length(tensors: Tensors) -> float:
        matrices = (t.double().square().sum() for t in tensors.values() if t.dim() > 1)
        return float(sum(matrices)) ** 0.5

    own = length({name: encoder.theta0[name] for name in tau})
    if length(tau) >= own > 0:
        raise checkpoint.error(
            f"is farther from {encoder.name} than {encoder.name} from 0 (‖τ‖ = {length(tau):.3g}, "
            f"‖θ0‖ = {own:.3g}): it was fine-tuned from another base; name that encoder."
        )


# --- Files ---------------------------------------------------------------------------------------


def write_published(
    model: Encoder,
    read: Callable[[Checkpoint, Encoder, Path], FineTuned],
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
        model: θ0. read: its modality's read_fine_tuned. encoder_dir: the encoder stage's folder.
        encoder, mode, task: names.
        settings: modality; mode: `train`, its patterns, and `linearized`.
        files: of a local checkpoint, see checkpoint_files. download: of a hub's: its record.
    Raises:
        UserError: as read_files, read_download, read and task_vector.
    """
    if files:
        found = read_files(files)
    elif download is not None:
        found = read_download(Download.read(download))
    else:
        raise UserError(f"The checkpoint of {task} is missing: give --files or --download.")
    how = settings["mode"]
    modes = {mode: Moves(how["train"], how["linearized"])}
    tensors = read(found.checkpoint, model, Path(encoder_dir))
    vector = task_vector(found.checkpoint, tensors, model, modes, task, mode)
    write(vector, found.source, modes[mode].patterns, encoder, output)


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
