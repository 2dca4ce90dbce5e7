"""The rendered tasks. Each function draws one image of a class: (rng, label) -> (32, 32, 3) uint8.

They show the concepts of the corpus in another domain: other fonts, muted palettes, cluttered
grounds, perspective, weak light, blur and noise.
"""

import string

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from . import motifs
from .draw import (
    CANVAS,
    TASK_FONTS,
    Colour,
    Pose,
    disc,
    distinct,
    field,
    finish,
    glyph,
    jitter,
    layer,
    mix,
    pick,
    place,
    plain,
    pose,
    scenery,
    text_layer,
)

DIGITS, LETTERS = tuple(string.digits), tuple(string.ascii_uppercase)
SHAPES = tuple(name for name in motifs.SHAPES if name != "arrow")  # the signs have arrows
PICTURE_COLOURS: dict[str, Colour] = {
    "red": (215, 35, 35),
    "green": (45, 160, 60),
    "blue": (40, 80, 205),
    "yellow": (245, 220, 45),
}
PICTURES = tuple(f"{c} {thing}" for thing in motifs.OBJECTS for c in PICTURE_COLOURS)

SIGN_FONTS = ("cmss10.ttf", "STIXGeneralBol.ttf", "DejaVuSansMono-Bold.ttf")
SATELLITE_PALETTE = {
    "wood": (45, 72, 55),
    "grass": (98, 116, 76),
    "soil": (142, 116, 95),
    "crop": (155, 140, 98),
    "sand": (202, 180, 152),
    "water": (40, 66, 92),
    "road": (150, 146, 146),
    "roof": (168, 132, 122),
    "hall": (192, 196, 205),
    "mark": (192, 188, 182),
}


def _middle(image: Image.Image) -> Colour:
    """Mean colour of a canvas's middle, where the foreground will be."""
    return tuple(np.asarray(image)[16:48, 16:48].reshape(-1, 3).mean(axis=0))


def _relief(font: str, text: str, ground: Colour, ink: Colour) -> Image.Image:
    """A text raised from its ground: lit from above on the left, in shadow on the other side."""
    foreground = layer(ink)
    mask = glyph(font, text)
    for offset, target in (((2, 2), (0, 0, 0)), ((-2, -2), (255, 255, 255))):
        foreground.paste((*mix(ground, target, 0.55), 255), offset, mask)
    foreground.paste((*ink, 255), (0, 0), mask)
    return foreground


def numbers(rng: Generator, label: int) -> np.ndarray:
    """A house number: a digit between pieces of its neighbours, painted or raised in relief."""
    image = scenery(rng, rng.uniform(0.3, 0.9))
    ground = _middle(image)
    font = pick(rng, TASK_FONTS)
    raised = rng.random() < 0.6
    ink = jitter(rng, ground, 14) if raised else distinct(rng, ground, 90)
    scale, angle = rng.uniform(0.8, 1.2), rng.normal(0, 6)
    gap = rng.uniform(27, 35) * scale

    def written(digit: str) -> Image.Image:
        return _relief(font, digit, ground, ink) if raised else text_layer(font, digit, ink)

    for side in (-1, 1):
        if rng.random() < 0.75:
            other = written(pick(rng, DIGITS))
            image = place(other, image, Pose(scale, angle, (side * gap, rng.normal(0, 2))))
    how = Pose(scale, angle, rng.normal(0, 2.5, 2), rng.normal(0, 0.15))
    image = place(written(DIGITS[label]), image, how)
    return finish(
        image, rng, rng.uniform(0, 1.8), rng.uniform(3, 12), rng.uniform(0.6, 1), rng.normal(0, 15)
    )


def signs(rng: Generator, label: int) -> np.ndarray:
    """A traffic sign in the street: weather, distance, slanted view, clutter behind it."""
    font = pick(rng, SIGN_FONTS)
    foreground = motifs.sign(rng, motifs.SIGNS[label], font, 22, rng.uniform(0.0, 0.45))
    ground = scenery(rng)
    image = place(foreground, ground, pose(rng, 0.6, 1.0, 7, 3.5, 0.12, tilt=0.25))
    return finish(
        image,
        rng,
        blur=rng.uniform(0, 2.2),
        noise=rng.uniform(3, 14),
        contrast=rng.uniform(0.35, 1.0),
        brightness=rng.normal(-15, 35),
        saturation=rng.uniform(0.4, 1.0),
    )


def landcover(rng: Generator, label: int) -> np.ndarray:
    """A satellite picture: muted colours, haze, now and then a thin cloud, any zoom."""
    image = motifs.land(rng, motifs.LANDS[label], SATELLITE_PALETTE)
    side = rng.uniform(38, 64)
    left, top = rng.uniform(0, CANVAS - side, 2)
    box = (left, top, left + side, top + side)
    image = image.resize((CANVAS, CANVAS), Image.Resampling.BILINEAR, box)
    if rng.random() < 0.3:
        cloud = np.clip(field(rng, 4) * 1.5 - 0.75, 0, 0.7)
        mask = Image.fromarray((cloud * 255).astype(np.uint8))
        image.paste((222, 225, 230), (0, 0), mask)
    haze = plain(jitter(rng, (150, 160, 175), 25))
    image = Image.blend(image, haze, rng.uniform(0.0, 0.35))
    return finish(
        image,
        rng,
        blur=rng.uniform(0.3, 1.6),
        noise=rng.uniform(3, 10),
        contrast=rng.uniform(0.7, 1.2),
        brightness=rng.normal(0, 18),
        saturation=rng.uniform(0.4, 1.1),
    )


def letters(rng: Generator, label: int) -> np.ndarray:
    """A letter on a poster: serif, typewriter and italic fonts, filled or hollow, askew."""
    image = scenery(rng, rng.uniform(0.3, 1.0))
    ground = _middle(image)
    ink = distinct(rng, ground, 110)
    font = pick(rng, TASK_FONTS)
    foreground = text_layer(font, LETTERS[label], ink)
    if rng.random() < 0.35:
        foreground.putalpha(glyph(font, LETTERS[label], stroke=2))
        foreground.paste((*jitter(rng, ground, 12), 255), (0, 0), glyph(font, LETTERS[label]))
    image = place(foreground, image, pose(rng, 0.75, 1.2, 10, 3.5, 0.15, tilt=0.2))
    return finish(image, rng, rng.uniform(0, 1.3), rng.uniform(3, 12), rng.uniform(0.6, 1))


def shapes(rng: Generator, label: int) -> np.ndarray:
    """A shape among scraps of paper and lines, partly covered by some of them."""
    image = scenery(rng)
    ink = distinct(rng, _middle(image), 100)
    _scraps(rng, image, 7)
    foreground = motifs.shape(SHAPES[label], ink, 26)
    image = place(foreground, image, pose(rng, 0.5, 1.0, 12, 5, 0.15, tilt=0.2))
    _scraps(rng, image, 2)
    return finish(image, rng, rng.uniform(0, 1.5), rng.uniform(4, 14), rng.uniform(0.6, 1))


def _scraps(rng: Generator, image: Image.Image, most: int) -> None:
    """Draw up to `most` small lines and spots of random colours on a canvas."""
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, most + 1))):
        x, y = rng.uniform(0, CANVAS, 2)
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        if rng.random() < 0.5:
            reach = rng.normal(0, 16, 2)
            draw.line([x, y, x + reach[0], y + reach[1]], colour, int(rng.integers(1, 4)))
        else:
            disc(draw, (x, y), rng.uniform(1, 4, 2), colour)


def pictures(rng: Generator, label: int) -> np.ndarray:
    """The control task: a coloured object as the corpus draws it, smaller and less clearly seen."""
    colour, name = PICTURES[label].split(" ", 1)
    ink = mix(jitter(rng, PICTURE_COLOURS[colour], 24), (128, 128, 128), rng.uniform(0, 0.35))
    ground = scenery(rng, rng.uniform(0.1, 0.8))
    clear = plain(distinct(rng, ink, 130))
    foreground = motifs.thing(rng, name, ink)
    ground = Image.blend(ground, clear, rng.uniform(0.2, 0.7))
    image = place(foreground, ground, pose(rng, 0.45, 1.0, 12, 6, 0.12))
    return finish(image, rng, rng.uniform(0, 1.8), rng.uniform(2, 12), rng.uniform(0.55, 1.0))
