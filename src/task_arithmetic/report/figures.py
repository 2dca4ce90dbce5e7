"""The paper's figures as views of metrics.csv: PNG and PDF with reproducible bytes.

A mode has one colour, marker, line style and hatch in all figures, and the colours differ in
lightness, so that the figures can be read in grey. Where a mark is a task, its number stands beside
it. With several seeds: mean and sample standard deviation over seeds (ddof=1).
"""

import sys
import textwrap
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from ..config.available import OWN_FIGURES, encoders_of, view_of
from ..errors import UserError
from ..files.paths import atomic_path
from .cells import (
    cells,
    chosen_alpha,
    cosines,
    curve,
    individual,
    kernel_modes_of,
    label_of,
    load_metrics,
    modes_of,
    normalizable,
    pretrained,
    seeds_of,
    surface,
    unified_modes_of,
)

STYLE = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: equal bytes on every machine
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.4,
    "hatch.linewidth": 0.6,
    "pdf.fonttype": 42,
}
HEAT = "magma_r"  # perceptually uniform; little is light
SIGNED = "PuOr_r"  # 0 is light; told apart without red and green
# colour, marker, line style, hatch
MODE_STYLES = {
    "nonlinear": ("#2288c9", "o", "-", ""),
    "ntk": ("#e69f00", "^", "--", "////"),
    "attention": ("#003d33", "s", "-.", "...."),
    "posthoc": ("#cc79a7", "D", ":", "xxxx"),
}
OTHER_STYLES = [
    ("#8c6bb1", "v", (0, (5, 1)), "\\\\\\\\"),
    ("#d55e00", "P", (0, (3, 1, 1, 1, 1, 1)), "++++"),
    ("#7f7f7f", "X", (0, (1, 1)), "----"),
    ("#661100", "p", (0, (5, 3)), "oo"),
]


def style_of(mode, settings):
    """Colour, marker, line style and hatch of a mode, the same in all figures."""
    if mode in MODE_STYLES:
        return MODE_STYLES[mode]
    others = [*modes_of(settings), *sorted(settings["ablations"])]
    place = [other for other in others if other not in MODE_STYLES].index(mode)
    return OTHER_STYLES[place % len(OTHER_STYLES)]


def center(values):
    """Mean over seeds (first axis)."""
    return values.mean(axis=0)


def spread(values):
    """Sample standard deviation over seeds (first axis), None for one seed."""
    return values.std(axis=0, ddof=1) if len(values) > 1 else None


def new_figure(width, height, rows=1, columns=1, layout="constrained", **options):
    """A figure of so many inches and its axes, always an array (rows, columns)."""
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def legend_entries(settings, modes):
    """Legend handles: a mode's colour and marker."""
    entries = []
    for mode in modes:
        color, marker, _, _ = style_of(mode, settings)
        label = textwrap.fill(label_of(mode, settings), 26)
        entries.append(Line2D([], [], color=color, marker=marker, linestyle="", label=label))
    return entries


def legend_above(figure, handles, labels, loc="outside upper center", **options):
    """A legend above all panels, in as many columns as fit the figure's width."""
    entry = 0.55 + 0.062 * max(map(len, labels))  # inches
    columns = min(len(labels), max(1, int(figure.get_figwidth() / entry)))
    rows = -(-len(labels) // columns)
    figure.legend(handles, labels, loc=loc, ncols=-(-len(labels) // rows), **options)


def number_tasks(figure, panels, tasks):
    """The number of its task beside each mark of each panel, where nothing else is, and below all
    panels what the numbers stand for.

    Args:
        panels: list of axes, their marks to number: x and y (N,) of the tasks in order, and a
            colour; and other marks that are not to be covered, alike.
    """
    numbers = [str(i + 1) for i in range(len(tasks))]
    handles = [
        Line2D([], [], linestyle="", marker=f"${n}$", color="0.2", markersize=5, markeredgewidth=0)
        for n in numbers
    ]
    legend_above(figure, handles, tasks, "outside lower center", handletextpad=0.2)
    figure.draw_without_rendering()  # where the marks are, in points, is known from here
    turns = np.linspace(0, 2 * np.pi, 16, endpoint=False) + np.pi / 4
    circle = np.column_stack([np.cos(turns), np.sin(turns)])
    ways = np.concatenate([radius * circle for radius in (6.5, 9, 12, 16, 21)])
    for axes, marks, others in panels:
        scale = 72 / figure.dpi
        corners = axes.bbox.get_points() * scale
        places = [
            axes.transData.transform(np.column_stack(mark[:2])) * scale for mark in marks + others
        ]
        taken = np.concatenate(places)
        sizes = np.full(taken.shape, 2.6)  # of a mark, from its middle
        for (x, y, color), at in zip(marks, places, strict=False):
            for i, number in enumerate(numbers):
                own = np.array([1.7 * len(number) + 0.3, 2.6])
                centers = at[i] + ways
                apart = np.abs(centers[:, None] - taken) - (own + sizes)
                hidden = (apart.max(axis=2) < 0).sum(axis=1)
                hidden += 9 * ((centers < corners[0] + own) | (centers > corners[1] - own)).any(1)
                way = ways[np.argmin(hidden)]
                arrow = dict(arrowstyle="-", color=color, linewidth=0.4, shrinkA=2.4, shrinkB=2.4)
                label = axes.annotate(number, (x[i], y[i]), way, textcoords="offset points",
                                      ha="center", va="center_baseline", fontsize=5.5, zorder=6,
                                      arrowprops=arrow if np.hypot(*way) > 8 else None)  # fmt: skip
                label.set_path_effects([withStroke(linewidth=1.2, foreground="white")])
                label.set_in_layout(False)
                taken, sizes = np.vstack([taken, at[i] + way]), np.vstack([sizes, own])


def equal_axes(axes, low):
    """Both axes in percent from `low` to 101, square, with the diagonal of equal accuracy."""
    low = max(0, 5 * np.floor((low - 2) / 5))
    axes.plot([low, 101], [low, 101], color="0.4", linestyle="--", linewidth=0.9, zorder=1)
    axes.set(xlim=(low, 101), ylim=(low, 101), aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10], integer=True))


def points(axes, x, y, mode, settings, size, **options):
    """Markers at the means of x, y (S, N), with error bars if there are several seeds; returns
    means and colour."""
    color, marker, _, _ = style_of(mode, settings)
    bars = dict(xerr=spread(x), yerr=spread(y), elinewidth=0.7, ecolor=color)
    axes.errorbar(center(x), center(y), **bars, linestyle="", color=color, marker=marker,
                  markersize=size, markeredgewidth=0.9, **options)  # fmt: skip
    return center(x), center(y), color


# ---------------------------------------------------------------- the figures


def fig3(metrics, settings):
    """Kernel behaviour test: post-hoc linearized against non-linear accuracy, a panel for each
    encoder."""
    seeds, tasks, encoders = seeds_of(settings), settings["tasks"], encoders_of(settings)
    modes = kernel_modes_of(settings)
    columns = min(3, len(encoders))
    rows = -(-len(encoders) // columns)
    figure, axes = new_figure(0.6 + 2.9 * columns, 0.9 + 2.8 * rows, rows, columns)
    low, panels = 100, []
    for panel, encoder in zip(axes.flat, encoders, strict=False):
        marks = []
        for mode in modes:
            x = 100 * individual(metrics, encoder, mode, seeds, tasks)
            y = 100 * cells(metrics, "posthoc_accuracy", encoder, mode, seeds, tasks)[0]
            marks.append(points(panel, x, y, mode, settings, 4, alpha=0.85))
            low = min(low, x.min(), y.min())
        panel.set_title(encoder)
        panels.append((panel, marks, []))
    for panel in axes.flat[len(encoders) :]:
        panel.remove()
    for panel, *_ in panels:
        equal_axes(panel, low)
        panel.set_xlabel("Non-linear accuracy of $f$ (%)")
    for panel in axes[:, 0]:
        panel.set_ylabel(r"Post-hoc linearized accuracy of $f_\mathrm{lin}$ (%)")
    line = Line2D([], [], color="0.4", linestyle="--", linewidth=0.9, label="Equal accuracy")
    handles = [*legend_entries(settings, modes), line]
    legend_above(figure, handles, [str(handle.get_label()) for handle in handles])
    number_tasks(figure, panels, tasks)
    return figure


def fig5(metrics, settings):
    """Non-linear advantage: single-task accuracy of every mode against nonlinear's, a panel for
    each encoder, and their mean difference."""
    seeds, tasks, encoders = seeds_of(settings), settings["tasks"], encoders_of(settings)
    modes = [mode for mode in modes_of(settings) if mode != "nonlinear"]
    if "nonlinear" not in settings["modes"] or not modes:
        raise UserError("fig5 compares modes with nonlinear: name it and another mode in `modes`.")
    count = len(encoders)
    ratios = [1] * count + [0.35 + 0.32 * count]
    figure, axes = new_figure(0.6 + 3 * sum(ratios), 4, 1, count + 1, width_ratios=ratios)
    right = axes[0, -1]
    low, width, panels = 100, 0.8 / len(modes), []
    for e, (panel, encoder) in enumerate(zip(axes[0], encoders, strict=False)):
        x = 100 * individual(metrics, encoder, "nonlinear", seeds, tasks)
        marks, means = [], []
        for m, mode in enumerate(modes):
            color, _, _, hatch = style_of(mode, settings)
            y = 100 * individual(metrics, encoder, mode, seeds, tasks)
            options = dict(zorder=1.5, fillstyle="none", alpha=0.6)
            x_y = x.mean(1)[:, None], y.mean(1)[:, None]
            means.append(points(panel, *x_y, mode, settings, 9, **options))
            marks.append(points(panel, center(x)[None], center(y)[None], mode, settings, 3.5))
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
        panels.append((panel, [(center(x), heights.max(0), "0.4")], [*marks, *means]))
    for panel, *_ in panels:
        equal_axes(panel, low)
        panel.set_xlabel("Non-linear fine-tuning:\nsingle-task accuracy (%)")
    axes[0, 0].set_ylabel("Single-task accuracy of the mode (%)")
    right.axhline(0, color="0.2", linewidth=0.8)
    right.margins(y=0.15)
    right.set_xticks(range(count), [textwrap.fill(encoder, 12) for encoder in encoders])
    right.set_ylabel("Non-linear advantage (percentage points)")
    right.grid(visible=False, axis="x")
    handles = legend_entries(settings, modes)
    mean = dict(marker="o", color="0.35", linestyle="", markersize=9, fillstyle="none")
    handles.append(Line2D([], [], **mean, label="Mean over tasks"))
    legend_above(figure, handles, [str(handle.get_label()) for handle in handles])
    number_tasks(figure, panels, tasks)
    return figure


def heatmaps(metrics, settings, pair):
    """Disentanglement error of a pair of tasks: representation above, classification below."""
    seeds, modes = seeds_of(settings), modes_of(settings)
    figure, axes = new_figure(
        1.2 + 2 * len(modes), 4.6, 2, len(modes), "compressed", sharex=True, sharey=True
    )
    names = ["representation", "classification"]
    units = ["KL divergence (nats)", "changed predictions (sum of 2 fractions)"]
    for row, name, unit in zip(axes, names, units, strict=True):
        where = [(settings["focus"], mode, seeds, pair) for mode in modes]
        maps = [surface(metrics, f"{name}_disentanglement", *w) for w in where]
        top = np.percentile([center(values) for _, values in maps], 99)
        over = max(center(values).max() for _, values in maps) > top
        for cell, mode, (grid, values) in zip(row, modes, maps, strict=True):
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
            if name == names[0]:
                cell.set_title(textwrap.fill(label_of(mode, settings), 26))
            else:
                cell.set_xlabel(rf"$\alpha_1$ ({pair[0]})")
        row[0].set_ylabel(f"{name.capitalize()}\n" rf"$\alpha_2$ ({pair[1]})")
        bar = figure.colorbar(image, ax=list(row), extend="max" if over else "neither", pad=0.015)
        bar.set_label(rf"$\xi$: {unit}", fontsize=7)
    return figure


def fig7(metrics, settings):
    """Single-task accuracy: bars per task grouped by mode, one panel per encoder."""
    seeds, tasks, encoders = seeds_of(settings), settings["tasks"], encoders_of(settings)
    modes = modes_of(settings)
    width = 0.8 / len(modes)
    size = 1.6 + 0.62 * (len(tasks) + 1), 0.7 + 1.7 * len(encoders)
    figure, axes = new_figure(max(5, size[0]), size[1], len(encoders), 1, sharex=True, sharey=True)
    places = np.append(np.arange(len(tasks)), len(tasks) + 0.3)  # the mean stands apart
    for panel, encoder in zip(axes[:, 0], encoders, strict=True):

        def with_mean(values):
            return 100 * np.column_stack([values, values.mean(axis=1)])

        for m, mode in enumerate(modes):
            color, _, _, hatch = style_of(mode, settings)
            values = with_mean(individual(metrics, encoder, mode, seeds, tasks))
            offset = (m - (len(modes) - 1) / 2) * width
            panel.bar(places + offset, center(values), width, yerr=spread(values), color=color,
                      hatch=hatch, edgecolor="white", linewidth=0.5, capsize=1.5,
                      error_kw={"elinewidth": 0.7}, label=label_of(mode, settings))  # fmt: skip
        zero = center(with_mean(pretrained(metrics, encoder, tasks)))
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
    handles, labels = axes[0, 0].get_legend_handles_labels()
    legend_above(figure, handles, labels)
    return figure


def fig9(metrics, settings):
    """Sensitivity to α: mean accuracy of the unified model on validation over the α grid."""
    seeds, tasks, focus = seeds_of(settings), settings["tasks"], settings["focus"]
    figure, ((left, right),) = new_figure(7.2, 3.4, 1, 2)
    modes, grid = unified_modes_of(settings), None
    panels = (
        (left, "unified_accuracy", "Accuracy"),
        (
            right,
            "normalized_accuracy",
            "Normalized accuracy",
        ),
    )
    for panel, metric, name in panels:
        for mode in modes:
            color, _, line, _ = style_of(mode, settings)
            where = focus, mode, seeds, tasks
            if metric == "normalized_accuracy":
                where = *where[:3], normalizable(metrics, settings, focus, mode)
                if not where[3]:
                    continue
            grid, values = curve(metrics, metric, *where, grid=grid)
            values = 100 * values.mean(axis=1)
            panel.plot(grid, center(values), color=color, linestyle=line,
                       label=label_of(mode, settings))  # fmt: skip
            if len(seeds) > 1:
                edge = center(values) - spread(values), center(values) + spread(values)
                panel.fill_between(grid, *edge, color=color, alpha=0.2, linewidth=0)
            x = chosen_alpha(metrics, *where)
            y = 100 * cells(metrics, metric, *where)[0].mean(axis=1)
            panel.errorbar(center(x), center(y), xerr=spread(x), yerr=spread(y), color=color,
                           marker="*", markersize=11, markeredgecolor="black",
                           markeredgewidth=0.6, elinewidth=0.8, zorder=5)  # fmt: skip
        panel.set(xlabel=r"$\alpha$", ylabel=f"{name}, mean over tasks (%)")
    handles, labels = left.get_legend_handles_labels()
    star = dict(color="0.7", marker="*", markersize=9, markeredgecolor="black", linestyle="")
    handles.append(Line2D([], [], **star, markeredgewidth=0.6))
    labels.append(r"chosen $\alpha$, on test")
    legend_above(figure, handles, labels)
    return figure


def fig10(metrics, settings):
    """Cosine similarity of the task vectors, annotated, one colour scale over modes."""
    seeds, tasks, focus = seeds_of(settings), settings["tasks"], settings["focus"]
    modes, n = modes_of(settings), len(settings["tasks"])
    side = max(1.9, 0.31 * n)
    figure, axes = new_figure(
        1.4 + side * len(modes), side + 1.1, 1, len(modes), "compressed", sharey=True
    )
    maps = [center(cosines(metrics, focus, mode, seeds, tasks)) for mode in modes]
    off = ~np.eye(n, dtype=bool)
    most = max(0.01, *(np.abs(values[off]).max(initial=0) for values in maps))
    colors = matplotlib.colormaps[SIGNED]
    for cell, mode, values in zip(axes[0], modes, maps, strict=True):
        shown = np.ma.masked_array(values, ~off)
        cell.set_facecolor("0.8")  # the diagonal
        image = cell.imshow(shown, cmap=colors, vmin=-most, vmax=most, interpolation="nearest")
        for i, j in np.ndindex(n, n):
            if i == j:
                cell.text(j, i, "1", ha="center", va="center", fontsize=6, color="0.3")
                continue
            color = np.array(colors((values[i, j] / most + 1) / 2)[:3])
            dark = color**2.2 @ [0.2126, 0.7152, 0.0722] < 0.179  # equal contrast to black, white
            text = f"{values[i, j]:.2f}".replace("-0.00", "0.00").replace("-", "−")
            cell.text(j, i, text, ha="center", va="center", fontsize=5.6,
                      color="white" if dark else "black")  # fmt: skip
        cell.set_title(textwrap.fill(label_of(mode, settings), 26))
        cell.set_xticks(range(n), tasks, rotation=45, ha="right", rotation_mode="anchor")
        cell.set_yticks(range(n), tasks)
        cell.tick_params(length=0)
        cell.grid(visible=False)
        cell.spines[:].set_visible(False)
    figure.colorbar(image, ax=list(axes[0]), pad=0.01, label="Cosine similarity", aspect=30)
    return figure


def draw(name, metrics, settings) -> Figure:
    """One figure.

    Args:
        name: one of available.OWN_FIGURES, of which fig7_language is fig7 of the part on texts; or
            a pair of tasks, whose heatmaps it is.
        metrics: what load_metrics returns.
    Raises:
        UserError: unknown figure, a cell that is missing or not unique.
    """
    base, settings = view_of(name, settings)
    if base not in OWN_FIGURES and base not in settings["pairs"]:
        known = [*OWN_FIGURES, *settings["pairs"]]
        raise UserError(f"There is no figure {name}: take one of {', '.join(known)}.")
    # By name: so that code.py can tell which figures a changed line belongs to.
    function = getattr(sys.modules[__name__], base if base in OWN_FIGURES else "heatmaps")
    own = () if base in OWN_FIGURES else (settings["pairs"][base],)
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
        figure = function(metrics, settings, *own)
        figure.draw_without_rendering()  # places everything, once for all formats
        figure.set_layout_engine("none")
        return figure


def write(name, metrics, settings: dict, output_dir) -> None:
    """Write output_dir/NAME.png (200 dpi) and .pdf, without a date. Raises UserError as draw."""
    figure = draw(name, load_metrics(metrics), settings)
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
        for suffix, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
            with atomic_path(Path(output_dir) / f"{name}.{suffix}") as temporary:
                options = {"dpi": 200, "metadata": metadata, "bbox_inches": "tight"}
                figure.savefig(temporary, format=suffix, pad_inches=0.04, **options)
