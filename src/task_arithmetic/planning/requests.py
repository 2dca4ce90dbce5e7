"""What a job asks a cluster for: host memory, wall time, CPU cores. Imports no torch.

Reckoned from what the job computes, reads and holds, as `plan` does for whole stages, but for a
slow GPU and generously: SLURM ends what exceeds its request. Further attempts ask for more.
"""

import math
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import NamedTuple

from ..config import settings
from ..config.experiment import pairs_of, part_of
from ..config.geometries import Geometry, read_geometry
from ..config.reading import ROOT
from ..config.recipes import recipe_of
from ..language.geometry import T5
from ..vision.geometry import TextTower, ViT, parameters
from ..vision.images import RESOLUTION
from .devices import read_devices
from .disk import FLOAT, class_count, data_bytes, example_counts, is_text
from .work import LEARNING, Job, Known, encoder_bytes, operations, parts_of, tasks_read, work_of

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
LARGE = ViT(
    24, 1024, 14, 224, 4096, 16, 768, "gelu", TextTower(12, 768, 12, 77, 49408, 3072, 768, "")
)


class Request(NamedTuple):
    """What a job asks for at its first attempt, and how long it is expected to take."""

    memory_mb: int
    minutes: int
    cores: int
    seconds: float


def requests(config: dict, basedir: str | Path = ROOT) -> Callable[..., Request]:
    """The function (stage, encoder, mode, task) → Request of a validated configuration.

    Jobs that differ only in seed or pair ask for the same, which is reckoned once.
    """
    on_gpu, definitions = config["device"] != "cpu", config["definitions"]
    parts = parts_of(config)
    device = read_devices(basedir)[DEVICE]

    @cache
    def geometry(encoder: str) -> Geometry:
        try:
            return read_geometry(encoder, definitions["encoders"][encoder])
        except PackageNotFoundError:
            return LARGE

    @cache
    def known(task: str) -> dict[str, int]:
        found = {**example_counts(config, task), "classes": class_count(config, task)}
        return {what: UNKNOWN[what] if n is None else n for what, n in found.items()}

    def counts(task: str) -> dict[str, int]:
        return {split: n for split, n in known(task).items() if split != "classes"}

    def seconds_of(job: Job) -> float:
        """Of what a job computes, on the device that is assumed."""
        seconds = 0.0
        for key, amount in work_of(config, known, job):
            rate = device.rate(key.precision) if on_gpu else CPU_FLOPS
            seconds += amount * operations(key, config, geometry(key.encoder)) / rate
        return seconds

    @cache
    def request(
        stage: str, encoder: str | None = None, mode: str | None = None, task: str | None = None
    ) -> Request:
        learns, cores, seconds, held = stage in LEARNING, 1, 0.0, 0.0
        part = parts[part_of(config, encoder)["modality"]] if encoder else {}
        tasks = tasks_read(config, part, stage, task) if encoder else [task] if task else []
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
            alike = _alike(config, stage, encoder, mode, task)
            seconds = max(map(seconds_of, alike), default=0.0)
        else:
            read = 0
        if texts and stage in ("data", "head"):
            held, seconds = ROW * rows, rows / TOKENIZING
        memory = LEAST + (CUDA if learns and on_gpu else 0) + MARGIN * held / 1e6
        waiting = STARTING + read / READING
        minutes = min(LONGEST, _up((waiting + SAFETY * seconds) / 60, SHORTEST))
        return Request(_up(memory, MULTIPLE), minutes, cores, waiting + seconds)

    return request


def _alike(
    config: dict, stage: str, encoder: str | None, mode: str | None, task: str | None
) -> list[Job]:
    """The jobs that ask for the same: one, or of a stage of pairs one for each."""
    pairs: list[str | None] = [*pairs_of(config)] if stage == "disentanglement" else [None]
    return [Job(stage, "", encoder, mode, task, None, pair) for pair in pairs]


def _held_bytes(config: dict, part: dict, job: tuple, geometry: Geometry, counts: Known) -> float:
    """Bytes of tensors and images in a job's host memory at a time, at most; job: its stage,
    encoder, mode and tasks."""
    stage, encoder, mode, tasks = job
    on_gpu, limit = config["device"] != "cpu", config["limit"] or {}
    weights = FLOAT * parameters(geometry.shapes().values())
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


def _activations(geometry: Geometry) -> tuple[int, int]:
    """Bytes of activations: of a batch that is evaluated, and of an example that is trained on."""
    if isinstance(geometry, T5):
        layer = 20 * FLOAT * LONG * geometry.d_model
        layers, answers = geometry.decoder_layers, FLOAT * ANSWER * geometry.vocab_size
        kept = layers * layer // 5  # keys and values of the source, with their tangents
        return 64 * (layer + kept), (geometry.layers + layers) * layer + 6 * answers
    layer = 20 * FLOAT * geometry.tokens * geometry.width
    return 256 * layer, geometry.layers * layer


def _up(value: float, multiple: int) -> int:
    """The next multiple, at least one."""
    return multiple * max(1, math.ceil(value / multiple))
