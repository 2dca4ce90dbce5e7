"""The figure of how linear an encoder is in each part of a task vector."""

import numpy as np
from matplotlib.figure import Figure

from .cells import Measured
from .drawing import center, legend_above, new_figure, style_of

KINDS = {"attention": "Attention of a block", "mlp": "MLP of a block", "block": "Whole block"}
OTHERS = {"embedding": "embedding", "head": "head", "whole": r"whole $\tau$"}
RATIO = r"$\mathrm{E}\Vert f - f_\mathrm{lin}\Vert\ /\ \mathrm{E}\Vert f - f(\theta_0)\Vert$"


def linearity(run: Measured) -> Figure:
    """Distance of f from f_lin over blocks, a panel for attention, MLP and both, on one scale, and
    one for what lies outside blocks and the whole τ; mean ± deviation over tasks of each mode."""
    part = run.part
    found = {mode: run.linearity(mode) for mode in part.modes}
    there = {layer for layers in found.values() for layer in layers}
    blocks = sorted({int(block) for block, dot, _ in (k.partition(".") for k in there) if dot})
    panels = {KINDS[k]: [f"{block}.{k}" for block in blocks] for k in KINDS}
    panels["Outside blocks, and all"] = [*OTHERS]
    panels = {title: own for title, own in panels.items() if there.intersection(own)}
    figure, axes = new_figure(0.9 + 2.1 * len(panels), 2.9, 1, len(panels))
    over_blocks = [*axes[0, : sum(title in KINDS.values() for title in panels)]]
    for panel in over_blocks[1:]:
        panel.sharey(over_blocks[0])
    for panel, (title, layers) in zip(axes[0], panels.items(), strict=True):
        of_blocks = panel in over_blocks
        for m, mode in enumerate(part.modes):
            color, marker, dashes, _ = style_of(mode, part)
            places = [x for x, layer in enumerate(layers) if layer in found[mode]]
            if not places:
                continue
            values = np.stack([center(found[mode][layers[x]]) for x in places], axis=1)
            spread = values.std(axis=0, ddof=1) if len(values) > 1 else None
            shift = 0.08 * (m - (len(part.modes) - 1) / 2)
            panel.errorbar(np.array(places) + shift, values.mean(axis=0), yerr=spread, color=color,
                           marker=marker, markersize=4, linestyle=dashes if of_blocks else "",
                           elinewidth=0.8, capsize=1.5, label=part.label(mode))  # fmt: skip
        names = [*map(str, blocks)] if of_blocks else [*OTHERS.values()]
        every = -(-len(names) // 8)  # so many stand beside each other
        panel.set_xticks(range(0, len(names), every), names[::every])
        panel.set(title=title, xlim=(-0.5, len(names) - 0.5))
        panel.set_xlabel("Block, from the input" if of_blocks else "Part")
    for panel in axes[0]:
        panel.set_ylim(bottom=0)
    axes[0, 0].set_ylabel(RATIO)
    entries = [panel.get_legend_handles_labels() for panel in axes[0][::-1]]
    handles = {label: handle for each in entries for handle, label in zip(*each, strict=True)}
    legend_above(figure, [handles[part.label(mode)] for mode in part.modes])
    return figure
