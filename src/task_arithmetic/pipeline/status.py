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
from contextlib import suppress
from pathlib import Path

from ..errors import UserError
from ..files.paths import node
from ..files.records import (
    BLANK,
    QUIET,
    is_alive,
    name_of,
    place,
    read_attempts,
    read_run,
    record_of,
    state_of,
)

STATES = ["done", "running", "failed", "stopped", "queued", "lost", "unreadable"]  # of a job
COLUMNS = [
    "job",
    "node",
    "device",
    "progress",
    "loss",
    "examples/s",
    "elapsed",
    "left",
    "silent for",
]
EXPENDABLE = ["device", "examples/s", "node", "loss", "elapsed"]  # where the terminal is narrow
SKEW = 10.0  # seconds that the clocks of two nodes may differ by
RUNNING, FAILED, LINES, SAMPLE = 20, 10, 5, 20  # at most: jobs, jobs, lines of a log, records


def status(run: str | None = None, watch: bool = False, results="results") -> None:
    """Print what a run is doing.

    Args:
        run: its name; None: the run that started last.
        watch: print again until the run ends or Ctrl-C.
        results: the folder of all runs.
    Raises:
        UserError: no such run, a damaged run.json.
    """
    folder, clear, finished = run_folder(run, Path(results)), watch and sys.stdout.isatty(), {}
    try:
        while True:
            width, height = shutil.get_terminal_size((120, 50))
            lines, ended = _view(folder, width, finished)
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
    """The run's folder."""
    runs = {path.parent.name: path for path in results.glob("*/run.json")}
    if run in runs:
        return results / run
    if run or not runs:
        named = f"There is no run {run} in {results}" if run else f"No run has started in {results}"
        known = f"take one of {', '.join(sorted(runs))}" if runs else "start one with snakemake"
        raise UserError(f"{named}{', which is no folder' * (not results.is_dir())}: {known}.")
    return max(runs.values(), key=lambda path: path.stat().st_mtime).parent


def _jobs(run: dict, folder: Path, now: float, finished: dict) -> list[dict]:
    """The jobs of run.json in the pipeline's order, each with its state and its last attempt if
    that belongs to this start of the run; finished: those that need not be read again."""
    for job in run["jobs"]:
        path, key = record_of(job["log"], folder), (run["started"], job["log"])
        job |= {"state": "done", "attempt": finished.get(key)}
        if job["attempt"] or not job["needed"]:
            continue
        job["state"] = "queued"
        if not os.path.exists(path) or os.stat(path).st_mtime < run["started"] - QUIET:
            continue  # an earlier start's; cheaper than reading it
        try:
            last = [BLANK, *read_attempts(path)][-1]
        except ValueError:
            job["state"] = "unreadable"
            continue
        if last["started"] >= run["started"] - (1 if last["node"] == run["node"] else SKEW):
            job |= {"state": state_of(last, now), "attempt": last}
        if job["state"] == "done":
            finished[key] = last
    return sorted(run["jobs"], key=lambda job: place(job["stage"]))


def _look_at_log(job: dict, folder: Path, started: float) -> None:
    """A job that waits no more, but has a log of this start of the run, ended before it could keep
    a record."""
    log = folder.parent.parent / job["log"]
    if job["state"] == "queued" and log.exists() and (made := log.stat().st_mtime) >= started:
        attempt = BLANK | {"started": made, "updated": made}
        job |= {"state": "failed", "attempt": attempt}


def _median(done: list[dict], folder: Path) -> float | None:
    """Median seconds of a stage's finished jobs: those of this start, or else a few of others."""
    attempts = [job["attempt"] for job in done if job["attempt"]]
    for job in [] if attempts else done[:: len(done) // SAMPLE + 1]:
        with suppress(ValueError):
            attempts += read_attempts(record_of(job["log"], folder))[-1:]
    seconds = [a["seconds"] for a in attempts if a["exit"] == 0 and not a["from_store"]]
    return statistics.median(seconds) if seconds else None


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


# --- Text ----------------------------------------------------------------------------------------


def _view(folder: Path, width: int, finished: dict) -> tuple[list[str], bool]:
    """The lines to print, and whether the run has ended."""
    run, now = read_run(folder), time.time()
    alive = is_alive(run["pid"]) if run["node"] == node() else None
    jobs = _jobs(run, folder, now, finished)
    for job in jobs if alive is False else []:
        _look_at_log(job, folder, run["started"])
    of = {state: [job for job in jobs if job["state"] == state] for state in STATES}
    medians, rows = {}, []
    for stage in dict.fromkeys(job["stage"] for job in jobs):
        own = {state: [job for job in of[state] if job["stage"] == stage] for state in STATES}
        medians[stage] = median = _median(own["done"], folder)
        counts = [f"{len(own[state]):,}" if own[state] else "" for state in STATES]
        rows.append([stage, *counts, "" if median is None else f"{median:,.1f}"])
    parts = [_state(run, of, alive), f"{len(of['done']):,} of {len(jobs):,} jobs done"]
    parts += _remaining(of, medians, now)
    lines = [*textwrap.wrap(f"{folder.name}: {'; '.join(parts)}.", width), ""]
    lines += table(["stage", *STATES, "median s"], rows, width)
    of["running"].sort(key=lambda job: job["attempt"]["started"])
    ill = sorted(
        of["failed"] + of["stopped"] + of["lost"], key=lambda job: -job["attempt"]["updated"]
    )
    unreadable = [f"Unreadable: {record_of(job['log'], folder)}" for job in of["unreadable"]]
    rows = [_running(job, now) for job in of["running"][:RUNNING]]
    lines += ["", *table(COLUMNS, rows, width, EXPENDABLE)] if rows else []
    lines += _more(of["running"], RUNNING)
    lines += [line for job in ill[:FAILED] for line in _failure(job, folder, width)]
    lines += _more(ill, FAILED) + [""] * bool(unreadable)
    lines += unreadable[:FAILED] + _more(unreadable, FAILED)
    return lines, len(of["done"]) == len(jobs) or (alive is False and not of["running"])


def _more(items: list, shown: int) -> list[str]:
    return [f"and {len(items) - shown:,} more"] if len(items) > shown else []


def _state(run: dict, of: dict, alive: bool | None) -> str:
    """Whether the run goes on; alive: its controller, None: on another node."""
    if not any(of[state] for state in STATES[1:]):
        return "finished"
    known = {True: "is alive", False: "is gone", None: "cannot be seen from here"}[alive]
    who = f"its controller (process {run['pid']} on {run['node']}) {known}"
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(run["started"]))
    if alive or of["running"]:
        return f"running since {since}, {who}"
    if alive is None:
        return f"started {since}, no job is running now, {who}"
    counts = [f"{len(of[state])} {state}" for state in ("failed", "stopped", "lost") if of[state]]
    if run["error"] and not counts:
        return f"stopped by an error before any job could record one: see {run['error']}"
    return f"stopped with {' and '.join(counts) or 'none failed'}"


def _remaining(of: dict, medians: dict, now: float) -> list[str]:
    """What the running and the queued jobs take, as far as known."""
    left = [seconds for job in of["running"] if (seconds := _left(job["attempt"], now)) is not None]
    parts = [f"about {duration(max(left))} until the running ones end"] if left else []
    known = [medians[job["stage"]] for job in of["queued"] if medians[job["stage"]] is not None]
    if known and of["running"]:
        unknown = f" ({n:,} of them unknown)" if (n := len(of["queued"]) - len(known)) else ""
        parts.append(f"about {duration(sum(known) / len(of['running']))} for the queued{unknown}")
    return parts


def _left(attempt: dict, now: float) -> float | None:
    """Seconds that a running job still takes at its pace so far."""
    p = attempt["progress"]
    if not p or not p["first"] < p["done"] <= p["total"]:
        return None
    took = attempt["updated"] - p.get("since", attempt["started"])
    left = took * (p["total"] - p["done"]) / (p["done"] - p["first"])
    return max(0.0, left - max(0.0, now - attempt["updated"]))


def duration(seconds: float) -> str:
    """1.2 s, 34 s, 5.6 min, 7.8 h or 9.1 days."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.{int(seconds < 10)}f} s"


def _running(job: dict, now: float) -> list[str]:
    """A running job's COLUMNS; the clock of another node may be ahead."""
    attempt, left = job["attempt"], _left(job["attempt"], now)
    p, silence = attempt["progress"] or {}, max(0.0, now - attempt["updated"])
    speed = next((v for k, v in p.items() if k.endswith("s_per_second")), None)
    return [
        name_of(job["log"]),
        str(attempt["node"]),
        (attempt["device"] or "").removeprefix("NVIDIA "),
        f"{p['unit']} {p['done']:,}/{p['total']:,}" if p else "",
        f"{p['loss']:.3f}" if p.get("loss") is not None else "",
        f"{speed:,.0f}" if speed is not None else "",
        duration(attempt["seconds"] + silence),
        duration(left) if left is not None else "",
        duration(silence) if silence > QUIET else "",
    ]


def _failure(job: dict, folder: Path, width: int) -> list[str]:
    """How a job ended, its error and the end of its log."""
    attempt, code, log = job["attempt"], job["attempt"]["exit"], folder.parent.parent / job["log"]
    how = f"exit {code}" if code else "ended without notice: killed, out of memory or node failure"
    how = "it ended before it could keep a record" if attempt["pid"] is None else how
    if code and code - 128 in list(signal.Signals):
        how = f"stopped by {signal.Signals(code - 128).name}"
        how += ", perhaps out of memory" * (code == 128 + signal.SIGKILL)
    slurm = f", SLURM job {attempt['slurm_job']}" if attempt["slurm_job"] else ""
    where = f" on {attempt['node']}" if attempt["node"] else ""
    head = f"{job['state'].capitalize()}: {name_of(job['log'])}{where}{slurm}: {how}"
    end, error = _tail(log, width), attempt["error"] or ""
    lines = [head] if any(error in line for line in end) else [head, f"  {error}"]
    lines = [part for line in lines for part in textwrap.wrap(line, width, subsequent_indent="  ")]
    return ["", *lines, f"  {log}{':' if end else ' is empty'}", *end]


def table(head: list[str], rows: list[list[str]], width: int, expendable=()) -> list[str]:
    """Aligned columns without the empty ones. To fit the width the first is shortened in its
    middle; if that is not enough the expendable ones are left out."""
    columns = {h: [h, *cells] for h, *cells in zip(head, *rows, strict=True) if any(cells)}
    names = columns.pop(head[0])
    full = max(map(len, names))
    for drop in (None, *expendable):
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
