"""The figure of merging more and fewer tasks."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..config.view import SUM
from ..errors import UserError
from .cells import Measured
from .drawing import legend_above, legend_entries, new_figure, style_of

LINES = ["-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 3))]  # of methods
APART = 0.05  # places of two lines, in tasks, so that their bars do not cover each other


def number_of_tasks(run: Measured) -> Figure:
    """Normalized accuracy of merging subsets of the tasks against how many they are: a line for
    each mode and method, mean and deviation over the draws."""
    part = run.part
    if part.subsets is None:
        raise UserError("number_of_tasks is of subsets of the tasks: see analyses.number_of_tasks.")
    sizes, methods = np.array(part.subsets.sizes), part.subsets.methods
    figure, ((panel,),) = new_figure(4.6, 3.4)
    pairs = [(mode, method) for method in methods for mode in part.modes]
    for place, (mode, method) in enumerate(pairs):
        # Of each size the draws, each a mean over seeds.
        drawn = [100 * run.of_subsets(mode, size, method).mean(axis=0) for size in sizes]
        means = np.array([values.mean() for values in drawn])
        bars = [values.std(ddof=1) if len(values) > 1 else 0.0 for values in drawn]
        color, marker, *_ = style_of(mode, part)
        panel.errorbar(sizes + APART * (place - (len(pairs) - 1) / 2), means, yerr=bars,
                       color=color, marker=marker, markersize=4,
                       linestyle=LINES[[*methods].index(method) % len(LINES)],
                       elinewidth=0.8, capsize=1.5,
                       markerfacecolor=color if method == SUM else "white")  # fmt: skip
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set(xlabel="Merged tasks", ylabel="Normalized accuracy, mean over them (%)")
    lines = [
        Line2D([], [], color="0.3", linestyle=line, label=title, marker="o", markersize=4,
               markerfacecolor="0.3" if label == SUM else "white")
        for (label, title), line in zip(methods.items(), LINES * len(methods), strict=False)
    ]  # fmt: skip
    legend_above(figure, [*legend_entries(part, part.modes), *lines])
    return figure
