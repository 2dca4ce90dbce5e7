"""One training step of a ViT in three implementations, in one process, in units of the first:

module: open_clip's module under torch's autograd and AdamW; for ntk torch.func.jvp of it.
theirs: the published code's classes, under the same optimizer.
ours: core/training.py.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import reference
import torch
from quantities import MODES, Row, Theirs
from torch import Tensor
from torch.func import functional_call, jvp

from task_arithmetic.core.schedule import Recipe
from task_arithmetic.core.training import Training
from task_arithmetic.vision.geometry import ViT
from task_arithmetic.vision.modality import Vision

CLASSES = 10
MODEL = "ViT-B-32-quickgelu"
GEOMETRY = ViT(12, 768, 32, 224, 3072, 12, 512, "quick_gelu")
ATTENTION = ("*.attn.in_proj_weight", "*.attn.out_proj.weight")
RECIPE = Recipe(steps=1000, learning_rate=1e-5)


def steps(theirs: Theirs, batch: int, repeats: int) -> list[Row]:
    """Medians of interleaved steps, each ÷ that of the module in mode nonlinear, which is timed
    anew beside each mode. A row's difference is ours ÷ theirs; no bound: a measurement."""
    rows = []
    for mode in MODES:
        actions = {
            "unit": _module("nonlinear", theirs, batch),
            "theirs": _theirs(mode, theirs, batch),
            "ours": _ours(mode, theirs, batch),
        }
        if mode != "nonlinear":
            actions["module"] = _module(mode, theirs, batch)
        seconds: dict[str, list[float]] = {name: [] for name in actions}
        for turn in range(repeats + 1):
            for name, action in actions.items():
                began = time.perf_counter()
                action()
                if turn:
                    seconds[name].append(time.perf_counter() - began)
        middle = {name: statistics.median(values) for name, values in seconds.items()}
        unit = middle["unit"]
        ours, found = middle["ours"] / unit, middle["theirs"] / unit
        beside = f"; the module {middle['module'] / unit:.2f}" if "module" in middle else ""
        what = f"step of {mode}, ViT-B/32 (unit {unit:.2f} s{beside})"
        rows.append(Row(what, repeats, ours, found, ours / found, None))
    return rows


def _data(batch: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    size, width = GEOMETRY.image_size, GEOMETRY.embed_dim
    pixels = torch.randn(batch, 3, size, size, generator=generator)
    labels = torch.randint(0, CLASSES, (batch,), generator=generator)
    return pixels, labels, torch.randn(CLASSES, width, generator=generator)


def _encoder(theirs: Theirs) -> Any:
    """Their ImageEncoder with random weights, which open_clip makes."""
    args = theirs.code.utils.DotDict(model=f"{MODEL}__init__")
    torch.manual_seed(0)
    return theirs.code.modeling.ImageEncoder(args)


def _moves(name: str, mode: str) -> bool:
    return mode != "attention" or name.endswith((".in_proj_weight", ".out_proj.weight"))


def _stepper(
    model: Callable[[Tensor], Tensor], parameters: list[Any], batch: int, derived: bool = False
) -> Any:
    pixels, labels, _ = _data(batch)
    optimizer = torch.optim.AdamW(parameters, lr=RECIPE.learning_rate, weight_decay=0.1)

    def step() -> None:
        with reference.differentiable(derived):
            torch.nn.functional.cross_entropy(model(pixels), labels).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _module(mode: str, theirs: Theirs, batch: int) -> Any:
    tower, (_, _, head) = _encoder(theirs).model.visual.train(), _data(batch)

    def logits(features: Tensor) -> Tensor:
        return torch.nn.functional.normalize(features, dim=-1) @ head.T

    if mode != "ntk":
        for name, parameter in tower.named_parameters():
            parameter.requires_grad_(_moves(name, mode))
        moved = [p for p in tower.parameters() if p.requires_grad]
        return _stepper(lambda x: logits(tower(x)), moved, batch)
    theta0 = {name: p.detach() for name, p in tower.named_parameters()}
    theta = {name: p.clone().requires_grad_() for name, p in theta0.items()}

    def linearized(x: Tensor) -> Tensor:
        tau = {name: theta[name] - theta0[name] for name in theta}
        value, tangent = jvp(lambda p: functional_call(tower, p, x), (theta0,), (tau,))
        return logits(value + tangent)

    return _stepper(linearized, list(theta.values()), batch, derived=True)


def _theirs(mode: str, theirs: Theirs, batch: int) -> Any:
    encoder, (_, _, head) = _encoder(theirs), _data(batch)
    if mode == "ntk":
        args = theirs.code.utils.DotDict(model=f"{MODEL}__init__")
        encoder = theirs.code.linearize.LinearizedImageEncoder(args, image_encoder=encoder)
    else:
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_(_moves(name, mode))
    model = theirs.classifier(encoder, head).train()
    model.freeze_head()
    moved = [p for p in model.parameters() if p.requires_grad]
    return _stepper(model, moved, batch, derived=mode == "ntk")


def _ours(mode: str, theirs: Theirs, batch: int) -> Any:
    pixels, labels, head = _data(batch)
    theta0 = {k: p.detach() for k, p in _encoder(theirs).model.visual.named_parameters()}
    vision = Vision(GEOMETRY, (0.5,) * 3, (0.25,) * 3)
    names = list(ATTENTION) if mode == "attention" else ["*"]
    training = Training(theta0, vision, head, RECIPE, names, linearized=mode == "ntk")
    return lambda: training.step(pixels, labels, RECIPE.learning_rate)
