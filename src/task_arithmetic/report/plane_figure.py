"""The figure of accuracy and loss on the plane of two task vectors."""

import textwrap
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from .cells import Measured
from .drawing import HEAT, center, legend_above, new_figure

LIGHT_IS_HIGH = HEAT.removesuffix("_r")  # in both rows light is good


def plane(run: Measured, pair: tuple[str, str]) -> Figure:
    """Mean accuracy (above) and loss (below) of a pair of tasks at θ0 + α₁τ₁ + α₂τ₂: contours, a
    column for each mode; one scale for each row."""
    part = run.part
    modes = [*part.modes]
    size = 1.2 + 2 * len(modes), 4.9
    figure, axes = new_figure(*size, 2, len(modes), "compressed", sharex=True, sharey=True)
    rows = (("accuracy", 100.0, LIGHT_IS_HIGH, "Accuracy (%)", "neither"),
            ("loss", 1.0, HEAT, "Cross-entropy (nats)", "max"))  # fmt: skip
    for row, (metric, factor, colors, label, extend) in zip(axes, rows, strict=True):
        found = [run.plane(f"plane_{metric}", mode, pair) for mode in modes]
        maps = [factor * center(values) for _, values in found]
        low, high = np.min(maps), np.max(maps)
        if extend == "max":  # corners are far above what matters
            high = np.percentile(maps, 70)
        levels = MaxNLocator(16, steps=[1, 2, 5, 10]).tick_values(low, max(high, low + 1e-3))
        for cell, mode, (grid, _), values in zip(row, modes, found, maps, strict=True):
            image = cell.contourf(grid, grid, values.T, levels, cmap=colors, extend=extend)
            cell.contour(grid, grid, values.T, levels=levels, colors="0.35", linewidths=0.4)
            for x, y, marker, side in _marks(run, mode):
                cell.plot(x, y, marker, color="white", markeredgecolor="black", markersize=side,
                          clip_on=False)  # fmt: skip
            cell.set(aspect="equal", xlim=grid[[0, -1]], ylim=grid[[0, -1]])
            cell.grid(visible=False)
            if metric == "accuracy":
                cell.set_title(textwrap.fill(part.label(mode), 26))
            else:
                cell.set_xlabel(rf"$\alpha_1$ ({pair[0]})")
        row[0].set_ylabel(rf"$\alpha_2$ ({pair[1]})")
        figure.colorbar(image, ax=list(row), pad=0.015).set_label(label, fontsize=7)
    names = [r"$\theta_0$", "individual models", r"both at the chosen $\alpha$"]
    white: dict[str, Any] = dict(color="white", markeredgecolor="black", linestyle="")
    handles = [
        Line2D([], [], marker=marker, markersize=side, label=name, **white)
        for name, (*_, marker, side) in zip(names, _marks(run, modes[0]), strict=True)
    ]
    legend_above(figure, handles)
    return figure


def _marks(run: Measured, mode: str) -> list[tuple[list[float], list[float], str, float]]:
    """α₁, α₂, marker and size of θ0, the individual models, and the unified model of both, of each
    seed, at the α that was chosen for all tasks."""
    chosen = [*run.chosen_alpha(run.part.focus, mode)]
    return [([0], [0], "o", 5), ([0, 1], [1, 0], "s", 5), (chosen, chosen, "*", 9)]
