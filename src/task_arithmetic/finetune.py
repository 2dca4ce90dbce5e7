"""Fine-tuning one encoder on one task in one mode (paper, appendix A, "Fine-tuning").

Every step's images and crops are a function of (seed, step) alone, so that a resumed run
continues exactly where it stopped.
"""

import math
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.optim.adamw import adamw

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
from .data import read_manifest, read_split
from .encoder import classify, encode, encode_linearized, read_encoder
from .pixels import crop_boxes, to_pixels
from .vector import moved_names

LOG_EVERY = 10  # steps


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
            checkpoint_steps), `limit`, `micro_batch`.
        output: safetensors of θ_t, of the moved tensors only.
        log: CSV: step, loss, learning_rate, images_per_second.
    Raises:
        UserError: patterns that match nothing, a loss that is not finite (the last good state is
            kept), artifacts that do not fit each other.
        Interrupted: after SIGTERM or SIGINT, once the state is saved.
    """
    device = best_device()
    theta0, about = read_encoder(encoder_dir, device)
    head_tensor = read_head(head, read_manifest(data_dir), about, device)
    images, labels = read_split(data_dir, "train", settings.get("limit"))
    recipe = {
        "encoder": encoder,
        "image_tower_sha256": about["image_tower_sha256"],
        "head_sha256": sha256_of_file(head),
        "mode": mode,
        "task": task,
        "seed": seed,
        "settings": settings,
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
        about, head, settings.
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
    }


def step(run: dict, pixels, labels, learning_rate: float) -> float:
    """One AdamW step on one batch; returns its mean cross-entropy.

    Micro-batches accumulate their share of the mean loss, so that the gradient is that of the
    whole batch. The step is skipped, and NaN returned, if the loss or its gradient is not finite.

    Args:
        run: from `start`.
        pixels: float (B, 3, S, S); labels: int64 (B,).
    """
    settings, theta = run["settings"], run["theta"]
    gradient = linearized_gradient if settings["mode"]["linearized"] else plain_gradient
    micro = settings.get("micro_batch") or len(pixels)
    for tensor in theta.values():
        tensor.grad = None
    loss = 0.0
    for i in range(0, len(pixels), micro):
        part = slice(i, i + micro)
        share = len(labels[part]) / len(labels)
        loss += gradient(run, pixels[part], labels[part], share)
    loss = float(loss)
    if not math.isfinite(loss):
        return loss
    norm = torch.nn.utils.clip_grad_norm_(theta.values(), settings["finetune"]["gradient_clip"])
    if not math.isfinite(norm):
        return math.nan
    _adamw(run, learning_rate)
    return loss


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
    features = encode({**run["base"], **run["theta"]}, pixels, run["about"]["geometry"])
    loss = share * F.cross_entropy(classify(features, run["head"]), labels)
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
    value, tangent = encode_linearized({**theta0, **anchor}, tau, pixels, run["about"]["geometry"])
    features = (value.detach() + tangent).requires_grad_()
    loss = share * F.cross_entropy(classify(features, run["head"]), labels)
    (slope,) = torch.autograd.grad(loss, features)
    for name, gradient in zip(
        theta, torch.autograd.grad(value, list(anchor.values()), slope), strict=True
    ):
        leaf = theta[name]
        leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient
    return loss.detach()


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


def draw_batch(images, labels, step: int, seed: int, settings: dict, about: dict, device):
    """The pixels and labels of one training step, with its random crops."""
    recipe = settings["finetune"]
    chosen = batch_indices(step, len(images), recipe["batch_size"], seed)
    generator = torch.Generator().manual_seed(
        int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
    )
    boxes = crop_boxes(len(chosen), *images.shape[1:3], recipe["crop_scale"], generator)
    batch = torch.from_numpy(np.array(images[chosen])).to(device)
    return to_pixels(batch, about, boxes), torch.from_numpy(labels[chosen]).to(device)


def _train(run, images, labels, seed, first, rows, state_path, caught, label) -> None:
    """The loop; adds the rows of the metrics log to `rows`."""
    from tqdm import tqdm

    settings, recipe = run["settings"], run["settings"]["finetune"]
    device, steps = run["head"].device, recipe["steps"]
    began = time.perf_counter()
    bar = tqdm(
        range(first, steps), initial=first, total=steps, desc=label, file=sys.stderr, mininterval=2
    )
    for number in bar:
        rate = learning_rate_at(number, recipe)
        loss = step(
            run, *draw_batch(images, labels, number, seed, settings, run["about"], device), rate
        )
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


def best_device() -> torch.device:
    """CUDA if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def read_head(path, manifest: dict, about: dict, device):
    """A head (classes, embed_dim), held to its task's classes and its encoder's features.

    Raises:
        UserError: the head is of another task's classes or of another encoder.
    """
    tensors = read_tensors(path, device)
    shape = (len(manifest["classes"]), about["geometry"]["embed_dim"])
    check_tensors(path, tensors, {"head": shape})
    return tensors["head"]
