"""The figure of fine-tuning modes crossed with merging methods."""

import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..errors import UserError
from .cells import Measured
from .drawing import center, legend_above, legend_entries, new_figure, spread, style_of
from .merging import Cell, cells_of

ROW, MARK = 0.12, 0.075  # height of a method's row, in inches: of itself, and of each mode in it


def merging(run: Measured) -> Figure:
    """Accuracy of every mode under every method, absolute and normalized, and the norms of the
    task vectors: three panels for each encoder."""
    part = run.part
    modes, encoders = [*part.modes], part.merged_encoders
    if not part.methods or not encoders:
        raise UserError("merging compares merging methods: name some in `merging.methods`.")
    height = max(1.5, len(part.compared_methods) * (ROW + MARK * len(modes))) + 0.65
    ratios = [1, 1, 0.2 + 0.05 * len(modes)]
    size = 7.6, 0.5 + height * len(encoders)
    figure, axes = new_figure(*size, len(encoders), 3, width_ratios=ratios)
    cells = [*cells_of(run)]
    for (left, middle, right), encoder in zip(axes, encoders, strict=True):
        own = [cell for cell in cells if cell.encoder == encoder]
        _accuracies(left, run, own, "absolute")
        _accuracies(middle, run, own, "normalized")
        titles = [textwrap.fill(part.method_title(method), 20) for method in part.compared_methods]
        left.set_yticks(range(len(titles)), titles)
        middle.tick_params(labelleft=False)
        _norms(right, run, encoder)
        left.set_xlabel("Accuracy, mean over tasks (%)")
        middle.set_xlabel("Normalized accuracy (%)")
        left.set_title(encoder, loc="left")
    small = Line2D([], [], color="0.4", marker="o", linestyle="", markersize=2.5, label="One task")
    line = Line2D([], [], color="0.4", marker="_", linestyle="", markersize=11, markeredgewidth=1.6,
                  label="Mean over tasks")  # fmt: skip
    legend_above(figure, [*legend_entries(part, modes), small, line])
    return figure


def _accuracies(panel: Axes, run: Measured, cells: list[Cell], kind: str) -> None:
    """Marks of one encoder: a row for each method, and in it each mode a little below the one
    before, so that equal ones do not cover each other."""
    methods, modes = [*run.part.compared_methods], [*run.part.modes]
    for cell in cells:
        values = getattr(cell, kind)
        color, marker, *_ = style_of(cell.mode, run.part)
        y = methods.index(cell.method) + _within(len(modes))[modes.index(cell.mode)]
        panel.errorbar(center(values), y, xerr=spread(values), color=color, marker=marker,
                       markersize=5, markeredgecolor="white", markeredgewidth=0.4,
                       elinewidth=1.1, linestyle="", zorder=3)  # fmt: skip
    for y in range(0, len(methods), 2):
        panel.axhspan(y - 0.5, y + 0.5, color="0.95", linewidth=0, zorder=0)
    panel.axhline(0.5, color="0.2", linewidth=0.8)  # the sum is what the others are compared with
    panel.set_ylim(len(methods) - 0.5, -0.5)
    panel.set_yticks(range(len(methods)))
    panel.tick_params(axis="y", length=0)
    panel.grid(visible=False, axis="y")
    panel.margins(x=0.06)


def _within(count: int) -> np.ndarray:
    """Places of so many marks within a row of height 1, around its middle."""
    step = MARK / (ROW + MARK * count)
    return step * (np.arange(count) - (count - 1) / 2)


def _norms(panel: Axes, run: Measured, encoder: str) -> None:
    """A column for each mode: norms of its task vectors, and their mean."""
    for x, mode in enumerate(run.part.modes):
        color, marker, *_ = style_of(mode, run.part)
        norms = run.norms(encoder, mode)
        each, mean = center(norms), norms.mean(axis=1)
        panel.plot(np.full(len(each), x), each, color=color, marker=marker, markersize=2.5,
                   linestyle="", zorder=2)  # fmt: skip
        panel.errorbar(x, center(mean), yerr=spread(mean), color=color, marker="_", markersize=11,
                       markeredgewidth=1.6, elinewidth=1.1, zorder=3)  # fmt: skip
    panel.set_xticks([])
    panel.set(xlim=(-0.7, len(run.part.modes) - 0.3), xlabel="Mode")
    panel.set_ylim(bottom=0)
    panel.set_ylabel("‖τₜ‖")
    panel.set_title("Norms: one task (small), mean", fontsize=6.5)
