"""A figure's SVG as part of a page: its own ids, and colours for a light and for a dark page.

Colours are CSS variables of the page, `--c` and the six digits, beside themselves for a browser
that knows no light-dark(). Where colours are data (drawing.ON_MAP) they stay.
"""

import re
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from .drawing import ON_MAP

DARK = 0.0103  # relative luminance of a dark page, #1a1a1a
LARGEST = 0.83  # of what is drawn on it; white would glare
COLOR = re.compile(r"(fill|stroke): (#[0-9a-f]{6})")


class Inline(NamedTuple):
    """An <svg> element, its width in points, and the colours in it that a dark page exchanges."""

    svg: Markup
    width: float
    colors: frozenset[str]


def inline(text: str, name: str) -> Inline:
    """A file that drawing.save wrote, as an element.

    Args:
        name: of the figure; its ids begin with it.
    """
    size = re.search(r'<svg[^>]* width="([\d.]+)pt"[^>]* (viewBox="[^"]*")', text)
    assert size
    body = text[text.index(">", size.start()) + 1 :].replace("xlink:href", "href")
    body = re.sub(r"<style.*?</style>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"\s*\n\s*", "\n", body)
    body = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}:", body)  # no name has a colon
    body = re.sub(r'(fill|stroke)="(#[0-9a-f]{6})"', r'style="\1: \2"', body)
    kept = rf'(<g id="{re.escape(name)}:{ON_MAP}.*?</g>)'
    pieces = re.split(kept, body, flags=re.DOTALL)  # every second one keeps its colours
    found = frozenset(color for piece in pieces[::2] for _, color in COLOR.findall(piece))
    pieces[::2] = [COLOR.sub(_variable, piece) for piece in pieces[::2]]
    svg = f'<svg class="drawn" role="img" {size[2]} aria-labelledby="caption-{name}">'
    return Inline(Markup(svg + "".join(pieces)), float(size[1]), found)  # our own, not a user's


def _variable(found: re.Match[str]) -> str:
    return f"{found[1]}: var(--c{found[2][1:]}, {found[2]})"


def on_dark(color: str) -> str:
    """What stands on a dark page for a colour, #rrggbb, on a white one: itself, if it is no grey
    and has a contrast of 3 or more there; else what has the contrast there that it has on white, of
    the same hue. Contrast is WCAG's (L₁ + 0.05) / (L₂ + 0.05)."""
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ [0.2126, 0.7152, 0.0722])
    if np.ptp(rgb) > 0.05 and luminance + 0.05 >= 3 * (DARK + 0.05):
        return color
    wanted = min(LARGEST, 1.05 / (luminance + 0.05) * (DARK + 0.05) - 0.05)
    factor = min(wanted / max(luminance, 1e-9), 1 / max(float(linear.max()), 1e-9))
    linear, luminance = factor * linear, factor * luminance
    if wanted > luminance + 1e-9:  # the rest of the way with white
        linear = linear + (wanted - luminance) / (1 - luminance) * (1 - linear)
    rgb = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return "#" + "".join(f"{round(255 * x):02x}" for x in rgb)


def variables(colors: frozenset[str]) -> Markup:
    """CSS declarations of the variables of these colours, and of black."""
    return Markup(
        " "
    ).join(  # digits alone
        Markup("--c{}: light-dark({}, {});").format(color[1:], color, on_dark(color))
        for color in sorted(colors | {"#000000"})
    )
