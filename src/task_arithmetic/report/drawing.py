"""What all figures share: the style of each mode, legends, numbered marks, files.

A mode has one colour, marker, line style and hatch in all figures, and the colours differ in
lightness, so that the figures can be read in grey. Where a mark is a task, its number stands
beside it. Files have reproducible bytes. Labels are plain Unicode (α₁, not mathtext), whose text in
SVG can be selected and searched for as it is read.
"""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..config.view import Part
from ..files.paths import PathLike, atomic_path

HEAT = "magma_r"  # perceptually uniform; little is light
SIGNED = "PuOr_r"  # 0 is light; told apart without red and green
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
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "task arithmetic",  # ids that do not change
}
FORMATS: dict[str, dict[str, None]] = {  # what is left out of each: dates, versions, addresses
    "png": {"Software": None},
    "pdf": {"CreationDate": None},
    "svg": dict.fromkeys(["Creator", "Date", "Format", "Type"]),
}
HEAT = "magma_r"  # perceptually uniform; little is light
SIGNED = "PuOr_r"  # of −x to x: 0 is light; told apart without red and green
ON_MAP = "on-map"  # begins the id, in SVG, of what is drawn on colours that are data


class ModeStyle(NamedTuple):
    """How a mode is drawn; line: as matplotlib names or dashes it."""

    color: str
    marker: str
    line: Any
    hatch: str


MODE_STYLES = {
    "nonlinear": ModeStyle("#2288c9", "o", "-", ""),
    "ntk": ModeStyle("#e69f00", "^", "--", "////"),
    "attention": ModeStyle("#003d33", "s", "-.", ".."),
    "posthoc": ModeStyle("#cc79a7", "D", ":", "xxxx"),
}
OTHER_STYLES = [
    ModeStyle("#8c6bb1", "v", (0, (5, 1)), "\\\\\\\\"),
    ModeStyle("#d55e00", "P", (0, (3, 1, 1, 1, 1, 1)), "++++"),
    ModeStyle("#7f7f7f", "X", (0, (1, 1)), "----"),
    ModeStyle("#661100", "p", (0, (5, 3)), "oo"),
]


def style_of(mode: str, part: Part) -> ModeStyle:
    """The style of a mode, the same in all figures."""
    if mode in MODE_STYLES:
        return MODE_STYLES[mode]
    others = [other for other in (*part.modes, *part.ablations) if other not in MODE_STYLES]
    return OTHER_STYLES[others.index(mode) % len(OTHER_STYLES)]


def center(values: np.ndarray) -> np.ndarray:
    """Mean over seeds (first axis)."""
    return values.mean(axis=0)


def spread(values: np.ndarray) -> np.ndarray | None:
    """Sample standard deviation over seeds (first axis), None for one seed."""
    return values.std(axis=0, ddof=1) if len(values) > 1 else None


@contextmanager
def styled() -> Iterator[None]:
    """Draw with matplotlib's own defaults and STYLE over them, whatever the user's are."""
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
        yield


def new_figure(
    width: float,
    height: float,
    rows: int = 1,
    columns: int = 1,
    layout: Literal["constrained", "compressed"] = "constrained",
    **options: Any,
) -> tuple[Figure, np.ndarray]:
    """A figure of so many inches and its axes, always an array (rows, columns)."""
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def placed(figure: Figure) -> Figure:
    """The same figure, everything in its place, once for all formats."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def save(figure: Figure, folder: PathLike, name: str) -> None:
    """Write folder/NAME.png (200 dpi), .pdf and .svg of a placed figure, without a date."""
    _name_maps(figure)
    with styled():
        box = figure.get_tightbbox().padded(0.04)  # once for all formats; inches
        for suffix, metadata in FORMATS.items():
            with atomic_path(Path(folder) / f"{name}.{suffix}") as temporary:
                figure.savefig(
                    temporary, format=suffix, dpi=200, metadata=metadata, bbox_inches=box
                )


def _name_maps(figure: Figure) -> None:
    """Give ids to what has colours of data, and to all that lies on an image or a filled contour:
    elsewhere a page may exchange colours for those of a dark one."""
    for axes in figure.axes:
        drawn = [*axes.collections, *axes.images, *axes.texts, *axes.lines, *axes.patches]
        maps = any(isinstance(each, (AxesImage, QuadMesh, ContourSet)) for each in drawn)
        for i, artist in enumerate([*drawn, axes.patch]):
            if maps or getattr(artist, "get_array", lambda: None)() is not None:
                artist.set_gid(f"{ON_MAP}-{figure.axes.index(axes)}-{i}")


def legend_entries(part: Part, modes: Iterable[str]) -> list[Line2D]:
    """Legend handles: a mode's colour and marker."""
    entries = []
    for mode in modes:
        color, marker, label = *style_of(mode, part)[:2], textwrap.fill(part.label(mode), 26)
        entries.append(Line2D([], [], color=color, marker=marker, linestyle="", label=label))
    return entries


def legend_above(
    figure: Figure,
    handles: Iterable[Artist],
    labels: Sequence[str] | None = None,
    loc: str = "outside upper center",
    **options: Any,
) -> None:
    """A legend above all panels, in as many columns as fit the figure's width.

    Args:
        labels: of the handles; their own by default.
    """
    handles = list(handles)
    labels = [str(handle.get_label()) for handle in handles] if labels is None else labels
    entry = 0.55 + 0.062 * max(map(len, labels))  # inches
    columns = min(len(labels), max(1, int(figure.get_figwidth() / entry)))
    rows = -(-len(labels) // columns)
    figure.legend(handles, labels, loc=loc, ncols=-(-len(labels) // rows), **options)


class Marks(NamedTuple):
    """Marks of one colour at x and y (N,), of the tasks in order."""

    x: np.ndarray
    y: np.ndarray
    color: str


class Panel(NamedTuple):
    """Axes, their marks to number, and other marks that are not to be covered."""

    axes: Axes
    marks: list[Marks]
    others: list[Marks]


def number_tasks(figure: Figure, panels: list[Panel], tasks: Sequence[str]) -> None:
    """The number of its task beside each mark of each panel, where nothing else is, and below all
    panels what the numbers stand for."""
    numbers = [str(i + 1) for i in range(len(tasks))]
    labels = [f"{number}  {task}" for number, task in zip(numbers, tasks, strict=True)]
    nothing = Line2D([], [], linestyle="")
    below = "outside lower center"
    legend_above(figure, [nothing] * len(tasks), labels, below, handlelength=0, handletextpad=0)
    figure.draw_without_rendering()  # where the marks are, in points, is known from here
    behind = dict(boxstyle="round,pad=0.05", facecolor="white", edgecolor="none", alpha=0.7)
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
                                      arrowprops=arrow if np.hypot(*way) > 8 else None,
                                      bbox=behind)  # fmt: skip
                label.set_in_layout(False)
                taken, sizes = np.vstack([taken, at[i] + way]), np.vstack([sizes, own])


def equal_axes(panels: list[Panel], low: float, xlabel: str) -> None:
    """Both axes in percent from `low` to 101, square, with the diagonal of equal accuracy."""
    low = max(0, 5 * np.floor((low - 2) / 5))
    for axes, *_ in panels:
        axes.plot([low, 101], [low, 101], color="0.4", linestyle="--", linewidth=0.9, zorder=1)
        axes.set(xlim=(low, 101), ylim=(low, 101), aspect="equal", xlabel=xlabel)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10], integer=True))


def points(
    axes: Axes, x: np.ndarray, y: np.ndarray, mode: str, part: Part, size: float, **options: Any
) -> Marks:
    """Markers at the means of x, y (S, N), with error bars if there are several seeds."""
    style = style_of(mode, part)
    axes.errorbar(center(x), center(y), xerr=spread(x), yerr=spread(y), elinewidth=0.7,
                  linestyle="", color=style.color, marker=style.marker, markersize=size,
                  markeredgewidth=0.9, **options)  # fmt: skip
    return Marks(center(x), center(y), style.color)


def task_matrix(
    axes: Axes, values: np.ndarray, tasks: Sequence[str], form: str, **options: Any
) -> AxesImage:
    """An image of values (T, T) of two tasks each, rows from the top, and the numbers in it.

    Args:
        values: NaN: grey, without a number. form: of the numbers, as "{:.2f}".
        options: of imshow.
    """
    image = axes.imshow(np.ma.masked_invalid(values), interpolation="nearest", **options)
    axes.set_facecolor("0.8")
    for i, j in np.argwhere(np.isfinite(values)):
        color = np.array(image.cmap(image.norm(values[i, j]))[:3])
        dark = color**2.2 @ [0.2126, 0.7152, 0.0722] < 0.179  # equal contrast to black, white
        text = form.format(values[i, j])
        text = text.replace("-", "−") if float(text) else text.replace("-", "")
        axes.text(j, i, text, ha="center", va="center", fontsize=5.6,
                  color="white" if dark else "black")  # fmt: skip
    places = range(len(tasks))
    axes.set_xticks(places, tasks, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(places, tasks)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return image
