"""From fine-tuned weights to a task vector: the base is θ0's, and a mode moved what differs."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
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
    are before it is compared, and an entry that is equal then did not move.

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
    if found.linearized != moves.linearized and (found.linearized or checkpoint.made_by):
        own, other = ("f_lin", "not") if found.linearized else ("f", "")
        raise checkpoint.error(
            f"was fine-tuned in {own}, and {chosen} is {other} linearized: name a mode that is as "
            "it was fine-tuned.".replace("  ", " ")
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
    share = _distance_share(checkpoint, encoder, tau)
    held = (
        f"all others equal those of {encoder.name} (largest difference {max(rest.values()):.1e})"
        if rest
        else f"it moves all that is there, so that none is left to hold to {encoder.name}"
    )
    notes = [
        f"{len(moved)} of {len(names)} tensors of {chosen} moved; {held}; ‖τ‖ is {share:.2g} of "
        "‖θ0‖, of matrices."
    ]
    if moves.linearized and not found.linearized:
        notes.append(
            f"{checkpoint.place} does not say that it was fine-tuned in f_lin: as {chosen} it is "
            "read as if it were."
        )
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
    tensor, base = found.tensors[name], theta0[name]
    if found.is_tau:
        return tensor.float()
    tau = tensor.float() - base
    return tau if tensor.dtype == base.dtype else tau.where(tensor != base.to(tensor.dtype), 0.0)


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


def _distance_share(checkpoint: Checkpoint, encoder: Encoder, tau: Tensors) -> float:
    """‖τ‖ / ‖θ0‖ of matrices; norms' weights are alike in all models. Raises UserError: it is 1 or
    more. Fine-tuning does not go as far as the weights are long; weights that were trained apart
    are farther than that from each other."""

    def length(tensors: Tensors) -> float:
        matrices = (t.double().square().sum() for t in tensors.values() if t.dim() > 1)
        return float(sum(matrices)) ** 0.5

    own, moved = length({name: encoder.theta0[name] for name in tau}), length(tau)
    if moved >= own > 0:
        raise checkpoint.error(
            f"is farther from {encoder.name} than {encoder.name} from 0 (‖τ‖ = {moved:.3g}, "
            f"‖θ0‖ = {own:.3g}): it was fine-tuned from another base; name that encoder."
        )
    return moved / own if own else 0.0


# --- Files ---------------------------------------------------------------------------------------


def published(files: Sequence[PathLike] | None, download: PathLike | None, task: str) -> Published:
    """The checkpoint of a task.

    Args:
        files: of a local checkpoint, see checkpoint_files. download: of a hub's: its record.
    Raises:
        UserError: neither is given; as read_files and read_download.
    """
    if files:
        return read_files(files)
    if download is not None:
        return read_download(Download.read(download))
    raise UserError(f"The checkpoint of {task} is missing: give --files or --download.")


def write_published(
    found: Published,
    tensors: FineTuned,
    model: Encoder,
    encoder: str,
    mode: str,
    task: str,
    settings: dict[str, Any],
    output: PathLike,
) -> None:
    """Write the task vector of published weights, as the vector stage does of fine-tuned ones.

    Args:
        tensors: of the checkpoint, under θ0's names. model: θ0. encoder, mode, task: names.
        settings: mode: `train`, its patterns, and `linearized`.
    Raises:
        UserError: as task_vector.
    """
    modes = {mode: Moves(settings["mode"]["train"], settings["mode"]["linearized"])}
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
