"""The captioned images that pretrain the embedded encoders.

Cleanly rendered: plain or two-coloured grounds, DejaVu fonts, map colours, little blur and noise.
It covers every concept of the embedded tasks (and some more), but shares neither an image nor a
font, a palette, a ground or a photograph with them.
"""

from multiprocessing import get_context

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from pens import pen_digit
from task_arithmetic.embedded import motifs
from task_arithmetic.embedded.draw import (
    CANVAS,
    Colour,
    Pose,
    at,
    blend,
    disc,
    distinct,
    field,
    finish,
    jitter,
    layer,
    pick,
    place,
    plain,
    pose,
    text_layer,
)
from task_arithmetic.embedded.real import PHOTOS
from task_arithmetic.embedded.rendered import PICTURE_COLOURS
from textures import texture

SIZE = 60_000
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# The tasks have other fonts: a printed letter of a task was never seen here.
FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSans-Oblique.ttf",
    "DejaVuSans-BoldOblique.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
    "DejaVuSerif-Italic.ttf",
    "DejaVuSerif-BoldItalic.ttf",
)
COLOURS: dict[str, Colour] = {
    "red": PICTURE_COLOURS["red"],
    "orange": (240, 140, 25),
    "yellow": PICTURE_COLOURS["yellow"],
    "green": PICTURE_COLOURS["green"],
    "cyan": (60, 200, 210),
    "blue": PICTURE_COLOURS["blue"],
    "purple": (130, 50, 170),
    "pink": (245, 150, 185),
    "brown": (125, 80, 40),
    "black": (20, 20, 20),
    "white": (245, 245, 245),
    "gray": (130, 130, 130),
}
# Colours of land; the task of land takes others (embedded/rendered.py).
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
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# What a caption may say around its subject; {} is the subject, with an article where it takes one.
COMMON = (
    "{}",
    "a photo of {}",
    "a picture of {}",
    "an image of {}",
    "a drawing of {}",
    "a blurry photo of {}",
    "a close up photo of {}",
    "a centered photo of {}",
    "this is {}",
)
DIGIT = (
    'a photo of the number: "{}".',
    'the number "{}"',
    "the digit {}",
    "a photo of the digit {}",
    "number {}",
    'a street number: "{}".',
    'a handwritten digit: "{}".',
    "the numeral {}",
)
LETTER = (
    'a photo of the letter "{}".',
    'the letter "{}"',
    "a printed letter {}",
    "the capital letter {}",
    "letter {}",
    'the character "{}"',
)
SIGN = (
    'a zoomed in photo of a "{}" traffic sign.',
    'a centered photo of a "{}" traffic sign.',
    'a close up photo of a "{}" traffic sign.',
    "the {} sign",
    'a road sign: "{}"',
    "a photo of the {} traffic sign",
)
LAND = (
    "an aerial photo of {}.",
    "a satellite photo of {}",
    "a centered satellite photo of {}.",
    "{} seen from above",
    "a map of {}",
    "an aerial view of {}.",
)
TEXTURE = (
    "a photo of a {} texture.",
    "a photo of a {} pattern.",
    "a {} texture",
    "a close up photo of {}.",
    "a surface of {}",
    "{}",
)


def _article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def gradient(rng: Generator, first: Colour, second: Colour) -> Image.Image:
    """A canvas with a linear gradient between two colours in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[0:CANVAS, 0:CANVAS].astype(np.float32) / CANVAS - 0.5
    return blend(first, second, 0.5 + rows * np.sin(angle) + columns * np.cos(angle))


def _ground(rng: Generator, ink: Colour) -> Image.Image:
    """A plain or two-coloured ground that leaves the ink readable."""
    if rng.random() < 0.25:
        grey = rng.uniform(0, 70) if np.mean(ink) > 125 else rng.uniform(190, 255)
        return plain(jitter(rng, (grey, grey, grey), 5))
    ground = distinct(rng, ink, 150)
    kind = rng.random()
    if kind < 0.45:
        return plain(ground)
    if kind < 0.8:
        return gradient(rng, ground, jitter(rng, ground, 30))
    return blend(ground, jitter(rng, ground, 35), field(rng, int(rng.integers(3, 9))))


def _named_colour(rng: Generator) -> tuple[str, Colour]:
    name = pick(rng, tuple(COLOURS))
    return name, jitter(rng, COLOURS[name], 14)


Pair = tuple[Image.Image, str]  # a canvas and its caption


def _digit(rng: Generator) -> Pair:
    digit = str(rng.integers(10))
    name, ink = _named_colour(rng)
    template = pick(rng, DIGIT)
    if rng.random() < 0.45:
        foreground = pen_digit(rng, digit, ink, int(rng.integers(3, 9)))
        image = place(foreground, _ground(rng, ink), pose(rng, 0.7, 1.25, 9, 5))
        if rng.random() < 0.35:
            template = pick(rng, ("a handwritten {}", "a digit {} written by hand", DIGIT[6]))
    else:
        font = pick(rng, FONTS)
        image = _ground(rng, ink)
        if rng.random() < 0.25:  # neighbours, as in a house number
            for side in (-1, 1):
                other = text_layer(font, str(rng.integers(10)), ink)
                image = place(other, image, Pose(0.9, shift=(side * rng.uniform(30, 40), 0)))
        image = place(text_layer(font, digit, ink), image, pose(rng, 0.65, 1.25, 7, 5))
    draw = rng.random()
    if draw < 0.12:
        return image, f"a {name} number {digit}"
    if draw < 0.2:
        return image, f"the number {NUMBER_WORDS[int(digit)]}"
    return image, template.format(digit)


def _letter(rng: Generator) -> Pair:
    letter = pick(rng, LETTERS)
    name, ink = _named_colour(rng)
    if rng.random() < 0.1:
        written, caption = letter.lower(), f"a small lowercase letter {letter.lower()}"
    else:
        written, caption = letter, pick(rng, LETTER).format(letter)
        if rng.random() < 0.12:
            caption = f"a {name} letter {letter}"
    foreground = text_layer(pick(rng, FONTS), written, ink)
    return place(foreground, _ground(rng, ink), pose(rng, 0.65, 1.25, 8, 5)), caption


def _shape(rng: Generator) -> Pair:
    shape = pick(rng, tuple(motifs.SHAPES))
    name, ink = _named_colour(rng)
    outline = int(rng.integers(4, 7)) if rng.random() < 0.2 else 0
    radius = int(rng.integers(17, 27))
    foreground = motifs.shape(shape, ink, radius)
    if outline and shape not in ("ring", "crescent"):
        foreground = layer(ink)
        corners = at(motifs.SHAPES[shape], radius)
        draw = ImageDraw.Draw(foreground)
        draw.line([*corners, *corners[:2]], ink, outline, joint="curve")
    image = place(foreground, _ground(rng, ink), pose(rng, 0.7, 1.1, 9, 6))
    subject = f"{name} {shape}" if rng.random() < 0.5 else shape
    if outline and rng.random() < 0.5:
        return image, f"the outline of {_article(subject)}"
    return image, pick(rng, (*COMMON, "the shape of {}", "{} on a plain background")).format(
        _article(subject)
    )


def _sign(rng: Generator) -> Pair:
    name = pick(rng, motifs.SIGNS)
    foreground = motifs.sign(rng, name, pick(rng, FONTS[1:6:4]))
    image = place(foreground, _ground(rng, (128, 128, 128)), pose(rng, 0.75, 1.1, 5, 4))
    return image, pick(rng, SIGN).format(name)


def _land(rng: Generator) -> Pair:
    name = pick(rng, motifs.LANDS)
    return motifs.land(rng, name, MAP_PALETTE), pick(rng, (*LAND, *COMMON[:4])).format(name)


def _texture(rng: Generator) -> Pair:
    name = pick(rng, tuple(PHOTOS))
    grey = rng.random() < 0.35
    image = texture(rng, name, FONTS[0], grey)
    template = pick(rng, TEXTURE)
    if grey and rng.random() < 0.4:
        template = pick(rng, ("a black and white photo of {}", "a gray {} texture"))
    return image, template.format(name)


def _thing(rng: Generator) -> Pair:
    name = pick(rng, motifs.OBJECTS)
    colour, ink = _named_colour(rng)
    image = place(motifs.thing(rng, name, ink), _ground(rng, ink), pose(rng, 0.65, 1.05, 8, 5))
    subject = f"{colour} {name}" if rng.random() < 0.8 else name
    return image, pick(rng, COMMON).format(_article(subject))


def _extra(rng: Generator) -> Pair:
    """Colours, stripes, checks and counted dots: words that no task asks for."""
    name, ink = _named_colour(rng)
    kind = pick(rng, ("plain", "stripes", "check", "dots"))
    if kind == "plain":
        return gradient(rng, ink, jitter(rng, ink, 25)), pick(
            rng, ("the color {}", "a plain {} background", "{}")
        ).format(name)
    ground = distinct(rng, ink, 150)
    image = plain(ground)
    draw = ImageDraw.Draw(image)
    if kind == "dots":
        count = int(rng.integers(1, 6))
        for spot in rng.permutation(9)[:count]:
            centre = (12 + 20 * (spot % 3), 12 + 20 * (spot // 3)) + rng.normal(0, 1.5, 2)
            disc(draw, centre, rng.uniform(5, 8), ink)
        return image, f"{NUMBER_WORDS[count]} {name} dot{'s' if count > 1 else ''}"
    step = int(rng.integers(8, 20))
    direction = pick(rng, ("horizontal", "vertical", "diagonal"))
    for start in range(-CANVAS, 2 * CANVAS, step):
        if kind == "check":
            for row in range(0, CANVAS, step):
                if (row // step + start // step) % 2:
                    draw.rectangle([start, row, start + step - 1, row + step - 1], ink)
        elif direction == "horizontal":
            draw.line([0, start, CANVAS, start], ink, step // 2)
        elif direction == "vertical":
            draw.line([start, 0, start, CANVAS], ink, step // 2)
        else:
            draw.line([start, 0, start + CANVAS, CANVAS], ink, step // 2)
    caption = f"a {name} checkerboard" if kind == "check" else f"{direction} {name} stripes"
    return image, caption


# Kinds of images with their shares of the corpus.
KINDS = (
    (_digit, 0.22),
    (_letter, 0.22),
    (_shape, 0.11),
    (_sign, 0.13),
    (_land, 0.10),
    (_texture, 0.08),
    (_thing, 0.12),
    (_extra, 0.02),
)


def draw_pair(seed: int, index: int) -> tuple[np.ndarray, str]:
    """Image (32, 32, 3) uint8 and caption number `index` of the corpus drawn from `seed`."""
    rng = np.random.default_rng([seed, 1, index])
    kinds, shares = zip(*KINDS, strict=False)
    image, caption = kinds[int(rng.choice(len(kinds), p=shares))](rng)
    blur = rng.uniform(0, 1.2) if rng.random() < 0.4 else 0.0
    noise = rng.uniform(0, 7) if rng.random() < 0.4 else 0.0
    return finish(image, rng, blur, noise), caption


def _chunk(arguments: tuple[int, int, int]) -> tuple[np.ndarray, list[str]]:
    seed, start, stop = arguments
    pairs = [draw_pair(seed, index) for index in range(start, stop)]
    return np.stack([image for image, _ in pairs]), [caption for _, caption in pairs]


def draw_corpus(seed: int, size: int = SIZE, processes: int = 2) -> tuple[np.ndarray, list[str]]:
    """Images (size, 32, 32, 3) uint8 and a list of their captions (about 1 ms each)."""
    jobs = [(seed, start, min(start + 1000, size)) for start in range(0, size, 1000)]
    if processes == 1 or len(jobs) < 4:
        parts = [_chunk(job) for job in jobs]
    else:
        with get_context("spawn").Pool(processes) as pool:
            parts = pool.map(_chunk, jobs, chunksize=1)
    return np.concatenate([p[0] for p in parts]), [caption for p in parts for caption in p[1]]
