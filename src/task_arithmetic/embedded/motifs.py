"""What the images show: shapes, traffic signs and everyday objects, each on a transparent layer;
and land seen from straight above, which fills the canvas."""

from collections.abc import Mapping

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from .draw import (
    ARROW,
    CANVAS,
    CROSS,
    MIDDLE,
    Colour,
    Point,
    at,
    blend,
    disc,
    field,
    glyph,
    heart_points,
    jitter,
    layer,
    mix,
    pick,
    plain,
    ring_points,
    smooth_curve,
    star_points,
)

SHAPES: dict[str, np.ndarray] = {
    "circle": ring_points(36),
    "triangle": ring_points(3),
    "square": ring_points(4, turn=-45),
    "pentagon": ring_points(5),
    "diamond": ring_points(4) * (0.68, 1.0),
    "star": star_points(5),
    "cross": CROSS,
    "heart": heart_points(),
    "arrow": ARROW,
    "crescent": ring_points(0),  # these two are made of discs
    "ring": ring_points(0),
}


def shape(name: str, colour: Colour, radius: int) -> Image.Image:
    """A flat shape."""
    foreground = layer(colour)
    draw = ImageDraw.Draw(foreground)
    if name == "ring":
        disc(draw, MIDDLE, radius, outline=colour, width=max(6, int(radius * 0.32)))
    elif name == "crescent":
        disc(draw, MIDDLE, radius, colour)
        cut = (MIDDLE[0] + radius * 0.45, MIDDLE[1] - radius * 0.1)
        disc(draw, cut, radius * 0.85, (*colour, 0))
    else:
        draw.polygon(at(SHAPES[name], radius), fill=colour)
    return foreground


SIGNS = tuple(
    "stop, yield, no entry, priority road, speed limit 30, speed limit 50, speed limit 80, "
    "turn left, turn right, go straight, danger, traffic lights ahead, pedestrians ahead, "
    "no parking, parking, end of restrictions".split(", ")
)


def _write(foreground: Image.Image, font: str, text: str, colour: Colour, size: int) -> None:
    foreground.paste((*colour, 255), (0, 0), glyph(font, text, size))


def sign(
    rng: Generator, name: str, font: str, spread: float = 12.0, wear: float = 0.0
) -> Image.Image:
    """A traffic sign seen from the front.

    spread: noise of its paints in grey levels; wear: 0..1, how far the paints have faded.
    """
    paints = (205, 30, 40), (25, 80, 180), (250, 205, 30), (245, 245, 245), (20, 20, 20)
    red, blue, yellow, white, black = (
        mix(jitter(rng, paint, spread), (140, 140, 140), wear) for paint in paints
    )
    if name in ("yield", "stop", "no entry") or name.startswith("speed") or "ahead" in name:
        hidden = red
    else:
        hidden = white if name in ("priority road", "end of restrictions", "danger") else blue
    foreground = layer(hidden)
    draw = ImageDraw.Draw(foreground)
    if name == "stop":
        draw.polygon(at(ring_points(8, turn=22.5), 29), fill=white)
        draw.polygon(at(ring_points(8, turn=22.5), 26), fill=red)
        _write(foreground, font, "STOP", white, 17)
    elif name == "yield":
        draw.polygon(at(ring_points(3, turn=90), 32, (32, 26)), fill=red)
        draw.polygon(at(ring_points(3, turn=90), 19, (32, 26)), fill=white)
    elif name == "no entry":
        disc(draw, MIDDLE, 28, red)
        draw.rectangle([12, 26, 52, 38], white)
    elif name == "priority road":
        draw.polygon(at(ring_points(4), 30), fill=white)
        draw.polygon(at(ring_points(4), 21), fill=yellow)
    elif name.startswith("speed limit"):
        disc(draw, MIDDLE, 29, red)
        disc(draw, MIDDLE, 22, white)
        _write(foreground, font, name[-2:], black, 30)
    elif name in ("turn left", "turn right", "go straight"):
        disc(draw, MIDDLE, 28, blue)
        angle = {"turn left": -90, "turn right": 90, "go straight": 0}[name]
        draw.polygon(at(ARROW, 23, angle=angle), fill=white)
    elif name in ("danger", "traffic lights ahead", "pedestrians ahead"):
        draw.polygon(at(ring_points(3), 33, (32, 38)), fill=red)
        draw.polygon(at(ring_points(3), 23, (32, 38)), fill=white)
        if name == "danger":
            draw.polygon([(29, 24), (35, 24), (33, 39), (31, 39)], fill=black)
            disc(draw, (32, 44), 2.6, black)
        elif name == "traffic lights ahead":
            for y, colour in ((27, red), (35, yellow), (43, (30, 150, 60))):
                disc(draw, (32, y), 4, colour)
        else:
            disc(draw, (32, 26), 3, black)
            draw.line([(32, 28), (32, 38)], black, 4)
            draw.line([(27, 35), (32, 31), (37, 35)], black, 2)
            draw.line([(28, 47), (32, 38), (36, 47)], black, 3)
    elif name == "no parking":
        disc(draw, MIDDLE, 28, red)
        disc(draw, MIDDLE, 22, blue)
        draw.line([(16, 16), (48, 48)], red, 6)
    elif name == "parking":
        draw.rectangle([7, 7, 57, 57], white)
        draw.rectangle([9, 9, 55, 55], blue)
        _write(foreground, font, "P", white, 42)
    else:
        disc(draw, MIDDLE, 28, black)
        disc(draw, MIDDLE, 26, white)
        for offset in (-6, 0, 6):
            draw.line([(16 + offset, 46 + offset), (46 + offset, 16 + offset)], black, 3)
    return foreground


OBJECTS = tuple(
    "house tree car fish boat cup flower umbrella mushroom balloon crown bottle".split()
)


def thing(rng: Generator, name: str, colour: Colour) -> Image.Image:
    """An everyday object whose main part has the given colour."""
    foreground = layer(colour)
    draw = ImageDraw.Draw(foreground)
    dark, light = mix(colour, (0, 0, 0), 0.45), mix(colour, (255, 255, 255), 0.55)
    wood = jitter(rng, (110, 75, 45), 10)
    wide = float(rng.uniform(0.85, 1.15))  # proportions vary a little
    if name == "house":
        draw.rectangle([14, 30, 50, 56], colour)
        draw.polygon([(8, 31), (32, 8), (56, 31)], fill=dark)
        draw.rectangle([27, 42, 27 + 9 * wide, 56], light)
        draw.rectangle([17, 35, 24, 42], light)
    elif name == "tree":
        draw.rectangle([29, 36, 35, 60], wood)
        for x, y, r in ((32, 20, 15 * wide), (22, 30, 11), (42, 30, 11)):
            disc(draw, (x, y), r, colour)
    elif name == "car":
        draw.polygon([(16, 34), (23, 20), (42, 20), (50, 34)], fill=colour)
        draw.polygon([(21, 33), (26, 23), (39, 23), (45, 33)], fill=light)
        draw.rectangle([5, 33, 59, 46], colour)
        for x in (17, 47):
            disc(draw, (x, 47), 6.5 * wide, (25, 25, 25))
            disc(draw, (x, 47), 2.5, (170, 170, 170))
    elif name == "fish":
        disc(draw, (28, 32), (21, 12 * wide), colour)
        draw.polygon([(44, 32), (60, 20), (60, 44)], fill=dark)
        disc(draw, (16, 29), 2.5, (15, 15, 15))
        draw.line([(24, 24), (27, 32), (24, 40)], dark, 2)
    elif name == "boat":
        draw.polygon([(6, 43), (58, 43), (48, 56), (16, 56)], fill=colour)
        draw.line([(31, 8), (31, 43)], wood, 3)
        draw.polygon([(34, 9), (34, 39), (34 + 20 * wide, 39)], fill=light)
        draw.polygon([(28, 15), (28, 39), (13, 39)], fill=light)
    elif name == "cup":
        disc(draw, (46, 34), (11, 10), outline=colour, width=4)
        draw.polygon([(12, 16), (46, 16), (42, 54), (16, 54)], fill=colour)
        disc(draw, (29, 16), (17, 4.5 * wide), dark)
    elif name == "flower":
        draw.line([(32, 30), (32, 62)], jitter(rng, (60, 140, 60), 12), 4)
        for x, y in ring_points(6, 13):
            disc(draw, (32 + x, 25 + y), 8 * wide, colour)
        disc(draw, (32, 25), 7, jitter(rng, (240, 215, 90), 10))
    elif name == "umbrella":
        draw.pieslice([6, 8, 58, 60], 180, 360, fill=colour)
        for x in (6, 23, 41):
            disc(draw, (x + 9, 34), (8.6, 3), (*colour, 0))
        draw.line([(32, 8), (32, 56)], dark, 3)
        draw.arc([32, 50, 41, 60], 0, 180, fill=dark, width=3)
    elif name == "mushroom":
        draw.rectangle([25, 32, 39, 58], (235, 225, 200))
        draw.pieslice([7, 8, 57, 60], 180, 360, fill=colour)
        for x, y in ((20, 26), (34, 17), (45, 27)):
            disc(draw, (x, y), 3.6 * wide, (250, 245, 240))
    elif name == "balloon":
        draw.line(smooth_curve([(32, 42), (29, 50), (34, 56), (31, 63)]), (90, 90, 90), 2)
        disc(draw, (32, 24), (16 * wide, 19), colour)
        draw.polygon([(32, 41), (28, 47), (36, 47)], fill=dark)
        disc(draw, (26, 16), (3, 5), light)
    elif name == "crown":
        points = [(9, 50), (6, 18), (20, 33), (32, 12), (44, 33), (58, 18), (55, 50)]
        draw.polygon(points, fill=colour)
        draw.rectangle([9, 48, 55, 55], dark)
        for x, y in ((6, 18), (32, 12), (58, 18)):
            disc(draw, (x, y), 3 * wide, dark)
    else:
        draw.rectangle([28, 5, 36, 20], dark)
        draw.polygon([(28, 18), (36, 18), (45, 30), (45, 60), (19, 60), (19, 30)], fill=colour)
        draw.rectangle([19, 37, 45, 37 + 12 * wide], light)
    return foreground


LANDS = tuple(
    "forest, river, highway, residential buildings, industrial buildings, crop fields, orchard, "
    "pasture, lake, desert".split(", ")
)


def _track(rng: Generator, bend: float) -> list[Point]:
    """A curve across the canvas in a random direction; bend: sideways noise in pixels."""
    along = np.linspace(-42, 42, 5)
    aside = rng.normal(0, bend, 5) + rng.uniform(-12, 12)
    return smooth_curve(at(np.stack([along, aside], axis=1), 1, angle=rng.uniform(0, 360)))


def turned(image: Image.Image, angle: float) -> Image.Image:
    """The middle of a 96 x 96 drawing after a rotation, 64 x 64."""
    return image.rotate(angle, Image.Resampling.BILINEAR).crop((16, 16, 80, 80))


def land(rng: Generator, name: str, palette: Mapping[str, Colour]) -> Image.Image:
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
        ground = paint[pick(rng, ("grass", "wood", "soil", "crop"))]
        image = blend(ground, mix(ground, paint["grass"], 0.6), field(rng, 6))
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
        apart = float(rng.uniform(9, 13))
        places = np.arange(4, big, apart).tolist()
        for y in places:
            for x in places:
                r = apart * 0.33 + rng.uniform(-0.5, 0.5)
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
        dry = blend(paint["grass"], paint["wood"], field(rng, 8))
        image.paste(dry, (0, 0), Image.fromarray(((shore < 0.35) * 255).astype(np.uint8)))
    else:
        rows, columns = np.mgrid[0:CANVAS, 0:CANVAS] / CANVAS
        wave = columns * np.cos(angle) + rows * np.sin(angle) + 0.25 * field(rng, 4)
        dunes = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(2, 5) * wave)
        image = blend(paint["sand"], mix(paint["sand"], paint["soil"], 0.5), dunes)
    return image
