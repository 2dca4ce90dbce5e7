"""The figure of accuracy around the chosen α, and how wide the plateau there is."""

from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..analysis.plateau import plateau
from ..config.view import SUM, central_mode
from .cells import Measured
from .drawing import center, new_figure, spread, style_of

SHARE = 0.95  # of the largest accuracy
FARTHEST = 4  # α/α* that is shown
MARKERS = "so^DvPXp<>hd"


class Curve(NamedTuple):
    """Accuracy around the chosen α of a mode and method.

    Attributes:
        ratios: α/α* (N,), where every seed with α* > 0 has one; empty: no seed has.
        values: accuracies there (seeds with α* > 0, N), in percent.
        chosen: α* (S,). low, high: ends of the plateau (S,). at_edge: that of some seed ends where
            the grid does.
    """

    ratios: np.ndarray
    values: np.ndarray
    chosen: np.ndarray
    low: np.ndarray
    high: np.ndarray
    at_edge: bool

    @property
    def width(self) -> str:
        """The plateau's width, absolute and relative to α*."""
        widths, some = self.high - self.low, self.chosen > 0
        deviation = spread(widths)
        text = f"{'≥ ' * self.at_edge}{center(widths):.2f}"
        text += "" if deviation is None else f" ± {deviation:.2f}"
        if some.any():
            text += f" ({(widths[some] / self.chosen[some]).mean():.1f} α*)"
        if not some.all():
            seeds = f" in {(~some).sum()} of {len(some)} seeds" * (len(some) > 1)
            text += f", α* = 0{seeds}: no ratio"
        return text


def robustness(run: Measured) -> Figure:
    """Mean normalized accuracy on validation against α/α*: of every mode for the sum, and of every
    merging method for one mode, if the run merges."""
    part, mode = run.part, central_mode(run.part)
    methods = [*part.compared_methods] if part.focus in part.merged_encoders else []
    count = 1 + bool(methods)
    size = 0.6 + 2.9 * count + 1.9 * bool(methods), 3.4 + 0.13 * len(part.modes)
    figure, axes = new_figure(*size, 1, count, sharey=True)
    left = axes[0, 0]
    for each in part.modes:
        color, marker, line, _ = style_of(each, part)
        style = {"color": color, "marker": marker, "linestyle": line}
        _draw(left, curve_of(run, each), part.label(each), style)
    left.set_title(part.method_title(SUM), loc="left")
    left.set_ylabel("Normalized accuracy on validation (%)")
    if methods:
        right, shades = axes[0, 1], matplotlib.colormaps["viridis"]
        for m, method in enumerate(methods):
            style = {"color": shades(0.9 * m / len(methods)), "marker": MARKERS[m % len(MARKERS)]}
            if method == SUM:  # as in the other panel
                color, marker, line, _ = style_of(mode, part)
                style = {"color": color, "marker": marker, "linestyle": line}
            _draw(right, curve_of(run, mode, method), part.method_title(method), style)
        right.set_title(part.label(mode), loc="left")
    below, beside = ("upper center", (0.45, -0.16)), ("center left", (1, 0.5))
    for panel, (loc, place) in zip(axes[0], (below, beside), strict=False):
        panel.axvline(1, color="0.4", linewidth=0.8, linestyle="--", zorder=1)
        panel.set_xlabel(r"$\alpha / \alpha^*$")
        panel.legend(title=f"Width of the {100 * SHARE:g} % plateau", loc=loc,
                     bbox_to_anchor=place, fontsize=6.5, title_fontsize=6.5)  # fmt: skip
    return figure


def curve_of(run: Measured, mode: str, method: str = SUM) -> Curve | None:
    """The curve of a mode and method of the encoder `focus`; None: no task has a normalized
    accuracy, or the grid has one α."""
    encoder = run.part.focus
    tasks = run.normalizable(encoder, mode)
    if not tasks:
        return None
    alphas, values = run.curve("normalized_accuracy", encoder, mode, tasks, method)
    if len(alphas) == 1:
        return None
    values, chosen = 100 * values.mean(axis=1), run.chosen_alpha(encoder, mode, method)
    found = [plateau(alphas, *each, SHARE) for each in zip(values, chosen, strict=True)]
    pairs = zip(found, chosen, strict=True)
    low, high = np.array([(each.low, each.high) if each else (at, at) for each, at in pairs]).T
    some = chosen > 0
    ratios = alphas[:, None] / chosen[some]
    first = ratios.min(axis=0).max(initial=0)
    last = ratios.max(axis=0).min(initial=FARTHEST)
    every = np.unique(ratios[(ratios >= first) & (ratios <= last)])
    grids = zip(ratios.T, values[some], strict=True)
    shown = np.array([np.interp(every, *each) for each in grids])
    return Curve(every, shown, chosen, low, high, any(each and each.at_edge for each in found))


def _draw(panel: Axes, curve: Curve | None, label: str, style: dict[str, Any]) -> None:
    """A thin line, its markers at the points of the grid, that is thick on the plateau."""
    if curve is None:
        return
    label = f"{label}: {curve.width}"
    if not len(curve.ratios):
        panel.plot([], [], label=label, **style)
        return
    x, y = curve.ratios, center(curve.values)
    panel.plot(x, y, linewidth=0.7, markersize=3, label=label, **style)
    if (band := spread(curve.values)) is not None:
        panel.fill_between(x, y - band, y + band, color=style["color"], alpha=0.15, linewidth=0)
    some = curve.chosen > 0
    ends = [(end[some] / curve.chosen[some]).mean() for end in (curve.low, curve.high)]
    inside = np.array([ends[0], *x[(x > ends[0]) & (x < ends[1])], ends[1]])
    inside = inside[inside <= x[-1]]
    panel.plot(inside, np.interp(inside, x, y), color=style["color"], linewidth=2.2, alpha=0.6)
