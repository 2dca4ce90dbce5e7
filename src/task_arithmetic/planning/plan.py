"""What a run takes, before anything runs: jobs, disk, downloads and hours of each stage.

Jobs and bytes are counted; hours are what the stages compute, times the speed of the device.
Nothing is downloaded or written.
"""

import os
import shutil
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from ..config.geometries import Geometry, read_geometry
from ..config.reading import ROOT, read_config
from ..files.paths import human_bytes, three_digits
from ..vision.geometry import parameters
from ..vision.images import RESOLUTION, TRAIN_SIDE
from .devices import named_device, rated
from .disk import (
    ASPECT,
    FLOAT,
    SAMPLE,
    SOURCE,
    TARGET,
    bytes_at,
    downloads,
    free_files,
    how_sized,
    times,
)
from .work import LEARNING, Job, Key, Work, by_stage, jobs, operations, parts_of

START_SECONDS = 5.0  # from a job's start to its first batch, on a named device


def plan(*paths: str | Path, device: str | None = None, basedir: str | Path = ROOT) -> None:
    """Print what a run of a configuration takes, stage by stage.

    Args:
        paths: configuration files, each over the one before and the first over config.yaml.
        device: a name of devices.csv, "cpu" for this machine's, or None: this machine's GPU if it
            has one, else its CPU.
        basedir: the folder that holds config/ and workflow/.
    Raises:
        UserError: a wrong configuration, an unknown device, an unknown encoder.
    """
    config = read_config(*paths, basedir=basedir)
    named = named_device(device, basedir)
    encoders = config["definitions"]["encoders"]
    geometries = {name: read_geometry(name, definition) for name, definition in encoders.items()}
    kind, auto = "cuda", "bf16"
    if not named:
        from . import probe

        kind, auto = probe.device_at_hand(config, device)
    planned = jobs(config, auto)
    work = [each for job in planned for each in job.work]
    keys = sorted({each.key for each in work}, key=_place(config))
    if named:
        speeds, starting = rated(keys, config, geometries, named), START_SECONDS
        about = [
            f"{named.label}: an estimate, not measured. {named.share:.0%} "
            f"({named.share_is}) of its peak of {named.bf16_tflops:g} TFLOP/s in bf16 and "
            f"{named.float32_tflops:g} in float32 (source: {named.source}); "
            f"{START_SECONDS:g} s to start each job (assumed). Without --device, this machine's "
            "own is measured."
        ]
    else:
        speeds, about = probe.probed(keys, config, geometries, kind)
        starting = probe.starting_seconds(kind)
        about.append(f"Starting a job takes {starting:.1f} s (measured).")
    fetched, notes = downloads(config)
    stages = by_stage(planned)
    stages["download"] = [
        job._replace(size=size) for job, size in zip(stages["download"], fetched, strict=True)
    ]
    seconds = {
        stage: [len(own) * starting, *_taken([w for job in own for w in job.work], speeds)]
        for stage, own in stages.items()
        if stage in LEARNING
    }
    total = sum(value for values in seconds.values() for value in values if value is not None)
    unit = Unit(f"{'GPU' if kind == 'cuda' else 'CPU'}-{'hours' if total >= 3600 else 'minutes'}")
    notes = [*_notes(config, kind, geometries, unit.text(total / _share(kind))), *notes]
    notes += _room([job for own in stages.values() for job in own])
    print(f"{config['run']}: {_held(config)}\n")
    print(_stage_table(stages, seconds, unit), end="\n\n")
    print(_speed_table(keys, work, speeds, config, geometries, unit), end="\n\n")
    for sentence in [*about, "", *notes]:
        print(textwrap.fill(sentence, 100, subsequent_indent="  "))


# --- Text ----------------------------------------------------------------------------------------


class Unit(NamedTuple):
    """What times are told in: GPU-hours, CPU-minutes …"""

    name: str

    def text(self, seconds: float) -> str:
        """Seconds in this unit."""
        return three_digits(seconds / (3600 if self.name.endswith("hours") else 60))


def _held(config: dict) -> str:
    def counted(held: dict, *keys: str) -> str:
        counts = [(len(held[key]), key) for key in keys if held[key]]
        return ", ".join(f"{n} {key if n != 1 else key[:-1]}" for n, key in counts)

    kinds = "tasks", "encoders", "modes", "ablations"
    parts = [part for part in parts_of(config).values() if part["encoders"]]
    held = [f"{counted(part, *kinds)} on {part['unit']}s" for part in parts]
    return "; ".join([*held, counted(config, "seeds")])


def _taken(work: Iterable[Work], speeds: dict[Key, float]) -> list[float | None]:
    """Seconds of each work; None: unknown."""
    return [times(speeds[each.key], each.amount) for each in work]


def _stage_table(
    stages: dict[str, list[Job]], seconds: dict[str, list[float | None]], unit: Unit
) -> str:
    rows, every = [], []
    for stage, own in stages.items():
        are_there = [os.path.exists(job.output) for job in own]
        there: list[int | None] = []
        added: list[int | None] = []
        for job, is_there in zip(own, are_there, strict=True):
            if job.size != 0:
                measured = is_there and stage != "download"  # which goes to the hub's cache
                size = bytes_at(job.output) if measured else job.size
                (there if is_there else added).append(size)
        files = [job.files * (not is_there) for job, is_there in zip(own, are_there, strict=True)]
        every.append([stage, are_there, there, added, files, seconds.get(stage, [])])
    every.append(["total", *([v for row in every for v in row[i]] for i in range(1, 6))])
    fetched = next(row[3] for row in every if row[0] == "download")
    for stage, are_there, there, added, files, taken in every:
        row = [stage, f"{len(are_there):,}", f"{sum(are_there):,}"]
        row.append(_amount(fetched if stage in ("download", "total") else [], human_bytes))
        row += [_amount(there, human_bytes), _amount(added, human_bytes), f"{sum(files):,}"]
        if are_there:
            rows.append([*row, _amount(taken, unit.text)])
    head = ["stage", "jobs", "done", "download", "there", "disk", "files", unit.name]
    return _table(head, rows, ruled=True)


ACTIONS = {
    "step": "train",
    "image": "evaluate",
    "text": "evaluate",
    "linearized": "evaluate f_lin of",
    "read": "read and normalise",
    "prompt": "head, prompts",
}


def _place(config: dict) -> Callable[[Key], tuple]:
    """The order of the rows of speeds, as a key to sort by."""
    parts = parts_of(config).values()
    encoders = [encoder for part in parts for encoder in part["encoders"]]
    modes = ["", *(mode for part in parts for mode in [*part["modes"], *part["ablations"]])]
    return lambda key: (
        encoders.index(key.encoder),
        list(ACTIONS).index(key.kind),
        modes.index(key.mode or ""),
        key.precision,
        key.batch,
    )


def _speed_table(
    keys: list[Key],
    work: list[Work],
    speeds: dict[Key, float],
    config: dict,
    geometries: dict[str, Geometry],
    unit: Unit,
) -> str:
    rows, steps = [], Counter((key.encoder, key.mode) for key in keys if key.kind == "step")
    for key in keys:
        if speeds[key] == 0:
            continue
        taken = _taken((each for each in work if each.key == key), speeds)
        rate = operations(key, config, geometries[key.encoder]) / speeds[key] / 1e12
        several = key.kind == "step" and steps[key.encoder, key.mode] > 1
        size = f"of {key.batch} at a time" if several else None
        what = " ".join(filter(None, [ACTIONS[key.kind], key.mode, size]))
        row = [
            key.encoder,
            what,
            key.precision,
            three_digits(key.batch / speeds[key]),
        ]
        rows.append([*row, f"{rate:,.3f}" if rate < 1 else three_digits(rate)])
        rows[-1].append(_amount(taken, unit.text))
    return _table(
        ["encoder", "what", "precision", "examples/s", "TFLOP/s", unit.name], rows, left=3
    )


def _share(kind: str) -> int:
    """Devices to spread jobs over: four GPUs, as an example, or the machine's cores."""
    return 4 if kind == "cuda" else os.cpu_count() or 1


def _notes(config: dict, kind: str, geometries: dict[str, Geometry], shared: str) -> list[str]:
    """Sentences on what the numbers are; shared: the time if it is spread."""
    parts = parts_of(config)
    state = 3 * FLOAT * max(parameters(g.shapes().values()) for g in geometries.values())
    notes = [
        "Jobs and times of everything from scratch; done: outputs that are there already, with the "
        "bytes under there; disk and files: what is added to them (files about, with logs, records "
        "and folders). Snakemake counts one job more, `all`. Stages without disk write less than a "
        "megabyte per job."
    ]
    sized = {task: how_sized(config, task) for task in parts["vision"]["read"]}
    if sampled := [task for task, how in sized.items() if how == "sample"]:
        notes.append(
            f"The arrays of {_listed(sampled)} are estimated by {SAMPLE} of the images in each "
            "split's folder."
        )
    if bounded := [task for task, how in sized.items() if how == "bound"]:
        notes.append(
            f"The arrays of {_listed(bounded)} take at most this ({RESOLUTION} × {RESOLUTION} "
            f"pixels, in training {TRAIN_SIDE} × {round(ASPECT * TRAIN_SIDE)} or the source's "
            "largest), unless their images are wider than 4 to 3."
        )
    if parts["language"]["tasks"]:
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


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(names[:6]) + more


def _table(head: list[str], rows: list[list[str]], left: int = 1, ruled: bool = False) -> str:
    """Aligned columns: the first `left` to the left, the rest to the right; `ruled`: the last
    row is a total."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *rows]
    ]
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    lines.insert(1, rule)
    if ruled:
        lines.insert(-1, rule)
    return "\n".join(lines)


def _amount(values: Iterable, form: Callable) -> str:
    """The sum of what is known: "unknown" if nothing is, "≥" if not everything is."""
    values = list(values)
    known = [value for value in values if value is not None]
    if not values:
        return "–"
    if not known:
        return "unknown"
    return ("≥ " if len(known) < len(values) else "") + form(sum(known))
