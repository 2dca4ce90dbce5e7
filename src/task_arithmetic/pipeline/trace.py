"""What the jobs of a run did and when, read from their records: as rows, as CSV, as a figure."""

import csv
import itertools
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from ..files.paths import atomic_path, node, place_of_log
from .locks import is_alive

STAGES = "embedded download data encoder head finetune vector pretrained single_task kernel".split()
STAGES += (
    "addition negation disentanglement cosine efficiency metrics tables figures report".split()
)
# Light and dark take turns, so that neighbours differ in grey; the last: a stage of another name.
COLORS = "#b5793c #4d4d4d #9ecae1 #543005 #fdd870 #2288c9 #b5e0ae #7a0177 #f7a3b5 #00592b".split()
COLORS += "#e69f00 #08306b #cdb5e6 #015c5e #dedede #6a51a3 #c8d94a #7f5f3f #a0a0a0 #000000".split()
FINE, FAILED = {"linewidth": 0}, {"hatch": "//////", "edgecolor": "#d40000", "linewidth": 0.8}
COLUMNS = "stage job attempt command node device gpu slurm_job started seconds".split()
COLUMNS += "peak_memory_bytes gpu_memory_bytes exit from_store steps_first steps_done".split()
BLANK = dict.fromkeys([*COLUMNS, "pid", "error", "progress"])
BLANK |= {"started": 0.0, "seconds": 0.0, "updated": 0.0}
QUIET = 60.0  # seconds without an update after which a job on another node is taken for lost
LANES = 40  # of the timeline, at most


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


def timeline(rows: list[dict]):
    """A figure (matplotlib) of at least one row: a bar for each attempt; a lane for each GPU, and
    on CPUs for each job beside another of its node. Idle time is cut out."""
    import matplotlib
    from matplotlib.patches import Patch

    from ..report.figures import STYLE, legend_above, new_figure

    starts = np.array([datetime.fromisoformat(row["started"]).timestamp() for row in rows])
    ends = starts + [row["seconds"] for row in rows]
    lanes = _lanes(rows, starts, ends)
    shown = sorted(lanes, key=lambda lane: re.sub(r"\d+", lambda n: n[0].zfill(9), lane))[:LANES]
    real, drawn = _without_idle(starts, ends)
    units = (("Hours", 3600), ("Minutes", 60), ("Seconds", 1))
    unit, size = next((unit, size) for unit, size in units if drawn[-1] >= 3 * size or size == 1)
    drawn /= size
    left, right = (np.interp(times, real, drawn) for times in (starts, ends))
    hair = 0.001 * drawn[-1]  # between neighbours, and the width of the shortest
    colors = [COLORS[place(r["stage"])] + ("ff" if r["exit"] == 0 else "80") for r in rows]
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
        figure, ((axes,),) = new_figure(7.2, 1.3 + min(0.21 * len(shown), 7))
        for y, style in itertools.product(range(len(shown)), (FINE, FAILED)):
            own = [i for i in lanes[shown[y]] if (rows[i]["exit"] == 0) == (style is FINE)]
            bars = [(left[i], max(hair, right[i] - left[i] - hair)) for i in own]
            axes.broken_barh(bars, (y - 0.4, 0.8), facecolor=[colors[i] for i in own], **style)
        for start, end in zip(drawn[1:-1:2], drawn[2:-1:2], strict=True):
            axes.axvspan(start, end, facecolor="0.9", hatch="xxxx", edgecolor="0.6", linewidth=0)
        axes.set(xlim=(0, drawn[-1]), ylim=(len(shown) - 0.5, -0.5))
        axes.set_yticks(range(len(shown)), shown, fontsize=7)
        axes.grid(visible=False, axis="y")
        idle = ", idle time cut out (crossed)" if len(real) > 2 else ""
        idle += f", and {len(lanes) - LANES} more lanes" if len(lanes) > LANES else ""
        axes.set_xlabel(f"{unit} since the first start{idle}")
        faces = {r["stage"]: color[:7] for r, color in zip(rows, colors, strict=True)}
        handles = {stage: Patch(color=faces[stage]) for stage in sorted(faces, key=place)}
        if any(row["exit"] != 0 for row in rows):
            handles["failed or killed"] = Patch(facecolor="white", **FAILED)
        legend_above(figure, handles.values(), list(handles))
    return figure


def _lanes(rows, starts, ends) -> dict[str, list[int]]:
    """Label → its rows; those that overlap have lanes of their own."""
    lanes: dict[str, list[int]] = {}
    for i in sorted(range(len(rows)), key=lambda i: starts[i]):
        gpu, label = rows[i]["gpu"], str(rows[i]["node"]).split(".")[0]
        label += f" · GPU {gpu.removeprefix('GPU-')[:8]}" if gpu else " · cpu"
        for number in itertools.count(1):
            more = f" ({number})" * (number > 1) if gpu else f" {number}"
            lane = lanes.setdefault(label + more, [])
            if not lane or ends[lane[-1]] <= starts[i] + 0.01:
                break
        lane.append(i)
    return lanes


def _without_idle(starts, ends):
    """Times and where they are drawn, in seconds, piecewise linear. Every second piece is a gap of
    more than 10 min, or than 5 % of the time in which jobs ran; it is drawn as 1.5 % of that."""
    begin, reach = np.sort(starts)[1:], np.maximum.accumulate(ends[np.argsort(starts)])[:-1]
    first, last = starts.min(), max(ends.max(), starts.min() + 0.01)
    busy = last - first - (begin - reach).clip(0).sum()
    cut = begin - reach > max(0.015 * busy, min(600, 0.05 * busy))
    real = np.array([first, *np.column_stack([reach[cut], begin[cut]]).ravel(), last])
    pieces = np.diff(real)
    pieces[1::2] = 0.015 * busy
    return real, np.concatenate([[0], pieces.cumsum()])
