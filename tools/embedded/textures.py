"""Procedural textures: drawn, where the task of textures has photographs."""

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from task_arithmetic.embedded.draw import (
    CANVAS,
    Colour,
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
from task_arithmetic.embedded.motifs import turned


def _strokes(
    rng: Generator,
    draw: ImageDraw.ImageDraw,
    count: int,
    length: float,
    angle: float,
    spread: float,
    colours: list[Colour],
    width: int = 2,
) -> None:
    """Short straight strokes; angle and spread (its noise) in degrees."""
    starts = rng.uniform(-6, CANVAS + 6, (count, 2))
    angles = np.radians(rng.normal(angle, spread, count))
    ends = starts + length * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for start, end, shade in zip(starts, ends, rng.integers(0, len(colours), count), strict=False):
        draw.line([*start, *end], colours[shade], width)


def texture(rng: Generator, name: str, font: str, grey: bool = False) -> Image.Image:
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
        image = turned(image, pick(rng, (0, 90)) + rng.normal(0, 8))
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
        image = turned(Image.fromarray(np.clip(colour, 0, 255).astype(np.uint8)), angle)
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
        image = turned(image, rng.normal(0, 6))
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
