"""What a run is doing, or how it ended: read from run.json, the records of its jobs and their logs.

Snakemake and SLURM are not asked: any machine that sees the files will do.
"""

import os
import re
import shutil
import signal
import statistics
import sys
import textwrap
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..answer import answer
from ..errors import UserError, nearest
from ..files.paths import PathLike, node
from ..files.records import (
    QUIET,
    Attempt,
    Planned,
    Run,
    is_alive,
    place,
    read_record,
    read_run,
)

STATES = ["done", "running", "failed", "stopped", "queued", "lost", "unreadable"]  # of a job
COLUMNS = ["job", "node", "device", "progress", "loss", "examples/s", "elapsed", "left"]
COLUMNS += ["silent for"]
EXPENDABLE = ["device", "examples/s", "node", "loss", "elapsed"]  # where the terminal is narrow
SKEW = 10.0  # seconds that the clocks of two nodes may differ by
RUNNING, FAILED, LINES, SAMPLE = 20, 10, 5, 20  # at most: jobs, jobs, lines of a log, records


class Job(NamedTuple):
    """A job of a run, its state and its last attempt, if it belongs to this start of the run."""

    planned: Planned
    state: str
    attempt: Attempt = Attempt()


Finished = dict[tuple[float, str], Attempt]  # (start of the run, log) → what need not be read again


class Stage(NamedTuple):
    """The jobs of a stage: state → how many; and the median of the finished ones' seconds."""

    stage: str
    jobs: dict[str, int]
    median_seconds: float | None


class Seen(NamedTuple):
    """What a run is doing.

    Attributes:
        state, remaining: in words, whether it goes on, and what it still takes. ended: it does not
            go on. jobs: those that neither are done nor wait.
    """

    run: str
    folder: Path
    state: str
    ended: bool
    done: int
    total: int
    remaining: list[str]
    stages: list[Stage]
    jobs: list[Job]


def status(
    run: str | None = None,
    watch: bool = False,
    results: PathLike = "results",
    as_json: bool = False,
) -> None:
    """Print what a run is doing.

    Args:
        run: its name; None: the run that started last.
        watch: print again until the run ends or Ctrl-C.
        results: the folder of all runs.
    Raises:
        UserError: no such run, a damaged run.json.
    """
    folder, clear = run_folder(run, Path(results)), watch and sys.stdout.isatty()
    finished: Finished = {}
    if as_json and watch:
        raise UserError("--json tells once how a run is: leave out --watch, and ask again.")
    if as_json:
        return answer(_seen(folder, finished), [], as_json)
    try:
        while True:
            width, height = shutil.get_terminal_size((120, 50))
            seen = _seen(folder, finished)
            lines, ended = _view(seen, width), seen.ended
            if clear and not ended:
                del lines[height - 1 :]
            coding = sys.stdout.encoding or "utf-8"
            text = "\n".join(lines).encode(coding, "replace").decode(coding)
            print("\033[H\033[2J" * clear + text, flush=True)
            if ended or not watch:
                return
            time.sleep(2 if clear else 10)
    except KeyboardInterrupt:
        return
    except BrokenPipeError:  # `| head` has read enough; nothing may be flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# --- Reading -------------------------------------------------------------------------------------


def run_folder(run: str | None, results: Path) -> Path:
    """The folder of a run, by its name or as it is; None: of the run that started last. Raises
    UserError."""
    if run and os.sep in run:
        if (Path(run) / "run.json").is_file():
            return Path(run)
        raise UserError(f"{run} is no run's folder (no run.json): give one, such as results/mini.")
    runs = {path.parent.name: path for path in results.glob("*/run.json")}
    if run in runs:
        return results / run
    if run or not runs:
        near = nearest(run or "", runs)
        named = (
            f"There is no run {run} in {results}{near}"
            if run
            else f"No run has started in {results}"
        )
        known = f"take one of {', '.join(sorted(runs))}" if runs else "start one with snakemake"
        raise UserError(f"{named}{', which is no folder' * (not results.is_dir())}: {known}.")
    return max(runs.values(), key=lambda path: path.stat().st_mtime).parent


def _job(planned: Planned, run: Run, folder: Path, finished: Finished, over: bool) -> Job:
    """A job as it is; over: the run's controller is gone."""
    path, key = planned.record(folder), (run.started, planned.log)
    log = path.with_suffix(".log")
    if key in finished or not planned.needed:
        return Job(planned, "done", finished.get(key, Attempt()))
    last = Attempt()
    with suppress(FileNotFoundError):
        try:
            if path.stat().st_mtime >= run.started - QUIET:  # not an earlier start's
                last = [last, *read_record(path).attempts][-1]
        except (UserError, PermissionError):
            return Job(planned, "unreadable")
    if last.started >= run.started - (1 if last.node == run.node else SKEW):
        if (state := last.state(time.time())) == "done":
            finished[key] = last
        return Job(planned, state, last)
    if over and log.exists() and (made := log.stat().st_mtime) >= run.started:
        # It waits no more, and ended before it could keep a record.
        return Job(planned, "failed", Attempt(started=made, updated=made))
    return Job(planned, "queued")


class Pace(NamedTuple):
    """How long the finished jobs of a stage took: the median of their seconds, and of their seconds
    over those of the model of work, where it knows them."""

    median: float
    ratio: float | None

    def seconds(self, job: Planned) -> float:
        """What another job of the stage will take."""
        return job.expected * self.ratio if self.ratio and job.expected else self.median


def _pace(done: list[Job], folder: Path) -> Pace | None:
    """Of jobs that were finished in this start, or else of a few that were before."""
    found = [(job.planned, job.attempt) for job in done if job.attempt.started]
    for job in [] if found else done[:: len(done) // SAMPLE + 1]:
        with suppress(UserError, OSError):
            attempts = read_record(job.planned.record(folder)).attempts[-1:]
            found += [(job.planned, attempt) for attempt in attempts]
    took = [(job, x.seconds) for job, x in found if x.exit == 0 and not x.from_store]
    if not took:
        return None
    ratios = [seconds / job.expected for job, seconds in took if job.expected]
    ratio = statistics.median(ratios) if ratios else None
    return Pace(statistics.median(seconds for _, seconds in took), ratio)


def _tail(log: Path, width: int) -> list[str]:
    """The last lines of a log, cut, without control codes and what progress bars overwrote."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 16384))
            text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.read().decode(errors="replace"))
    except OSError:
        return []
    lines = [line.rstrip("\r").split("\r")[-1] for line in text.split("\n") if line.strip()]
    lines = ["  | " + re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", line) for line in lines[-LINES:]]
    return [line if len(line) <= width else f"{line[: width - 1]}…" for line in lines]


def _seen(folder: Path, finished: Finished) -> Seen:
    """A run as it is now."""
    run, now = read_run(folder), time.time()
    alive = is_alive(run.pid) if run.node == node() else None
    jobs = [_job(each, run, folder, finished, alive is False) for each in run.jobs]
    jobs.sort(key=lambda job: place(job.planned.stage))
    of = {state: [job for job in jobs if job.state == state] for state in STATES}
    paces, stages = {}, []
    for stage in dict.fromkeys(job.planned.stage for job in jobs):
        own = {s: [job for job in of[s] if job.planned.stage == stage] for s in STATES}
        paces[stage] = pace = _pace(own["done"], folder)
        counts = {state: len(own[state]) for state in STATES}
        stages.append(Stage(stage, counts, None if pace is None else pace.median))
    return Seen(
        folder.name,
        folder,
        _state(run, of, alive),
        len(of["done"]) == len(jobs) or (alive is False and not of["running"]),
        len(of["done"]),
        len(jobs),
        _remaining(of, paces, now),
        stages,
        [job for job in jobs if job.state not in ("done", "queued")],
    )


# --- Text ----------------------------------------------------------------------------------------


def _view(seen: Seen, width: int) -> list[str]:
    """The lines to print."""
    folder, rows = seen.folder, []
    of = {state: [job for job in seen.jobs if job.state == state] for state in STATES}
    for stage, jobs, median in seen.stages:
        counts = [f"{jobs[state]:,}" if jobs[state] else "" for state in STATES]
        rows.append([stage, *counts, "" if median is None else f"{median:,.1f}"])
    parts = [seen.state, f"{seen.done:,} of {seen.total:,} jobs done", *seen.remaining]
    lines = [*textwrap.wrap(f"{seen.run}: {'; '.join(parts)}.", width), ""]
    lines += table(["stage", *STATES, "median s"], rows, width)
    running = sorted(of["running"], key=lambda job: job.attempt.started)
    if running:
        rows = [_running(job, time.time()) for job in running[:RUNNING]]
        lines += ["", *table(COLUMNS, rows, width, EXPENDABLE), *_more(running, RUNNING)]
    ill = [*of["failed"], *of["stopped"], *of["lost"]]
    ill.sort(key=lambda job: -job.attempt.updated)
    lines += [line for job in ill[:FAILED] for line in _failure(job, folder, width)]
    lines += _more(ill, FAILED)
    if unreadable := [f"Unreadable: {job.planned.record(folder)}" for job in of["unreadable"]]:
        lines += ["", *unreadable[:FAILED], *_more(unreadable, FAILED)]
    return lines


def _more(items: Sequence[object], shown: int) -> list[str]:
    return [f"and {len(items) - shown:,} more"] if len(items) > shown else []


def _state(run: Run, of: dict[str, list[Job]], alive: bool | None) -> str:
    """Whether the run goes on; alive: its controller, None: on another node."""
    if not any(of[state] for state in STATES[1:]):
        return "finished"
    known = {True: "is alive", False: "is gone", None: "cannot be seen from here"}[alive]
    who = f"its controller (process {run.pid} on {run.node}) {known}"
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started))
    if alive or of["running"]:
        return f"running since {since}, {who}"
    if alive is None:
        return f"started {since}, no job is running now, {who}"
    counts = [f"{len(of[state])} {state}" for state in ("failed", "stopped", "lost") if of[state]]
    if run.error and not counts:
        return f"stopped by an error before any job could record one: see {run.error}"
    return f"stopped with {' and '.join(counts) or 'none failed'}"


def _remaining(of: dict[str, list[Job]], paces: dict[str, Pace | None], now: float) -> list[str]:
    """What the running and the queued jobs take, as far as known."""
    left = [seconds for job in of["running"] if (seconds := _left(job.attempt, now)) is not None]
    parts = [f"about {duration(max(left))} until the running ones end"] if left else []
    queued = [(job.planned, paces[job.planned.stage]) for job in of["queued"]]
    known = [pace.seconds(planned) for planned, pace in queued if pace is not None]
    if known and of["running"]:
        unknown = f" ({n:,} of them unknown)" if (n := len(of["queued"]) - len(known)) else ""
        parts.append(f"about {duration(sum(known) / len(of['running']))} for the queued{unknown}")
    return parts


def _left(attempt: Attempt, now: float) -> float | None:
    """Seconds that a running job still takes at its pace so far."""
    steps = attempt.progress
    if not steps or not steps.first < steps.done <= steps.total:
        return None
    took = attempt.updated - (steps.since or attempt.started)
    left = took * (steps.total - steps.done) / (steps.done - steps.first)
    return max(0.0, left - max(0.0, now - attempt.updated))


def duration(seconds: float) -> str:
    """1.2 s, 34 s, 5.6 min, 7.8 h or 9.1 days."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.{int(seconds < 10)}f} s"


def _running(job: Job, now: float) -> list[str]:
    """A running job's COLUMNS; the clock of another node may be ahead."""
    attempt, steps, left = job.attempt, job.attempt.progress, _left(job.attempt, now)
    silence, figures = max(0.0, now - attempt.updated), steps.figures if steps else {}
    loss = figures.get("loss")
    speed = next((v for k, v in figures.items() if k.endswith("s_per_second")), None)
    return [
        job.planned.name,
        str(attempt.node),
        (attempt.device or "").removeprefix("NVIDIA "),
        f"{steps.unit} {steps.done:,}/{steps.total:,}" if steps else "",
        "" if loss is None else f"{loss:.3f}",
        "" if speed is None else f"{speed:,.0f}",
        duration(attempt.seconds + silence),
        "" if left is None else duration(left),
        duration(silence) if silence > QUIET else "",
    ]


def _failure(job: Job, folder: Path, width: int) -> list[str]:
    """How a job ended, its error and the end of its log."""
    attempt, code = job.attempt, job.attempt.exit
    log = job.planned.record(folder).with_suffix(".log")
    if not attempt.pid:
        how = "it ended before it could keep a record"
    elif code and code - 128 in list(signal.Signals):
        how = f"stopped by {signal.Signals(code - 128).name}"
        how += ", perhaps out of memory" * (code == 128 + signal.SIGKILL)
    else:
        lost = "ended without notice: killed, out of memory or node failure"
        how = f"exit {code}" if code else lost
    slurm = f", SLURM job {attempt.slurm_job}" if attempt.slurm_job else ""
    where = f" on {attempt.node}" if attempt.node else ""
    head = f"{job.state.capitalize()}: {job.planned.name}{where}{slurm}: {how}"
    end, error = _tail(log, width), attempt.error or ""
    lines = [head] if any(error in line for line in end) else [head, f"  {error}"]
    lines = [part for line in lines for part in textwrap.wrap(line, width, subsequent_indent="  ")]
    return ["", *lines, f"  {log}{':' if end else ' is empty'}", *end]


def table(
    head: list[str], rows: list[list[str]], width: int, expendable: Sequence[str] = ()
) -> list[str]:
    """Aligned columns without the empty ones. To fit the width the first is shortened in its
    middle; if that is not enough the expendable ones are left out."""
    columns = {h: [h, *cells] for h, *cells in zip(head, *rows, strict=True) if any(cells)}
    names = columns.pop(head[0])
    full = max(map(len, names))
    for drop in ("", *expendable):
        columns.pop(drop, None)
        size = width - sum(2 + max(map(len, cells)) for cells in columns.values())
        if size >= min(24, full):
            break
    size = max(8, min(size, full))
    half = size // 2
    names = [n if len(n) <= size else f"{n[:half]}…{n[len(n) - size + half + 1 :]}" for n in names]
    sizes = [max(map(len, cells)) for cells in columns.values()]
    return [
        "  ".join([name.ljust(size), *map(str.rjust, cells, sizes)]).rstrip()
        for name, *cells in zip(names, *columns.values(), strict=True)
    ]
