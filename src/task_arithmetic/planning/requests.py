"""What a job asks a cluster for: host memory, wall time, CPU cores. Imports no torch.

Reckoned from what the job computes, reads and holds, as `plan` does for whole stages, but for a
slow GPU and generously: SLURM ends what exceeds its request. Further attempts ask for more.
"""

import csv
import math
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..config import settings
from ..config.experiment import control_of, mode_of, pairs_of, part_of
from ..config.geometries import read_geometry, shapes_of
from ..config.reading import ROOT
from ..config.recipes import recipe_of
from ..core.arithmetic import alpha_grid
from ..vision.geometry import parameters
from ..vision.images import RESOLUTION
from .disk import (
    FLOAT,
    class_count,
    data_bytes,
    encoder_bytes,
    example_counts,
    flops_of,
    is_text,
    parts_of,
    template_count,
)

DEVICE = "rtx3090"  # of devices.csv: the least sustained rate in bf16
CPU_FLOPS = 1e10  # of one core, sustained; small tensors reach no more
SAFETY = 3  # on what a job computes: older GPUs, slow hosts, neighbours
STARTING = 180  # seconds: Snakemake twice, and torch from a shared folder
READING = 50e6  # bytes per second of a busy shared file system
DECODING = 20  # photographs per second and process
TOKENIZING = 2_000  # texts per second: read, put into prompts and made into tokens
# Minutes; requests are multiples of the first. Queues allow little more than the second, and what
# takes longer (real encoders without a GPU) goes on from its saved state at the next attempt.
SHORTEST, LONGEST = 10, 2_880

# Megabytes. A job with torch holds 0.7 GB, and Snakemake around it, twice, 0.2 GB each. Arrays are
# mapped from files: what is read of them can be dropped at any time, and is not asked for.
LEAST, MULTIPLE = 1_500, 500
CUDA = 4_000  # assumed: the driver's context, libraries and page-locked batches, in host memory
DECODER = 600  # a process with a block of images, decoded and joined
LIBRARY = 500  # import of open_clip or transformers, in the encoder stage alone
MARGIN = 1.3  # on the tensors and examples that a job holds
ROW = (
    2_500  # bytes of a row of texts in memory, as Python's objects and as tokens (measured: 2,100)
)
LONG, ANSWER = 256, 10  # tokens of an input and an answer, in the batch that needs the most memory

# Taken for numbers that neither a definition nor an earlier run tells.
UNKNOWN = {"train": 100_000, "validation": 5_000, "test": 25_000, "classes": 1_000}
# For an encoder whose geometry cannot be read here (no open_clip beside Snakemake): ViT-L-14's.
LARGE = {"image_size": 224, "patch_size": 14, "width": 1024, "layers": 24, "mlp_width": 4096}
LARGE_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 768, "layers": 12}
LARGE |= {"embed_dim": 768, "text": {**LARGE_TEXT, "mlp_width": 3072, "embed_dim": 768}}

# Stages that hold a GPU where there is one.
LEARNING = ["head", "finetune", "pretrained", "single_task", "kernel", "addition", "posthoc"]
LEARNING += ["negation", "disentanglement", "efficiency"]


class Request(NamedTuple):
    """What a job asks for at its first attempt, and how long it is expected to take."""

    memory_mb: int
    minutes: int
    cores: int
    seconds: float


def requests(config: dict, basedir=ROOT) -> Callable[..., Request]:
    """The function (stage, encoder, mode, task) → Request of a validated configuration.

    Jobs that differ only in seed or pair ask for the same, which is reckoned once.
    """
    on_gpu, definitions = config["device"] != "cpu", config["definitions"]
    parts = parts_of(config)
    with open(
        Path(basedir) / "workflow/reference/devices.csv", encoding="utf-8", newline=""
    ) as file:
        device = next(row for row in csv.DictReader(file) if row["device"] == DEVICE)

    @cache
    def geometry(encoder: str) -> dict:
        try:
            return read_geometry(encoder, definitions["encoders"][encoder])
        except PackageNotFoundError:
            return LARGE

    @cache
    def counts(task: str) -> dict[str, int]:
        known = example_counts(config, task)
        return {split: UNKNOWN[split] if n is None else n for split, n in known.items()}

    @cache
    def request(stage: str, encoder=None, mode=None, task=None) -> Request:
        learns, cores, seconds, held = stage in LEARNING, 1, 0.0, 0.0
        part = parts[part_of(config, encoder)["modality"]] if encoder else {}
        tasks = _tasks_of(config, stage, part, task) if encoder else [task] if task else []
        if stage in ("efficiency", "head"):  # these read the first task's examples, and none
            tasks = tasks[: stage == "efficiency"]
        read = sum(data_bytes(definitions["tasks"][name], counts(name)) or 0 for name in tasks)
        if encoder:
            job = stage, encoder, mode, tasks
            held = _held_bytes(config, part, job, geometry(encoder), counts)
        rows = sum(counts(task).values()) if task else 0
        texts = bool(task) and is_text(definitions["tasks"][task])
        if stage == "data":
            few = texts or "embedded" in definitions["tasks"][task]
            cores = 1 if few else 8
            seconds = 0.0 if few else rows / (cores * DECODING)
            read *= 3  # the source, blocks, and blocks to be joined
            held = cores * DECODER * 1e6
        elif learns:
            cores = 4 if on_gpu else 1
            full = stage in ("head", "disentanglement") or config["precision"] == "float32"
            precision = "float32" if full else "bf16"
            rate = 1e12 * float(device[f"{precision}_tflops"]) * float(device["share"])
            kind, of, amount = work(config, stage, counts, encoder, mode, task)
            each = flops_of(kind, geometry(encoder), of and mode_of(config, of, encoder))
            seconds = amount * each / (rate if on_gpu else CPU_FLOPS)
        else:
            read = 0
        if texts and stage in ("data", "head"):
            held, seconds = ROW * rows, rows / TOKENIZING
        memory = LEAST + (CUDA if learns and on_gpu else 0) + MARGIN * held / 1e6
        waiting = STARTING + read / READING
        minutes = min(LONGEST, _up((waiting + SAFETY * seconds) / 60, SHORTEST))
        return Request(_up(memory, MULTIPLE), minutes, cores, waiting + seconds)

    return request


def work(config: dict, stage: str, counts, encoder: str, mode=None, task=None) -> tuple:
    """(kind, mode, amount) of what one job of a learning stage computes, see geometry.flops and
    t5_flops; for a stage of pairs, of the larger pair. `counts`: function task → split → number of
    examples."""
    part = parts_of(config)[part_of(config, encoder)["modality"]]
    unit = part["unit"]
    grid, limit = config["disentanglement"], config["limit"] or {}

    def count(split, names):
        return sum(min(counts(t)[split], limit.get(split, counts(t)[split])) for t in names)

    if stage == "head":
        if unit == "text":
            return "read", None, sum(counts(task).values())
        classes = class_count(config, task) or UNKNOWN["classes"]
        return "prompt", None, template_count(config, task) * classes
    if stage in ("finetune", "efficiency"):
        recipe = recipe_of(part, encoder, mode, task or part["tasks"][0])
        steps = recipe["steps"] if stage == "finetune" else 3 + config["efficiency"]["steps"]
        return "step", mode, steps * recipe["batch_size"]
    linearized = stage == "kernel" or (bool(mode) and settings.is_linearized(config, mode))
    vectors = "nonlinear" if mode == "posthoc" else mode
    if stage == "disentanglement":
        samples = 2048 if grid.get("reference_scaling", False) else grid["samples"]
        pairs = pairs_of(config).values()
        sample = max(sum(min(count("test", [t]), samples) for t in pair) for pair in pairs)
        if linearized:  # a tangent of each of the two vectors
            return "linearized", vectors, 2 * sample
        return "image", None, models_evaluated(grid) * sample
    names = _tasks_of(config, stage, part, task)
    validation, test = count("validation", names), count("test", names)
    if stage == "addition" and part.get("reference_selection", False):
        validation += test  # the grid is walked on both
    if linearized:  # f_lin gives the whole grid in one pass
        return "linearized", vectors, validation + test
    if stage in ("addition", "negation"):
        validation *= len(alpha_grid(config["alphas"]))
    return unit, None, validation + test


def models_evaluated(grid: dict) -> int:
    """Models that each image of the disentanglement error goes through: a unified one for each cell
    but those whose other coefficient is 0, and an individual one for each value of its own."""
    coefficients = np.linspace(grid["low"], grid["high"], grid["points"]).round(12)
    return grid["points"] * (grid["points"] + 1 - int(0 in coefficients))


def _tasks_of(config: dict, stage: str, part: dict, task: str | None) -> list[str]:
    """The tasks whose examples a job reads: its own, or all; with the control task to negate."""
    control = [control_of(config)] if stage == "negation" else []
    return [*([task] if task else part["tasks"]), *control]


def _held_bytes(config: dict, part: dict, job: tuple, geometry: dict, counts) -> float:
    """Bytes of tensors and images in a job's host memory at a time, at most; job: its stage,
    encoder, mode and tasks."""
    stage, encoder, mode, tasks = job
    on_gpu, limit = config["device"] != "cpu", config["limit"] or {}
    weights = FLOAT * parameters(shapes_of(geometry).values())
    if stage == "encoder":  # the file, the library's model, our tensors, and what compares them
        return 4 * encoder_bytes(geometry) + LIBRARY * 1e6
    if stage == "head":  # with the text tower
        return 3 * (encoder_bytes(geometry) - weights)
    if stage not in LEARNING:  # vector: θ0, θ, τ, and τ as it is written
        return 4 * weights if stage == "vector" else 0
    passed, trained = _activations(geometry)
    if stage in ("finetune", "efficiency"):
        if on_gpu:  # θ0, and θ and two moments on their way to a file and as the file's bytes
            return 7 * weights
        # and what trains: θ, moments, gradients, a tangent, and each layer's activations
        twice = 1 + settings.is_linearized(config, mode)
        batch = recipe_of(part, encoder, mode, tasks[0])["batch_size"]
        return 13 * weights + batch * twice * trained
    drawn = 2 * config["disentanglement"]["samples"] if stage == "disentanglement" else 0
    for task in tasks if part["unit"] == "image" else []:  # a limit's images are copied
        numbers = counts(task)
        drawn += sum(min(numbers[split], n) for split, n in limit.items() if split != "train")
    # θ0, two vectors and their sum; on a CPU also θ, pixels (or logits of a grid) and activations
    running = 0 if on_gpu else 2 * weights + 2**30 + passed
    return 4 * weights + running + 3 * RESOLUTION**2 * drawn


def _activations(geometry: dict) -> tuple[int, int]:
    """Bytes of activations: of a batch that is evaluated, and of an example that is trained on."""
    if is_text(geometry):
        layer = 20 * FLOAT * LONG * geometry["d_model"]
        layers, answers = geometry["decoder_layers"], FLOAT * ANSWER * geometry["vocab_size"]
        kept = layers * layer // 5  # keys and values of the source, with their tangents
        return 64 * (layer + kept), (geometry["layers"] + layers) * layer + 6 * answers
    tokens = (geometry["image_size"] // geometry["patch_size"]) ** 2 + 1
    layer = 20 * FLOAT * tokens * geometry["width"]
    return 256 * layer, geometry["layers"] * layer


def _up(value: float, multiple: int) -> int:
    """The next multiple, at least one."""
    return multiple * max(1, math.ceil(value / multiple))
