"""Land seen from straight above, which fills the canvas."""

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from .draw import (
    CANVAS,
    Colour,
    Point,
    at,
    blend,
    disc,
    field,
    jitter,
    mix,
    pick,
    plain,
    smooth_curve,
)

LANDS = (
    "forest",
    "river",
    "highway",
    "residential buildings",
    "industrial buildings",
    "crop fields",
    "orchard",
    "pasture",
    "lake",
    "desert",
)


def _track(rng: Generator, bend: float) -> list[Point]:
    """A curve across the canvas in a random direction; bend: sideways noise in pixels."""
    along = np.linspace(-42, 42, 5)
    aside = rng.normal(0, bend, 5) + rng.uniform(-12, 12)
    return smooth_curve(at(np.stack([along, aside], axis=1), 1, angle=rng.uniform(0, 360)))


def turned(image: Image.Image, angle: float) -> Image.Image:
    """The middle of a 96 x 96 drawing after a rotation, 64 x 64."""
    return image.rotate(angle, Image.Resampling.BILINEAR).crop((16, 16, 80, 80))


def land(rng: Generator, name: str, palette: dict[str, Colour]) -> Image.Image:
    """A kind of land on a (64, 64) canvas; palette: the colour of wood, grass, soil, crop, sand,
    water, road, roof, hall and mark."""
    paint = {k: jitter(rng, v, 12) for k, v in palette.items()}
    big = CANVAS + 32
    angle = rng.uniform(0, 360)
    if name == "forest":
        image = plain(mix(paint["wood"], (0, 0, 0), 0.25))
        draw = ImageDraw.Draw(image)
        for x, y, r in zip(*rng.uniform(-2, 66, (2, 90)), rng.uniform(2.5, 5.5, 90), strict=False):
            disc(draw, (x, y), r, mix(jitter(rng, paint["wood"], 14), (0, 0, 0), rng.random() / 3))
    elif name in ("river", "highway"):
        ground = pick(rng, ("grass", "wood", "soil", "crop"))
        image = blend(paint[ground], mix(paint[ground], paint["grass"], 0.6), field(rng, 6))
        draw = ImageDraw.Draw(image)
        if name == "river":
            curve = _track(rng, 9)
            width = int(rng.integers(9, 19))
            draw.line(curve, mix(paint["water"], paint["soil"], 0.35), width + 4, joint="curve")
            draw.line(curve, paint["water"], width, joint="curve")
        else:
            for curve in [_track(rng, 1.5) for _ in range(1 + (rng.random() < 0.35))]:
                width = int(rng.integers(9, 14))
                draw.line(curve, paint["mark"], width + 2, joint="curve")
                draw.line(curve, paint["road"], width, joint="curve")
                for start in range(0, len(curve) - 2, 4):
                    draw.line(curve[start : start + 3], paint["mark"], 2)
    elif name in ("residential buildings", "industrial buildings"):
        homes = name.startswith("residential")
        image = Image.new("RGB", (big, big), paint["grass"] if homes else paint["road"])
        draw = ImageDraw.Draw(image)
        step, least, most = (15, 7, 11) if homes else (34, 20, 30)
        if homes:
            for row in range(0, big, 2 * step):
                draw.rectangle([0, row - 3, big, row + 1], paint["road"])
            draw.rectangle([45, 0, 50, big], paint["road"])
        for row in range(3, big, step):
            for column in range(3, big, step):
                width, height = rng.uniform(least, most, 2)
                roof = jitter(rng, paint["roof" if homes else "hall"], 22)
                x, y = column + rng.uniform(0, 3), row + rng.uniform(0, 3)
                shade = mix(roof, (0, 0, 0), 0.5)
                draw.rectangle([x + 2, y + 2, x + width + 2, y + height + 2], shade)
                draw.rectangle([x, y, x + width, y + height], roof)
                if homes:
                    draw.rectangle([x, y, x + width, y + height / 2], mix(roof, shade, 0.3))
                elif rng.random() < 0.7:
                    for line in np.arange(x + 4, x + width, 6):
                        draw.line([line, y, line, y + height], mix(roof, shade, 0.3), 2)
        image = turned(image, angle)
    elif name == "crop fields":
        image = Image.new("RGB", (big, big), paint["crop"])
        draw = ImageDraw.Draw(image)
        cuts = np.cumsum([0, *rng.uniform(18, 44, 6)])
        for left, right in zip(cuts, cuts[1:], strict=False):
            rows = np.cumsum([0, *rng.uniform(25, 60, 5)])
            for top, bottom in zip(rows, rows[1:], strict=False):
                colour = jitter(rng, paint[pick(rng, ("crop", "soil", "grass"))], 14)
                draw.rectangle([left, top, right, bottom], colour)
                stripe = mix(colour, (0, 0, 0), 0.18)
                if rng.random() < 0.7:
                    for x in np.arange(left + 2, right, 5):
                        draw.line([x, top, x, bottom], stripe, 2)
                draw.rectangle([left, top, right, bottom], outline=mix(colour, (0, 0, 0), 0.35))
        image = turned(image, angle)
    elif name == "orchard":
        image = Image.new("RGB", (big, big), mix(paint["soil"], paint["grass"], rng.random() / 2))
        draw = ImageDraw.Draw(image)
        step = float(rng.uniform(9, 13))
        for y in np.arange(4, big, step):
            for x in np.arange(4, big, step):
                r = step * 0.33 + rng.uniform(-0.5, 0.5)
                disc(draw, (x + 1, y + 1), r, mix(paint["wood"], (0, 0, 0), 0.5))
                disc(draw, (x, y), r, jitter(rng, paint["wood"], 8))
        image = turned(image, angle)
    elif name == "pasture":
        image = blend(paint["grass"], mix(paint["grass"], paint["crop"], 0.5), field(rng, 5))
        draw = ImageDraw.Draw(image)
        for x, y in rng.uniform(0, CANVAS, (int(rng.integers(0, 6)), 2)):
            disc(draw, (x, y), rng.uniform(2, 4), paint["wood"])
    elif name == "lake":
        deep = mix(paint["water"], (0, 0, 30), 0.25)
        shore = field(rng, 3) + rng.uniform(-0.15, 0.35)
        image = blend(paint["water"], deep, field(rng, 6))
        ground = blend(paint["grass"], paint["wood"], field(rng, 8))
        image.paste(ground, (0, 0), Image.fromarray(((shore < 0.35) * 255).astype(np.uint8)))
    else:
        rows, columns = np.mgrid[0:CANVAS, 0:CANVAS] / CANVAS
        wave = columns * np.cos(angle) + rows * np.sin(angle) + 0.25 * field(rng, 4)
        dunes = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(2, 5) * wave)
        image = blend(paint["sand"], mix(paint["sand"], paint["soil"], 0.5), dunes)
    return image
