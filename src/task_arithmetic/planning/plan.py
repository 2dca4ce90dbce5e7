"""What a run takes, before anything runs: jobs, disk, downloads and hours of each stage.

Jobs and bytes are counted; hours are what the stages compute, times the speed of the device.
Nothing is downloaded or written.
"""

import os
import shutil
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ..answer import answer
from ..config.definitions import Task
from ..config.experiment import Experiment
from ..config.geometries import Geometry, geometries_of
from ..config.reading import ROOT, read_config
from ..files.local import first
from ..files.paths import PathLike, human_bytes, three_digits
from ..vision.geometry import parameters
from ..vision.images import RESOLUTION, TRAIN_SIDE
from .devices import Device, named_device, rated
from .disk import ASPECT, FLOAT, SAMPLE, bytes_at, downloads, how_sized, times
from .operations import SOURCE, TARGET
from .text import aligned
from .work import LEARNING, Job, Key, by_stage, jobs, operations

START_SECONDS = 5.0  # from a job's start to its first batch, on a named device
ACTIONS = {
    "step": "train",
    "image": "evaluate",
    "text": "evaluate",
    "linearized": "evaluate f_lin of",
    "linearity": "linearity per block of",
    "read": "read and normalise",
    "prompt": "head, prompts",
}


class Amount(NamedTuple):
    """A sum of what is known; None: of nothing. complete: everything is known."""

    known: float | None
    complete: bool

    def text(self, form: Callable[[float], str]) -> str:
        """ "unknown" if nothing is known, "≥" if not everything is."""
        if self.known is None:
            return "–" if self.complete else "unknown"
        return ("" if self.complete else "≥ ") + form(self.known)


def amount(values: Sequence[float | None]) -> Amount:
    """The sum of values, of which some may not be known."""
    known = [value for value in values if value is not None]
    return Amount(sum(known) if known else None, len(known) == len(values))


class Unit(NamedTuple):
    """What times are told in: GPU-hours, CPU-minutes …"""

    name: str

    def text(self, seconds: float) -> str:
        """Seconds in this unit."""
        return three_digits(seconds / (3600 if self.name.endswith("hours") else 60))


class Cost(NamedTuple):
    """What a stage takes: its jobs, those that are done, bytes that are downloaded, there already
    and added, files that are added, and seconds on one device."""

    stage: str
    jobs: int
    done: int
    download_bytes: Amount
    there_bytes: Amount
    disk_bytes: Amount
    files: int
    seconds: Amount

    def cells(self, unit: Unit) -> list[str]:
        """The row as text."""
        sizes = (self.download_bytes, self.there_bytes, self.disk_bytes)
        texts = [size.text(human_bytes) for size in sizes]
        counts = [self.stage, f"{self.jobs:,}", f"{self.done:,}"]
        return [*counts, *texts, f"{self.files:,}", self.seconds.text(unit.text)]


class Speed(NamedTuple):
    """How fast an encoder is at something (`what`), and how long all of it takes."""

    encoder: str
    what: str
    precision: str
    batch: int
    examples_per_second: float
    tflops: float
    seconds: Amount

    def cells(self, unit: Unit) -> list[str]:
        """The row as text."""
        rate, examples = self.tflops, three_digits(self.examples_per_second)
        shown = f"{rate:,.3f}" if rate < 1 else three_digits(rate)
        words = [self.encoder, self.what, self.precision]
        return [*words, examples, shown, self.seconds.text(unit.text)]


class Costs(NamedTuple):
    """What a run takes.

    Attributes:
        held: what the run holds, in words. unit: what times are printed in. stages: the last row
            is of all. about: sentences on how speeds are known. notes: on what numbers mean.
    """

    run: str
    held: str
    unit: str
    stages: list[Cost]
    speeds: list[Speed]
    about: list[str]
    notes: list[str]


def plan(
    *paths: PathLike, device: str | None = None, basedir: PathLike = ROOT, as_json: bool = False
) -> None:
    """Print what a run of a configuration takes, stage by stage.

    Args:
        paths: configuration files, each over the one before and the first over config.yaml.
        device: a name of devices.csv, "cpu" for this machine's, or None: this machine's GPU if it
            has one, else its CPU.
        basedir: the folder that holds config/ and workflow/.
    Raises:
        UserError: a wrong configuration, an unknown device, an unknown encoder.
    """
    experiment = read_config(*paths, basedir=basedir)
    named, geometries = named_device(device, basedir), geometries_of(experiment)
    kind, auto = "cuda", "bf16"
    if not named:
        from . import probe

        kind, auto = probe.device_at_hand(experiment, device)
    planned = jobs(experiment, auto)
    keys = sorted({each.key for job in planned for each in job.work}, key=_place(experiment))
    if named:
        speeds, starting = rated(keys, experiment, geometries, named), START_SECONDS
        about = [_estimate(named)]
    else:
        speeds, about = probe.probed(keys, experiment, geometries, kind)
        starting = probe.starting_seconds(kind)
        about.append(f"Starting a job takes {starting:.1f} s (measured).")
    fetched, notes = downloads(experiment)
    stages = by_stage(planned)
    stages["download"] = [
        job._replace(size=size) for job, size in zip(stages["download"], fetched, strict=True)
    ]
    taken = {stage: _seconds(own, speeds, starting) for stage, own in stages.items()}
    total = sum(filter(None, (value for values in taken.values() for value in values)))
    unit = Unit(f"{'GPU' if kind == 'cuda' else 'CPU'}-{'hours' if total >= 3600 else 'minutes'}")
    notes = [*_notes(experiment, kind, geometries, unit.text(total / _share(kind))), *notes]
    notes += _room([job for own in stages.values() for job in own])
    costs = Costs(
        experiment.run,
        _held(experiment),
        unit.name,
        _stages(stages, taken),
        _speeds(planned, keys, speeds, experiment, geometries),
        about,
        notes,
    )
    answer(costs, _lines(costs), as_json)


def _lines(costs: Costs) -> Iterator[str]:
    unit = Unit(costs.unit)
    yield f"{costs.run}: {costs.held}"
    yield ""
    names = ["stage", "jobs", "done", "download", "there", "disk", "files", unit.name]
    head, *lines, last = aligned([names, *(row.cells(unit) for row in costs.stages)], left=1)
    rule = "─" * max(map(len, [head, *lines, last]))
    yield from [head, rule, *lines, rule, last, ""]
    names = ["encoder", "what", "precision", "examples/s", "TFLOP/s", unit.name]
    head, *lines = aligned([names, *(row.cells(unit) for row in costs.speeds)], left=3)
    yield from [head, "─" * max(map(len, [head, *lines])), *lines, ""]
    for sentence in [*costs.about, "", *costs.notes]:
        yield textwrap.fill(sentence, 100, subsequent_indent="  ")


def _seconds(own: list[Job], speeds: dict[Key, float], starting: float) -> list[float | None]:
    """Seconds of the jobs of a stage that computes: of their start, and of each work."""
    if not own or own[0].stage not in LEARNING:
        return []
    work = [each for job in own for each in job.work]
    return [len(own) * starting, *(times(speeds[each.key], each.amount) for each in work)]


def _share(kind: str) -> int:
    """Devices to spread jobs over: four GPUs, as an example, or the machine's cores."""
    return 4 if kind == "cuda" else os.cpu_count() or 1


# --- Tables --------------------------------------------------------------------------------------


def _held(experiment: Experiment) -> str:
    def counted(names: Sequence[object], word: str) -> str:
        return f"{len(names)} {word}{'s' * (len(names) != 1)}"

    held = []
    for part in experiment.parts.values():
        kinds = {"task": part.tasks, "encoder": part.encoders, "mode": part.modes}
        kinds["ablation"] = part.ablations
        counts = [counted(names, word) for word, names in kinds.items() if names]
        held.append(f"{', '.join(counts)} on {part.unit}s")
    return "; ".join([*held, counted(experiment.seeds, "seed")])


class Row(NamedTuple):
    """A stage's Cost, job by job."""

    jobs: int
    done: int
    fetched: list[int | None]
    there: list[int | None]
    added: list[int | None]
    files: int
    taken: list[float | None]

    def cost(self, stage: str) -> Cost:
        """The sums of the row."""
        fetched, there, added = map(amount, (self.fetched, self.there, self.added))
        sizes = fetched, there, added, self.files
        return Cost(stage, self.jobs, self.done, *sizes, amount(self.taken))


def _stages(stages: dict[str, list[Job]], taken: dict[str, list[float | None]]) -> list[Cost]:
    rows = {}
    for stage, own in stages.items():
        done: list[Job] = []
        new: list[Job] = []
        for job in own:
            (done if os.path.exists(job.output) else new).append(job)
        added = [job.size for job in new if job.size != 0]
        there: list[int | None] = [job.size for job in done if job.size != 0]
        if stage != "download":  # which goes to the hub's cache
            there = [bytes_at(job.output) for job in done if job.size != 0]
        fetched = added if stage == "download" else []
        files = sum(job.files for job in new)
        rows[stage] = Row(len(own), len(done), fetched, there, added, files, taken[stage])
    total = Row(*(sum(column[1:], column[0]) for column in zip(*rows.values(), strict=True)))
    each = [row.cost(stage) for stage, row in rows.items() if row.jobs]
    return [*each, total.cost("total")]


def _place(experiment: Experiment) -> Callable[[Key], tuple[int, int, int, str, int]]:
    """The order of the rows of speeds, as a key to sort by."""
    parts = experiment.parts.values()
    encoders = [encoder for part in parts for encoder in part.encoders]
    modes = ["", *(mode for part in parts for mode in [*part.modes, *part.ablations])]
    return lambda key: (
        encoders.index(key.encoder),
        list(ACTIONS).index(key.kind),
        modes.index(key.mode or ""),
        key.precision,
        key.batch,
    )


def _speeds(
    planned: list[Job],
    keys: list[Key],
    speeds: dict[Key, float],
    experiment: Experiment,
    geometries: dict[str, Geometry],
) -> list[Speed]:
    rows = []
    steps = Counter((key.encoder, key.mode) for key in keys if key.kind == "step")
    work = [each for job in planned for each in job.work]
    for key in keys:
        if speeds[key] == 0:
            continue
        taken = [times(speeds[key], each.amount) for each in work if each.key == key]
        rate = operations(key, experiment, geometries[key.encoder]) / speeds[key] / 1e12
        several = key.kind == "step" and steps[key.encoder, key.mode] > 1
        size = f"of {key.batch} at a time" if several else None
        what = " ".join(filter(None, [ACTIONS[key.kind], key.mode, size]))
        named = key.encoder, what, key.precision, key.batch
        rows.append(Speed(*named, key.batch / speeds[key], rate, amount(taken)))
    return rows


# --- Sentences -----------------------------------------------------------------------------------


def _estimate(device: Device) -> str:
    return (
        f"{device.label}: an estimate, not measured. {device.share:.0%} ({device.share_is}) of its "
        f"peak of {device.bf16_tflops:g} TFLOP/s in bf16 and {device.float32_tflops:g} in float32 "
        f"(source: {device.source}); {START_SECONDS:g} s to start each job (assumed). Without "
        "--device, this machine's own is measured."
    )


def _notes(
    experiment: Experiment, kind: str, geometries: dict[str, Geometry], shared: str
) -> list[str]:
    """Sentences on what the numbers are; shared: the time if it is spread."""
    state = 3 * FLOAT * max(parameters(g.shapes().values()) for g in geometries.values())
    notes = [
        "Jobs and times of everything from scratch; done: outputs that are there already, with the "
        "bytes under there; disk and files: what is added to them (files about, with logs, records "
        "and folders). Snakemake counts one job more, `all`. Stages without disk write less than a "
        "megabyte per job."
    ]
    tasks = experiment.definitions.tasks.items()
    sized = {name: how_sized(name, task) for name, task in tasks if isinstance(task, Task)}
    if sampled := [task for task, how in sized.items() if how == "sample"]:
        notes.append(
            f"The arrays of {first(sampled, 6)} are estimated by {SAMPLE} of the images in each "
            "split's folder."
        )
    if bounded := [task for task, how in sized.items() if how == "bound"]:
        notes.append(
            f"The arrays of {first(bounded, 6)} take at most this ({RESOLUTION} × {RESOLUTION} "
            f"pixels, in training {TRAIN_SIDE} × {round(ASPECT * TRAIN_SIDE)} or the source's "
            "largest), unless their images are wider than 4 to 3."
        )
    if "language" in experiment.parts:
        notes.append(
            f"Texts are assumed to have {SOURCE} tokens of four characters, and answers {TARGET} "
            "tokens: their bytes and times are estimates. f_lin is assumed to give a grid of α in "
            "one pass: it takes longer the more answers differ between them. Making tokens of "
            "texts (head) is not counted."
        )
    notes.append(
        f"While a fine-tuning is unfinished, its state lies beside it, up to {human_bytes(state)}. "
        "Downloads go to the hub's cache, everything else to results/."
    )
    if kind == "cuda":
        notes.append(
            f"Times are of one GPU; on four (--resources gpu=4) {shared} at best. Stages "
            "without a time run on the CPU and are not counted."
        )
    else:
        notes.append(
            f"Times are of one core; on {_share(kind)} cores {shared} at best. Stages without a "
            "time are not counted."
        )
    return notes


def _room(jobs: list[Job]) -> list[str]:
    """A sentence if what is added does not fit where results lie."""
    folder = "results" if os.path.isdir("results") else "."
    new = [job for job in jobs if not os.path.exists(job.output)]
    files = sum(job.files for job in new)
    added = sum(job.size or 0 for job in new if job.stage != "download")  # to the hub's cache
    rooms = [(added, shutil.disk_usage(folder).free, human_bytes, "")]
    if (free := free_files(folder)) is not None:
        rooms.append((files, free, "{:,}".format, " files"))
    return [
        f"Too little room: {form(needed)}{unit} are added, and only {form(free)}{unit} are free in "
        f"{os.path.abspath(folder)}; make place, or put results/ on another disk by a link."
        for needed, free, form, unit in rooms
        if needed > free
    ]


def free_files(folder: str) -> int | None:
    """The number of files that fit into a folder's file system; None if it has no such limit."""
    about = os.statvfs(folder)
    return about.f_favail if about.f_files else None
