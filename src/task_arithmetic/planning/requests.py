"""What a job asks a cluster for: host memory, wall time, CPU cores. Imports no torch.

Reckoned from what the job computes, reads and holds, as `plan` does for whole stages, but for a
slow GPU and generously: SLURM ends what exceeds its request. Further attempts ask for more.
"""

import math
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError
from typing import NamedTuple

from ..config.experiment import Experiment
from ..config.geometries import Geometry, read_geometry
from ..config.mergers import Merger
from ..files.paths import PathLike
from ..files.shipped import ROOT
from ..language.geometry import T5
from ..vision.geometry import TextTower, ViT, parameters
from ..vision.images import RESOLUTION
from .devices import read_devices
from .disk import FLOAT, Counts, Splits, counts_of, data_bytes
from .work import (
    LEARNING,
    OF_MATRICES,
    SAMPLED,
    Job,
    Key,
    Shapes,
    encoder_bytes,
    matrices_of,
    moved_shapes,
    operations,
    tasks_read,
    work_of,
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
ROW = 2_500  # bytes of a row of texts: Python's objects and its tokens (measured: 2,100)
# Singular values of an m × n matrix take some 20 m n min(m, n) operations, at this rate of a core
# (measured: 0.16 s for 768 × 768, 0.37 s for 3,072 × 768); a method has a few more than its tasks.
DECOMPOSING, SVD_FLOPS, MORE = 20, 5e10, 3
# Values without vectors take this part of it, and a task's matrix projected on a subspace that
# (measured). In memory beside the tasks' matrices are a merged one's two parts and sum, what it is
# decomposed into, and what LAPACK works in.
VALUES, ALIGNING, WORK = 0.35, 0.06, 8
LONG, ANSWER = 256, 10  # tokens of an input and an answer, in the batch that needs the most memory

# Taken for numbers that neither a definition nor an earlier run tells.
UNKNOWN, CLASSES = {"train": 100_000, "validation": 5_000, "test": 25_000}, 1_000
# For an encoder whose geometry cannot be read here (no open_clip beside Snakemake): ViT-L-14's.
LARGE = ViT(
    *(24, 1024, 14, 224, 4096, 16, 768, "quick_gelu"),
    text=TextTower(12, 768, 12, 77, 49408, 3072, 768, "quick_gelu"),
)


class Request(NamedTuple):
    """What a job asks for at its first attempt, and how long it is expected to take."""

    memory_mb: int
    minutes: int
    cores: int
    seconds: float


def requests(experiment: Experiment, basedir: PathLike = ROOT) -> Callable[..., Request]:
    """The function (stage, encoder, mode, task) → Request of an experiment.

    Jobs that differ only in seed or pair ask for the same, which is reckoned once.
    """
    on_gpu, definitions = experiment.device != "cpu", experiment.definitions
    device = read_devices(basedir)[DEVICE]

    @cache
    def geometry(encoder: str) -> Geometry:
        try:
            return read_geometry(encoder, definitions.encoders[encoder])
        except PackageNotFoundError:
            return LARGE

    @cache
    def known(task: str) -> Counts:
        found = counts_of(task, definitions.tasks[task])
        splits: Splits = {s: UNKNOWN[s] if n is None else n for s, n in found.splits.items()}
        return Counts(splits, found.classes or CLASSES)

    @cache
    def seconds_of(key: Key) -> float:
        rate = device.rate(key.precision) if on_gpu else CPU_FLOPS
        return operations(key, experiment, geometry(key.encoder)) / rate

    @cache
    def request(
        stage: str,
        encoder: str | None = None,
        mode: str | None = None,
        task: str | None = None,
        method: str | None = None,
    ) -> Request:
        cores, seconds, held, read = 1, 0.0, 0.0, 0
        subsets = experiment.part("vision").subsets
        tasks = [task] if task else []
        if encoder:
            tasks = tasks_read(experiment.part_of(encoder), stage, task)
            splits = [known(name).splits for name in tasks]
            held = _held(
                experiment,
                Job(stage, "", encoder, mode, method=method),
                tasks,
                splits,
                geometry(encoder),
            )
        if stage in (*LEARNING, "data"):
            stored = (data_bytes(definitions.tasks[name], known(name).splits) for name in tasks)
            read = sum(filter(None, stored))
        if stage in LEARNING:
            cores = 4 if on_gpu else 1
            pairs = experiment.part("vision").pairs if stage == "disentanglement" else [None]
            alike = [Job(stage, "", encoder, mode, task, None, pair, method) for pair in pairs]
            work = [work_of(experiment, known, job) for job in alike]
            taken = (sum(seconds_of(key) * (n or 0) for key, n in each) for each in work)
            seconds = max(taken, default=0.0)
            if stage in OF_MATRICES and encoder and mode:
                part = experiment.part_of(encoder)
                shapes = moved_shapes(experiment, encoder, mode, geometry(encoder))
                files, merged = len(tasks), 1 + len(part.mergers)
                if method:
                    seconds += merging_seconds(part.merger(method), shapes, len(tasks))
                elif stage != "merge":
                    files += merged
                    whole = (
                        VALUES * files
                        if stage == "spectra"
                        else merged * (1 + ALIGNING * len(tasks))
                    )
                    seconds += whole * decomposing_seconds(shapes)
                read = files * FLOAT * parameters(shapes.values())
            if stage == "number_of_tasks" and encoder and mode and subsets:
                merger, names = subsets.merger(method or ""), experiment.part_of(encoder).tasks
                shapes = moved_shapes(experiment, encoder, mode, geometry(encoder))
                every = (merging_seconds(merger, shapes, len(each)) for each in subsets.of(names))
                seconds += sum(every)
        if task and stage in ("data", "head"):
            definition, rows = definitions.tasks[task], known(task).rows or 0
            if definition.modality == "language":
                held, seconds = float(ROW * rows), rows / TOKENIZING
            elif stage == "data":
                cores = 1 if definition.embedded else 8
                seconds = 0.0 if definition.embedded else rows / (cores * DECODING)
                held = cores * DECODER * 1e6
        if stage == "data":
            read *= 3  # the source, blocks, and blocks to be joined
        memory = LEAST + (CUDA if stage in LEARNING and on_gpu else 0) + MARGIN * held / 1e6
        waiting = STARTING + read / READING
        minutes = min(LONGEST, _up((waiting + SAFETY * seconds) / 60, SHORTEST))
        return Request(_up(memory, MULTIPLE), minutes, cores, waiting + seconds)

    return request


def merging_seconds(merger: Merger, shapes: Shapes, tasks: int) -> float:
    """Of singular values and the like of every matrix, on one core; of methods of single entries
    nothing that counts."""
    if merger.method.scope == "element":
        return 0.0
    return (tasks + MORE) * decomposing_seconds(shapes)


def decomposing_seconds(shapes: Shapes) -> float:
    """Of the singular values and vectors of every matrix, once, on one core."""
    operations = sum(DECOMPOSING * m * n * min(m, n) for m, n in matrices_of(shapes).values())
    return operations / SVD_FLOPS


def _held(
    experiment: Experiment, job: Job, tasks: list[str], counts: list[Splits], geometry: Geometry
) -> float:
    """Bytes of tensors and images in a job's host memory at a time, at most; counts: of tasks."""
    stage, encoder, mode = job.stage, job.encoder or "", job.mode or ""
    on_gpu, part = experiment.device != "cpu", experiment.part_of(encoder)
    weights = FLOAT * parameters(geometry.shapes().values())
    if stage == "encoder":  # the file, the library's model, our tensors, and what compares them
        return 4 * encoder_bytes(geometry) + LIBRARY * 1e6
    if stage == "head":  # with the text tower
        return 3 * (encoder_bytes(geometry) - weights)
    if stage in ("merge", "merge_on_data"):
        moved = moved_shapes(experiment, encoder, mode, geometry)
        return _held_by_merging(part.merger(job.method or ""), moved, len(tasks), geometry)
    if stage in ("spectra", "alignment"):  # of one matrix every task's, and one merged
        moved = moved_shapes(experiment, encoder, mode, geometry)
        return FLOAT * (len(tasks) + WORK) * max(map(math.prod, moved.values()))
    if stage not in LEARNING:  # vector: θ0, θ, τ, and τ as it is written; also the text tower twice
        of_published = 4 * weights + 2 * encoder_bytes(geometry) if stage == "published" else 0
        return 4 * weights if stage == "vector" else of_published
    passed, trained = _activations(geometry)
    if stage in ("finetune", "efficiency"):
        if on_gpu:  # θ0, and θ and two moments on their way to a file and as the file's bytes
            return 7 * weights
        # and what trains: θ, moments, gradients, a tangent, and each layer's activations
        twice = 1 + experiment.linearized(mode)
        return 13 * weights + part.recipe(encoder, mode, tasks[0]).batch_size * twice * trained
    grid, drawn, collected = experiment.disentanglement, 0, 0.0
    if stage == "number_of_tasks" and part.subsets:
        moved = moved_shapes(experiment, encoder, mode, geometry)
        merger = part.subsets.merger(job.method or "")
        collected = _held_by_merging(merger, moved, len(tasks), geometry)
    if stage == "statistics":  # the Gram matrices, in float64 and as they are written
        matrices = matrices_of(moved_shapes(experiment, encoder, mode, geometry))
        collected = sum(3 * FLOAT * columns**2 for _, columns in matrices.values())
    if stage == "disentanglement" and grid:
        drawn = 2 * grid.samples
    if stage in SAMPLED:  # of one task at a time; of `linearity` θ0, τ and θ also in float64
        drawn = getattr(experiment.analyses, stage).samples
        weights *= 1 + (stage == "linearity")
    if part.unit == "image" and (limit := experiment.limit):  # a limit's images are copied
        for each in counts:
            drawn += sum(min(each[s] or 0, getattr(limit, s)) for s in ("validation", "test"))
    # θ0, two vectors and their sum; on a CPU also θ, pixels (or logits of a grid) and activations
    running = 0 if on_gpu else 2 * weights + 2**30 + passed
    return 4 * weights + running + collected + 3 * RESOLUTION**2 * drawn


def _held_by_merging(merger: Merger, moved: Shapes, tasks: int, geometry: Geometry) -> float:
    """Two merged models, and of one tensor every task's, in part in float64; of a method that
    learns also every vector, θ0, θ and its gradient, and the activations of one batch."""
    vector = FLOAT * parameters(moved.values())
    largest = FLOAT * max(parameters([shape]) for shape in moved.values())
    held = 2.0 * vector + 6 * tasks * largest
    if merger.learns:
        passed, trained = _activations(geometry)
        batch = merger.method.cost(merger.options, tasks).batch
        held += tasks * vector + 4 * FLOAT * parameters(geometry.shapes().values())
        held += max(passed, batch * trained)
    return held


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
