"""Drawing primitives of the embedded tasks, and of the images that pretrained the encoders.

Everything is drawn on a 64 x 64 canvas and halved to 32 x 32, from one random generator per image,
so that an image depends on nothing but its own seed. Fonts come from matplotlib's wheel.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

import matplotlib
import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Colour = tuple[int, ...]  # red, green, blue; 0..255
T = TypeVar("T")
Point = tuple[float, float]  # x to the right, y downward; pixels of the canvas
Numbers = Sequence[float] | np.ndarray

SIDE = 32  # side of a finished image in pixels
CANVAS = 64  # side of the canvas on which it is drawn
MIDDLE = (CANVAS / 2, CANVAS / 2)

FONT_FOLDER = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
# The pretraining corpus has others: a printed letter of a task was never seen in it.
TASK_FONTS = tuple(
    f"{name}.ttf"
    for name in "STIXGeneral STIXGeneralBol STIXGeneralItalic STIXGeneralBolIta cmr10 cmb10 cmss10 "
    "cmtt10 cmti10 DejaVuSansMono DejaVuSansMono-Bold".split()
)


def pick(rng: Generator, sequence: Sequence[T]) -> T:
    """One element of a sequence (rng.choice would turn strings and tuples into arrays)."""
    return sequence[int(rng.integers(len(sequence)))]


def jitter(rng: Generator, colour: Numbers, amount: float = 18.0) -> Colour:
    """A colour (3 values, 0..255) moved by normal noise of the given standard deviation."""
    return tuple(int(v) for v in np.clip(np.asarray(colour) + rng.normal(0, amount, 3), 0, 255))


def mix(first: Numbers, second: Numbers, share: float) -> Colour:
    """The colour that lies `share` (0..1) of the way from the first to the second."""
    return tuple(int(a + (b - a) * share) for a, b in zip(first, second, strict=False))


def distinct(rng: Generator, other: Numbers, distance: float = 110.0) -> Colour:
    """A random colour at least `distance` (Euclidean, 0..441) away from another one."""
    for _ in range(20):
        colour = rng.integers(0, 256, 3)
        if np.linalg.norm(colour - np.asarray(other)) >= distance:
            break
    return tuple(int(v) for v in colour)


def field(rng: Generator, cells: int) -> np.ndarray:
    """Smooth noise in about 0..1, (64, 64) float32: random values on a cells x cells grid."""
    grid = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    return np.asarray(grid.resize((CANVAS, CANVAS), Image.Resampling.BICUBIC))


def plain(colour: Colour) -> Image.Image:
    """A canvas of one colour."""
    return Image.new("RGB", (CANVAS, CANVAS), colour)


def blend(first: Numbers, second: Numbers, weight: np.ndarray) -> Image.Image:
    """A canvas that goes from the first colour to the second where weight (64, 64) goes 0 to 1."""
    weight = np.clip(weight, 0, 1)[..., None]
    one, other = np.asarray(first, np.float32), np.asarray(second, np.float32)
    return Image.fromarray((one + (other - one) * weight).astype(np.uint8))


def scenery(rng: Generator, strength: float = 1.0) -> Image.Image:
    """A cluttered, photograph-like background: coloured noise at two scales and a few edges."""
    base = rng.integers(30, 226, 3)
    other = np.clip(base + rng.normal(0, 60 * strength, 3), 0, 255)
    weight = 0.65 * field(rng, 3) + 0.35 * field(rng, 14)
    image = blend(base, other, weight)
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(0, 4)):
        colour = jitter(rng, mix(base, other, rng.random()), 25 * strength)
        start = rng.uniform(-10, CANVAS + 10, 2)
        if rng.random() < 0.5:
            draw.line([*start, *rng.uniform(-10, CANVAS + 10, 2)], colour, int(rng.integers(2, 7)))
        else:
            draw.rectangle([*start, *(start + rng.uniform(8, 40, 2))], colour)
    return image


def layer(colour: Colour = (128, 128, 128)) -> Image.Image:
    """A transparent canvas to draw a foreground on; its hidden colour keeps the edges clean."""
    return Image.new("RGBA", (CANVAS, CANVAS), (*colour, 0))


@lru_cache(maxsize=256)
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONT_FOLDER / name), size)


@lru_cache(maxsize=4096)
def glyph(name: str, text: str, size: int = 46, stroke: int = 0) -> Image.Image:
    """Mask (mode L, 64 x 64) of a text in a font, its ink centred; stroke: pixels added around."""
    mask = Image.new("L", (CANVAS, CANVAS), 0)
    font = _font(name, size)
    left, top, right, bottom = font.getbbox(text)
    position = ((CANVAS - left - right) / 2, (CANVAS - top - bottom) / 2)
    ImageDraw.Draw(mask).text(position, text, fill=255, font=font, stroke_width=stroke)
    return mask


def text_layer(name: str, text: str, colour: Colour) -> Image.Image:
    """A transparent layer with a text in one colour."""
    foreground = Image.new("RGBA", (CANVAS, CANVAS), (*colour, 255))
    foreground.putalpha(glyph(name, text))
    return foreground


class Pose(NamedTuple):
    """How a layer lies on a background.

    Attributes:
        scale: its size. angle: in degrees. shift: in pixels of the canvas. shear: slant of the
            verticals. tilt: perspective in x and y, at most about 0.3.
    """

    scale: float = 1.0
    angle: float = 0.0
    shift: Numbers = (0.0, 0.0)
    shear: float = 0.0
    tilt: Numbers = (0.0, 0.0)


def pose(
    rng: Generator,
    low: float,
    high: float,
    turn: float,
    reach: float,
    shear: float = 0.1,
    tilt: float = 0.0,
) -> Pose:
    """A random pose: a size between low and high, and normal noise of the given standard
    deviations: turn in degrees, reach in pixels. tilt: the largest one."""
    return Pose(
        rng.uniform(low, high),
        rng.normal(0, turn),
        rng.normal(0, reach, 2),
        rng.normal(0, shear),
        rng.uniform(-tilt, tilt, 2) if tilt else (0.0, 0.0),
    )


def place(foreground: Image.Image, background: Image.Image, how: Pose) -> Image.Image:
    """Put a layer over a background after a perspective map about the canvas's centre."""
    scale, angle, shift, shear, tilt = how
    centre = CANVAS / 2
    cos, sin = np.cos(np.radians(angle)) / scale, np.sin(np.radians(angle)) / scale
    # PIL asks for the inverse map, from output to input pixels.
    a, b, d, e = cos, sin + shear * cos, -sin, cos - shear * sin
    g, h = tilt[0] / CANVAS, tilt[1] / CANVAS
    x0, y0 = centre + shift[0], centre + shift[1]
    w = 1 - g * x0 - h * y0
    across = a + centre * g, b + centre * h, centre * w - a * x0 - b * y0
    down = d + centre * g, e + centre * h, centre * w - d * x0 - e * y0
    coefficients = tuple(value / w for value in (*across, *down, g, h))
    moved = foreground.transform(
        (CANVAS, CANVAS),
        Image.Transform.PERSPECTIVE,
        coefficients,
        Image.Resampling.BILINEAR,
        fillcolor=(*np.asarray(foreground)[0, 0, :3].tolist(), 0),
    )
    result = background.copy()
    result.paste(moved, (0, 0), moved)
    return result


def finish(
    image: Image.Image,
    rng: Generator,
    blur: float = 0.0,
    noise: float = 0.0,
    contrast: float = 1.0,
    brightness: float = 0.0,
    saturation: float = 1.0,
) -> np.ndarray:
    """Halve a canvas to (32, 32, 3) uint8 and degrade it as a camera would.

    blur: standard deviation in canvas pixels; noise: in grey levels (0..255); brightness: grey
    levels added; contrast and saturation: factors.
    """
    if blur:
        image = image.filter(ImageFilter.GaussianBlur(blur))
    pixels = np.asarray(image.reduce(CANVAS // SIDE))
    pixels = pixels.astype(np.float32)
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = grey + (pixels - grey) * saturation
    pixels = 128 + (pixels - 128) * contrast + brightness
    if noise:
        pixels += rng.normal(0, noise, pixels.shape)
    return np.clip(pixels, 0, 255).round().astype(np.uint8)


# Polygons, all inside the circle of radius 1 about the origin, y downward.


def ring_points(corners: int, radius: float = 1.0, turn: float = -90.0) -> np.ndarray:
    """Corners of a regular polygon, (corners, 2); turn: direction of the first one in degrees."""
    angles = np.radians(turn) + 2 * np.pi * np.arange(corners) / corners
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def star_points(rays: int, inner: float = 0.42) -> np.ndarray:
    """Corners of a star with the given number of rays."""
    points = ring_points(2 * rays)
    points[1::2] *= inner
    return points


def heart_points() -> np.ndarray:
    """Outline of a heart."""
    t = np.linspace(0, 2 * np.pi, 40)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y - 2], axis=1) / 17


_ARM = np.array([(-1, -3), (1, -3), (1, -1)]) / 3.0
CROSS = np.concatenate([_ARM, _ARM[:, ::-1] * (-1, 1), -_ARM, _ARM[:, ::-1] * (1, -1)])
ARROW = np.array(
    [(0, -1), (0.8, -0.1), (0.32, -0.1), (0.32, 0.95), (-0.32, 0.95), (-0.32, -0.1), (-0.8, -0.1)]
)


def at(
    points: Sequence[Point] | np.ndarray,
    radius: float,
    centre: Point = MIDDLE,
    angle: float = 0.0,
) -> list[Point]:
    """Unit points -> a list of canvas positions for ImageDraw.polygon."""
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    turned = np.asarray(points) @ np.array([[cos, sin], [-sin, cos]])
    return [(x, y) for x, y in turned * radius + np.asarray(centre)]


def disc(
    draw: ImageDraw.ImageDraw,
    centre: Numbers,
    radius: float | Numbers,
    fill: Colour | None = None,
    outline: Colour | None = None,
    width: int = 1,
) -> None:
    """A circle; radius may be a pair (x, y)."""
    rx, ry = (radius, radius) if isinstance(radius, int | float) else radius
    box = [centre[0] - rx, centre[1] - ry, centre[0] + rx, centre[1] + ry]
    draw.ellipse(box, fill=fill, outline=outline, width=width)


def smooth_curve(points: Sequence[Point] | np.ndarray) -> list[Point]:
    """Catmull-Rom curve through points (n, 2), as a list of positions."""
    p = np.asarray(points, float)
    p = np.concatenate([p[:1], p, p[-1:]])
    t = np.linspace(0, 1, 8, endpoint=False)[:, None]
    parts = []
    for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False):
        square, cube = 2 * a - 5 * b + 4 * c - d, 3 * b - a - 3 * c + d
        parts.append(0.5 * (2 * b + (c - a) * t + square * t**2 + cube * t**3))
    return [(x, y) for x, y in np.concatenate([*parts, p[-1:]])]
