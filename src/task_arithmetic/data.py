"""The data stage of images: a labelled dataset becomes the arrays and the manifest of arrays.py."""

import ctypes
import itertools
import os
import shutil
import signal
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from . import jobs
from .arrays import FORMAT, RESOLUTION, SMALL, SPLITS, TRAIN_SIDE
from .artifacts import UserError, atomic_path, sha256_of
from .source import count_overlap, labels_of, read_source, too_many_shared, write_manifest

BLOCK = 256  # images that are decoded, and kept if the stage is interrupted, at a time


def write_task(task: str, settings: dict, output, download=None, threads: int = 1) -> None:
    """Read a labelled dataset and write its arrays and manifest.

    What is decoded already survives an interruption in a hidden folder beside the output.

    Args:
        task: the task's name.
        settings: `path` (a datasets.save_to_disk folder or an image folder) or `hub` with
            optional `config` and `revision`; `image`, `label`: columns; `train`, `test`: names of
            the source's splits (`train: null`: the task is only evaluated, and validation is
            drawn from the test images); `validation`: number of images to hold out of train;
            `classes`: names that replace the dataset's; `source_classes`: the dataset's own names
            that they stand for, or "any"; `expected`: counts.
        download: of a hub's dataset: what hub.download recorded.
        threads: processes that decode side by side.
        output: the folder to write.
    Raises:
        UserError: a missing split or column, an empty split, an unreadable image, a label outside
            the classes, other class names, an image in two splits, counts other than expected.
    """
    working = Path(output).with_name(f".{Path(output).name}.building")
    try:
        _write_task(task, settings, Path(output), working, download, threads)
    except UserError:  # what was decoded belongs to data that must change
        shutil.rmtree(working, ignore_errors=True)
        raise
    shutil.rmtree(working, ignore_errors=True)


def _write_task(task, definition, output_dir: Path, working: Path, download, threads) -> None:
    source = read_source(task, definition, download, working / "source")
    parts, counts = source.parts, source.counts()
    labels = {split: labels_of(source, split) for split in SPLITS}
    fingerprints = [FORMAT, BLOCK, definition]
    fingerprints += [parts[split][0]._fingerprint for split in ("test", "validation")]
    fingerprints.append(jobs.current_code("data", "vision"))
    blocks = working / sha256_of(fingerprints)[:16]
    paths = _decode(task, parts, definition, blocks, threads)
    digests = {split: _joined(paths[split], "digests").tolist() for split in SPLITS}
    overlap = count_overlap(digests)
    problem = too_many_shared(task, definition, counts, overlap["shared_between_splits"])
    if problem:
        example = _shared_example(parts, digests, definition.get("image", "image"))
        raise UserError(f"{problem.removesuffix('.')} ({example}).")
    sizes = {split: _joined(paths[split], "sizes").reshape(-1, 2) for split in SPLITS}
    side = _evaluated_side(np.concatenate([sizes["validation"], sizes["test"]]))
    with atomic_path(output_dir) as folder:
        folder.mkdir()
        np.save(folder / "train_sizes.npy", sizes["train"].astype(np.int32))
        for split in SPLITS:
            np.save(folder / f"{split}_labels.npy", labels[split])
            shape = (counts[split], side, side, 3)
            if split == "train":
                shape = (int(sizes["train"].prod(axis=1, dtype=np.int64).sum()), 3)
            _write_images(folder / f"{split}_images.npy", shape, paths[split], side)
        hashes = {
            split: sha256_of([FORMAT, digests[split], labels[split].tolist()]) for split in SPLITS
        }
        write_manifest(folder, source, hashes, overlap)


def _decode(task, parts, definition, folder: Path, threads: int) -> dict[str, list[Path]]:
    """Decode every image, in blocks of a file each; returns each split's files in order."""
    column = definition.get("image", "image")
    paths: dict[str, list[Path]] = {split: [] for split in parts}
    missing = []
    for split, (dataset, indices) in parts.items():
        for start in range(0, len(indices), BLOCK):
            path = folder / f"{split}-{start // BLOCK:05d}.npz"
            paths[split].append(path)
            if not path.is_file():
                missing.append((path, task, split, dataset, column, indices[start : start + BLOCK]))
    done, total = 0, sum(len(block[-1]) for block in missing)
    jobs.progress(done, total, "image")
    with _workers(missing, threads) as run:
        for count in run(_decode_block, range(len(missing))):
            done += count
            jobs.progress(done, total, "image")
    return paths


_blocks: list = []  # what workers decode; they inherit it when they are forked


@contextmanager
def _workers(blocks: list, threads: int):
    """A `map` over the numbers of `blocks`, on several processes if that is worth it."""
    _blocks[:] = blocks
    try:
        if min(threads, len(blocks)) <= 1:
            yield map
        else:
            context = get_context("fork")
            with ProcessPoolExecutor(threads, context, _follow_parent, (os.getpid(),)) as pool:
                try:
                    yield pool.map
                except BaseException:
                    pool.shutdown(wait=True, cancel_futures=True)
                    raise
    finally:
        _blocks.clear()


def _follow_parent(parent: int) -> None:
    """Let this worker end with its parent, however that ends, and leave signals to it."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, Linux
    if os.getppid() != parent:
        os._exit(1)


def _decode_block(number: int) -> int:
    """Write one block: pixels (ΣH·W, 3), sizes (n, 2) and a digest of each decoded image. Returns
    n."""
    path, task, split, dataset, column, indices = _blocks[number]
    arrays, digests = [], []
    for i in indices:
        try:
            picture = dataset[int(i)][column].convert("RGB")
        except Exception as error:
            raise UserError(
                f"Task {task}: {_where(dataset, column, int(i))} ({split}) cannot be read as "
                f"an image ({type(error).__name__}); remove or replace it in the dataset."
            ) from None
        digests.append(sha256_of(f"{picture.size}".encode() + picture.tobytes()))
        arrays.append(np.asarray(_shrunk(picture) if split == "train" else _evaluated(picture)))
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            pixels=np.concatenate([array.reshape(-1, 3) for array in arrays]),
            sizes=np.asarray([array.shape[:2] for array in arrays], np.int32),
            digests=np.asarray(digests),
        )
    return len(indices)


def _where(dataset, column: str, row: int) -> str:
    """The file of a row's image if it has one, else the row's number."""
    from datasets import Image

    path = None
    if isinstance(dataset.features[column], Image):
        path = (dataset.cast_column(column, Image(decode=False))[row][column] or {}).get("path")
    return f"the image of row {row}" + (f", {path}," if path else "")


def _shrunk(picture):
    """The whole image, its shortest side at most TRAIN_SIDE (bicubic, antialiased)."""
    return _resized(picture, TRAIN_SIDE) if min(picture.size) > TRAIN_SIDE else picture


def _evaluated(picture):
    """An image as evaluations read it, unless it is small: CLIP's resize and centre crop."""
    width, height = picture.size
    return picture if width == height <= SMALL else _square(picture)


def _square(picture):
    """Shortest side to RESOLUTION, centre crop: CLIP's preprocessing."""
    if min(picture.size) != RESOLUTION:
        picture = _resized(picture, RESOLUTION)
    width, height = picture.size
    left, top = round((width - RESOLUTION) / 2), round((height - RESOLUTION) / 2)
    return picture.crop((left, top, left + RESOLUTION, top + RESOLUTION))


def _resized(picture, side: int):
    """Shortest side to `side`, bicubic and antialiased, as torchvision's Resize."""
    from PIL import Image

    short = min(picture.size)
    width, height = (int(side * length / short) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def _evaluated_side(sizes: np.ndarray) -> int:
    """The stored side of evaluated images: their own if all have one, small."""
    sides = np.unique(sizes)
    return int(sides[0]) if len(sides) == 1 else RESOLUTION


def _joined(paths: list[Path], key: str) -> np.ndarray:
    """One array of all blocks of a split."""
    parts = []
    for path in paths:
        with np.load(path) as block:
            parts.append(block[key])
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)


def _write_images(target: Path, shape: tuple, paths: list[Path], side: int) -> None:
    """Join a split's blocks to one array on disk, a block in memory at a time; small images among
    larger ones are resized like these."""
    from PIL import Image

    out = np.lib.format.open_memmap(target, "w+", np.uint8, shape)
    at = 0
    for path in paths:
        with np.load(path) as block:
            pixels, sizes = block["pixels"], block["sizes"]
        if len(shape) == 4:
            pieces = np.split(pixels, np.cumsum(sizes.prod(axis=1))[:-1])
            pictures = [p.reshape(*size, 3) for p, size in zip(pieces, sizes, strict=True)]
            pixels = np.stack(
                [p if len(p) == side else np.asarray(_square(Image.fromarray(p))) for p in pictures]
            )
        out[at : at + len(pixels)] = pixels
        at += len(pixels)
    out.flush()


def _shared_example(parts: dict, digests: dict, column: str) -> str:
    """Where one of the images is that stand in two splits."""
    for a, b in itertools.combinations(SPLITS, 2):
        for digest in digests[a]:
            if digest in digests[b]:
                places = []
                for split in (a, b):
                    dataset, indices = parts[split]
                    row = int(indices[digests[split].index(digest)])
                    places.append(f"{_where(dataset, column, row).rstrip(',')} of {split}")
                return " is ".join(places)
    return ""
