"""Figures over depth: how task vectors lie to each other in each layer, and of what rank they are.

A panel for each kind of weight matrices, in it a line for each mode that moves them.
"""

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from .cells import Measured
from .drawing import center, legend_above, legend_entries, new_figure, style_of

KINDS = {  # in the order of the panels
    "qkv": "Queries, keys, values",
    "out": "Attention output",
    "cross": "Cross-attention",
    "mlp": "MLP",
}
RANKS = {
    "stable_rank": "Stable rank\n" r"$\Vert\tau\Vert_F^2\,/\,\sigma_1^2$",
    "effective_rank": "Effective rank\n" r"$e^{H}$",
    "top_energy": "Energy in the\ntop $r/T$ values",
}
NONE = "No mode of this run moves a weight matrix of a block."


def layers(run: Measured) -> Figure:
    """Cosine similarities of the task vectors in each layer, mean ± standard deviation over pairs,
    and below them relative norms, over tasks."""
    part = run.part
    grid = _Grid(run, "relative_norm")
    if not grid.kinds:
        return empty(NONE)
    several = len(part.tasks) > 1
    figure, axes = new_figure(1.1 + 2.1 * len(grid.kinds), 1 + 1.9 * (1 + several),
                              1 + several, len(grid.kinds), sharex=True, sharey="row")  # fmt: skip
    without, count = 0, 0
    for mode, column, own, blocks in grid.lines():
        norms = run.in_layers("relative_norm", mode, own, part.tasks)
        _line(axes[-1, column], run, mode, blocks, center(norms))
        if several:
            found = run.layer_cosines(mode, own)
            without, count = without + int(np.isnan(found).sum()), count + found.size
            with warnings.catch_warnings():  # all of a layer may be missing
                warnings.simplefilter("ignore", RuntimeWarning)
                _line(axes[0, column], run, mode, blocks, np.nanmean(found, axis=0))
    axes[-1, 0].set_ylabel(r"$\Vert\tau_t\Vert\,/\,\Vert\theta_0\Vert$")
    for panel in axes[-1]:
        panel.set_ylim(bottom=0)
    if several:
        axes[0, 0].set_ylabel("Cosine similarity of pairs")
        for panel in axes[0]:
            panel.axhline(0, color="0.2", linewidth=0.8, zorder=1)
    grid.finish(axes)
    entries = legend_entries(part, part.modes)
    if without:
        said = f"{without} of {count} without cosine: a vector is zero"
        entries.append(Line2D([], [], linestyle="", label=said))
    legend_above(figure, entries)
    return figure


def spectra(run: Measured) -> Figure:
    """Three measures of rank over depth, of the task vectors and of their sum; and of what each
    merging method makes of them, over all layers."""
    part = run.part
    grid = _Grid(run, "stable_rank")
    if not grid.kinds:
        return empty(NONE)
    methods, count = bool(part.methods), len(grid.kinds)
    ratios = [1.0] * count + [0.8 + 0.09 * len(part.methods)] * methods
    figure, axes = new_figure(0.9 + 2 * sum(ratios), 5.6, 3, count + methods,
                              width_ratios=ratios)  # fmt: skip
    for row, metric in zip(axes, RANKS, strict=True):
        for mode, column, own, blocks in grid.lines():
            style = style_of(mode, part)
            for name, fill, width in ((metric, "full", 1.4), (f"merged_{metric}", "none", 0.8)):
                values = center(run.in_layers(name, mode, own))[:, 0]
                row[column].plot(blocks, values, color=style.color, marker=style.marker,
                                 markersize=4, fillstyle=fill, linestyle=style.line,
                                 linewidth=width)  # fmt: skip
        row[0].set_ylabel(RANKS[metric])
        if methods:
            _of_methods(row[-1], run, metric)
        low, high = np.array([panel.get_ylim() for panel in row[:count]]).T
        for panel in row[:count]:
            panel.set_ylim(min(0, *low) if metric == "top_energy" else min(low), max(high))
            panel.tick_params(labelleft=panel is row[0])
    grid.finish(axes[:, :count])
    for panel in axes[:-1].flat:
        panel.tick_params(labelbottom=False)
    if methods:
        names = ["Individual", *(part.method_title(label) for label in part.compared_methods)]
        axes[-1, -1].set_xticks(range(len(names)), names, rotation=60, ha="right",
                                rotation_mode="anchor", fontsize=6.5)  # fmt: skip
        axes[0, -1].set_title("Mean over the layers\nthat all modes move")
    marks = [
        Line2D([], [], color="0.35", marker="o", markersize=4, label="Individual, mean over tasks"),
        Line2D([], [], color="0.35", marker="o", markersize=4, label="Their sum",
               fillstyle="none", linewidth=0.8),
    ]  # fmt: skip
    legend_above(figure, [*legend_entries(part, part.modes), *marks])
    return figure


def common_layers(run: Measured, metric: str) -> list[str]:
    """The layers that have a metric in all modes, but in those that move no weight matrix."""
    every = [own for mode in run.part.modes if (own := run.layers(metric, mode))]
    return [layer for layer in every[0] if all(layer in own for own in every)] if every else []


def _of_methods(panel: Axes, run: Measured, metric: str) -> None:
    """Means over the layers that all modes move: of the individual vectors, and of what each method
    makes of them."""
    modes = [mode for mode in run.part.modes if run.layers(metric, mode)]
    top, own = 0.0, common_layers(run, metric)
    for m, mode in enumerate(modes if own else []):
        style = style_of(mode, run.part)
        values = [run.in_layers(metric, mode, own)]
        values += [
            run.in_layers(f"merged_{metric}", mode, own, method=method)
            for method in run.part.compared_methods
        ]
        at = np.arange(len(values)) + 0.16 * (m - (len(modes) - 1) / 2)
        means = [float(each.mean()) for each in values]
        top = max(top, *means)
        panel.plot(at, means, color=style.color, linestyle="",
                   marker=style.marker, markersize=4, markeredgecolor="white",
                   markeredgewidth=0.4)  # fmt: skip
    panel.axvline(0.5, color="0.2", linewidth=0.8)
    panel.set_xticks(range(2 + len(run.part.methods)), [])
    panel.set_ylim(0, 1.1 * top)
    panel.grid(visible=False, axis="x")


class _Grid:
    """Which kinds of layers the modes of a run move."""

    def __init__(self, run: Measured, metric: str) -> None:
        self.run = run
        self.known = {mode: run.layers(metric, mode) for mode in run.part.modes}
        there = {layer.split(".")[1] for own in self.known.values() for layer in own}
        self.kinds = [kind for kind in KINDS if kind in there]

    def lines(self) -> Iterator[tuple[str, int, list[str], list[int]]]:
        """Each mode and kind that it moves: the mode, the panel's column, layers and blocks."""
        for mode, known in self.known.items():
            for column, kind in enumerate(self.kinds):
                own = [layer for layer in known if layer.endswith(f".{kind}")]
                if own:
                    yield mode, column, own, [int(layer.split(".")[0]) for layer in own]

    def finish(self, axes: np.ndarray) -> None:
        """Titles, and the axis of blocks; of a T5 with a line where its decoder begins."""
        crossed = [blocks[0] for _, c, _, blocks in self.lines() if self.kinds[c] == "cross"]
        for panel, kind in zip(axes[0], self.kinds, strict=True):
            panel.set_title(KINDS[kind])
        for panel in axes[-1]:
            panel.set_xlabel("Block (encoder ¦ decoder)" if crossed else "Block")
        known = [block for *_, blocks in self.lines() for block in blocks]
        first, last = min(known), max(known)
        margin = 0.05 * max(1, last - first)
        for panel in axes.flat:
            panel.xaxis.set_major_locator(MaxNLocator(7, integer=True))
            panel.set_xlim(first - margin, last + margin)
            if crossed:
                panel.axvline(min(crossed) - 0.5, color="0.5", linewidth=0.8, linestyle=":")


def _line(panel: Axes, run: Measured, mode: str, blocks: Sequence[int], values: np.ndarray) -> None:
    """Mean of values (L, N) over N, with a band of their sample standard deviation."""
    style, there = style_of(mode, run.part), np.isfinite(values).any(axis=1)
    mean, band = np.full(len(values), np.nan), np.zeros(len(values))
    mean[there] = np.nanmean(values[there], axis=1)
    counts = np.isfinite(values).sum(axis=1)
    some = counts > 1
    band[some] = np.nanstd(values[some], axis=1, ddof=1)
    panel.plot(blocks, mean, color=style.color, marker=style.marker, linestyle=style.line,
               markersize=3.5)  # fmt: skip
    panel.fill_between(blocks, mean - band, mean + band, color=style.color, alpha=0.15, linewidth=0)


def empty(sentence: str) -> Figure:
    """A figure that says why there is nothing in it."""
    figure, ((panel,),) = new_figure(5, 1)
    panel.text(0.5, 0.5, sentence, ha="center", va="center", transform=panel.transAxes)
    panel.set_axis_off()
    return figure
