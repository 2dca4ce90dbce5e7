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

from . import settings
from .arrays import RESOLUTION
from .config import ROOT, alpha_grid
from .geometry import flops, image_tower_shapes, parameters, read_geometry, text_parameters
from .storage import FLOAT, array_bytes, class_count, image_counts

DEVICE = "rtx3090"  # of devices.csv: the least sustained rate in bf16
CPU_FLOPS = 1e10  # of one core, sustained; small tensors reach no more
SAFETY = 3  # on what a job computes: older GPUs, slow hosts, neighbours
STARTING = 180  # seconds: Snakemake twice, and torch from a shared folder
READING = 50e6  # bytes per second of a busy shared file system
DECODING = 20  # photographs per second and process
# Minutes; requests are multiples of the first. Queues allow little more than the second, and what
# takes longer (real encoders without a GPU) goes on from its saved state at the next attempt.
SHORTEST, LONGEST = 10, 2_880

# Megabytes. A job with torch holds 0.7 GB, and Snakemake around it, twice, 0.2 GB each. Arrays are
# mapped from files: what is read of them can be dropped at any time, and is not asked for.
LEAST, MULTIPLE = 1_500, 500
CUDA = 4_000  # assumed: the driver's context, libraries and page-locked batches, in host memory
DECODER = 600  # a process with a block of images, decoded and joined
OPEN_CLIP = 500  # its import, in the encoder stage alone
MARGIN = 1.3  # on the tensors and images that a job holds

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
    on_gpu = config["device"] != "cpu"
    definitions, every = config["definitions"], [*config["tasks"], config["negation"]["control"]]
    with open(Path(basedir) / "workflow/reference/devices.csv", newline="") as file:
        device = next(row for row in csv.DictReader(file) if row["device"] == DEVICE)

    @cache
    def geometry(encoder: str) -> dict:
        try:
            return read_geometry(encoder, definitions["encoders"][encoder])
        except PackageNotFoundError:
            return LARGE

    @cache
    def images(task: str) -> dict[str, int]:
        counts = image_counts(config, task)
        return {split: UNKNOWN[split] if n is None else n for split, n in counts.items()}

    @cache
    def request(stage: str, encoder=None, mode=None, task=None) -> Request:
        learns, cores, seconds = stage in LEARNING, 1, 0.0
        tasks = [task] if task else every
        if stage in ("efficiency", "head"):  # these read the first task's images, and none
            tasks = every[: stage == "efficiency"]
        read = sum(array_bytes(definitions["tasks"][name], images(name)) or 0 for name in tasks)
        held = _held_bytes(config, stage, geometry(encoder), mode, images) if encoder else 0
        if stage == "data":
            cores = 1 if "embedded" in definitions["tasks"][task] else 8
            seconds = sum(images(task).values()) / (cores * DECODING) if cores > 1 else 0.0
            read *= 3  # the source, blocks, and blocks to be joined
            held = cores * DECODER * 1e6
        elif learns:
            cores = 4 if on_gpu else 1
            full = stage in ("head", "disentanglement") or config["precision"] == "float32"
            precision = "float32" if full else "bf16"
            rate = 1e12 * float(device[f"{precision}_tflops"]) * float(device["share"])
            kind, of, amount = work(config, stage, images, mode, task)
            each = flops(kind, geometry(encoder), definitions["modes"].get(of))
            seconds = amount * each / (rate if on_gpu else CPU_FLOPS)
        else:
            read = 0
        memory = LEAST + (CUDA if learns and on_gpu else 0) + MARGIN * held / 1e6
        waiting = STARTING + read / READING
        minutes = min(LONGEST, _up((waiting + SAFETY * seconds) / 60, SHORTEST))
        return Request(_up(memory, MULTIPLE), minutes, cores, waiting + seconds)

    return request


def work(config: dict, stage: str, images, mode=None, task=None) -> tuple:
    """(kind, mode, amount) of what one job of a learning stage computes, see geometry.flops; for
    a stage of pairs, of the larger pair. `images`: function task → split → number of images."""
    tasks, control = config["tasks"], config["negation"]["control"]
    recipe, grid, limit = config["finetune"], config["disentanglement"], config["limit"] or {}

    def count(split, names):
        return sum(min(images(t)[split], limit.get(split, images(t)[split])) for t in names)

    if stage == "head":
        templates = config["definitions"]["tasks"][task]["templates"]
        prompts = 80 if templates == "open_clip" else len(templates)
        return "prompt", None, prompts * (class_count(config, task) or UNKNOWN["classes"])
    if stage in ("finetune", "efficiency"):
        steps = recipe["steps"] if stage == "finetune" else 3 + config["efficiency"]["steps"]
        return "step", mode, steps * recipe["batch_size"]
    linearized = stage == "kernel" or (bool(mode) and settings.is_linearized(config, mode))
    vectors = "nonlinear" if mode == "posthoc" else mode
    if stage == "disentanglement":
        samples = 2048 if grid.get("reference_scaling", False) else grid["samples"]
        pairs = grid["pairs"].values()
        sample = max(sum(min(count("test", [t]), samples) for t in pair) for pair in pairs)
        if linearized:  # a tangent of each of the two vectors
            return "linearized", vectors, 2 * sample
        return "image", None, grid["points"] * (grid["points"] + 1) * sample
    names = [*tasks, control] if stage == "pretrained" else tasks
    validation, test = count("validation", names), count("test", names)
    if stage == "negation":
        validation += len(tasks) * count("validation", [control])
        test += len(tasks) * count("test", [control])
    if linearized:  # f_lin gives the whole grid in one pass
        return "linearized", vectors, validation + test
    if stage in ("addition", "negation"):
        validation *= len(alpha_grid(config["alphas"]))
    return "image", None, validation + test


def _held_bytes(config: dict, stage: str, geometry: dict, mode, images) -> float:
    """Bytes of tensors and images in a job's host memory at a time, at most."""
    on_gpu, limit = config["device"] != "cpu", config["limit"] or {}
    tower = FLOAT * parameters(image_tower_shapes(geometry).values())
    text = FLOAT * text_parameters(geometry["text"])
    if stage == "encoder":  # the file, open_clip's model, our tensors, and what compares them
        return 4 * (tower + text) + OPEN_CLIP * 1e6
    if stage == "head":
        return 3 * text
    if stage not in LEARNING:  # vector: θ0, θ, τ, and τ as it is written
        return 4 * tower if stage == "vector" else 0
    tokens = (geometry["image_size"] // geometry["patch_size"]) ** 2 + 1
    activation = FLOAT * tokens * geometry["width"]  # of one image
    if stage in ("finetune", "efficiency"):
        if on_gpu:  # θ0, and θ and two moments on their way to a file and as the file's bytes
            return 7 * tower
        # and what trains: θ, moments, gradients, a tangent, and each layer's activations
        layers = 20 * geometry["layers"] * (1 + settings.is_linearized(config, mode))
        return 13 * tower + config["finetune"]["batch_size"] * layers * activation
    drawn = 2 * config["disentanglement"]["samples"] if stage == "disentanglement" else 0
    for task in [*config["tasks"], config["negation"]["control"]]:  # a limit's images are copied
        counts = images(task)
        drawn += sum(min(counts[split], n) for split, n in limit.items() if split != "train")
    # θ0, two vectors and their sum; on a CPU also θ, pixels and a batch's activations
    running = 0 if on_gpu else 2 * tower + 2**30 + 256 * 20 * activation
    return 4 * tower + running + 3 * RESOLUTION**2 * drawn


def _up(value: float, multiple: int) -> int:
    """The next multiple, at least one."""
    return multiple * max(1, math.ceil(value / multiple))
