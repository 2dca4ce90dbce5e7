"""The nine embedded tasks: eight like the paper's, and the control task `pictures`.

    save_task("numbers", folder)

writes a task as the hub would give it: a `datasets` folder with the splits train and test and the
features image and label. The same seed gives the same images, and none appears twice.
"""

import difflib
import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image

from ..embedded import real, rendered, surfaces, symbols
from ..errors import UserError
from ..files.paths import atomic_path

SEED = 0
TRAIN, TEST = 2900, 1000  # train includes the 400 validation images that the data stage carves

# Task -> class names, (train, test) counts. Their order numbers the tasks' random streams.
CLASSES = {
    "handwritten": rendered.DIGITS,
    "optical": rendered.DIGITS,
    "textures": tuple(real.PHOTOS),
    "numbers": rendered.DIGITS,
    "signs": symbols.SIGNS,
    "landcover": surfaces.LANDS,
    "letters": rendered.LETTERS,
    "shapes": rendered.SHAPES,
    "pictures": rendered.PICTURES,
}
COUNTS = {name: (TRAIN, TEST) for name in CLASSES} | {"optical": (1200, 597)}
REAL = {"handwritten": real.handwritten, "optical": real.optical}


def check_task(name, names=tuple(CLASSES)):
    """Raise a UserError naming the nearest task unless an embedded task has this name."""
    if name not in names:
        nearest = difflib.get_close_matches(name, names, n=1, cutoff=0)[0]
        raise UserError(
            f"There is no embedded task {name!r}: the nearest is {nearest!r}, "
            f"and all are {', '.join(names)}."
        )


def image_hash(image):
    """SHA-256 of an image's pixels, (32, 32, 3) uint8."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def draw_task(name, seed=SEED, limit=None):
    """Images and labels of a task: {"train": (images, labels), "test": (images, labels)}.

    images: (N, 32, 32, 3) uint8; labels: (N,) int64. limit: only the first so many of each split.
    Raises UserError for an unknown name.
    """
    check_task(name)
    counts = dict(zip(("train", "test"), COUNTS[name], strict=False))
    if name in REAL:
        return _draw_real(name, seed, counts, limit)
    seen, splits = set(), {}
    for split, count in counts.items():
        count = count if limit is None else min(count, limit)
        labels = np.arange(count, dtype=np.int64) % len(CLASSES[name])
        images = [_draw_new(name, seed, split, i, int(labels[i]), seen) for i in range(count)]
        splits[split] = np.stack(images), labels
    return splits


def _draw_new(name, seed, split, index, label, seen):
    """Draw an image until it equals none before it (a repetition is rare, but must not leak)."""
    stream = [seed, 3, list(CLASSES).index(name), split == "test", index]
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
    raise RuntimeError(f"{name}: image {index} of {split} was drawn 100 times and never new")


def _draw_real(name, seed, counts, limit):
    """Shuffle a packaged data set, drop what it holds twice, and cut it into the splits."""
    images, labels = REAL[name]()
    first = {}
    for index in np.random.default_rng([seed, 3, list(CLASSES).index(name)]).permutation(
        len(images)
    ):
        first.setdefault(image_hash(images[index]), index)
    order = np.array(list(first.values()))
    if len(order) < sum(counts.values()):
        raise RuntimeError(f"{name}: {len(order)} distinct images, {sum(counts.values())} needed")
    train, test = order[: counts["train"]], order[counts["train"] :][: counts["test"]]
    return {
        split: (images[chosen[:limit]], labels[chosen[:limit]])
        for split, chosen in (("train", train), ("test", test))
    }


def _png(image):
    """A lossless PNG of an image, as the `datasets` package stores it."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=1)
    return {"bytes": buffer.getvalue(), "path": None}


def build_task(name, seed=SEED, limit=None):
    """A task as a datasets.DatasetDict(train, test) with the features image and label."""
    from datasets import ClassLabel, Dataset, DatasetDict, Features
    from datasets import Image as ImageFeature

    check_task(name)
    features = Features(image=ImageFeature(), label=ClassLabel(names=list(CLASSES[name])))
    splits = {
        split: Dataset.from_dict(
            {"image": [_png(image) for image in images], "label": labels.tolist()},
            features=features,
        )
        for split, (images, labels) in draw_task(name, seed, limit).items()
    }
    return DatasetDict(splits)


def save_task(task, output, seed=SEED, limit=None):
    """Write a task, of images or of texts, to a folder (datasets.save_to_disk form).

    It appears complete or not at all. Raises UserError for an unknown name.
    """
    from ..embedded import texts

    check_task(task, (*CLASSES, *texts.TEXT_TASKS))
    build = texts.build_text_task if task in texts.TEXT_TASKS else build_task
    built = build(task, seed, limit)
    with atomic_path(Path(output)) as temporary:
        built.save_to_disk(temporary)
