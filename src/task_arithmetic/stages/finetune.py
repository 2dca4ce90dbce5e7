"""Fine-tuning one encoder on one task in one mode: reading, saving, going on, writing."""

import math
import os
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch

from ..core.encoder import CPU, Encoder, Examples, Tensors
from ..core.precision import uses_bf16
from ..core.schedule import Recipe, learning_rate_at
from ..core.training import Training, batches
from ..errors import UserError
from ..files.hashes import sha256_of, sha256_of_file, versions
from ..files.manifest import read_manifest
from ..files.paths import PathLike, atomic_path, node, remove
from ..files.tensors import check_tensors, read_made_by, read_tensors, write_tensors
from ..progress import SILENT, Progress
from . import modalities
from .settings import EncoderSettings, read

LOG_EVERY = 10  # steps


@dataclass(frozen=True)
class Moves:
    """What a mode moves: patterns of names; linearized: it trains f_lin."""

    train: list[str]
    linearized: bool


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(EncoderSettings):
    """mode: what it moves. finetune: the recipe. micro_batch: examples of one forward pass."""

    mode: Moves
    finetune: Recipe
    micro_batch: int | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        whole = dict(given)
        for key, kind in (("mode", Moves), ("finetune", Recipe)):
            if key in whole:
                whole[key] = read(kind, whole[key], f"The settings of `{key}`")
        return read(cls, whole)


def finetune(
    encoder_dir: PathLike,
    head: PathLike,
    data_dir: PathLike,
    *,
    encoder: str,
    mode: str,
    task: str,
    seed: int,
    settings: dict[str, Any],
    output: PathLike,
    log: PathLike,
    device: torch.device = CPU,
    progress: Progress = SILENT,
) -> None:
    """Fine-tune θ and write the tensors that moved, and a metrics log.

    Args:
        encoder_dir, data_dir: folders of the encoder and data stages; head: a head artifact.
        encoder, mode, task: names, recorded in the artifact.
        seed: repeats differ in data order and crops only.
        settings: see TrainingSettings.
        output: safetensors of θ_t, of the moved tensors only.
        log: CSV: step, loss, learning_rate, images_per_second (or texts).
    Raises:
        UserError: patterns that match nothing, a loss that is not finite (the last good state is
            kept), artifacts that do not fit each other.
    """
    how = TrainingSettings.of(settings)
    model = modalities.read_encoder(encoder_dir, how.modality, device)
    modality = model.modality
    examples = modality.read_examples(head, data_dir, "train", how.limit, device)
    recipe = {
        "encoder": encoder,
        "encoder_sha256": model.seal,
        "theta0_sha256": model.base,
        "head_sha256": sha256_of_file(head),
        "mode": mode,
        "task": task,
        "seed": seed,
        "settings": settings,
        "precision": "bf16" if uses_bf16(how.precision, device) else "float32",
        "data_sha256": read_manifest(data_dir).data_sha256,
        "device": device.type,
        **progress.provenance,
    }
    state_path, others = _state_paths(output, recipe)
    training = start(model, examples, how, mode)
    del model  # θ0 is held by the training alone, if at all
    rows = _restore(state_path, training)
    _say_how_it_starts(training, recipe, others)
    _train(training, examples, seed, rows, state_path, recipe, f"{mode} {task}", progress)
    theta = {name: tensor.detach() for name, tensor in training.theta.items()}
    made_by = {**recipe, "versions": versions()}
    with atomic_path(log) as temporary:
        temporary.write_text(
            f"step,loss,learning_rate,{modality.unit}s_per_second\n"
            + "".join(f"{s},{loss:.6f},{lr:.6e},{speed:.1f}\n" for s, loss, lr, speed in rows),
            "utf-8",
        )
    write_tensors(output, theta, made_by)
    for path in (state_path, *others):
        progress.when_done(partial(remove, path))


def start(encoder: Encoder, examples: Examples, settings: TrainingSettings, mode: str) -> Training:
    """A training on a task's examples, as a stage's settings say."""
    return Training(
        encoder.theta0,
        encoder.modality,
        examples.head,
        settings.finetune,
        settings.mode.train,
        linearized=settings.mode.linearized,
        mode=mode,
        precision=settings.precision,
        micro_batch=settings.micro_batch,
    )


def _train(
    training: Training,
    examples: Examples,
    seed: int,
    rows: list[Any],
    state_path: Path,
    recipe: dict[str, Any],
    label: str,
    progress: Progress,
) -> None:
    """The loop, from the step that `training` has come to; adds the rows of the metrics log to
    `rows`.

    The state changes under the training's lock only, and as a whole: who stops it finds it complete
    at any time, and need not wait for the step that is being computed.
    """
    how, unit = training.recipe, training.modality.unit
    first, steps = training.done, how.steps
    began = time.perf_counter()

    def save() -> str:
        with training.lock:
            reached = {"done": training.done, "micro_batch": training.micro_batch, "log": rows}
            write_tensors(state_path, _state(training), {**recipe, **reached})
            return f"{training.done} of {steps} steps are saved ({label})."

    numbers = range(first, steps)
    ahead = batches(training.modality, examples, numbers, seed, how, training.device)
    progress.at(first, steps, "step")
    with progress.saving(save):
        for batch in ahead:
            loss = training.gradient(*batch)
            with training.lock:
                rate = learning_rate_at(training.done, how)
                loss, done = training.update(loss, rate), training.done
                if not math.isfinite(loss):
                    save()
                    raise UserError(
                        f"The loss or its gradient is {loss} at step {done + 1} of {steps} "
                        f"({label}); the state before it is kept in {state_path}: lower "
                        "finetune.learning_rate and run again."
                    )
                speed = how.batch_size * (done - first) / (time.perf_counter() - began)
                if done % LOG_EVERY == 0 or done == steps:
                    rows.append((done, loss, rate, speed))
                    print(f"{label}: step {done} of {steps}, loss {loss:.3f}", file=sys.stderr)
                if done % how.checkpoint_steps == 0 and done < steps:
                    save()
            progress.at(done, steps, "step", loss=loss, **{f"{unit}s_per_second": speed})


def _state_paths(output: PathLike, recipe: dict[str, Any]) -> tuple[Path, list[Path]]:
    """Where the state of an unfinished run is kept, and what other recipes left of this output.

    The name holds a hash of all that the run depends on. It lies beside the output, hidden, or in
    the folder TASK_ARITHMETIC_SCRATCH of this machine. Raises UserError if that cannot be told.
    """
    output = Path(output)
    folder, stem = output.parent, output.stem
    if scratch := os.environ.get("TASK_ARITHMETIC_SCRATCH"):
        folder, stem = Path(_expanded(scratch)), sha256_of(str(output.absolute()))[:16]
        folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".{stem}.{sha256_of(recipe)[:16]}.state"
    return path, sorted(set(folder.glob(f".{stem}.*.state")) - {path})


def _expanded(scratch: str) -> str:
    """The configuration's `scratch` with the `~` and variables (`$TMPDIR`) of this machine, which
    need not be those of the one that submitted."""

    def value(match: re.Match[str]) -> str:
        if found := os.environ.get(match[1] or match[2]):
            return found
        raise UserError(
            f"scratch is {scratch!r}, but {match[0]} is not set on {node()}, where this job runs: "
            "set it there or name a folder that is on every machine."
        )

    return re.sub(r"\$(?:(\w+)|\{(\w+)\})", value, os.path.expanduser(scratch))


def _say_how_it_starts(training: Training, recipe: dict[str, Any], others: list[Path]) -> None:
    """On stderr: the step that it goes on from, or why an unfinished run is of no use."""
    if training.done:
        print(f"Going on after step {training.done}, which was saved.", file=sys.stderr)
        return
    for path in others:
        try:
            before = read_made_by(path)
        except UserError:
            continue
        differs = sorted(key for key in recipe if before.get(key) != recipe[key])
        print(
            f"Starting afresh: {before['done']} steps were saved with other {', '.join(differs)}.",
            file=sys.stderr,
        )


def _state(training: Training) -> Tensors:
    """The tensors that training changes, under names of their own."""
    state = {f"theta.{name}": tensor for name, tensor in training.theta.items()}
    for name, moments in training.moments.items():
        state |= {f"{key}.{name}": tensor for key, tensor in moments.items()}
    return state


def _restore(path: Path, training: Training) -> list[Any]:
    """Load a resume state if there is one; returns the rows of the metrics log up to there."""
    if not path.is_file():
        return []
    try:
        tensors, made_by = read_tensors(path), read_made_by(path)
        state = _state(training)
        check_tensors(path, tensors, {name: tensor.shape for name, tensor in state.items()})
    except UserError:
        remove(path)
        return []
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(tensors[name])
    training.done, training.micro_batch = made_by["done"], made_by["micro_batch"]
    return made_by["log"]
