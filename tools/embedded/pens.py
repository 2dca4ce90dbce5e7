"""Digits written by hand, along fixed skeletons."""

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from task_arithmetic.embedded.draw import CANVAS, Colour, disc, layer, pick, smooth_curve

# Pen strokes of the digits in a unit box (x right, y down); several ways to write some of them.
PEN_DIGITS = {
    "0": [[[(0.5, 0.05), (0.2, 0.25), (0.18, 0.7), (0.5, 0.95), (0.8, 0.7), (0.8, 0.28),
            (0.5, 0.05)]]],
    "1": [[[(0.5, 0.05), (0.5, 0.5), (0.5, 0.95)]], [[(0.32, 0.25), (0.52, 0.05), (0.52, 0.95)]]],
    "2": [[[(0.2, 0.25), (0.45, 0.05), (0.76, 0.22), (0.6, 0.55), (0.2, 0.92), (0.5, 0.9),
            (0.85, 0.92)]],
          [[(0.2, 0.25), (0.5, 0.05), (0.75, 0.25), (0.55, 0.6), (0.25, 0.9), (0.2, 0.75),
            (0.45, 0.8), (0.85, 0.93)]]],
    "3": [[[(0.22, 0.12), (0.55, 0.05), (0.74, 0.25), (0.42, 0.46), (0.78, 0.68), (0.55, 0.93),
            (0.2, 0.86)]]],
    "4": [[[(0.25, 0.08), (0.2, 0.52), (0.5, 0.56), (0.85, 0.5)], [(0.7, 0.08), (0.66, 0.95)]],
          [[(0.62, 0.95), (0.64, 0.05), (0.15, 0.62), (0.88, 0.62)]]],
    "5": [[[(0.78, 0.08), (0.35, 0.08), (0.28, 0.45), (0.6, 0.42), (0.78, 0.68), (0.55, 0.93),
            (0.2, 0.87)]]],
    "6": [[[(0.68, 0.05), (0.32, 0.35), (0.24, 0.75), (0.5, 0.95), (0.75, 0.75), (0.55, 0.52),
            (0.26, 0.7)]]],
    "7": [[[(0.18, 0.1), (0.5, 0.09), (0.8, 0.1), (0.58, 0.5), (0.42, 0.95)]],
          [[(0.18, 0.1), (0.8, 0.1), (0.42, 0.95)], [(0.35, 0.52), (0.7, 0.5)]]],
    "8": [[[(0.6, 0.45), (0.28, 0.28), (0.5, 0.05), (0.74, 0.25), (0.3, 0.65), (0.4, 0.93),
            (0.72, 0.8), (0.6, 0.45)]]],
    "9": [[[(0.74, 0.3), (0.5, 0.06), (0.25, 0.28), (0.45, 0.5), (0.74, 0.3), (0.7, 0.6),
            (0.6, 0.95)]]],
}  # fmt: skip


def pen_digit(rng: Generator, digit: str, colour: Colour, width: int = 5) -> Image.Image:
    """A digit written with a round pen, each control point moved a little."""
    foreground = layer(colour)
    draw = ImageDraw.Draw(foreground)
    for stroke in pick(rng, PEN_DIGITS[digit]):
        points = np.asarray(stroke) + rng.normal(0, 0.035, (len(stroke), 2))
        curve = smooth_curve((points - 0.5) * (40, 46) + CANVAS / 2)
        draw.line(curve, colour, width, joint="curve")
        for end in (curve[0], curve[-1]):
            disc(draw, end, width / 2 - 0.5, colour)
    return foreground
