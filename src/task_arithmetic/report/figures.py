"""The paper's figures as views of metrics.csv: PNG, PDF and SVG with reproducible bytes, and the
rows of the metrics that each shows as CSV.

With several seeds: mean and sample standard deviation over seeds (ddof=1).
"""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ..config.available import OWN_FIGURES, PLANE, part_of
from ..config.view import View, view_of
from ..errors import UserError
from ..files.paths import PathLike, atomic_path
from . import (
    alignment_figure,
    depth_figures,
    interference_figure,
    linearity_figure,
    merging_figure,
    number_of_tasks_figure,
    pairs_figure,
    plane_figure,
    retention_figure,
    robustness_figure,
)
from .cells import Measured, OverGrid, load_metrics, percent
from .drawing import (
    HEAT,
    SIGNED,
    Marks,
    Panel,
    center,
    equal_axes,
    legend_above,
    legend_entries,
    new_figure,
    number_tasks,
    placed,
    points,
    save,
    spread,
    style_of,
    styled,
    task_matrix,
)


def fig3(run: Measured) -> Figure:
    """Kernel behaviour test: post-hoc linearized against non-linear accuracy, a panel for each
    encoder."""
    part = run.part
    columns = min(3, len(part.encoders))
    rows = -(-len(part.encoders) // columns)
    figure, axes = new_figure(0.6 + 2.9 * columns, 0.9 + 2.8 * rows, rows, columns)
    low, panels = 100, []
    for panel, encoder in zip(axes.flat, part.encoders, strict=False):
        marks = []
        for mode in part.kernel_modes:
            x = 100 * run.individual(encoder, mode)
            y = 100 * run.through_f_lin(encoder, mode)
            marks.append(points(panel, x, y, mode, part, 4, alpha=0.85))
            low = min(low, x.min(), y.min())
        panel.set_title(encoder)
        panels.append(Panel(panel, marks, []))
    for panel in axes.flat[len(part.encoders) :]:
        panel.remove()
    equal_axes(panels, low, "Non-linear accuracy of f (%)")
    for panel in axes[:, 0]:
        panel.set_ylabel("Post-hoc linearized accuracy of f_lin (%)")
    line = Line2D([], [], color="0.4", linestyle="--", linewidth=0.9, label="Equal accuracy")
    legend_above(figure, [*legend_entries(part, part.kernel_modes), line])
    number_tasks(figure, panels, part.tasks)
    return figure


def fig5(run: Measured) -> Figure:
    """Non-linear advantage: single-task accuracy of every mode against nonlinear's, a panel for
    each encoder, and their mean difference."""
    part = run.part
    modes = [mode for mode in part.modes if mode != "nonlinear"]
    if "nonlinear" not in part.modes or not modes:
        raise UserError("fig5 compares modes with nonlinear: name it and another mode in `modes`.")
    count = len(part.encoders)
    ratios = [1] * count + [0.35 + 0.32 * count]
    figure, axes = new_figure(0.6 + 3 * sum(ratios), 4, 1, count + 1, width_ratios=ratios)
    right = axes[0, -1]
    low, width, panels = 100, 0.8 / len(modes), []
    for e, (panel, encoder) in enumerate(zip(axes[0], part.encoders, strict=False)):
        x = 100 * run.individual(encoder, "nonlinear")
        marks, means = [], []
        for m, mode in enumerate(modes):
            color, _, _, hatch = style_of(mode, part)
            y = 100 * run.individual(encoder, mode)
            options: dict[str, Any] = dict(zorder=1.5, fillstyle="none", alpha=0.6)
            x_y = x.mean(1)[:, None], y.mean(1)[:, None]
            means.append(points(panel, *x_y, mode, part, 9, **options))
            marks.append(points(panel, center(x)[None], center(y)[None], mode, part, 3.5))
            low = min(low, x.min(), y.min())
            gap = x.mean(1) - y.mean(1)
            place = e + (m - (len(modes) - 1) / 2) * width
            right.bar(place, center(gap), width, yerr=spread(gap), color=color, hatch=hatch,
                      edgecolor="white", capsize=2, error_kw={"elinewidth": 0.8})  # fmt: skip
            side = 1 if center(gap) >= 0 else -1
            tip = center(gap) + side * (spread(gap) or 0)
            right.annotate(f"{center(gap):.1f}", (place, tip), (0, 3 * side),
                           textcoords="offset points", ha="center",
                           va="bottom" if side > 0 else "top", fontsize=7)  # fmt: skip
        panel.set_title(encoder)
        heights = np.stack([y for _, y, _ in marks])
        panel.vlines(center(x), heights.min(0), heights.max(0), color="0.6", linewidth=0.6)
        tops = Marks(center(x), heights.max(0), "0.4")
        panels.append(Panel(panel, [tops], [*marks, *means]))
    equal_axes(panels, low, "Non-linear fine-tuning:\nsingle-task accuracy (%)")
    axes[0, 0].set_ylabel("Single-task accuracy of the mode (%)")
    right.axhline(0, color="0.2", linewidth=0.8)
    right.margins(y=0.15)
    right.set_xticks(range(count), [textwrap.fill(encoder, 12) for encoder in part.encoders])
    right.set_ylabel("Non-linear advantage (percentage points)")
    right.grid(visible=False, axis="x")
    mean = Line2D([], [], marker="o", color="0.35", linestyle="", markersize=9, fillstyle="none",
                  label="Mean over tasks")  # fmt: skip
    legend_above(figure, [*legend_entries(part, modes), mean])
    number_tasks(figure, panels, part.tasks)
    return figure


def heatmaps(run: Measured, pair: tuple[str, str]) -> Figure:
    """Disentanglement error of a pair of tasks: representation above, classification below."""
    modes = run.part.modes
    maps = {
        name: [run.surface(name, mode, pair) for mode in modes]
        for name in ("representation", "classification")
    }
    return draw_heatmaps(maps, [run.part.label(mode) for mode in modes], pair)


def draw_heatmaps(
    maps: dict[str, list[OverGrid]], labels: list[str], pair: tuple[str, str]
) -> Figure:
    """Disentanglement errors as heatmaps: a row for each module, a column for each mode.

    Args:
        maps: module → for each mode the grid and the errors (seeds, grid, grid), first axis α1.
        labels: of the modes. pair: the two tasks.
    """
    figure, axes = new_figure(
        1.2 + 2 * len(labels), 4.6, 2, len(labels), "compressed", sharex=True, sharey=True
    )
    units = ["KL divergence (nats)", "changed predictions (sum of 2 fractions)"]
    for row, name, unit in zip(axes, maps, units, strict=True):
        top = np.percentile([center(values) for _, values in maps[name]], 99)
        over = max(center(values).max() for _, values in maps[name]) > top
        for cell, label, (grid, values) in zip(row, labels, maps[name], strict=True):
            mean, half = center(values), (grid[-1] - grid[0]) / (len(grid) - 1) / 2
            extent = [grid[0] - half, grid[-1] + half] * 2
            image = cell.imshow(mean.T, cmap=HEAT, vmin=0, vmax=top or 1, origin="lower",
                                extent=extent, interpolation="nearest")  # fmt: skip
            for color, thick in (("white", 2.2), ("black", 1)):
                box = Rectangle((0, 0), 1, 1, fill=False, edgecolor=color, linewidth=thick)
                cell.add_patch(box)
            cell.grid(visible=False)
            cell.spines[:].set_visible(True)
            ticks = np.arange(np.ceil(grid[0]), grid[-1] + 1e-6)
            cell.set(xticks=ticks, yticks=ticks)
            if name == next(iter(maps)):
                cell.set_title(textwrap.fill(label, 26))
            else:
                cell.set_xlabel(f"α₁ ({pair[0]})")
        row[0].set_ylabel(f"{name.capitalize()}\nα₂ ({pair[1]})")
        bar = figure.colorbar(image, ax=list(row), extend="max" if over else "neither", pad=0.015)
        bar.set_label(f"ξ: {unit}", fontsize=7)
    return figure


def fig7(run: Measured) -> Figure:
    """Single-task accuracy: bars per task grouped by mode, one panel per encoder."""
    part = run.part
    tasks, rows, width = part.tasks, len(part.encoders), 0.8 / len(part.modes)
    size = max(5, 1.6 + 0.62 * (len(tasks) + 1)), 0.7 + 1.7 * rows
    figure, axes = new_figure(*size, rows, 1, sharex=True, sharey=True)
    places = np.append(np.arange(len(tasks)), len(tasks) + 0.3)  # the mean stands apart

    def with_mean(values: np.ndarray) -> np.ndarray:
        return 100 * np.column_stack([values, values.mean(axis=1)])

    for panel, encoder in zip(axes[:, 0], part.encoders, strict=True):
        for m, mode in enumerate(part.modes):
            color, _, _, hatch = style_of(mode, part)
            values = with_mean(run.individual(encoder, mode))
            offset = (m - (len(part.modes) - 1) / 2) * width
            panel.bar(places + offset, center(values), width, yerr=spread(values), color=color,
                      hatch=hatch, edgecolor="white", linewidth=0.5, capsize=1.5,
                      error_kw={"elinewidth": 0.7}, label=part.label(mode))  # fmt: skip
        zero = center(with_mean(run.pretrained(encoder)))
        # Behind the bars, with its ends beside them: no bar's top is hidden.
        panel.hlines(zero, places - 0.4, places + 0.4, color="black", linewidth=0.8, zorder=0.9)
        for side in (-1, 1):
            ends = sorted([0.4 * side, 0.49 * side])
            lines = panel.hlines(zero, places + ends[0], places + ends[1], color="black")
        lines.set_label("Pre-trained (zero-shot)")
        panel.set(ylim=(0, 100), xlim=(-0.6, places[-1] + 0.6), ylabel="Accuracy (%)")
        panel.set_title(encoder, loc="left")
        panel.grid(visible=False, axis="x")
    rotate = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
    axes[-1, 0].set_xticks(places, [*tasks, "mean"], **rotate)
    legend_above(figure, *axes[0, 0].get_legend_handles_labels())
    return figure


def fig9(run: Measured) -> Figure:
    """Sensitivity to α: mean accuracy of the unified model on validation over the α grid."""
    part = run.part
    figure, ((left, right),) = new_figure(7.2, 3.4, 1, 2)
    for panel, metric, name in (
        (left, "unified_accuracy", "Accuracy"),
        (right, "normalized_accuracy", "Normalized accuracy"),
    ):
        for mode in part.unified_modes:
            color, _, line, _ = style_of(mode, part)
            tasks = part.tasks if panel is left else run.normalizable(part.focus, mode)
            if not tasks:
                continue
            where = part.focus, mode, tasks
            grid, values = run.curve(metric, *where)
            values = 100 * values.mean(axis=1)
            panel.plot(grid, center(values), color=color, linestyle=line, label=part.label(mode))
            if (band := spread(values)) is not None:
                edge = center(values) - band, center(values) + band
                panel.fill_between(grid, *edge, color=color, alpha=0.2, linewidth=0)
            x, y = run.chosen_alpha(part.focus, mode), percent(run.cells(metric, *where))
            panel.errorbar(center(x), center(y), xerr=spread(x), yerr=spread(y), color=color,
                           marker="*", markersize=11, markeredgecolor="black",
                           markeredgewidth=0.6, elinewidth=0.8, zorder=5)  # fmt: skip
        panel.set(xlabel="α", ylabel=f"{name}, mean over tasks (%)")
    handles, labels = left.get_legend_handles_labels()
    star = Line2D([], [], color="0.7", marker="*", markersize=9, markeredgecolor="black",
                  linestyle="", markeredgewidth=0.6)  # fmt: skip
    legend_above(figure, [*handles, star], [*labels, "chosen α, on test"])
    return figure


def fig10(run: Measured) -> Figure:
    """Cosine similarity of the task vectors, annotated, one colour scale over modes."""
    part = run.part
    n, columns = len(part.tasks), len(part.modes)
    side = max(1.9, 0.31 * n)
    size = 1.4 + side * columns, side + 1.1
    figure, axes = new_figure(*size, 1, columns, "compressed", sharey=True)
    maps = [center(run.cosines(mode)) for mode in part.modes]
    off = ~np.eye(n, dtype=bool)
    most = max(0.01, *(np.abs(values[off]).max(initial=0) for values in maps))
    for cell, mode, values in zip(axes[0], part.modes, maps, strict=True):
        shown, scale = np.where(off, values, np.nan), dict(cmap=SIGNED, vmin=-most, vmax=most)
        image = task_matrix(cell, shown, part.tasks, "{:.2f}", **scale)
        for i in range(n):
            cell.text(i, i, "1", ha="center", va="center", fontsize=6, color="0.3")
        cell.set_title(textwrap.fill(part.label(mode), 26))
    figure.colorbar(image, ax=list(axes[0]), pad=0.01, label="Cosine similarity", aspect=30)
    return figure


DRAWN = {"fig3": fig3, "fig5": fig5, "fig7": fig7, "fig9": fig9, "fig10": fig10}
DRAWN |= {
    "merging": merging_figure.merging,
    "robustness": robustness_figure.robustness,
    "layers": depth_figures.layers,
    "spectra": depth_figures.spectra,
    "alignment": alignment_figure.alignment,
    "interference": interference_figure.interference,
    "pairs": pairs_figure.pairs,
    "linearity": linearity_figure.linearity,
    "number_of_tasks": number_of_tasks_figure.number_of_tasks,
    "retention": retention_figure.retention,
}


def draw(name: str, metrics: pd.DataFrame, view: View) -> Figure:
    """One figure.

    Args:
        name: one of available.OWN_FIGURES, ANALYSES or MERGING, of which fig7_language is fig7 of
            the part on texts; or a pair of tasks, whose heatmaps it is.
        metrics: what load_metrics returns.
    Raises:
        UserError: unknown figure, a cell that is missing or not unique.
    """
    return _drawn(name, Measured(metrics, part_of(name, view)))


def _drawn(name: str, run: Measured) -> Figure:
    part, base = run.part, name.removesuffix("_language")
    pair = part.pairs.get(base.removeprefix(PLANE))
    if base not in DRAWN and pair is None:
        known = [*OWN_FIGURES, *part.pairs]
        raise UserError(f"There is no figure {name}: take one of {', '.join(known)}.")
    with styled():
        if pair is None:
            return placed(DRAWN[base](run))
        return placed((plane_figure.plane if base.startswith(PLANE) else heatmaps)(run, pair))


def write(name: str, metrics: PathLike, settings: dict[str, Any], output_dir: PathLike) -> None:
    """Write output_dir/NAME.png, .pdf and .svg, and as NAME.csv the rows of the metrics that the
    figure shows. Raises UserError as draw.

    Args:
        metrics: the run's metrics.csv. settings: what settings.view_settings gives.
    """
    run = Measured(load_metrics(metrics), part_of(name, view_of(settings)))
    save(_drawn(name, run), output_dir, name)
    with atomic_path(Path(output_dir) / f"{name}.csv") as temporary:
        run.rows_taken().to_csv(temporary, index=False, lineterminator="\n")
