"""The embedded tasks as datasets: nine of images, eight like the paper's and the control task
`pictures`, and those of texts (texts.py).

    save_task("numbers", folder)

writes a task as the hub would give it: a `datasets` folder, of images with the splits train and
test and the features image and label. The same seed gives the same images, none of them twice.
"""

import io
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UserError, nearest
from ..files.hashes import sha256_of
from ..files.paths import PathLike, atomic_path
from . import motifs, real, rendered, texts

SEED = 0
TRAIN, TEST = 2900, 1000  # train includes the 400 validation images that the data stage carves

# Task -> class names, (train, test) counts. Their order numbers the tasks' random streams.
CLASSES = {
    "handwritten": rendered.DIGITS,
    "optical": rendered.DIGITS,
    "textures": tuple(real.PHOTOS),
    "numbers": rendered.DIGITS,
    "signs": motifs.SIGNS,
    "landcover": motifs.LANDS,
    "letters": rendered.LETTERS,
    "shapes": rendered.SHAPES,
    "pictures": rendered.PICTURES,
}
COUNTS = {name: (TRAIN, TEST) for name in CLASSES} | {"optical": (1200, 597)}
REAL = {"handwritten": real.handwritten, "optical": real.optical}

Split = tuple[np.ndarray, np.ndarray]  # images (N, 32, 32, 3) uint8, labels (N,) int64


def check_task(name: str, names: Collection[str] = tuple(CLASSES)) -> None:
    """Raise a UserError unless an embedded task has this name."""
    if name not in names:
        near = nearest(name, list(names))
        raise UserError(f"There is no embedded task {name!r}{near}: all are {', '.join(names)}.")


def image_hash(image: np.ndarray) -> str:
    """SHA-256 of an image's pixels, (32, 32, 3) uint8."""
    return sha256_of(image.tobytes())


def draw_task(name: str, seed: int = SEED, limit: int | None = None) -> dict[str, Split]:
    """Images and labels of a task's splits, train and test.

    limit: only the first so many of each split. Raises UserError for an unknown name.
    """
    check_task(name)
    stream = [seed, 3, list(CLASSES).index(name)]
    if name in REAL:
        return _draw_real(name, stream, limit)
    seen: set[str] = set()
    splits = {}
    for split, count in zip(("train", "test"), COUNTS[name], strict=True):
        labels = np.arange(count, dtype=np.int64)[:limit] % len(CLASSES[name])
        images = [
            _draw_new(name, split, int(label), [*stream, split == "test", i], seen)
            for i, label in enumerate(labels)
        ]
        splits[split] = np.stack(images), labels
    return splits


def _draw_new(name: str, split: str, label: int, stream: list[int], seen: set[str]) -> np.ndarray:
    """Draw an image until it equals none before it (a repetition is rare, but must not leak)."""
    for attempt in range(100):
        rng = np.random.default_rng([*stream, attempt])
        if name == "textures":
            image = real.textures(rng, label, split)
        else:
            image = getattr(rendered, name)(rng, label)
        key = image_hash(image)
        if key not in seen:
            seen.add(key)
            return image
    raise RuntimeError(f"{name}: image {stream[-1]} of {split} was drawn 100 times and never new")


def _draw_real(name: str, stream: list[int], limit: int | None) -> dict[str, Split]:
    """Shuffle a packaged data set, drop what it holds twice, and cut it into the splits."""
    images, labels = REAL[name]()
    first: dict[str, int] = {}
    for index in np.random.default_rng(stream).permutation(len(images)):
        first.setdefault(image_hash(images[index]), index)
    order, (train, test) = np.array(list(first.values())), COUNTS[name]
    if len(order) < train + test:
        raise RuntimeError(f"{name}: {len(order)} distinct images, {train + test} needed")
    splits = {"train": order[:train][:limit], "test": order[train : train + test][:limit]}
    return {split: (images[chosen], labels[chosen]) for split, chosen in splits.items()}


def _png(image: np.ndarray) -> dict[str, Any]:
    """A lossless PNG of an image, as the `datasets` package stores it."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=1)
    return {"bytes": buffer.getvalue(), "path": None}


def save_task(task: str, output: PathLike, limit: int | None = None) -> None:
    """Write a task to a folder (datasets.save_to_disk form): of images with the features image and
    label and the splits train and test, of texts see texts.py.

    It appears complete or not at all. limit: only the first so many rows of each split.
    Raises UserError for an unknown name.
    """
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
    from datasets import Image as ImageFeature

    check_task(task, (*CLASSES, *texts.TEXT_TASKS))
    splits: dict[str, dict[str, Any]] = {}
    if task in CLASSES:
        features = Features(image=ImageFeature(), label=ClassLabel(names=list(CLASSES[task])))
        for split, (images, labels) in draw_task(task, limit=limit).items():
            pictures = [_png(image) for image in images]
            splits[split] = {"image": pictures, "label": labels.tolist()}
    else:
        columns, classes = texts.TEXT_TASKS[task]
        features = Features({column: Value("string") for column in columns})
        features["label"] = ClassLabel(names=list(classes)) if classes else Value("float32")
        features["idx"] = Value("int32")
        for split, (rows, scores) in texts.read_rows(task, limit).items():
            content = dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))
            splits[split] = {**content, "label": scores, "idx": list(range(len(scores)))}
    made = {split: Dataset.from_dict(rows, features) for split, rows in splits.items()}
    with atomic_path(Path(output)) as temporary:
        DatasetDict(made).save_to_disk(temporary)
