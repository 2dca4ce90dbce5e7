"""A training step of one mode (paper, section 2 and appendix A, "Fine-tuning")."""

import math
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch.optim.adamw import adamw

from ..errors import UserError
from ..stages import modalities
from .precision import autocast, out_of_memory
from .vectors import moved_names


def batch_indices(step: int, count: int, batch_size: int, seed: int) -> np.ndarray:
    """Which examples one training step reads: an endless chain of permutations, one per epoch, cut
    in batches.

    A function of its arguments alone; batches run over the ends of epochs, so that none is short.
    """
    at = np.arange(step * batch_size, (step + 1) * batch_size)
    orders = {
        epoch: np.random.Generator(np.random.PCG64([seed, epoch])).permutation(count)
        for epoch in range(at[0] // count, at[-1] // count + 1)
    }
    return np.asarray([orders[i // count][i % count] for i in at])


READ_AHEAD = 2  # batches


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
        "form": modalities.form(settings.get("modality", "vision")),
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
