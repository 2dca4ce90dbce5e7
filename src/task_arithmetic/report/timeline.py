"""The timeline of a run's jobs, as a figure."""

import itertools
import re
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..files.records import Row, place
from .drawing import legend_above, new_figure, placed, styled

# Light and dark take turns, so that neighbours differ in grey; the last: a stage of another name.
COLORS = "#b5793c #4d4d4d #9ecae1 #543005 #fdd870 #2288c9 #b5e0ae #d2649a #7a0177 #f7a3b5".split()
COLORS += "#00592b #f2eda1 #8c2d04 #e69f00 #08306b #cdb5e6 #015c5e #dedede #6a51a3 #c8d94a".split()
COLORS += "#7f5f3f #a0a0a0 #49e44f #3da001 #4ce1b2 #a15bf9 #2325c0 #fb5dfb #bf2149".split()
COLORS += "#0eab7e #ae1ab8 #000000".split()
FINE: dict[str, Any] = {"linewidth": 0}
FAILED: dict[str, Any] = {"hatch": "//////", "edgecolor": "#d40000", "linewidth": 0.8}
LANES = 40  # of the timeline, at most


def timeline(rows: list[Row]) -> Figure:
    """A figure (matplotlib) of at least one row: a bar for each attempt; a lane for each GPU, and
    on CPUs for each job beside another of its node. Idle time is cut out."""
    starts = np.array([row.attempt.started for row in rows])
    ends = starts + [row.attempt.seconds for row in rows]
    lanes = _lanes(rows, starts, ends)
    shown = sorted(lanes, key=lambda lane: re.sub(r"\d+", lambda n: n[0].zfill(9), lane))[:LANES]
    real, drawn = _without_idle(starts, ends)
    units = (("Hours", 3600), ("Minutes", 60), ("Seconds", 1))
    unit, size = next((unit, size) for unit, size in units if drawn[-1] >= 3 * size or size == 1)
    drawn /= size
    left, right = (np.interp(times, real, drawn) for times in (starts, ends))
    hair = 0.001 * drawn[-1]  # between neighbours, and the width of the shortest
    colors = [COLORS[place(r.stage)] + ("ff" if r.attempt.exit == 0 else "80") for r in rows]
    with styled():
        named = 0.045 * len({row.stage for row in rows})  # rows of the legend
        figure, ((axes,),) = new_figure(7.2, 1.1 + named + min(0.21 * len(shown), 7))
        for y, style in itertools.product(range(len(shown)), (FINE, FAILED)):
            own = [i for i in lanes[shown[y]] if (rows[i].attempt.exit == 0) == (style is FINE)]
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
        faces = {r.stage: color[:7] for r, color in zip(rows, colors, strict=True)}
        handles = {stage: Patch(color=faces[stage]) for stage in sorted(faces, key=place)}
        if any(row.attempt.exit != 0 for row in rows):
            handles["failed or killed"] = Patch(facecolor="white", **FAILED)
        legend_above(figure, handles.values(), list(handles))
        return placed(figure)


def _lanes(rows: list[Row], starts: np.ndarray, ends: np.ndarray) -> dict[str, list[int]]:
    """Label → its rows; those that overlap have lanes of their own."""
    lanes: dict[str, list[int]] = {}
    for i in sorted(range(len(rows)), key=lambda i: starts[i]):
        gpu, label = rows[i].attempt.gpu, str(rows[i].attempt.node).split(".")[0]
        label += f" · GPU {gpu.removeprefix('GPU-')[:8]}" if gpu else " · cpu"
        for number in itertools.count(1):
            more = f" ({number})" * (number > 1) if gpu else f" {number}"
            lane = lanes.setdefault(label + more, [])
            if not lane or ends[lane[-1]] <= starts[i] + 0.01:
                break
        lane.append(i)
    return lanes


def _without_idle(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
