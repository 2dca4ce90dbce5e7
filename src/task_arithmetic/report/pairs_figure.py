"""The figure of disentanglement errors of all pairs of tasks."""

import textwrap

import numpy as np
from matplotlib.figure import Figure

from .cells import Measured
from .drawing import HEAT, center, new_figure, task_matrix

UNITS = {"representation": "KL divergence (nats)", "classification": "changed predictions"}


def pairs(run: Measured) -> Figure:
    """ξ of every two tasks at each mode's chosen α: a row for each module, a column for each mode,
    one colour scale for each module, the mean over pairs in the title."""
    part = run.part
    modes, n = [*part.modes], len(part.tasks)
    side = max(1.9, 0.31 * n)
    size = 1.4 + side * len(modes), 2 * side + 1.5
    figure, axes = new_figure(*size, 2, len(modes), "compressed", sharex=True, sharey=True)
    for row, (module, unit) in zip(axes, UNITS.items(), strict=True):
        maps = [center(run.pair_errors(module, mode)) for mode in modes]
        top = np.nanmax(maps) or 1
        form = "{:.3f}" if top < 0.1 else "{:.2f}"
        for cell, mode, values in zip(row, modes, maps, strict=True):
            image = task_matrix(cell, values, part.tasks, form, cmap=HEAT, vmin=0, vmax=top)
            title = f"mean {np.nanmean(values):.3g}"
            if module == next(iter(UNITS)):
                alphas = run.chosen_alpha(part.focus, mode)
                at = ", ".join(f"{alpha:g}" for alpha in dict.fromkeys(alphas))
                zero = "\nα = 0: ξ is 0" * bool((alphas == 0).any())
                label = textwrap.fill(part.label(mode), 26)
                title = f"{label}\nα = {at}, {title}{zero}"
            cell.set_title(title)
        row[0].set_ylabel(module.capitalize())
        bar = figure.colorbar(image, ax=list(row), pad=0.015)
        bar.set_label(rf"$\xi_{{ij}}$: {unit}", fontsize=7)
    return figure
