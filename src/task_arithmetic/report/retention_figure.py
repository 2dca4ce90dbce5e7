"""The figure of what merged models keep of the control task."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..config.view import SUM
from ..errors import UserError
from .cells import Measured, percent
from .drawing import (
    Panel,
    legend_above,
    legend_entries,
    new_figure,
    number_tasks,
    points,
)

SMALL, RING = 4.5, 9  # sizes of a mark, and of what the sum's has around it


def retention(run: Measured) -> Figure:
    """Accuracy on the control task against normalized accuracy on the merged ones: a mark for each
    mode and method, whose number stands beside it."""
    part = run.part
    if not part.control:
        raise UserError("retention is of the control task: name one in `negation.control`.")
    merged = part.focus in part.merged_encoders
    methods = [*part.compared_methods] if merged else [SUM]
    before = run.pretrained(part.focus, [part.control])[0, 0]
    figure, ((panel,),) = new_figure(5.2, 4.4)
    marks, rings = [], []
    for mode in part.modes:
        x, y = (np.stack(values, axis=1) for values in zip(*(
            (percent(run.normalized(part.focus, mode, method=method)),
             100 * run.retained(mode, method) / before)
            for method in methods
        ), strict=True))  # fmt: skip
        marks.append(points(panel, x, y, mode, part, SMALL))
        of_sum = x[:, :1], y[:, :1]
        rings.append(points(panel, *of_sum, mode, part, RING, fillstyle="none"))
    panel.axhline(100, color="0.4", linestyle="--", linewidth=0.9, zorder=1)
    panel.set(xlabel="Normalized accuracy, mean over the merged tasks (%)",
              ylabel=f"Accuracy on {part.control} (% of pre-trained)")  # fmt: skip
    ring = Line2D([], [], marker="o", color="0.35", linestyle="", markersize=RING,
                  fillstyle="none", label=part.method_title(SUM))  # fmt: skip
    line = Line2D([], [], color="0.4", linestyle="--", linewidth=0.9, label="Pre-trained")
    legend_above(figure, [*legend_entries(part, part.modes), ring, line])
    if len(methods) > 1:
        titles = [part.method_title(method) for method in methods]
        number_tasks(figure, [Panel(panel, marks, rings)], titles)
    return figure
