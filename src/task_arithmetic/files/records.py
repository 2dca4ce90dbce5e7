"""What the jobs of a run did and when, read from their records: as rows, as CSV."""

import csv
import json
import os
from datetime import UTC, datetime
from pathlib import Path

from ..errors import UserError
from .paths import atomic_path, node, place_of_log

STAGES = "embedded download data encoder head finetune vector pretrained single_task kernel".split()
STAGES += (
    "addition negation disentanglement cosine efficiency metrics tables figures report".split()
)
COLUMNS = "stage job attempt command node device gpu slurm_job started seconds".split()
COLUMNS += "peak_memory_bytes gpu_memory_bytes exit from_store steps_first steps_done".split()
BLANK = dict.fromkeys([*COLUMNS, "pid", "error", "progress"])
BLANK |= {"started": 0.0, "seconds": 0.0, "updated": 0.0}
QUIET = 60.0  # seconds without an update after which a job on another node is taken for lost


def place(stage: str) -> int:
    """A stage's place in the pipeline; unknown ones are last."""
    return [*STAGES, stage].index(stage)


def name_of(log: str) -> str:
    """A job's name: its log's path below logs/, without suffix."""
    place = place_of_log(log)
    return place[1] if place else log


def record_of(log: str, run_dir) -> Path:
    """The path of a job's record; logs are named relative to the folder that holds results/."""
    return (Path(run_dir).parent.parent / log).with_suffix(".json")


def read_attempts(path) -> list[dict]:
    """A job's attempts, oldest first; none without a record. Raises ValueError if it is damaged."""
    try:
        return [BLANK | attempt for attempt in json.loads(Path(path).read_bytes())["attempts"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path} is not a job's record") from error


def state_of(attempt: dict, now: float) -> str:
    """done, failed, stopped, running or lost (ended without notice), for a job's last attempt."""
    if attempt["exit"] is not None:
        ends = {0: "done", 130: "stopped", 143: "stopped"}  # by Ctrl-C or SIGTERM
        return ends.get(attempt["exit"], "failed")
    recent, near = now - attempt["updated"] < QUIET, attempt["node"] == node()
    return "running" if (is_alive(attempt["pid"]) if near else recent) else "lost"


def rows(run_dir, jobs: list[dict]) -> list[dict]:
    """A row (COLUMNS) for each attempt that has ended (exit None: without notice), of each of the
    jobs of run_dir/run.json that has a readable record."""
    found, now = [], datetime.now(UTC).timestamp()
    for job in jobs:
        try:
            attempts = read_attempts(record_of(job["log"], run_dir))
        except ValueError:
            continue
        if attempts and state_of(attempts[-1], now) == "running":
            attempts.pop()
        for number, attempt in enumerate(attempts, 1):
            started = datetime.fromtimestamp(attempt["started"], UTC)
            own = {"stage": job["stage"], "job": name_of(job["log"]), "attempt": number}
            own["started"] = started.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            own |= {f"steps_{key}": value for key, value in (attempt["progress"] or {}).items()}
            found.append({key: own.get(key, attempt[key]) for key in COLUMNS})
    return found


def write_trace(rows: list[dict], path) -> None:
    """Write rows as CSV, the first to start first."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: (row["started"], row["job"])))


def summary(rows: list[dict]) -> list[dict]:
    """Per stage, in the pipeline's order: jobs, attempts, seconds added up, peaks of memory."""
    found = []
    for stage in sorted({row["stage"] for row in rows}, key=lambda stage: (place(stage), stage)):
        own = [row for row in rows if row["stage"] == stage]
        line = {"stage": stage, "jobs": len({row["job"] for row in own}), "attempts": len(own)}
        line["seconds"] = sum(row["seconds"] for row in own)
        peaks = ("peak_memory_bytes", "gpu_memory_bytes")
        found.append(line | {key: max(row[key] or 0 for row in own) for key in peaks})
    return found


def read_run(run_dir) -> dict:
    """A run's run.json. Raises UserError if it is damaged."""
    path = Path(run_dir) / "run.json"
    try:
        run = json.loads(path.read_bytes())
        if all(job.keys() >= {"stage", "log", "needed"} for job in run["jobs"]):
            return {"error": None, **run}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass
    raise UserError(f"{path} is damaged: start the run again, which writes it anew.")


def is_alive(pid: int) -> bool:
    """Whether this machine has such a process."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)  # another user's
    return True
