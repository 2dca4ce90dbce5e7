"""Fine-tuning one encoder on one task in one mode (paper, appendix A, "Fine-tuning").

Every step's images and crops are a function of (seed, step) alone, so that a resumed run
continues exactly where it stopped.
"""

import math
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.optim.adamw import adamw

from .arrays import TrainImages, read_manifest, read_split
from .artifacts import (
    Interrupted,
    UserError,
    atomic_path,
    check_tensors,
    read_made_by,
    read_tensors,
    sha256_of,
    sha256_of_file,
    stop_signals,
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
        Interrupted: after SIGTERM or SIGINT, once the state is saved.
    """
    device = torch_device()
    theta0, about = read_encoder(encoder_dir, device)
    head_tensor = read_head(head, read_manifest(data_dir), about, device)
    images, labels = read_split(data_dir, "train", settings.get("limit"))
    precision = settings.get("precision", "float32")
    recipe = {
        "encoder": encoder,
        "image_tower_sha256": about["image_tower_sha256"],
        "head_sha256": sha256_of_file(head),
        "mode": mode,
        "task": task,
        "seed": seed,
        "settings": settings,
        "precision": "bf16" if uses_bf16(precision, device) else "float32",
        "data_sha256": read_manifest(data_dir)["data_sha256"],
    }
    state_path = Path(output).with_name(f".{Path(output).stem}.{sha256_of(recipe)[:16]}.state")
    run = start(theta0, about, head_tensor, settings, mode)
    first, rows = _restore(state_path, run)
    with stop_signals() as caught:
        _train(run, images, labels, seed, first, rows, state_path, caught, f"{mode} {task}")
    theta = {name: tensor.detach() for name, tensor in run["theta"].items()}
    made_by = {**recipe, "device": device.type, "versions": versions()}
    with atomic_path(log) as temporary:
        temporary.write_text(
            "step,loss,learning_rate,images_per_second\n"
            + "".join(f"{s},{loss:.6f},{lr:.6e},{speed:.1f}\n" for s, loss, lr, speed in rows)
        )
    write_tensors(output, theta, made_by)
    state_path.unlink(missing_ok=True)


def start(theta0, about: dict, head, settings: dict, mode: str) -> dict:
    """Everything that a training step needs.

    Returns:
        theta: the moved tensors, which training updates; base: θ0, without the tensors that theta
        replaces unless the mode is linearized; moments: AdamW's state of each tensor of theta;
        about, head, settings; micro_batch: images of one forward pass (None: the whole batch).
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
    }


def step(run: dict, pixels, labels, learning_rate: float) -> float:
    """One AdamW step on one batch; returns its mean cross-entropy.

    The step is skipped, and NaN returned, if the loss or its gradient is not finite.

    Args:
        run: from `start`.
        pixels: float (B, 3, S, S); labels: int64 (B,).
    """
    loss = _batch_gradient(run, pixels, labels)
    if not math.isfinite(loss):
        return loss
    limit = run["settings"]["finetune"]["gradient_clip"]
    norm = torch.nn.utils.clip_grad_norm_(run["theta"].values(), limit)
    if not math.isfinite(norm):
        return math.nan
    _adamw(run, learning_rate)
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


def _train(run, images, labels, seed, first, rows, state_path, caught, label) -> None:
    """The loop; adds the rows of the metrics log to `rows`."""
    from tqdm import tqdm

    settings, recipe = run["settings"], run["settings"]["finetune"]
    device, steps = run["head"].device, recipe["steps"]
    began = time.perf_counter()
    numbers = range(first, steps)
    bar = tqdm(numbers, initial=first, total=steps, desc=label, file=sys.stderr, mininterval=2)
    ahead = batches(images, labels, numbers, seed, settings, run["about"], device)
    for number, batch in zip(bar, ahead, strict=True):
        rate = learning_rate_at(number, recipe)
        loss = step(run, *batch, rate)
        if not math.isfinite(loss):
            _save(state_path, run, number, rows)
            raise UserError(
                f"The loss or its gradient is {loss} at step {number + 1} of {steps} ({label}); "
                f"the state before it is kept in {state_path}: lower finetune.learning_rate and "
                "run again."
            )
        done = number + 1
        if done % LOG_EVERY == 0 or done == steps:
            speed = recipe["batch_size"] * (done - first) / (time.perf_counter() - began)
            rows.append((done, loss, rate, speed))
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        if caught[0] or (done % recipe["checkpoint_steps"] == 0 and done < steps):
            _save(state_path, run, done, rows)
        if caught[0]:
            raise Interrupted(
                caught[0],
                f"Stopped after step {done} of {steps} ({label}); run the same command to resume.",
            )


def _save(path: Path, run: dict, done: int, rows: list) -> None:
    """Write the resume state: θ, AdamW's moments, the number of steps done and the log."""
    write_tensors(path, _state(run), {"steps_done": done, "log": rows})


def _state(run: dict) -> dict:
    """The tensors that training changes, under names of their own."""
    state = {f"theta.{name}": tensor for name, tensor in run["theta"].items()}
    for name, moments in run["moments"].items():
        state |= {f"{key}.{name}": tensor for key, tensor in moments.items()}
    return state


def _restore(path: Path, run: dict) -> tuple[int, list]:
    """Load a resume state into `run` if there is one; returns the number of steps done and the rows
    of the metrics log up to there."""
    if not path.is_file():
        return 0, []
    try:
        tensors, made_by = read_tensors(path), read_made_by(path)
        state = _state(run)
        check_tensors(path, tensors, {name: tensor.shape for name, tensor in state.items()})
    except UserError:
        os.unlink(path)
        return 0, []
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(tensors[name])
    return made_by["steps_done"], made_by["log"]


def read_head(path, manifest: dict, about: dict, device):
    """A head (classes, embed_dim), held to its task's classes and its encoder's features.

    Raises:
        UserError: the head is of another task's classes or of another encoder.
    """
    tensors = read_tensors(path, device)
    shape = (len(manifest["classes"]), about["geometry"]["embed_dim"])
    check_tensors(path, tensors, {"head": shape})
    return tensors["head"]
