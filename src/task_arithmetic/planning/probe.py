"""How fast this machine computes what a run needs, measured by short probes."""

import json
import math
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import settings
from ..config.experiment import Experiment
from ..config.geometries import Geometry
from ..core.encoder import Encoder, Examples, Modality
from ..core.precision import uses_bf16
from ..core.training import Training
from ..core.vectors import TaskVector, moved_names
from ..errors import UserError
from ..files.paths import human_bytes
from ..language import modality as language
from ..language.geometry import T5
from ..language.tokens import Texts
from ..pipeline.gpu import claim, torch_device
from ..stages.efficiency import WARM_UP, EfficiencySettings
from ..stages.finetune import start
from ..vision import modality as vision
from ..vision.geometry import ViT, parameters
from .disk import FLOAT
from .operations import SOURCE, TARGET
from .work import Key, operations

STEPS = 20  # timed training steps of a probe
SECONDS = {"cuda": 2.0, "cpu": 1.5}  # for each probe; for one of STEPS steps PATIENCE times as much
PATIENCE = 3.0
SLOW = 1.0  # seconds that one example may take on a CPU to be worth a probe
GRID = [0.2, 0.4, 0.6, 0.8, 1.0]  # α that tell an image's reading from its passes

Speeds = dict[Key, float]  # seconds


def device_at_hand(experiment: Experiment, device: str | None) -> tuple[str, str]:
    """cuda or cpu, as the jobs choose it, and what `precision: auto` stands for there; a GPU is
    held until this process ends.

    Raises:
        UserError: the configuration asks for a GPU, and there is none that works.
    """
    kind = "cpu"
    if device != "cpu" and experiment.device != "cpu":
        claim(experiment.device)
        kind = torch_device().type
    return kind, "bf16" if uses_bf16("auto", kind) else "float32"


def probed(
    keys: list[Key], experiment: Experiment, geometries: dict[str, Geometry], kind: str
) -> tuple[Speeds, list[str]]:
    """Seconds of each key, measured here, and lines that say how.

    Real training steps and evaluations, with random weights and examples, texts of SOURCE and
    TARGET tokens. A CPU is measured with one thread, as its jobs run; where a whole batch takes
    long, with a few examples, from which the batch is extrapolated; where one takes longer than a
    second, or the memory is too small, what a smaller encoder took is scaled by the arithmetic.
    """
    device, threads = torch.device(kind), torch.get_num_threads()
    speeds: Speeds = {}
    about = [_device_name(device) + ":"]
    if kind == "cpu":
        torch.set_num_threads(1)
    try:
        for encoder in dict.fromkeys(key.encoder for key in keys):
            own = [key for key in keys if key.encoder == encoder]
            began, geometry = time.perf_counter(), geometries[encoder]
            kind_of = type(geometry)
            before = {k: v for k, v in speeds.items() if isinstance(geometries[k.encoder], kind_of)}
            found, how = _probe_encoder(own, experiment, geometry, device, bool(before))
            speeds |= found or _scaled(own, before, experiment, geometries)
            about.append(f"  {encoder}: {how} ({time.perf_counter() - began:.0f} s).")
    finally:
        torch.set_num_threads(threads)
    return speeds, about


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, measured now with random weights"
    name = _system("/proc/cpuinfo", r"model name\s*: (.*)") or "of this machine"
    return f"CPU {name}, one thread, measured now with random weights"


def _system(path: str, pattern: str) -> str:
    """What the system says of itself in a file; "" where it says nothing."""
    text = Path(path).read_text(encoding="utf-8") if Path(path).is_file() else ""
    return found[1] if (found := re.search(pattern, text)) else ""


def _free_memory() -> float:
    """Bytes that programs can still take; unlimited where the system does not say."""
    return float(_system("/proc/meminfo", r"MemAvailable:\s*(\d+)") or math.inf) * 1024


def _probe_encoder(
    keys: list[Key],
    experiment: Experiment,
    geometry: Geometry,
    device: torch.device,
    may_skip: bool,
) -> tuple[Speeds, str]:
    """Seconds of each key of one encoder, or nothing if it is too large here; and how."""
    shapes, encoder, on_gpu = geometry.shapes(), keys[0].encoder, device.type == "cuda"
    needed = 8 * FLOAT * parameters(shapes.values())  # θ0, θ, two moments, gradients, a tangent
    if not on_gpu and needed > _free_memory():
        if not may_skip:
            raise UserError(
                f"Probing {encoder} needs {human_bytes(needed)} of memory, of which "
                f"{human_bytes(_free_memory())} are free; name a device with --device instead."
            )
        return {}, "not measured (too little memory), scaled from the one above by arithmetic"
    print(f"probing {encoder} …", file=sys.stderr, flush=True)
    probe: Probe
    if isinstance(geometry, T5):
        probe = RandomTexts(geometry, device)
    else:
        probe = RandomImages(geometry, device)
    most, alone = SECONDS[device.type], (probe.examples(1), TaskVector({}), [1.0], False, "float32")
    _seconds(lambda: probe.evaluate(*alone), device)  # includes what is done once
    one = _seconds(lambda: probe.evaluate(*alone), device)
    if not on_gpu and one > SLOW and may_skip:
        return {}, "not measured (too slow), scaled from the one above by arithmetic"
    few = max(1, int(most / one) // 9)

    def is_long(batch: int) -> bool:  # to measure a step of it
        return not on_gpu and 3 * one * batch >= most

    count = 2 * probe.most if on_gpu else max(1, min(probe.most, int(most / one)))
    examples = probe.examples(count)

    def passes(key: Key, alphas: list[float]) -> float:
        tau = TaskVector({})
        if key.mode:
            moved = moved_names(shapes, experiment.patterns(key.mode, encoder), key.mode)
            tau = TaskVector({name: 0.01 * probe.encoder.theta0[name] for name in moved})
        what = examples, tau, alphas, key.kind == "linearized", key.precision
        return _median(lambda: probe.evaluate(*what), device) / count

    @cache
    def image(precision: str) -> dict[str, float]:
        if precision == "float64":
            return {"image": probe.in_float64(count)}
        plain = Key(encoder, "image", None, precision)
        once = another = passes(plain, [1.0])  # on a CPU, reading is nothing beside a pass
        if on_gpu:
            another = max(0.0, (passes(plain, GRID) - once) / (len(GRID) - 1))
        return {"image": another, "read": max(0.0, once - another)}

    def seconds(key: Key) -> float:
        if key.kind == "step" and key.mode:
            chosen = json.loads(settings.efficiency_settings(experiment, key.mode, encoder))
            how = EfficiencySettings.of(chosen)
            run = start(probe.encoder, probe.examples(1), how, key.mode)
            some = few if is_long(key.batch) else None
            return _step_seconds(run, probe.batch, key.batch, some, device)
        if key.kind in ("prompt", "linearity"):  # passes of the same blocks: by the arithmetic
            plain = Key(encoder, "image", None, key.precision)
            mine, other = (operations(each, experiment, geometry) for each in (key, plain))
            return image(key.precision)["image"] * mine / other
        if key.kind in ("image", "read"):
            return image(key.precision)[key.kind]
        return passes(key, [1.0])

    speeds: Speeds = {}
    measured: dict[tuple[Any, ...], float] = {}  # modes that move the same tensors: once
    for key in keys:
        train = tuple(experiment.patterns(key.mode, encoder)) if key.mode else ()
        same = key.kind, key.precision, train, (key.mode, key.batch) if key.kind == "step" else None
        if same not in measured:
            measured[same] = seconds(key)
            if on_gpu:
                torch.cuda.empty_cache()
        speeds[key] = measured[same]
    batches = sorted({key.batch for key in keys if key.kind == "step"})
    sizes, unit = " and ".join(map(str, batches)), probe.encoder.modality.unit
    if any(map(is_long, batches)):
        how = f"steps of {few} and {3 * few} {unit}s, extrapolated to {sizes}; {count} evaluated"
    else:
        how = f"up to {STEPS} training steps of {sizes} {unit}s for each mode, {count} evaluated"
        how += f" {unit}s"
    return speeds, how


# --- What is measured ----------------------------------------------------------------------------


class Probe:
    """An encoder with random weights, and random examples.

    Attributes:
        encoder: at random weights. most: examples of one forward pass.
    """

    most: int

    def __init__(self, modality: Modality, geometry: Geometry, device: torch.device) -> None:
        self.device, self.generator = device, torch.Generator().manual_seed(0)
        shapes = geometry.shapes().items()
        theta0 = {k: (0.02 * self.normal(*shape)).to(device) for k, shape in shapes}
        self.encoder = Encoder("random", theta0, modality, "", "")

    def normal(self, *shape: int) -> Tensor:
        """Random numbers."""
        return torch.randn(shape, generator=self.generator)

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets, as a training step takes them."""
        raise NotImplementedError

    def examples(self, count: int) -> Examples:
        """What `evaluate` takes."""
        raise NotImplementedError

    def in_float64(self, count: int) -> float:
        """Seconds of f(x; θ0) of one example."""
        raise NotImplementedError

    def evaluate(
        self, some: Examples, tau: TaskVector, alphas: list[float], linearized: bool, precision: str
    ) -> None:
        """What an evaluation does."""
        theta0, parts = self.encoder.theta0, {"task": some}
        self.encoder.modality.accuracies(theta0, tau, alphas, parts, linearized, precision)


class RandomImages(Probe):
    """A CLIP of random weights."""

    most = vision.BATCH

    def __init__(self, geometry: ViT, device: torch.device) -> None:
        super().__init__(vision.Vision(geometry, (0.5,) * 3, (0.25,) * 3), geometry, device)
        self.size, self.head = geometry.image_size, self.normal(100, geometry.embed_dim).to(device)

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        labels = torch.zeros(count, dtype=torch.int64, device=self.device)
        return self.normal(count, 3, self.size, self.size).to(self.device), labels

    def examples(self, count: int) -> vision.Images:
        shape = count, self.size, self.size, 3
        images = torch.randint(0, 256, shape, generator=self.generator, dtype=torch.uint8).numpy()
        return vision.Images(images, np.zeros(count, np.int64), self.head)

    @torch.inference_mode()
    def in_float64(self, count: int) -> float:
        """Seconds of f(x; θ0) of one image."""
        theta0 = {name: tensor.double() for name, tensor in self.encoder.theta0.items()}
        inputs = self.batch(count)[0].double()
        outputs = self.encoder.modality.outputs
        return _median(lambda: outputs(theta0, inputs, inputs), self.device) / count


class RandomTexts(Probe):
    """A T5 of random weights, whose answers are generated and not read: it has no tokenizer."""

    most = language.BATCH

    def __init__(self, geometry: T5, device: torch.device) -> None:
        self.language, self.words = language.Language(geometry), geometry.vocab_size
        super().__init__(self.language, geometry, device)

    def tokens(self, *shape: int) -> Tensor:
        """Neither padding nor an end of text."""
        return torch.randint(2, self.words, shape, generator=self.generator)

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        source, target = self.tokens(count, SOURCE), self.tokens(count, TARGET)
        return source.to(self.device), target.to(self.device)

    def examples(self, count: int) -> language.Examples:
        flat, ends = self.tokens(count * SOURCE).numpy(), SOURCE * np.arange(1, count + 1)
        words = self.tokens(1, TARGET).numpy(), ["?"], "exact_match", TARGET
        target = np.zeros(count, np.int32)
        return language.Examples(Texts(flat, ends - SOURCE, ends, target, None, *words))

    @torch.inference_mode()
    def evaluate(
        self, some: Examples, tau: TaskVector, alphas: list[float], linearized: bool, precision: str
    ) -> None:
        theta0 = self.encoder.theta0
        if linearized:
            self.language.answered(theta0, some.texts, precision, tau.tensors, alphas)
        else:
            for alpha in alphas:
                self.language.answered(tau.apply(theta0, alpha), some.texts, precision)


# --- Measuring -----------------------------------------------------------------------------------


def _step_seconds(
    run: Training,
    examples: Callable[[int], tuple[Any, Any]],
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


def _scaled(
    keys: list[Key], speeds: Speeds, experiment: Experiment, geometries: dict[str, Geometry]
) -> Speeds:
    """Seconds of an encoder's keys from those of the last encoder that was measured, in proportion
    to their arithmetic."""
    last, found = list(speeds)[-1].encoder, {}
    for key in keys:
        if key.kind == "read":
            found[key] = 0.0
            continue
        kinds = {key.kind} & {other.kind for other in speeds} or {"image"}
        alike = [other for other in speeds if other.encoder == last and other.kind in kinds]
        other = min(alike, key=lambda other: _distance(other, key))
        mine, theirs = (operations(k, experiment, geometries[k.encoder]) for k in (key, other))
        found[key] = speeds[other] * mine / theirs
    return found


def _distance(one: Key, other: Key) -> tuple[bool, bool, int]:
    """How unlike two works of a kind are."""
    batches = abs(one.batch - other.batch)
    return one.mode != other.mode, one.precision != other.precision, batches


def starting_seconds(kind: str) -> float:
    """Seconds until a job has imported what it needs and touched its device, measured."""
    code = f"import task_arithmetic.stages.finetune, torch; torch.zeros(1, device={kind!r})"
    path = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **own}, check=False)
    return time.perf_counter() - began
