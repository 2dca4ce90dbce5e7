"""The figure of what task vectors do to other tasks, and merging to each."""

import textwrap

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .cells import Measured
from .drawing import SIGNED, center, legend_above, new_figure, spread, style_of, task_matrix


def interference(run: Measured) -> Figure:
    """Above, for each mode, by how much τ_s changes the accuracy on every task t; below, for each
    task, by how much merging all changes that of its individual model."""
    part = run.part
    modes, n = [*part.modes], len(part.tasks)
    side = max(1.9, 0.31 * n)
    figure, _ = new_figure(1.4 + side * len(modes), side + 3.1)
    figure.clear()
    grid = figure.add_gridspec(2, len(modes), height_ratios=[side + 0.6, 1.7])
    cells = [figure.add_subplot(grid[0, m]) for m in range(len(modes))]
    maps = [100 * center(run.interference(mode)) for mode in modes]
    off = ~np.eye(n, dtype=bool)
    most = max(1.0, *(np.abs(values[off]).max(initial=0) for values in maps))
    for cell, mode, values in zip(cells, modes, maps, strict=True):
        scale = dict(cmap=SIGNED, vmin=-most, vmax=most)
        image = task_matrix(cell, values, part.tasks, "{:.0f}", **scale)
        for i in range(n):  # what a vector was trained for is no interference
            box = Rectangle((i - 0.5, i - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=1)
            cell.add_patch(box)
        mean = f"mean off the diagonal {values[off].mean():+.1f}".replace("-", "−")
        cell.set_title(f"{textwrap.fill(part.label(mode), 26)}\n{mean}")
        cell.set_xlabel("Evaluated on\n")
        if cell is not cells[0]:
            cell.tick_params(labelleft=False)
    cells[0].set_ylabel("Task vector of")
    bar = figure.colorbar(image, ax=cells, pad=0.01, aspect=30, extend="both")
    bar.set_label(r"$D_{st}$ (percentage points)", fontsize=7)
    bars, width = figure.add_subplot(grid[1, :]), 0.8 / len(modes)
    places = np.append(np.arange(n), n + 0.3)  # the mean stands apart
    for m, mode in enumerate(modes):
        color, _, _, hatch = style_of(mode, part)
        lost = 100 * (run.unified(part.focus, mode) - run.individual(part.focus, mode))
        lost = np.column_stack([lost, lost.mean(axis=1)])
        bars.bar(places + (m - (len(modes) - 1) / 2) * width, center(lost), width,
                 yerr=spread(lost), color=color, hatch=hatch, edgecolor="white", linewidth=0.5,
                 capsize=1.5, error_kw={"elinewidth": 0.7}, label=part.label(mode))  # fmt: skip
    bars.axhline(0, color="0.2", linewidth=0.8)
    bars.set_xticks(places, [*part.tasks, "mean"], rotation=30, ha="right", rotation_mode="anchor")
    bars.set_ylabel("$I_t$ (percentage points)")
    bars.grid(visible=False, axis="x")
    legend_above(figure, *bars.get_legend_handles_labels())
    return figure
