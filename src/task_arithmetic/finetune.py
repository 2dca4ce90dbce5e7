"""Fine-tuning one encoder on one task in one mode (paper, appendix A, "Fine-tuning").

Every step's images and crops are a function of (seed, step) alone, so that a resumed run
continues exactly where it stopped.
"""

import math
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.optim.adamw import adamw

from . import jobs
from .arrays import TrainImages, read_manifest, read_split
from .artifacts import (
    UserError,
    atomic_path,
    check_tensors,
    read_made_by,
    read_tensors,
    sha256_of,
    sha256_of_file,
    versions,
    write_tensors,
)
from .device import autocast, out_of_memory, torch_device, uses_bf16
from .encoder import classify, encode, encode_linearized, read_encoder
from .pixels import crop_boxes, to_pixels
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
            learning_rate, warmup_steps, weight_decay, gradient_clip, crop_scale,
            checkpoint_steps), `limit`, `micro_batch`, `precision`.
        output: safetensors of θ_t, of the moved tensors only.
        log: CSV: step, loss, learning_rate, images_per_second.
    Raises:
        UserError: patterns that match nothing, a loss that is not finite (the last good state is
            kept), artifacts that do not fit each other.
    """
    device = torch_device()
    theta0, about = read_encoder(encoder_dir, device)
    head_tensor = read_head(head, read_manifest(data_dir), about, device)
    images, labels = read_split(data_dir, "train", settings.get("limit"))
    precision = settings.get("precision", "float32")
    recipe = {
        "encoder": encoder,
        "encoder_sha256": about.get("seal"),
        "image_tower_sha256": about["image_tower_sha256"],
        "head_sha256": sha256_of_file(head),
        "mode": mode,
        "task": task,
        "seed": seed,
        "settings": settings,
        "precision": "bf16" if uses_bf16(precision, device) else "float32",
        "data_sha256": read_manifest(data_dir)["data_sha256"],
        "code": jobs.current_code("finetune"),
        "packages": jobs.packages(),
        "device": device.type,
    }
    state_path, others = _state_paths(output, recipe)
    run = start(theta0, about, head_tensor, settings, mode)
    rows = _restore(state_path, run)
    _say_how_it_starts(run, recipe, others)
    _train(run, images, labels, seed, rows, state_path, recipe, f"{mode} {task}")
    theta = {name: tensor.detach() for name, tensor in run["theta"].items()}
    made_by = {**recipe, "versions": versions()}
    with atomic_path(log) as temporary:
        temporary.write_text(
            "step,loss,learning_rate,images_per_second\n"
            + "".join(f"{s},{loss:.6f},{lr:.6e},{speed:.1f}\n" for s, loss, lr, speed in rows)
        )
    write_tensors(output, theta, made_by)
    for path in (state_path, *others):
        jobs.when_done(lambda path=path: path.unlink(missing_ok=True))


def start(theta0, about: dict, head, settings: dict, mode: str) -> dict:
    """Everything that a training step needs.

    Returns:
        theta: the moved tensors, which training updates; base: θ0, without the tensors that theta
        replaces unless the mode is linearized; moments: AdamW's state of each tensor of theta;
        about, head, settings; micro_batch: images of one forward pass (None: the whole batch);
        done: steps done; lock: held while theta, moments and done change.
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
        "about": about,
        "head": head,
        "settings": settings,
        "micro_batch": settings.get("micro_batch"),
        "done": 0,
        "lock": threading.RLock(),
    }


def step(run: dict, pixels, labels, learning_rate: float) -> float:
    """One AdamW step on one batch; returns its mean cross-entropy.

    The step is skipped, and NaN returned, if the loss or its gradient is not finite.

    Args:
        run: from `start`.
        pixels: float (B, 3, S, S); labels: int64 (B,).
    """
    return _update(run, _batch_gradient(run, pixels, labels), learning_rate)


def _update(run: dict, loss: float, learning_rate: float) -> float:
    """Clip the gradient and step, if both it and the loss are finite; returns the loss, or NaN."""
    if not math.isfinite(loss):
        return loss
    limit = run["settings"]["finetune"]["gradient_clip"]
    norm = torch.nn.utils.clip_grad_norm_(run["theta"].values(), limit)
    if not math.isfinite(norm):
        return math.nan
    _adamw(run, learning_rate)
    run["done"] += 1
    return loss


def _batch_gradient(run: dict, pixels, labels) -> float:
    """Set theta's .grad to the gradient of the batch's mean loss, which is returned.

    Micro-batches accumulate their share of the mean, so that the gradient is that of the whole
    batch. Where they do not fit into the GPU's memory, they are halved, for the rest of the run.
    """
    gradient = linearized_gradient if run["settings"]["mode"]["linearized"] else plain_gradient
    while True:
        micro = run["micro_batch"] or len(pixels)
        for tensor in run["theta"].values():
            tensor.grad = None
        loss = 0.0
        try:
            for i in range(0, len(pixels), micro):
                part = slice(i, i + micro)
                share = len(labels[part]) / len(labels)
                loss += gradient(run, pixels[part], labels[part], share)
            return float(loss)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if micro == 1:
                raise UserError(
                    "One image alone does not fit into the GPU's memory while training: use a GPU "
                    "with more memory, or a smaller encoder."
                ) from None
        run["micro_batch"] = micro = (micro + 1) // 2
        torch.cuda.empty_cache()
        print(
            f"Out of GPU memory: going on with {micro} images at a time, which add up to the same "
            f"batch of {len(pixels)}; `micro_batch: {micro}` in the encoder's definition keeps it.",
            file=sys.stderr,
        )


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


def plain_gradient(run: dict, pixels, labels, share: float = 1.0):
    """Add the gradient of share · L(f(x; θ)) to theta's .grad; returns share · L."""
    with _autocast(run):
        features = encode({**run["base"], **run["theta"]}, pixels, run["about"]["geometry"])
    loss = share * F.cross_entropy(classify(features.to(run["head"].dtype), run["head"]), labels)
    loss.backward()
    return loss.detach()


def linearized_gradient(run: dict, pixels, labels, share: float = 1.0):
    """Add the gradient in τ of share · L(f(x; θ0) + ∇f(x; θ0)·τ) to theta's .grad; returns
    share · L (paper, section 2, "NTK Linearization").

    The gradient is the vector-Jacobian product of f at θ0 with ∂L/∂f_lin: θ0 takes the part of the
    leaf, τ = θ − θ0 that of a constant.
    """
    theta, theta0 = run["theta"], run["base"]
    with torch.no_grad():
        tau = {name: tensor - theta0[name] for name, tensor in theta.items()}
    anchor = {name: theta0[name].detach().requires_grad_() for name in theta}
    with _autocast(run):
        value, tangent = encode_linearized(
            {**theta0, **anchor}, tau, pixels, run["about"]["geometry"]
        )
    del tau  # its memory is the gradient's
    full = run["head"].dtype  # autocast gives narrower ones
    features = (value.detach().to(full) + tangent.to(full)).requires_grad_()
    loss = share * F.cross_entropy(classify(features, run["head"]), labels)
    (slope,) = torch.autograd.grad(loss, features)
    # A sum, because torch checks a vector given with a tensor by importing two seconds of sympy.
    product = (value * slope.to(value.dtype)).sum()
    gradients = torch.autograd.grad(product, list(anchor.values()))
    for name, gradient in zip(theta, gradients, strict=True):
        leaf = theta[name]
        leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient
    return loss.detach()


def _autocast(run: dict):
    return autocast(run["settings"].get("precision", "float32"), run["head"].device)


def learning_rate_at(step: int, recipe: dict) -> float:
    """Linear warm-up to the base rate, then a cosine to 0 (paper, appendix A).

    Args:
        step: from 0; recipe: learning_rate, warmup_steps, steps.
    """
    base, warmup, steps = recipe["learning_rate"], recipe["warmup_steps"], recipe["steps"]
    if step < warmup:
        return base * (step + 1) / warmup
    return base * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def batch_indices(step: int, count: int, batch_size: int, seed: int) -> np.ndarray:
    """Image indices of one step: an endless chain of permutations, one per epoch, cut in batches.

    A function of its arguments alone; batches run over the ends of epochs, so that none is short.
    """
    at = np.arange(step * batch_size, (step + 1) * batch_size)
    orders = {
        epoch: np.random.Generator(np.random.PCG64([seed, epoch])).permutation(count)
        for epoch in range(at[0] // count, at[-1] // count + 1)
    }
    return np.asarray([orders[i // count][i % count] for i in at])


def read_batch(images: TrainImages, labels, step: int, seed: int, recipe: dict):
    """The random crops of one training step, each before zeros, their sizes as boxes, and their
    labels: on the CPU, as tensors."""
    chosen = batch_indices(step, len(images), recipe["batch_size"], seed)
    generator = torch.Generator().manual_seed(
        int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
    )
    boxes = crop_boxes(torch.from_numpy(images.sizes[chosen]), recipe["crop_scale"], generator)
    batch, sizes = images.take(chosen, boxes.numpy())
    boxes = torch.from_numpy(np.concatenate([np.zeros_like(sizes), sizes], axis=1))
    return torch.from_numpy(batch), boxes, torch.from_numpy(labels[chosen])


def batches(images, labels, numbers, seed: int, settings: dict, about: dict, device):
    """For each step of `numbers` its pixels, float (B, 3, S, S), and labels, int64 (B,), on the
    device. A GPU finds the next ones read ahead."""

    def read(number):
        parts = read_batch(images, labels, number, seed, settings["finetune"])
        return [part.pin_memory() for part in parts] if device.type == "cuda" else parts

    def moved(parts):
        batch, boxes, truth = (part.to(device, non_blocking=True) for part in parts)
        return to_pixels(batch, about, boxes), truth

    for parts in read_ahead(read, numbers, READ_AHEAD if device.type == "cuda" else 0):
        yield moved(parts)


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


def _train(run, images, labels, seed, rows, state_path, recipe, label) -> None:
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

    ahead = batches(
        images, labels, range(first, steps), seed, settings, run["about"], run["head"].device
    )
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
            jobs.progress(done, steps, "step", loss=loss, images_per_second=speed)


def _state_paths(output, recipe: dict) -> tuple[Path, list[Path]]:
    """Where the state of an unfinished run is kept, and what other recipes left of this output.

    The name holds a hash of all that the run depends on. It lies beside the output, hidden, or in
    the folder TASK_ARITHMETIC_SCRATCH of this machine.
    """
    output = Path(output)
    folder, stem = output.parent, output.stem
    if scratch := os.environ.get("TASK_ARITHMETIC_SCRATCH"):
        folder, stem = Path(scratch), sha256_of(str(output.absolute()))[:16]
        folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".{stem}.{sha256_of(recipe)[:16]}.state"
    return path, sorted(set(folder.glob(f".{stem}.*.state")) - {path})


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
        os.unlink(path)
        return []
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(tensors[name])
    run["done"], run["micro_batch"] = made_by["done"], made_by["micro_batch"]
    return made_by["log"]


def read_head(path, manifest: dict, about: dict, device):
    """A head (classes, embed_dim), held to its task's classes and its encoder's features.

    Raises:
        UserError: the head is of another task's classes or of another encoder.
    """
    tensors = read_tensors(path, device)
    shape = (len(manifest["classes"]), about["geometry"]["embed_dim"])
    check_tensors(path, tensors, {"head": shape})
    return tensors["head"]
