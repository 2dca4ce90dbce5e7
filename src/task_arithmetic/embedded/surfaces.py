"""Things that fill the canvas: land seen from above and procedural textures."""

import numpy as np
from PIL import Image, ImageDraw

from .draw import (
    CANVAS,
    at,
    blend,
    disc,
    field,
    glyph,
    jitter,
    mix,
    pick,
    plain,
    ring_points,
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

# Colours of the corpus's maps; the task takes others (see tasks.py).
MAP_PALETTE = {
    "wood": (30, 95, 45),
    "grass": (110, 165, 75),
    "soil": (165, 125, 80),
    "crop": (190, 180, 80),
    "sand": (225, 195, 140),
    "water": (45, 105, 185),
    "road": (125, 125, 130),
    "roof": (180, 85, 65),
    "hall": (205, 205, 210),
    "mark": (245, 245, 245),
}


def _track(rng, bend):
    """A curve across the canvas in a random direction; bend: sideways noise in pixels."""
    along = np.linspace(-42, 42, 5)
    aside = rng.normal(0, bend, 5) + rng.uniform(-12, 12)
    return smooth_curve(at(np.stack([along, aside], axis=1), 1, angle=rng.uniform(0, 360)))


def _turned(rng, image, angle):
    """The middle of a 96 x 96 drawing after a rotation, 64 x 64."""
    return image.rotate(angle, Image.Resampling.BILINEAR).crop((16, 16, 80, 80))


def land(rng, name, palette=None):
    """A kind of land seen from straight above, on a (64, 64) canvas."""
    paint = {k: jitter(rng, v, 12) for k, v in (palette or MAP_PALETTE).items()}
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
        image = _turned(rng, image, angle)
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
        image = _turned(rng, image, angle)
    elif name == "orchard":
        image = Image.new("RGB", (big, big), mix(paint["soil"], paint["grass"], rng.random() / 2))
        draw = ImageDraw.Draw(image)
        step = float(rng.uniform(9, 13))
        for y in np.arange(4, big, step):
            for x in np.arange(4, big, step):
                r = step * 0.33 + rng.uniform(-0.5, 0.5)
                disc(draw, (x + 1, y + 1), r, mix(paint["wood"], (0, 0, 0), 0.5))
                disc(draw, (x, y), r, jitter(rng, paint["wood"], 8))
        image = _turned(rng, image, angle)
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


TEXTURES = (
    "brick",
    "grass",
    "gravel",
    "fur",
    "wood",
    "coins",
    "stars",
    "tissue",
    "veins",
    "moon",
    "text",
    "petals",
    "leaves",
)


def _strokes(rng, draw, count, length, angle, spread, colours, width=2):
    """Short straight strokes; angle and spread (its noise) in degrees."""
    starts = rng.uniform(-6, CANVAS + 6, (count, 2))
    angles = np.radians(rng.normal(angle, spread, count))
    ends = starts + length * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for start, end, shade in zip(starts, ends, rng.integers(0, len(colours), count), strict=False):
        draw.line([*start, *end], colours[shade], width)


def texture(rng, name, font, grey=False):
    """A procedural texture on a (64, 64) canvas; grey: without colour, as some photographs are."""
    image = plain((0, 0, 0))
    draw = ImageDraw.Draw(image)
    angle = float(rng.uniform(0, 360))
    zoom = float(rng.uniform(0.7, 1.5))
    if name == "brick":
        image = Image.new("RGB", (96, 96), jitter(rng, (205, 200, 190)))
        draw = ImageDraw.Draw(image)
        high, wide = 9 * zoom, 21 * zoom
        brick = jitter(rng, (160, 80, 60), 20)
        for row, y in enumerate(np.arange(0, 96, high)):
            for x in np.arange(-wide * (row % 2) / 2, 96, wide):
                draw.rectangle([x, y, x + wide - 2.5, y + high - 2.5], jitter(rng, brick, 12))
        image = _turned(rng, image, pick(rng, (0, 90)) + rng.normal(0, 8))
    elif name == "grass":
        base = jitter(rng, (80, 125, 50), 15)
        image.paste(mix(base, (0, 0, 0), 0.5), (0, 0, CANVAS, CANVAS))
        colours = [mix(base, (215, 225, 170), s) for s in (0.0, 0.25, 0.5)] + [
            mix(base, (0, 0, 0), 0.3)
        ]
        _strokes(rng, draw, 150, 13 * zoom, angle, 45, colours)
    elif name == "gravel":
        image.paste((45, 45, 45), (0, 0, CANVAS, CANVAS))
        base = jitter(rng, (150, 145, 140), 15)
        for x, y in rng.uniform(-3, 67, (110, 2)):
            corners = at(ring_points(5, turn=rng.uniform(0, 72)), 5 * zoom, (x, y))
            points = np.asarray(corners) + rng.normal(0, 1, (5, 2))
            shade = mix(
                base, (255, 255, 255) if rng.random() < 0.5 else (40, 40, 40), rng.random() / 2
            )
            draw.polygon([tuple(p) for p in points], fill=shade, outline=(50, 50, 50))
    elif name == "fur":
        base = jitter(rng, (175, 130, 85), 20)
        image = blend(base, mix(base, (70, 45, 25), 0.7), field(rng, 4))
        colours = [mix(base, (245, 225, 195), s) for s in (0.1, 0.4, 0.7)] + [
            mix(base, (50, 30, 20), 0.5)
        ]
        _strokes(rng, ImageDraw.Draw(image), 110, 11 * zoom, angle, 14, colours, 1)
    elif name == "wood":
        base = jitter(rng, (150, 90, 45), 18)
        stretched = np.asarray(
            Image.fromarray(rng.random((14, 2), dtype=np.float32)).resize(
                (96, 96), Image.Resampling.BICUBIC
            )
        )
        rings = 0.5 + 0.5 * np.sin(14 * zoom * stretched)
        colour = np.asarray(base) * (0.62 + 0.5 * rings[..., None])
        image = _turned(rng, Image.fromarray(np.clip(colour, 0, 255).astype(np.uint8)), angle)
    elif name == "coins":
        dark = jitter(rng, (45, 40, 40), 12)
        image.paste(dark, (0, 0, CANVAS, CANVAS))
        step = 26 * zoom
        offset = rng.uniform(-step, 0, 2)
        metal = jitter(rng, pick(rng, ((200, 165, 80), (175, 175, 175), (180, 110, 70))), 15)
        for y in np.arange(offset[1], 70, step):
            for x in np.arange(offset[0], 70, step):
                r = step * rng.uniform(0.36, 0.46)
                disc(draw, (x, y), r, metal, mix(metal, (0, 0, 0), 0.4), 2)
                disc(draw, (x + 1, y + 1), r * 0.55, mix(metal, (0, 0, 0), 0.3))
                disc(draw, (x - 1, y - 1), r * 0.4, mix(metal, (255, 255, 255), 0.4))
    elif name == "stars":
        image = blend((5, 5, 12), jitter(rng, (15, 15, 35), 8), field(rng, 3))
        draw = ImageDraw.Draw(image)
        for x, y, r in zip(*rng.uniform(0, 64, (2, 26)), rng.exponential(0.9, 26), strict=False):
            disc(draw, (x, y), min(r, 4), jitter(rng, (230, 225, 220), 30))
    elif name == "tissue":
        image = blend((240, 230, 235), jitter(rng, (190, 140, 110), 18), 1.6 * field(rng, 6) - 0.3)
        draw = ImageDraw.Draw(image)
        for x, y in rng.uniform(0, 64, (28, 2)):
            disc(draw, (x, y), rng.uniform(1.5, 3.5, 2), jitter(rng, (110, 110, 170), 18))
    elif name == "veins":
        base = jitter(rng, (215, 95, 65), 16)
        image = blend(base, mix(base, (120, 40, 30), 0.3), field(rng, 3))
        draw = ImageDraw.Draw(image)
        for _ in range(rng.integers(2, 6)):
            start = rng.uniform(0, 64, 2)
            path = np.cumsum(
                [start, *(rng.normal(0, 8, (4, 2)) + at([(12, 0)], 1, (0, 0), angle)[0])], 0
            )
            draw.line(smooth_curve(path), mix(base, (110, 15, 20), 0.65), int(rng.integers(1, 4)))
            angle += rng.normal(0, 60)
    elif name == "moon":
        base = jitter(rng, (135, 133, 130), 12)
        image = blend(base, mix(base, (70, 70, 70), 0.6), field(rng, 7))
        draw = ImageDraw.Draw(image)
        for x, y, r in zip(*rng.uniform(0, 64, (2, 9)), rng.exponential(2.5, 9) + 1, strict=False):
            disc(draw, (x + r / 4, y + r / 4), r, mix(base, (255, 255, 255), 0.5))
            disc(draw, (x, y), r, mix(base, (30, 30, 30), 0.6))
    elif name == "text":
        paper = jitter(rng, (235, 232, 225), 10)
        image = Image.new("RGB", (96, 96), paper)
        step = int(8 + 5 * zoom)
        for y in range(0, 96, step):
            word = "".join(pick(rng, "abcdefghiklmnoprstuvw    ") for _ in range(12))
            image.paste((35, 35, 40), (int(rng.integers(-6, 0)), y - 32), glyph(font, word, step))
            image.paste((35, 35, 40), (50, y - 32), glyph(font, word[::-1], step))
        image = _turned(rng, image, rng.normal(0, 6))
    elif name == "petals":
        base = jitter(rng, pick(rng, ((240, 160, 100), (240, 120, 150), (245, 205, 90))), 15)
        image.paste(mix(base, (90, 20, 10), 0.4), (0, 0, CANVAS, CANVAS))
        centre = rng.uniform(10, 54, 2)
        for ring in np.arange(52, 2, -9 * zoom):
            for x, y in ring_points(max(5, int(ring / 3)), ring, rng.uniform(0, 60)):
                r = 4.5 * zoom + ring / 10
                spot = (centre[0] + x, centre[1] + y)
                disc(
                    draw,
                    spot,
                    r,
                    mix(base, (255, 240, 220), rng.random() / 3),
                    mix(base, (120, 30, 10), 0.5),
                )
    else:
        base = jitter(rng, (55, 105, 45), 15)
        image.paste(mix(base, (0, 0, 0), 0.7), (0, 0, CANVAS, CANVAS))
        leaf = np.array([(-1, 0), (-0.3, -0.45), (0.5, -0.35), (1, 0), (0.5, 0.35), (-0.3, 0.45)])
        for x, y, turn in zip(*rng.uniform(0, 64, (2, 70)), rng.uniform(0, 360, 70), strict=False):
            shade = mix(
                base, (200, 215, 120) if rng.random() < 0.4 else (0, 20, 0), rng.random() / 1.6
            )
            draw.polygon(at(leaf, 6.5 * zoom, (x, y), turn), fill=shade)
    return image.convert("L").convert("RGB") if grey else image
