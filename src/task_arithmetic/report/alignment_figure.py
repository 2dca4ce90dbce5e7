"""The figure of subspace alignment against what merging leaves of the improvement."""

import textwrap
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..analysis.alignment import improvement
from .cells import Measured
from .depth_figures import NONE, empty
from .drawing import Marks, Panel, center, legend_above, new_figure, number_tasks, style_of


class Points(NamedTuple):
    """Of a mode, means over seeds: alignment and normalized accuracy improvement (methods, T), of
    the T tasks whose accuracy fine-tuning raises in every seed; left_out: how many others."""

    aligned: np.ndarray
    improved: np.ndarray
    left_out: int


def points_of(run: Measured, mode: str) -> Points | None:
    """None: the mode moves no weight matrix."""
    focus = run.part.focus
    count = run.cells("alignment_matrices", focus, mode, tasks=[""], split="")
    if not count.all():
        return None
    individual, zero = run.individual(focus, mode), run.pretrained(focus)
    defined = (individual > zero).all(axis=0)
    aligned, improved = [], []
    for method in run.part.compared_methods:
        ratios = run.cells("subspace_alignment", focus, mode, split="", method=method)
        merged = improvement(run.unified(focus, mode, method), individual, zero)
        aligned.append(center(ratios)[defined])
        improved.append(center(merged[:, defined]))
    return Points(np.stack(aligned), np.stack(improved), int((~defined).sum()))


def alignment(run: Measured) -> Figure:
    """A panel for each mode: a small mark for each method and task, and a large, numbered one for
    each method's mean over tasks."""
    part = run.part
    found = {mode: points for mode in part.modes if (points := points_of(run, mode))}
    if not found:
        return empty(NONE)
    figure, axes = new_figure(0.8 + 2.5 * len(found), 3.9, 1, len(found), sharex=True, sharey=True)
    panels = []
    for panel, (mode, points) in zip(axes[0], found.items(), strict=True):
        style = style_of(mode, part)
        x, y = points.aligned, 100 * points.improved
        panel.plot(x.ravel(), y.ravel(), color=style.color, marker=style.marker, linestyle="",
                   markersize=3, alpha=0.4, markeredgewidth=0)  # fmt: skip
        means = Marks(x.mean(axis=1), y.mean(axis=1), style.color)
        panel.plot(means.x, means.y, color=style.color, marker=style.marker, linestyle="",
                   markersize=6, markeredgecolor="white", markeredgewidth=0.5,
                   zorder=3)  # fmt: skip
        panel.set_title("\n".join([textwrap.fill(part.label(mode), 30), *_said(points)]))
        panel.set_xlabel("Subspace alignment ratio")
        panel.axhline(0, color="0.2", linewidth=0.8, zorder=1)
        panel.axhline(100, color="0.4", linestyle="--", linewidth=0.9, zorder=1)
        panels.append(Panel(panel, [means], [Marks(x.ravel(), y.ravel(), "")]))
    axes[0, 0].set_ylabel("Normalized accuracy improvement (%)")
    marks = [
        Line2D([], [], color="0.4", marker="o", linestyle="", markersize=size, label=label)
        for size, label in ((3, "One task"), (6, "Mean of a merging method"))
    ]
    legend_above(figure, marks)
    number_tasks(figure, panels, [part.method_title(label) for label in part.compared_methods])
    return figure


def _said(points: Points) -> list[str]:
    """The correlation, over how many marks, and what is left out."""
    x, y = points.aligned.ravel(), points.improved.ravel()
    varies = len(x) > 1 and np.ptp(x) > 0 and np.ptp(y) > 0
    r = f"{np.corrcoef(x, y)[0, 1]:.2f}".replace("-", "−") if varies else "–"
    left = points.left_out
    words = f"{left} task{'s' * (left > 1)} without improvement left out"
    return [f"r = {r} (n = {len(x)})", *[words] * bool(left)]
