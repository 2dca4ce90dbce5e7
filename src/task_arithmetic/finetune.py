"""Fine-tuning one encoder on one task in one mode (paper, appendix A, "Fine-tuning").

Every step's examples, and the crops of images, are a function of (seed, step) alone, so that a
resumed run continues exactly where it stopped. What differs between images and texts is in the
module of the modality (see modality.py).
"""

import math
import os
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from torch.optim.adamw import adamw

from . import jobs, modality
from .arrays import read_manifest
from .artifacts import (
    UserError,
    atomic_path,
    check_tensors,
    read_made_by,
    read_tensors,
    remove,
    sha256_of,
    sha256_of_file,
    versions,
    write_tensors,
)
from .device import autocast, out_of_memory, torch_device, uses_bf16
from .locks import node
from .vector import moved_names

LOG_EVERY = 10  # steps
READ_AHEAD = 2  # batches


def finetune(
    encoder_dir, head, data_dir, *, encoder, mode, task, seed, settings, output, log
) -> None:
    """Fine-tune θ and write the tensors that moved, and a metrics log.

    Args:
        encoder_dir, data_dir: folders of the encoder and data stages; head: a head artifact.
        encoder, mode, task: names, recorded in the artifact.
        seed: repeats differ in data order and crops only.
        settings: `mode` (train: name patterns, linearized), `finetune` (steps, batch_size,
            learning_rate, schedule, warmup_steps, weight_decay, gradient_clip, checkpoint_steps;
            for images, crop_scale), `limit`, `micro_batch`, `precision`, `modality`.
        output: safetensors of θ_t, of the moved tensors only.
        log: CSV: step, loss, learning_rate, images_per_second (or texts).
    Raises:
        UserError: patterns that match nothing, a loss that is not finite (the last good state is
            kept), artifacts that do not fit each other.
    """
    device, kind = torch_device(), settings.get("modality", "vision")
    form = modality.form(kind)
    theta0, about = form.read_encoder(encoder_dir, device)
    examples = form.read_examples(head, data_dir, "train", settings.get("limit"), about, device)
    precision = settings.get("precision", "float32")
    recipe = {
        "encoder": encoder,
        "encoder_sha256": about.get("seal"),
        "theta0_sha256": about["theta0_sha256"],
        "head_sha256": sha256_of_file(head),
        "mode": mode,
        "task": task,
        "seed": seed,
        "settings": settings,
        "precision": "bf16" if uses_bf16(precision, device) else "float32",
        "data_sha256": read_manifest(data_dir)["data_sha256"],
        "code": jobs.current_code("finetune", kind),
        "packages": jobs.packages(kind),
        "device": device.type,
    }
    state_path, others = _state_paths(output, recipe)
    run = start(theta0, about, examples[-1], settings, mode)
    del theta0  # unless the run holds it
    rows = _restore(state_path, run)
    _say_how_it_starts(run, recipe, others)
    _train(run, examples, seed, rows, state_path, recipe, f"{mode} {task}")
    theta = {name: tensor.detach() for name, tensor in run["theta"].items()}
    made_by = {**recipe, "versions": versions()}
    with atomic_path(log) as temporary:
        temporary.write_text(
            f"step,loss,learning_rate,{form.UNIT}s_per_second\n"
            + "".join(f"{s},{loss:.6f},{lr:.6e},{speed:.1f}\n" for s, loss, lr, speed in rows),
            "utf-8",
        )
    write_tensors(output, theta, made_by)
    for path in (state_path, *others):
        jobs.when_done(partial(remove, path))


def start(theta0, about: dict, head, settings: dict, mode: str) -> dict:
    """Everything that a training step needs.

    Returns:
        theta: the moved tensors, which training updates; base: θ0, without the tensors that theta
        replaces unless the mode is linearized; moments: AdamW's state of each tensor of theta;
        about, head, settings; form: the modality's module; micro_batch: examples of one forward
        pass (None: the whole batch); done: steps done; lock: held while theta, moments and done
        change.
    """
    names = moved_names(theta0, settings["mode"]["train"], mode)
    theta = {name: theta0[name].clone().requires_grad_() for name in names}
    if settings["mode"]["linearized"]:
        base = dict(theta0)
    else:
        base = {name: tensor for name, tensor in theta0.items() if name not in theta}
    moments = {
        name: {
            "step": torch.zeros((), device=tensor.device),
            "exp_avg": torch.zeros_like(theta0[name]),
            "exp_avg_sq": torch.zeros_like(theta0[name]),
        }
        for name, tensor in theta.items()
    }
    return {
        "theta": theta,
        "base": base,
        "moments": moments,
        "form": modality.form(settings.get("modality", "vision")),
        "about": about,
        "head": head,
        "settings": settings,
        "micro_batch": settings.get("micro_batch"),
        "done": 0,
        "lock": threading.RLock(),
    }


def step(run: dict, inputs, targets, learning_rate: float) -> float:
    """One AdamW step on one batch; returns its mean cross-entropy.

    The step is skipped, and NaN returned, if the loss or its gradient is not finite.

    Args:
        run: from `start`.
        inputs: pixels, float (B, 3, S, S), or tokens, int64 (B, S); targets: labels, int64 (B,), or
            tokens (B, T), where a negative one is padding.
    """
    return _update(run, _batch_gradient(run, inputs, targets), learning_rate)


def _update(run: dict, loss: float, learning_rate: float) -> float:
    """Clip the gradient and step, if both it and the loss are finite; returns the loss, or NaN."""
    if not math.isfinite(loss):
        return loss
    limit = run["settings"]["finetune"]["gradient_clip"] or math.inf
    norm = torch.nn.utils.clip_grad_norm_(run["theta"].values(), limit)
    if not math.isfinite(norm):
        return math.nan
    _adamw(run, learning_rate)
    run["done"] += 1
    return loss


def _batch_gradient(run: dict, inputs, targets) -> float:
    """Set theta's .grad to the gradient of the batch's mean loss, which is returned.

    Micro-batches accumulate their share of the mean, over labels or over all target tokens, so that
    the gradient is that of the whole batch. Where they do not fit into the GPU's memory, they are
    halved, for the rest of the run.
    """
    gradient = linearized_gradient if run["settings"]["mode"]["linearized"] else plain_gradient
    while True:
        micro = run["micro_batch"] or len(inputs)
        for tensor in run["theta"].values():
            tensor.grad = None
        loss = 0.0
        try:
            for i in range(0, len(inputs), micro):
                part = slice(i, i + micro)
                whole = micro >= len(inputs)
                share = 1.0 if whole else _counted(targets[part]) / _counted(targets)
                loss += gradient(run, inputs[part], targets[part], share)
            return float(loss)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if micro == 1:
                raise UserError(
                    "One example alone does not fit into the GPU's memory while training: use a "
                    "GPU with more memory, or a smaller encoder."
                ) from None
        run["micro_batch"] = micro = (micro + 1) // 2
        torch.cuda.empty_cache()
        print(
            f"Out of GPU memory: going on with {micro} {run['form'].UNIT}s at a time, which add up "
            f"to the same batch of {len(inputs)}; `micro_batch: {micro}` in the encoder's "
            "definition keeps it.",
            file=sys.stderr,
        )


def _counted(targets) -> int:
    """Labels or target tokens, without padding."""
    return int((targets >= 0).sum())


@torch.no_grad()
def _adamw(run: dict, learning_rate: float) -> None:
    """Update theta by AdamW (Loshchilov & Hutter, 2019), weight decay on every moved tensor.

    torch's functional form: its optimizer classes import the compiler, four seconds for each job.
    """
    theta, moments = run["theta"].values(), run["moments"].values()
    adamw(
        list(theta),
        [tensor.grad for tensor in theta],
        *([m[key] for m in moments] for key in ("exp_avg", "exp_avg_sq")),
        max_exp_avg_sqs=[],
        state_steps=[m["step"] for m in moments],
        lr=learning_rate,
        weight_decay=run["settings"]["finetune"]["weight_decay"],
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        fused=True,
        amsgrad=False,
        maximize=False,
    )


def plain_gradient(run: dict, inputs, targets, share: float = 1.0):
    """Add the gradient of share · L(f(x; θ)) to theta's .grad; returns share · L."""
    form, about = run["form"], run["about"]
    with _autocast(run):
        outputs = form.outputs({**run["base"], **run["theta"]}, inputs, targets, about)
    loss = share * form.loss(outputs.to(_dtype(run)), targets, run["head"])
    loss.backward()
    return loss.detach()


def linearized_gradient(run: dict, inputs, targets, share: float = 1.0):
    """Add the gradient in τ of share · L(f(x; θ0) + ∇f(x; θ0)·τ) to theta's .grad; returns
    share · L (paper, section 2, "NTK Linearization").

    The gradient is the vector-Jacobian product of f at θ0 with ∂L/∂f_lin: θ0 takes the part of the
    leaf, τ = θ − θ0 that of a constant.
    """
    form, theta, theta0 = run["form"], run["theta"], run["base"]
    with torch.no_grad():
        tau = {name: tensor - theta0[name] for name, tensor in theta.items()}
    anchor = {name: theta0[name].detach().requires_grad_() for name in theta}
    with _autocast(run):
        value, tangent = form.outputs_linearized(
            {**theta0, **anchor}, tau, inputs, targets, run["about"]
        )
    del tau  # its memory is the gradient's
    full = _dtype(run)  # autocast gives narrower ones
    outputs = (value.detach().to(full) + tangent.to(full)).requires_grad_()
    loss = share * form.loss(outputs, targets, run["head"])
    (slope,) = torch.autograd.grad(loss, outputs)
    # A sum, because torch checks a vector given with a tensor by importing two seconds of sympy.
    product = (value * slope.to(value.dtype)).sum()
    gradients = torch.autograd.grad(product, list(anchor.values()))
    for name, gradient in zip(theta, gradients, strict=True):
        leaf = theta[name]
        leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient
    return loss.detach()


def _autocast(run: dict):
    return autocast(run["settings"].get("precision", "float32"), _device(run))


def _device(run: dict):
    return next(iter(run["theta"].values())).device


def _dtype(run: dict):
    return next(iter(run["theta"].values())).dtype


def learning_rate_at(step: int, recipe: dict) -> float:
    """Linear warm-up to the base rate, then a cosine to 0 (paper, appendix A), or no change.

    Args:
        step: from 0; recipe: learning_rate, warmup_steps, steps, schedule (cosine or constant).
    """
    base, warmup, steps = recipe["learning_rate"], recipe["warmup_steps"], recipe["steps"]
    if step < warmup:
        return base * (step + 1) / warmup
    if recipe.get("schedule", "cosine") == "constant":
        return base
    return base * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def batches(form, examples, numbers, seed: int, settings: dict, about: dict, device):
    """For each step of `numbers` its inputs and targets, as `form` makes them, on the device. A GPU
    finds the next ones read ahead."""

    def read(number):
        parts = form.read_batch(examples, number, seed, settings["finetune"])
        return [part.pin_memory() for part in parts] if device.type == "cuda" else parts

    for parts in read_ahead(read, numbers, READ_AHEAD if device.type == "cuda" else 0):
        yield form.to_inputs(*(part.to(device, non_blocking=True) for part in parts), about)


def read_ahead(read, numbers, depth: int):
    """read(number) for each of `numbers`, in order; up to `depth` later ones are read meanwhile."""
    with ThreadPoolExecutor(1) as reader:
        waiting = []
        for number in numbers:
            waiting.append(reader.submit(read, number) if depth else read(number))
            if len(waiting) > depth:
                first = waiting.pop(0)
                yield first.result() if depth else first
        for future in waiting:
            yield future.result()


def _train(run, examples, seed, rows, state_path, recipe, label) -> None:
    """The loop, from the step that `run` has come to; adds the rows of the metrics log to `rows`.

    The state changes under the run's lock only, and as a whole: a signal to stop finds it complete
    at any time, and need not wait for the step that is being computed.
    """
    settings, how = run["settings"], run["settings"]["finetune"]
    first, steps = run["done"], how["steps"]
    began = time.perf_counter()

    def save():
        with run["lock"]:
            reached = {key: run[key] for key in ("done", "micro_batch")}
            write_tensors(state_path, _state(run), {**recipe, **reached, "log": rows})
            return f"{run['done']} of {steps} steps are saved ({label})."

    form, numbers = run["form"], range(first, steps)
    ahead = batches(form, examples, numbers, seed, settings, run["about"], _device(run))
    jobs.progress(first, steps, "step")
    with jobs.saving(save):
        for batch in ahead:
            loss = _batch_gradient(run, *batch)
            with run["lock"]:
                rate = learning_rate_at(run["done"], how)
                loss, done = _update(run, loss, rate), run["done"]
                if not math.isfinite(loss):
                    save()
                    raise UserError(
                        f"The loss or its gradient is {loss} at step {done + 1} of {steps} "
                        f"({label}); the state before it is kept in {state_path}: lower "
                        "finetune.learning_rate and run again."
                    )
                speed = how["batch_size"] * (done - first) / (time.perf_counter() - began)
                if done % LOG_EVERY == 0 or done == steps:
                    rows.append((done, loss, rate, speed))
                    print(f"{label}: step {done} of {steps}, loss {loss:.3f}", file=sys.stderr)
                if done % how["checkpoint_steps"] == 0 and done < steps:
                    save()
            jobs.progress(done, steps, "step", loss=loss, **{f"{form.UNIT}s_per_second": speed})


def _state_paths(output, recipe: dict) -> tuple[Path, list[Path]]:
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

    def value(match) -> str:
        if found := os.environ.get(match[1] or match[2]):
            return found
        raise UserError(
            f"scratch is {scratch!r}, but {match[0]} is not set on {node()}, where this job runs: "
            "set it there or name a folder that is on every machine."
        )

    return re.sub(r"\$(?:(\w+)|\{(\w+)\})", value, os.path.expanduser(scratch))


def _say_how_it_starts(run: dict, recipe: dict, others: list[Path]) -> None:
    """On stderr: the step that it goes on from, or why an unfinished run is of no use."""
    if run["done"]:
        print(f"Going on after step {run['done']}, which was saved.", file=sys.stderr)
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


def _state(run: dict) -> dict:
    """The tensors that training changes, under names of their own."""
    state = {f"theta.{name}": tensor for name, tensor in run["theta"].items()}
    for name, moments in run["moments"].items():
        state |= {f"{key}.{name}": tensor for key, tensor in moments.items()}
    return state


def _restore(path: Path, run: dict) -> list:
    """Load a resume state into `run` if there is one; returns the rows of the metrics log up to
    there."""
    if not path.is_file():
        return []
    try:
        tensors, made_by = read_tensors(path), read_made_by(path)
        state = _state(run)
        check_tensors(path, tensors, {name: tensor.shape for name, tensor in state.items()})
    except UserError:
        remove(path)
        return []
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(tensors[name])
    run["done"], run["micro_batch"] = made_by["done"], made_by["micro_batch"]
    return made_by["log"]
