"""The figure of how linear an encoder is in each part of a task vector."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .cells import Measured
from .drawing import center, legend_above, new_figure, style_of

KINDS = {"attention": "Attention of a block", "mlp": "MLP of a block", "block": "Whole block"}
OTHERS = ["embedding", "head", "whole"]


def linearity(run: Measured) -> Figure:
    """Distance of f from f_lin over blocks, a panel for attention, MLP and both, and one for what
    lies outside blocks and for the whole τ; of each mode a line, mean ± deviation over tasks."""
    part = run.part
    found = {mode: run.linearity(mode) for mode in part.modes}
    kinds = [
        k for k in KINDS if any(layer.endswith("." + k) for f in found.values() for layer in f)
    ]
    others = [name for name in OTHERS if any(name in layers for layers in found.values())]
    count = len(kinds) + bool(others)
    figure, axes = new_figure(0.8 + 2.1 * count, 2.9, 1, count, sharey=True)
    for m, (mode, layers) in enumerate(found.items()):
        shift = 0.08 * (m - (len(found) - 1) / 2)
        for panel, kind in zip(axes[0], kinds, strict=False):
            blocks = sorted(int(k.split(".")[0]) for k in layers if k.endswith("." + kind))
            values = [layers[f"{block}.{kind}"] for block in blocks]
            _line(panel, run, mode, np.array(blocks) + shift, values, line=True)
        own = [name for name in others if name in layers]
        if own:
            places = np.array([others.index(name) for name in own]) + shift
            _line(axes[0, -1], run, mode, places, [layers[name] for name in own])
    for panel, kind in zip(axes[0], kinds, strict=False):
        panel.set_title(KINDS[kind])
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.set_xlabel("Block, from the input")
    if others:
        axes[0, -1].set_title("Outside blocks, and all")
        axes[0, -1].set_xticks(
            range(len(others)), [{"whole": r"whole $\tau$"}.get(o, o) for o in others]
        )
        axes[0, -1].set_xlim(-0.5, len(others) - 0.5)
    axes[0, 0].set_ylabel(
        r"$\mathrm{E}\Vert f - f_\mathrm{lin}\Vert\ /\ \mathrm{E}\Vert f - f(\theta_0)\Vert$"
    )
    axes[0, 0].set_ylim(bottom=0)
    entries = [panel.get_legend_handles_labels() for panel in axes[0]]
    handles = {label: handle for each in entries for handle, label in zip(*each, strict=True)}
    legend_above(figure, handles.values(), list(handles))
    return figure


def _line(
    panel: Axes,
    run: Measured,
    mode: str,
    x: np.ndarray,
    values: list[np.ndarray],
    line: bool = False,
) -> None:
    """Means over tasks of values (S, T) at x, and their deviation over tasks; first over seeds."""
    if not values:
        return
    color, marker, dashes, _ = style_of(mode, run.part)
    of_tasks = np.stack([center(each) for each in values], axis=1)
    deviation = of_tasks.std(axis=0, ddof=1) if len(of_tasks) > 1 else None
    panel.errorbar(x, of_tasks.mean(axis=0), yerr=deviation, color=color, marker=marker,
                   markersize=4, linestyle=dashes if line else "", elinewidth=0.8, capsize=1.5,
                   label=run.part.label(mode))  # fmt: skip
