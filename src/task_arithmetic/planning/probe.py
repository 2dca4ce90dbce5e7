"""How fast this machine computes what a run needs, measured by short probes."""

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..config import settings
from ..config.experiment import mode_of
from ..config.geometries import Geometry
from ..core.encoder import Encoder, Modality
from ..core.precision import uses_bf16
from ..core.training import Training
from ..core.vectors import TaskVector, moved_names
from ..errors import UserError
from ..files.paths import human_bytes
from ..language import modality as language
from ..language.geometry import T5
from ..language.tokens import Texts
from ..pipeline.gpu import claim, torch_device
from ..stages.efficiency import WARM_UP
from ..stages.finetune import start
from ..stages.settings import EfficiencySettings
from ..vision import modality as vision
from ..vision.clip import encode_text
from ..vision.geometry import Shapes, TextTower, ViT, parameters
from .disk import FLOAT, SOURCE, TARGET
from .work import Key, operations

STEPS = 20  # timed training steps of a probe
SECONDS = {"cuda": 2.0, "cpu": 1.5}  # for each probe; for one of STEPS steps PATIENCE times as much
PATIENCE = 3.0
SLOW = 1.0  # seconds that one example may take on a CPU to be worth a probe
GRID = [0.2, 0.4, 0.6, 0.8, 1.0]  # α that tell an image's reading from its passes
PROMPTS = 80  # texts that a head encodes at a time, at most


# --- The device at hand --------------------------------------------------------------------------


def device_at_hand(config: dict, device: str | None) -> tuple[str, str]:
    """cuda or cpu, as the jobs choose it, and what `precision: auto` stands for there; a GPU is
    held until this process ends.

    Raises:
        UserError: the configuration asks for a GPU, and there is none that works.
    """
    kind = "cpu"
    if device != "cpu" and config["device"] != "cpu":
        claim(config["device"])
        kind = torch_device().type
    return kind, "bf16" if uses_bf16("auto", kind) else "float32"


def probed(
    keys: list[Key], config: dict, geometries: dict, kind: str
) -> tuple[dict[Key, float], list[str]]:
    """Seconds of each key, measured here, and lines that say how.

    Real training steps and evaluations, with random weights and examples, texts of SOURCE and
    TARGET tokens. A CPU is measured with one thread, as its jobs run; where a whole batch takes
    long, with a few examples, from which the batch is extrapolated; where one takes longer than a
    second, or the memory is too small, what a smaller encoder took is scaled by the arithmetic.
    """
    device = torch.device(kind)
    threads = torch.get_num_threads()
    speeds: dict[Key, float] = {}
    about = [_device_name(device) + ":"]
    if kind == "cpu":
        torch.set_num_threads(1)
    try:
        for encoder in dict.fromkeys(key.encoder for key in keys):
            own = [key for key in keys if key.encoder == encoder]
            began = time.perf_counter()
            kind = type(geometries[encoder])
            before = {k: v for k, v in speeds.items() if isinstance(geometries[k.encoder], kind)}
            found, how = _probe_encoder(own, config, geometries[encoder], device, bool(before))
            if not found:
                found = _scaled(own, before, config, geometries)
            speeds |= found
            about.append(f"  {encoder}: {how} ({time.perf_counter() - began:.0f} s).")
    finally:
        torch.set_num_threads(threads)
    return speeds, about


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, measured now with random weights"
    name = ""
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    return f"CPU {name or 'of this machine'}, one thread, measured now with random weights"


def _probe_encoder(
    keys: list[Key], config: dict, geometry: Geometry, device: torch.device, may_skip: bool
) -> tuple[dict[Key, float], str]:
    """Seconds of each key of one encoder, or nothing if it is too large here; and how."""
    shapes, encoder = geometry.shapes(), keys[0].encoder
    batches = sorted({key.batch for key in keys if key.kind == "step"})
    unit = "text" if isinstance(geometry, T5) else "image"
    needed = 8 * FLOAT * parameters(shapes.values())  # θ0, θ, two moments, gradients, a tangent
    if device.type == "cpu" and needed > _free_memory():
        if not may_skip:
            raise UserError(
                f"Probing {encoder} needs {human_bytes(needed)} of memory, of which "
                f"{human_bytes(_free_memory())} are free; name a device with --device instead."
            )
        return {}, "not measured (too little memory), scaled from the one above by arithmetic"
    print(f"probing {encoder} …", file=sys.stderr, flush=True)
    is_text = isinstance(geometry, T5)
    probe = _random_texts(geometry, device) if is_text else _random_images(geometry, device)
    theta0 = probe.encoder.theta0
    alone, one = (probe.examples(1), TaskVector({}), [1.0], False, "float32"), math.inf
    for _ in range(2):  # the first includes what is done once
        one = _seconds(lambda: probe.evaluate(*alone), device)
    if device.type == "cpu" and one > SLOW and may_skip:
        return {}, "not measured (too slow), scaled from the one above by arithmetic"
    most = SECONDS[device.type]
    few = max(1, int(most / one) // 9)

    def is_long(batch: int) -> bool:  # to measure a step of it
        return device.type != "cuda" and 3 * one * batch >= most

    count = 2 * probe.most if device.type == "cuda" else max(1, min(probe.most, int(most / one)))
    examples = probe.examples(count)
    measured: dict[tuple, float] = {}  # modes that move the same tensors are measured once

    def of(key: Key) -> float:
        mode = key.mode and mode_of(config, key.mode, encoder)
        if key.kind == "step":
            chosen = json.loads(settings.efficiency_settings(config, key.mode, encoder))
            how = EfficiencySettings.of(chosen)
            run = start(probe.encoder, probe.examples(1), how, key.mode)
            some = few if is_long(key.batch) else None
            return _step_seconds(run, probe.batch, key.batch, some, device)
        if key.kind == "prompt":
            texts = min(count, PROMPTS)
            return _median(_text_probe(geometry.text, texts, device), device) / texts
        tau = TaskVector({})
        if mode:
            moved = moved_names(shapes, mode["train"], key.mode)
            tau = TaskVector({name: 0.01 * theta0[name] for name in moved})
        linearized = key.kind == "linearized"

        def seconds(alphas: list[float]) -> float:
            what = examples, tau, alphas, linearized, key.precision
            return _median(lambda: probe.evaluate(*what), device)

        once = seconds([1.0]) / count
        if linearized or key.kind == "text":
            return once
        another = once  # on a CPU, reading is nothing beside a pass
        if device.type == "cuda":
            another = max(0.0, (seconds(GRID) / count - once) / (len(GRID) - 1))
        measured["image", key.precision, (), None] = another
        measured["read", key.precision, (), None] = max(0.0, once - another)
        return measured[key.kind, key.precision, (), None]

    speeds = {}
    for key in keys:
        train = tuple(mode_of(config, key.mode, encoder)["train"]) if key.mode else ()
        same = key.kind, key.precision, train, (key.mode, key.batch) if key.kind == "step" else None
        if same not in measured:
            measured[same] = of(key)
            if device.type == "cuda":
                torch.cuda.empty_cache()
        speeds[key] = measured[same]
    sizes = " and ".join(map(str, batches))
    how = (
        f"up to {STEPS} training steps of {sizes} {unit}s for each mode, {count} evaluated {unit}s"
    )
    if any(map(is_long, batches)):
        how = f"steps of {few} and {3 * few} {unit}s, extrapolated to {sizes}; {count} evaluated"
    return speeds, how


class Probe(NamedTuple):
    """An encoder with random weights, and random examples.

    Attributes:
        encoder: at random weights. batch: function n → inputs and targets of n examples, as
            Training.step takes them.
        examples: function n → n examples, as `evaluate` takes them.
        evaluate: function (examples, τ, alphas, linearized, precision): what `accuracies` does.
        most: examples of one forward pass.
    """

    encoder: Encoder
    batch: Callable[[int], tuple[torch.Tensor, torch.Tensor]]
    examples: Callable[[int], Any]
    evaluate: Callable
    most: int


def _random_images(geometry: ViT, device: torch.device) -> Probe:
    generator, size = torch.Generator().manual_seed(0), geometry.image_size
    modality = vision.Vision(geometry, (0.5,) * 3, (0.25,) * 3)
    encoder = _random_encoder(modality, geometry.shapes(), generator, device)
    head = torch.randn(100, geometry.embed_dim, generator=generator).to(device)

    def batch(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = torch.randn(count, 3, size, size, generator=generator).to(device)
        return pixels, torch.zeros(count, dtype=torch.int64, device=device)

    def examples(count: int) -> vision.Images:
        shape = count, size, size, 3
        images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).numpy()
        return vision.Images(images, np.zeros(count, np.int64), head)

    def evaluate(
        some: Any, tau: TaskVector, alphas: list[float], linearized: bool, precision: str
    ) -> None:
        modality.accuracies(encoder.theta0, tau, alphas, {"task": some}, linearized, precision)

    return Probe(encoder, batch, examples, evaluate, vision.BATCH)


def _random_texts(geometry: T5, device: torch.device) -> Probe:
    generator, modality = torch.Generator().manual_seed(0), language.Language(geometry)
    encoder = _random_encoder(modality, geometry.shapes(), generator, device)
    theta0 = encoder.theta0

    def tokens(*shape: int) -> torch.Tensor:  # neither padding nor an end of text
        return torch.randint(2, geometry.vocab_size, shape, generator=generator)

    def batch(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        return tokens(count, SOURCE).to(device), tokens(count, TARGET).to(device)

    def examples(count: int) -> language.Examples:
        flat, ends = tokens(count * SOURCE).numpy(), SOURCE * np.arange(1, count + 1)
        words = tokens(1, TARGET).numpy(), ["?"], "exact_match", TARGET
        target = np.zeros(count, np.int32)
        return language.Examples(Texts(flat, ends - SOURCE, ends, target, None, *words))

    @torch.inference_mode()
    def evaluate(
        some: Any, tau: TaskVector, alphas: list[float], linearized: bool, precision: str
    ) -> None:
        if linearized:
            modality.answered(theta0, some.texts, precision, tau.tensors, alphas)
        else:
            for alpha in alphas:
                modality.answered(tau.apply(theta0, alpha), some.texts, precision)

    return Probe(encoder, batch, examples, evaluate, language.BATCH)


def _random_encoder(
    modality: Modality, shapes: Shapes, generator: torch.Generator, device: torch.device
) -> Encoder:
    return Encoder("random", _random_weights(shapes, generator, device), modality, "", "")


def _random_weights(
    shapes: Shapes, generator: torch.Generator, device: torch.device
) -> dict[str, torch.Tensor]:
    return {
        name: (0.02 * torch.randn(shape, generator=generator)).to(device)
        for name, shape in shapes.items()
    }


def _text_probe(text: TextTower, count: int, device: torch.device) -> Callable[[], None]:
    """A function that encodes `count` random texts with random weights."""
    params = _random_weights(text.shapes(), torch.Generator().manual_seed(0), device)
    tokens = torch.randint(1, text.vocab_size, (count, text.context_length)).to(device)

    def action() -> None:
        with torch.inference_mode():
            encode_text(params, tokens, text)

    return action


def _step_seconds(
    run: Training,
    examples: Callable[[int], tuple],
    batch: int,
    few: int | None,
    device: torch.device,
) -> float:
    """Seconds of one training step: measured, or extrapolated from two sizes of batches, because a
    part of it, the optimizer's, does not grow with the batch."""

    def timed(count: int) -> float:
        inputs, targets = examples(count)
        patience = PATIENCE if few is None else 1.0
        return _median(lambda: run.step(inputs, targets, 1e-6), device, patience)

    if few is None:
        return timed(batch)
    small, large = timed(few), timed(3 * few)
    slope = (large - small) / (2 * few)
    if slope <= 0:  # noise
        return large / (3 * few) * batch
    return max(0.0, small - slope * few) + slope * batch


def _median(action: Callable[[], Any], device: torch.device, patience: float = 1.0) -> float:
    """Median seconds of an action after its first time, which includes what is done once: STEPS
    times, or as often as `patience` times SECONDS allow."""
    for _ in range(WARM_UP if device.type == "cuda" else 1):
        _seconds(action, device)
    found: list[float] = []
    while len(found) < STEPS and sum(found) < patience * SECONDS[device.type]:
        found.append(_seconds(action, device))
    return statistics.median(found)


def _seconds(action: Callable[[], Any], device: torch.device) -> float:
    began = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _scaled(keys: list[Key], speeds: dict, config: dict, geometries: dict) -> dict[Key, float]:
    """Seconds of an encoder's keys from those of the last encoder that was measured, in proportion
    to their arithmetic."""
    last = list(speeds)[-1].encoder
    found = {}
    for key in keys:
        if key.kind == "read":
            found[key] = 0.0
            continue
        alike = [other for other in speeds if other.encoder == last and other.kind == key.kind]
        other = min(alike, key=lambda k: (k.mode != key.mode, k.precision != key.precision))
        mine, theirs = (geometries[each.encoder] for each in (key, other))
        ratio = operations(key, config, mine) / operations(other, config, theirs)
        found[key] = speeds[other] * ratio
    return found


def starting_seconds(kind: str) -> float:
    """Seconds until a job has imported what it needs and touched its device, measured."""
    code = f"import task_arithmetic.stages.finetune, torch; torch.zeros(1, device={kind!r})"
    path = os.pathsep.join(
        [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    return time.perf_counter() - began


def _free_memory() -> float:
    """Bytes that programs can still take; unlimited where the system does not say."""
    path = Path("/proc/meminfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else math.inf
