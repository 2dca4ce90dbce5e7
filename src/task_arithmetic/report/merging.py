"""Fine-tuning modes crossed with merging methods: the rows of their table, and what they say.

The sum, which task addition evaluates anyway, is the first method of each encoder and mode, and the
one that the others are compared with.
"""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..config.view import SUM, Needs, Part
from ..core.alpha import end_of_grid
from .cells import Measured, percent

COLUMNS = "encoder mode method absolute normalized alpha delta data seconds peak_memory_mb"
PUBLISHED = ["published", "published_normalized", "checkpoints"]  # beside them, where there are any
DATA: dict[Needs, str] = {
    "vectors": "none",
    "unlabelled": "inputs",
    "labelled": "labels",
    "transductive": "test inputs (transductive)",
}


class Cell(NamedTuple):
    """The unified model of an encoder, a mode and a merging method; accuracies in percent.

    Attributes:
        absolute, normalized: means over tasks (S,); normalized is NaN where no task has one.
        alpha: the chosen α (S,).
    """

    encoder: str
    mode: str
    method: str
    absolute: np.ndarray
    normalized: np.ndarray
    alpha: np.ndarray


def cells_of(run: Measured) -> Iterator[Cell]:
    """Every encoder that is merged, crossed with every mode and method, the sum first."""
    part = run.part
    for encoder, mode in product(part.merged_encoders, part.modes):
        tasks = run.normalizable(encoder, mode)
        for method in part.compared_methods:
            where = encoder, mode
            absolute = percent(run.unified(*where, method))
            normalized = np.full(len(absolute), np.nan)
            if tasks:
                normalized = percent(run.normalized(*where, tasks, method))
            yield Cell(*where, method, absolute, normalized, run.chosen_alpha(*where, method))


def rows(run: Measured) -> Iterator[dict[str, str | np.ndarray]]:
    """The rows of the table, in COLUMNS. Of the sum there is no time and no memory: it is formed
    while it is evaluated."""
    for cell in cells_of(run):
        if cell.method == SUM:
            of_sum = cell.absolute
        row = cell._asdict() | {
            "delta": cell.absolute - of_sum,  # of each seed, and so is its spread
            "data": DATA[run.part.compared_methods[cell.method].needs],
        }
        if cell.method != SUM:
            seconds, memory = (
                run.of_merge(metric, *cell[:3])
                for metric in ("merge_seconds", "merge_peak_memory_bytes")
            )
            row |= {"seconds": seconds, "peak_memory_mb": memory / 1e6}
        yield row


def beside(
    published: pd.DataFrame, tasks: int, encoder: str | None, mode: str, method: str
) -> dict[str, object]:
    """What is published of a row, in PUBLISHED, if anything is.

    Args:
        published: what reference.read_merging returns. tasks: how many. encoder: the paper's.
    """
    where = {"tasks": tasks, "encoder": encoder, "mode": mode, "method": method}
    found = published[(published[list(where)] == pd.Series(where)).all(axis=1)]
    values = found[["absolute", "normalized", "checkpoints"]]
    return dict(zip(PUBLISHED, values.iloc[0], strict=True)) if len(found) else {}


# ---------------------------------------------------------------- sentences


def sentences(run: Measured) -> list[str]:
    """For how many methods the modes are ahead of nonlinear, and where the grid of α may be too
    short; of every encoder that is merged."""
    found = [sentence_on_lead(run.part, cells) for cells in _of_encoders(run)]
    return [*filter(None, found), *sentence_on_grids(run)]


def _of_encoders(run: Measured) -> Iterator[list[Cell]]:
    every = list(cells_of(run))
    for encoder in run.part.merged_encoders:
        yield [cell for cell in every if cell.encoder == encoder]


def sentence_on_lead(part: Part, cells: list[Cell]) -> str:
    """Under how many methods attention, and ntk, are ahead of nonlinear on the mean over seeds.
    Equal is not ahead. Empty: the modes are not there.

    Args:
        cells: of one encoder.
    """
    if not {"attention", "nonlinear"} <= {*part.modes}:
        return ""
    clauses, methods = [], " methods"
    for mode in [mode for mode in ("attention", "ntk") if mode in part.modes]:
        counts = []
        for kind in ("absolute", "normalized"):
            count, number = _ahead(cells, kind, mode)
            if number:
                counts.append(f"under {count} of {number}{methods} in {kind} accuracy")
                methods = ""
        modes = f"{part.label(mode)} is ahead of {part.label('nonlinear')}"
        clauses.append(f"{modes} {' and '.join(counts)}")
    text = "; ".join(clauses)
    return f"Merging methods, {cells[0].encoder}: {text} ({part.method_title(SUM)} is one of them)."


def _ahead(cells: list[Cell], kind: str, mode: str) -> tuple[int, int]:
    """Under how many methods a mode is ahead of nonlinear, and of how many that can be compared."""
    means = {(cell.mode, cell.method): getattr(cell, kind).mean() for cell in cells}
    leads = [
        value - means["nonlinear", method] for (own, method), value in means.items() if own == mode
    ]
    return sum(lead > 1e-9 for lead in leads), int(np.isfinite(leads).sum())


def sentence_on_grids(run: Measured) -> list[str]:
    """Where the chosen α is an end of its method's grid; nothing if no method has a grid."""
    part, at_end = run.part, []
    grids = {label: method.grid for label, method in part.methods.items() if method.grid}
    grids = {label: grid for label, grid in grids.items() if grid[0] < grid[1]}
    if not grids:
        return []
    for encoder, method in product(part.merged_encoders, grids):
        modes = []
        for mode in part.modes:
            chosen = run.chosen_alpha(encoder, mode, method)
            ends = [end_of_grid(alpha, grids[method]) for alpha in chosen]
            for end in ("smallest", "largest"):
                seeds = f" in {ends.count(end)} of {len(ends)} seeds" * (len(ends) > 1)
                modes += [f"{part.label(mode)}: the {end}{seeds}"] * (end in ends)
        if modes:
            at_end.append(f"{encoder}, {part.method_title(method)} ({', '.join(modes)})")
    what = f"chosen for the merging methods on {'texts' if part.of_texts else 'images'}"
    if not at_end:
        return [f"No α {what} is an end of its grid."]
    where = "; ".join(at_end)
    return [f"The α {what} is an end of its grid, beyond which a better one may lie, for {where}."]
