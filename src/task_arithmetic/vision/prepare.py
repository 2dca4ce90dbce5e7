"""The data stage of images: a labelled dataset becomes the arrays and the manifest of arrays.py."""

import ctypes
import hashlib
import itertools
import json
import os
import shutil
import signal
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from ..errors import UserError, root_cause
from ..files.hashes import sha256_of
from ..files.local import first
from ..files.manifest import FORMAT, SPLITS
from ..files.paths import atomic_path
from ..files.pictures import open_picture, to_rgb
from ..files.source import (
    check_counts,
    check_unchanged,
    contradictions,
    count_overlap,
    read_source,
    say_notes,
    too_many_shared,
    write_manifest,
)
from ..progress import SILENT, Progress
from .images import DIGEST, RESOLUTION, SMALL, TRAIN_SIDE

BLOCK = 256  # images that are decoded, and kept if the stage is interrupted, at a time


def write_task(
    task: str,
    settings: dict,
    output,
    download=None,
    threads: int = 1,
    progress: Progress = SILENT,
) -> None:
    """Read a labelled dataset and write its arrays and manifest.

    What is decoded already survives an interruption in a hidden folder beside the output.

    Args:
        task: the task's name.
        settings: `path` (see local.py) or `hub` with optional `config` and `revision`; `image`,
            `label`, `split`: columns; `train`, `validation`, `test`: names of the source's splits
            (`train: null`: the task is only evaluated; `validation` without a name: the number of
            images to hold out of train, or else of test, and whether that is `stratified`; `test`
            as a share: of rows to draw); `classes`: names that replace the dataset's;
            `source_classes`: the dataset's own names that they stand for, or "any"; `expected`:
            counts; `bad_images`: error or skip; `transparent`, `levels`: see pictures.to_rgb.
        download: of a hub's dataset: what hub.download recorded.
        threads: processes that decode side by side.
        output: the folder to write.
    Raises:
        UserError: a missing split or column, an empty split, unreadable images, a label outside
            the classes, other class names, an image in two splits, counts other than expected.
    """
    working = Path(output).with_name(f".{Path(output).name}.building")
    try:
        _write_task(task, settings, Path(output), working, download, threads, progress)
    except UserError:  # what was decoded belongs to data that must change
        shutil.rmtree(working, ignore_errors=True)
        raise
    shutil.rmtree(working, ignore_errors=True)


def _write_task(
    task, definition, output_dir: Path, working: Path, download, threads, progress: Progress
) -> None:
    source = read_source(task, definition, download, working / "source")
    fingerprints = [FORMAT, BLOCK, definition]
    fingerprints += [source.parts[split][0]._fingerprint for split in SPLITS]
    fingerprints.append(progress.provenance.get("code"))
    blocks = working / sha256_of(fingerprints)[:16]
    if definition.get("bad_images", "error") == "error":  # or else some may yet be left out
        check_counts(source, source.labels)
    paths = _decode(source, blocks, threads, progress)
    remarks = {split: [_remarks(path) for path in paths[split]] for split in SPLITS}
    notes = [*source.notes, *_notes(task, definition, remarks)]
    kept = {split: _joined(paths[split], "kept") for split in SPLITS}
    labels = {split: source.labels[split][kept[split]] for split in SPLITS}
    counts = {split: len(each) for split, each in labels.items()}
    notes += check_counts(source, labels)
    digests = {
        split: _joined(paths[split], "digests").astype(np.uint8).reshape(-1, DIGEST)
        for split in SPLITS
    }
    named = {split: [row.tobytes() for row in digests[split]] for split in SPLITS}
    notes += contradictions(named, labels, "image")
    say_notes(task, notes)
    overlap = count_overlap(named)
    problem = too_many_shared(task, definition, counts, overlap["shared_between_splits"])
    if problem:
        example = _shared_example(source, kept, named)
        raise UserError(f"{problem.removesuffix('.')} ({example}).")
    sizes = {split: _joined(paths[split], "sizes").reshape(-1, 2) for split in SPLITS}
    side = _evaluated_side(np.concatenate([sizes["validation"], sizes["test"]]))
    check_unchanged(task, definition)
    with atomic_path(output_dir) as folder:
        folder.mkdir()
        np.save(folder / "train_sizes.npy", sizes["train"].astype(np.int32))
        for split in SPLITS:
            np.save(folder / f"{split}_labels.npy", labels[split])
            np.save(folder / f"{split}_digests.npy", digests[split])
            shape = (counts[split], side, side, 3)
            if split == "train":
                shape = (int(sizes["train"].prod(axis=1, dtype=np.int64).sum()), 3)
            _write_images(folder / f"{split}_images.npy", shape, paths[split], side)
        hashes = {
            split: sha256_of([FORMAT, digests[split].tolist(), labels[split].tolist()])
            for split in SPLITS
        }
        write_manifest(folder, source, hashes, counts, overlap, notes)


def _decode(source, folder: Path, threads: int, progress: Progress) -> dict[str, list[Path]]:
    """Decode every image, in blocks of a file each; returns each split's files in order."""
    definition, column = source.definition, source.definition.get("image", "image")
    paths: dict[str, list[Path]] = {split: [] for split in source.parts}
    missing = []
    for split, (dataset, indices) in source.parts.items():
        dataset = undecoded(dataset, column)
        for start in range(0, len(indices), BLOCK):
            path = folder / f"{split}-{start // BLOCK:05d}.npz"
            paths[split].append(path)
            if not path.is_file():
                rows = indices[start : start + BLOCK]
                missing.append((path, split, dataset, column, rows, definition))
    done, total = 0, sum(len(block[-2]) for block in missing)
    progress.at(done, total, "image")
    with _workers(missing, threads) as run:
        for count in run(_decode_block, range(len(missing))):
            done += count
            progress.at(done, total, "image")
    return paths


def undecoded(dataset, column: str):
    """A dataset's column of images as paths and bytes, without its other columns."""
    from datasets import Image

    if isinstance(dataset.features[column], Image):
        dataset = dataset.cast_column(column, Image(decode=False))
    return dataset.select_columns(column)


def _remarks(path: Path) -> dict:
    """What a block says of its images beside their pixels."""
    with np.load(path) as block:
        return json.loads(str(block["remarks"]))


def _notes(task: str, definition: dict, remarks: dict[str, list[dict]]) -> list[str]:
    """What a person should know of the images of all splits.

    Raises:
        UserError: some cannot be read, if bad images are an error; none of a split can.
    """
    every = [block for blocks in remarks.values() for block in blocks]
    bad = [sentence for block in every for sentence in block["bad"]]
    images = sum(block["images"] for block in every)
    if bad and definition.get("bad_images", "error") == "error":
        one = "one" if len(bad) == 1 else f"{len(bad):,}"
        raise UserError(
            f"Task {task}: {one} of its {images:,} images cannot be read: {first(bad)}; mend or "
            "replace what is wrong, or set `bad_images: skip` in its definition to do without."
        )
    for split, blocks in remarks.items():
        if blocks and all(len(block["bad"]) == block["images"] for block in blocks):
            raise UserError(
                f"Task {task}: no image of its {split} split can be read ({first(bad, 3)}); mend "
                "the dataset."
            )
    notes = [f"{len(bad):,} of {images:,} images were skipped: {first(bad)}"] * bool(bad)
    kinds = {k: sum(block[k] for block in every) for k in ("transparent", "frames", "deep")}
    ground = definition.get("transparent", "white")
    if count := kinds["transparent"]:
        how = "taken without it" if ground == "drop" else f"laid on {ground}"
        notes.append(f"{count:,} images are transparent and were {how} (`transparent`)")
    if count := kinds["frames"]:
        notes.append(f"{count:,} images have several frames, of which the first was read")
    if count := kinds["deep"]:
        notes.append(f"{count:,} images have 16 bits a colour, of which the upper 8 were read")
    levels = [block["level"] for block in every if block["level"] is not None]
    if levels:
        notes.append(
            f"images of 16 bits were scaled from 0 … 65,535, their largest level being "
            f"{max(levels):,} (`levels` sets another range)"
        )
    return notes


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
    """Write one block: of the images that can be read, `kept`: their places in the split, pixels
    (ΣH·W, 3), sizes (n, 2) and digests (n, 16), which are of the whole decoded image; and remarks.
    Returns the number of images."""
    path, split, dataset, column, rows, definition = _blocks[number]
    start = int(path.stem.rsplit("-", 1)[1]) * BLOCK
    options = {key: definition[key] for key in ("transparent", "levels") if key in definition}
    kept, arrays, digests = [], [], []
    remarks: dict = {
        "images": len(rows),
        "bad": [],
        "transparent": 0,
        "frames": 0,
        "deep": 0,
        "level": None,
    }
    for place, (row, value) in enumerate(zip(rows, dataset[rows][column], strict=True)):
        try:
            picture, note = to_rgb(open_picture(value), **options)
        except Exception as error:
            cause = error if isinstance(error, UserError) else root_cause(error)
            remarks["bad"].append(f"{_where(value, row)} of {split} ({cause})")
            continue
        if isinstance(note, str):
            remarks[note] += 1
        elif note is not None:
            remarks["level"] = max(note, remarks["level"] or 0)
        digest = hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).digest()
        kept.append(start + place)
        digests.append(np.frombuffer(digest[:DIGEST], np.uint8))
        arrays.append(np.asarray(_shrunk(picture) if split == "train" else _evaluated(picture)))
    nothing = [np.zeros((0, 3), np.uint8)]
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            kept=np.asarray(kept, np.int64),
            pixels=np.concatenate([array.reshape(-1, 3) for array in arrays] or nothing),
            sizes=np.asarray([array.shape[:2] for array in arrays], np.int32).reshape(-1, 2),
            digests=np.asarray(digests, np.uint8).reshape(-1, DIGEST),
            remarks=json.dumps(remarks),
        )
    return len(rows)


def _where(value, row: int) -> str:
    """The file of an image if it has one, else the row's number."""
    path = value.get("path") if isinstance(value, dict) else value
    if not isinstance(path, str):
        return f"row {row}"
    below = os.path.relpath(path)
    return path if below.startswith(os.pardir) else below


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
        if len(sizes) == 0:  # none of its images could be read
            continue
        if len(shape) == 4:
            pieces = np.split(pixels, np.cumsum(sizes.prod(axis=1))[:-1])
            pictures = [p.reshape(*size, 3) for p, size in zip(pieces, sizes, strict=True)]
            pixels = np.stack(
                [p if len(p) == side else np.asarray(_square(Image.fromarray(p))) for p in pictures]
            )
        out[at : at + len(pixels)] = pixels
        at += len(pixels)
    out.flush()


def _shared_example(source, kept: dict, digests: dict) -> str:
    """Where one of the images is that stand in two splits."""
    column = source.definition.get("image", "image")
    for a, b in itertools.combinations(SPLITS, 2):
        others = set(digests[b])
        for digest in digests[a]:
            if digest in others:
                places = []
                for split in (a, b):
                    dataset, indices = source.parts[split]
                    row = int(indices[kept[split][digests[split].index(digest)]])
                    value = undecoded(dataset, column)[row][column]
                    places.append(f"{_where(value, row)} of {split}")
                return " is ".join(places)
    return ""
