"""A task's arrays: how its folder is laid out, and reading it.

The folder holds manifest.json and, for each split, `<split>_labels.npy` (int64, N) and
`<split>_digests.npy` (uint8, N × 16), a hash of each whole image as it was decoded. Validation and
test images are stored as every evaluation reads them: `<split>_images.npy` (uint8, N × S × S × 3),
S = 224, or their own size if all are square, equal and small. Train images keep their form, because
training crops them at random: `train_images.npy` (uint8, ΣH·W × 3) holds one after another,
`train_sizes.npy` (int32, N × 2) their heights and widths.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..files.hashes import check_file
from ..files.manifest import read_manifest, sample_indices
from ..files.paths import PathLike, again, mend

RESOLUTION = 224  # larger images are evaluated at this size, as every CLIP ViT here reads them
TRAIN_SIDE = 256  # of the shortest side of larger train images: room for crops of 0.9 of the area
SMALL = 64  # images of one size, square and at most this, are stored as they are
DIGEST = 16  # bytes of an image's SHA-256 that are kept


class TrainImages:
    """Images of different sizes, mapped from disk.

    Args:
        pixels: uint8 (ΣH·W, 3), one image after another. sizes: (N, 2) heights and widths.
        chosen: the images to keep, as indices; None keeps all.
    """

    def __init__(self, pixels: np.ndarray, sizes: np.ndarray, chosen: np.ndarray | None = None):
        areas = sizes.prod(axis=1, dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum(areas)[:-1]])
        keep = slice(None) if chosen is None else chosen
        self.pixels, self.sizes, self.starts = pixels, sizes[keep].astype(np.int64), starts[keep]

    def __len__(self) -> int:
        return len(self.sizes)

    def take(
        self, indices: np.ndarray, boxes: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Images, or a box (top, left, height, width) of each: uint8 (B, H, W, 3) of the largest
        height and width among them, each in the top left corner before zeros; and their sizes
        int64 (B, 2)."""
        sizes = self.sizes[indices]
        if boxes is None:
            boxes = np.concatenate([np.zeros_like(sizes), sizes], axis=1)
        batch = np.zeros((len(sizes), *boxes[:, 2:].max(axis=0), 3), np.uint8)
        for out, start, size, box in zip(batch, self.starts[indices], sizes, boxes, strict=True):
            (height, width), (top, left, h, w) = size, box
            whole = self.pixels[start : start + height * width].reshape(height, width, 3)
            out[:h, :w] = whole[top : top + h, left : left + w]
        return batch, boxes[:, 2:]


def read_split(
    data_dir: PathLike, split: str, limit: Mapping[str, int] | None = None
) -> tuple[TrainImages | np.ndarray, np.ndarray]:
    """A split's images and labels, mapped from disk.

    Args:
        limit: split → only n images, drawn at random with a fixed seed; None takes all.
    Returns:
        images: TrainImages for train, else uint8 (N, S, S, 3); labels int64 (N,).
    """
    data_dir = Path(data_dir)
    files = read_manifest(data_dir).files
    images = _load(data_dir, f"{split}_images.npy", files)
    labels = np.array(_load(data_dir, f"{split}_labels.npy", files))
    sizes = _load(data_dir, f"{split}_sizes.npy", files) if split == "train" else None
    complete = len(images) if sizes is None else sizes.prod(axis=1, dtype=np.int64).sum()
    rows = images if sizes is None else sizes
    if len(rows) == 0 or len(rows) != len(labels) or complete != len(images):
        raise UserError(f"{data_dir} has no labelled {split} images: make it again.")
    count = (limit or {}).get(split)
    chosen = None if count is None or count >= len(rows) else sample_indices(len(rows), count)
    if chosen is not None:
        labels = labels[chosen]
    if sizes is not None:
        return TrainImages(images, sizes, chosen), labels
    return images if chosen is None else images[chosen], labels


def _load(data_dir: Path, name: str, files: dict[str, str]) -> np.ndarray:
    """An array, mapped from disk, of the SHA-256 that the manifest gives it."""
    path = data_dir / name
    try:
        check_file(path, files.get(name))
        return np.load(path, mmap_mode="r")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: {again(path)}.") from None
    except PermissionError:
        raise
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}): {mend(path)}.") from None
