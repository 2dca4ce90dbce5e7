"""What a run is, and what its jobs did and when: run.json, the jobs' records, trace.csv."""

import csv
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ..errors import UserError
from .paths import PathLike, atomic_path, mend, node, place_of_log, read_json

STAGES = "embedded download data encoder head finetune vector published pretrained".split()
STAGES += "single_task kernel".split()
STAGES += "statistics merge addition negation interference pairs linearity".split()
STAGES += "disentanglement number_of_tasks retention cosine layers spectra alignment".split()
STAGES += "efficiency metrics intervals tables figures report".split()
COLUMNS = "stage job attempt command node device gpu slurm_job started seconds".split()
COLUMNS += "peak_memory_bytes gpu_memory_bytes exit from_store steps_first steps_done".split()
QUIET = 60.0  # seconds without an update after which a job on another node is taken for lost
WRONG = (AttributeError, LookupError, TypeError)  # what JSON of another form leads to


@dataclass(frozen=True)
class Steps:
    """How far an attempt is: what is done, and what was done already at the time `since`."""

    first: int
    done: int
    total: int
    unit: str
    since: float | None = None
    figures: dict[str, float] = field(default_factory=dict)  # such as the loss


@dataclass(frozen=True)
class Attempt:
    """One start of a job, until its end or its last sign of life; `exit`: None while it runs."""

    command: str = ""
    started: float = 0.0
    node: str | None = None
    pid: int = 0
    slurm_job: str | None = None
    device: str | None = None
    gpu: str | None = None
    exit: int | None = None
    error: str | None = None
    from_store: bool = False
    progress: Steps | None = None
    updated: float = 0.0
    seconds: float = 0.0
    peak_memory_bytes: int | None = None
    gpu_memory_bytes: int | None = None

    def state(self, now: float) -> str:
        """done, failed, stopped, running or lost (ended without notice), if it is a job's last."""
        if self.exit is not None:
            ends = {0: "done", 130: "stopped", 143: "stopped"}  # by Ctrl-C or SIGTERM
            return ends.get(self.exit, "failed")
        recent, near = now - self.updated < QUIET, self.node == node()
        return "running" if (is_alive(self.pid) if near else recent) else "lost"


@dataclass(frozen=True)
class Made:
    """How a job made its outputs; of inputs and outputs, what identifies the content of each."""

    code: str = ""
    fingerprint: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    accepted: list[dict[str, str]] = field(default_factory=list)  # see rerun.acceptances


@dataclass(frozen=True)
class Record:
    """What a job keeps beside its log: its attempts, oldest first, and what it made."""

    stage: str = ""
    job: str = ""
    attempts: list[Attempt] = field(default_factory=list)
    made: Made | None = None


@dataclass(frozen=True)
class Planned:
    """A job of a run, as Snakemake planned it; `log` is relative to the folder of results/.

    Attributes:
        expected: seconds that the model of work gives it, on the device that is assumed; 0: not
            known. Only their ratios within a stage are used.
    """

    stage: str
    log: str
    needed: bool
    outputs: list[str] = field(default_factory=list)
    expected: float = 0.0

    @property
    def name(self) -> str:
        return name_of(self.log)

    def record(self, run_dir: PathLike) -> Path:
        """The path of its record."""
        return (Path(run_dir).parent.parent / self.log).with_suffix(".json")


@dataclass(frozen=True)
class Run:
    """A start of Snakemake on a configuration, as run.json tells of it.

    Attributes:
        shared: outputs that other runs may make too → a hash of their code and settings.
        config: the resolved configuration, as YAML.
        error: Snakemake's own log, if it ended with an error.
    """

    jobs: list[Planned]
    started: float = 0.0
    pid: int = 0
    node: str = ""
    shared: dict[str, str] = field(default_factory=dict)
    command: str = ""
    config: str = ""
    error: str | None = None


Kind = TypeVar("Kind", Steps, Attempt, Made, Record, Planned, Run)


def _read(kind: type[Kind], content: dict[str, Any], **more: Any) -> Kind:
    known = [each.name for each in fields(kind) if each.name in content]
    return kind(**{name: content[name] for name in known} | more)


def as_json(content: Record | Run) -> dict[str, Any]:
    """What its file holds: without what is not there, the figures of steps beside them."""

    def flat(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        return found | found.pop("figures", {})

    found = asdict(content, dict_factory=flat)
    return {key: value for key, value in found.items() if value is not None}


def read_record(path: PathLike) -> Record:
    """A job's record; an empty one if there is none. Raises UserError if it is damaged."""
    if not os.path.isfile(path):
        return Record()
    content = read_json(path)
    try:
        made = _read(Made, content["made"]) if "made" in content else None
        attempts = [_read(Attempt, x, progress=_steps(x)) for x in content["attempts"]]
        return _read(Record, content, attempts=attempts, made=made)
    except WRONG:
        raise UserError(f"{path} is damaged (no job's record): {mend(path)}.") from None


def _steps(attempt: dict[str, Any]) -> Steps | None:
    if not (steps := attempt.get("progress")):
        return None
    named = {each.name for each in fields(Steps)}
    return _read(Steps, steps, figures={k: v for k, v in steps.items() if k not in named})


def read_run(run_dir: PathLike) -> Run:
    """A run's run.json. Raises UserError if it is damaged."""
    path = Path(run_dir) / "run.json"
    try:
        content = json.loads(path.read_bytes())
        return _read(Run, content, jobs=[_read(Planned, job) for job in content["jobs"]])
    except (OSError, ValueError, *WRONG):
        wrong = f"{path} is damaged: start the run again, which writes it anew."
        raise UserError(wrong) from None


def name_of(log: PathLike) -> str:
    """A job's name: its log's path below logs/, without suffix."""
    place = place_of_log(log)
    return place[1] if place else Path(log).stem


def place(stage: str) -> int:
    """A stage's place in the pipeline; unknown ones are last."""
    return [*STAGES, stage].index(stage)


def is_alive(pid: int) -> bool:
    """Whether this machine has such a process."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)  # another user's
    return True


# --- The trace -----------------------------------------------------------------------------------


class Row(NamedTuple):
    """An attempt that has ended, the number-th of a job."""

    stage: str
    job: str
    number: int
    attempt: Attempt


class Summary(NamedTuple):
    """What the jobs of a stage took: seconds added up, peaks of memory."""

    stage: str
    jobs: int
    attempts: int
    seconds: float
    peak_memory_bytes: int
    gpu_memory_bytes: int


def rows(run_dir: PathLike, jobs: Iterable[Planned]) -> list[Row]:
    """A row for each attempt that has ended, of each of the jobs of run_dir/run.json that has a
    readable record."""
    found, now = [], datetime.now(UTC).timestamp()
    for job in jobs:
        try:
            attempts = read_record(job.record(run_dir)).attempts
        except (UserError, OSError):
            continue
        if attempts and attempts[-1].state(now) == "running":
            attempts.pop()
        found += [Row(job.stage, job.name, n, each) for n, each in enumerate(attempts, 1)]
    return found


def write_trace(rows: list[Row], path: PathLike) -> None:
    """Write rows as CSV (COLUMNS), the first to start first; exit is empty of an attempt that ended
    without notice."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        for row in sorted(rows, key=lambda row: (row.attempt.started, row.job)):
            started = datetime.fromtimestamp(row.attempt.started, UTC)
            own = vars(row.attempt) | {"stage": row.stage, "job": row.job, "attempt": row.number}
            own["started"] = started.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            if steps := row.attempt.progress:
                own |= {"steps_first": steps.first, "steps_done": steps.done}
            writer.writerow(own)


def summary(rows: list[Row]) -> list[Summary]:
    """Of each stage, in the pipeline's order, what its jobs took."""
    found = []
    for stage in sorted({row.stage for row in rows}, key=lambda stage: (place(stage), stage)):
        own = [row.attempt for row in rows if row.stage == stage]
        jobs = len({row.job for row in rows if row.stage == stage})
        memory = max(attempt.peak_memory_bytes or 0 for attempt in own)
        of_gpu = max(attempt.gpu_memory_bytes or 0 for attempt in own)
        seconds = sum(attempt.seconds for attempt in own)
        found.append(Summary(stage, jobs, len(own), seconds, memory, of_gpu))
    return found
