"""The data stage of images: a labelled dataset becomes the arrays of images.py and a manifest."""

import ctypes
import hashlib
import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import UserError, first, root_cause
from ..files.checks import check_counts, check_kept, write_manifest
from ..files.definition import Settings
from ..files.hashes import sha256_of
from ..files.manifest import FORMAT, SPLITS
from ..files.paths import PathLike, atomic_path
from ..files.pictures import open_picture, to_rgb
from ..files.source import Source, check_unchanged, read_source
from ..progress import SILENT, Progress
from .images import DIGEST, RESOLUTION, SMALL, TRAIN_SIDE

if TYPE_CHECKING:
    from PIL import Image

BLOCK = 256  # images that are decoded, and kept if the stage is interrupted, at a time
NONE: dict[str, np.ndarray] = {  # of a block's arrays, of no image
    "kept": np.zeros(0, np.int64),
    "sizes": np.zeros((0, 2), np.int32),
    "digests": np.zeros((0, DIGEST), np.uint8),
}


def write_task(
    task: str,
    settings: Settings,
    output: PathLike,
    download: PathLike | None = None,
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
        download: of a hub's dataset: the record of its Download.
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
    task: str,
    definition: Settings,
    output_dir: Path,
    working: Path,
    download: PathLike | None,
    threads: int,
    progress: Progress,
) -> None:
    source = read_source(task, definition, download, working / "source")
    fingerprints: list[Any] = [FORMAT, BLOCK, definition]
    fingerprints += [source.parts[split].dataset._fingerprint for split in SPLITS]
    fingerprints.append(progress.provenance.get("code"))
    if definition.get("bad_images", "error") == "error":  # or else some may yet be left out
        check_counts(source, source.labels())
    paths = _decode(source, working / sha256_of(fingerprints)[:16], threads, progress)
    notes = _notes(
        task, definition, {k: [_remarks(path) for path in of] for k, of in paths.items()}
    )
    kept = {split: _joined(of, "kept") for split, of in paths.items()}
    sizes = {split: _joined(of, "sizes") for split, of in paths.items()}
    digests = {split: _joined(of, "digests") for split, of in paths.items()}
    named = {split: [row.tobytes() for row in each] for split, each in digests.items()}
    labels = {split: source.parts[split].labels[each] for split, each in kept.items()}
    example = partial(_shared_example, source, kept, named)
    checked = check_kept(source, labels, named, notes, example)
    side = _evaluated_side(np.concatenate([sizes["validation"], sizes["test"]]))
    check_unchanged(source.definition)
    with atomic_path(output_dir) as folder:
        folder.mkdir()
        np.save(folder / "train_sizes.npy", sizes["train"])
        for split in SPLITS:
            np.save(folder / f"{split}_labels.npy", labels[split])
            np.save(folder / f"{split}_digests.npy", digests[split])
            shape: tuple[int, ...] = (len(kept[split]), side, side, 3)
            if split == "train":
                shape = (int(sizes["train"].prod(axis=1, dtype=np.int64).sum()), 3)
            _write_images(folder / f"{split}_images.npy", shape, paths[split], side)
        hashes = {
            split: sha256_of([FORMAT, digests[split].tolist(), labels[split].tolist()])
            for split in SPLITS
        }
        write_manifest(folder, checked, hashes)


class Block(NamedTuple):
    """Images to be decoded into one file. `start`: the place of the first in its split."""

    path: Path
    split: str
    start: int
    dataset: Any
    column: str
    rows: np.ndarray
    definition: Settings


@dataclass
class Remarks:
    """What a block says of its images beside their pixels: how many there are; sentences on those
    that cannot be read; the numbers of those that are worth a note, and the largest level of those
    of 16 bits, see pictures.to_rgb."""

    images: int
    bad: list[str] = field(default_factory=list)
    transparent: int = 0
    frames: int = 0
    deep: int = 0
    level: int | None = None


def _decode(
    source: Source, folder: Path, threads: int, progress: Progress
) -> dict[str, list[Path]]:
    """Decode every image, in blocks of a file each; returns each split's files in order."""
    definition, column = source.definition.given, source.definition.image
    paths: dict[str, list[Path]] = {split: [] for split in source.parts}
    missing = []
    for split, part in source.parts.items():
        dataset = undecoded(part.dataset, column)
        for start in range(0, len(part.rows), BLOCK):
            path = folder / f"{split}-{start // BLOCK:05d}.npz"
            paths[split].append(path)
            if not path.is_file():
                rows = part.rows[start : start + BLOCK]
                missing.append(Block(path, split, start, dataset, column, rows, definition))
    done, total = 0, sum(len(block.rows) for block in missing)
    progress.at(done, total, "image")
    with _workers(missing, threads) as run:
        for count in run(_decode_block, range(len(missing))):
            done += count
            progress.at(done, total, "image")
    return paths


def undecoded(dataset: Any, column: str) -> Any:
    """A dataset's column of images as paths and bytes, without its other columns."""
    from datasets import Image

    if isinstance(dataset.features[column], Image):
        dataset = dataset.cast_column(column, Image(decode=False))
    return dataset.select_columns(column)


def _remarks(path: Path) -> Remarks:
    with np.load(path) as block:
        return Remarks(**json.loads(str(block["remarks"])))


def _notes(task: str, definition: Settings, remarks: dict[str, list[Remarks]]) -> list[str]:
    """What a person should know of the images of all splits.

    Raises:
        UserError: some cannot be read, if bad images are an error; none of a split can.
    """
    every = [block for blocks in remarks.values() for block in blocks]
    bad = [sentence for block in every for sentence in block.bad]
    images = sum(block.images for block in every)
    if bad and definition.get("bad_images", "error") == "error":
        one = "one" if len(bad) == 1 else f"{len(bad):,}"
        raise UserError(
            f"Task {task}: {one} of its {images:,} images cannot be read: {first(bad)}; mend or "
            "replace what is wrong, or set `bad_images: skip` in its definition to do without."
        )
    for split, blocks in remarks.items():
        if blocks and all(len(block.bad) == block.images for block in blocks):
            raise UserError(
                f"Task {task}: no image of its {split} split can be read ({first(bad, 3)}); mend "
                "the dataset."
            )
    notes = [f"{len(bad):,} of {images:,} images were skipped: {first(bad)}"] * bool(bad)
    if count := sum(block.transparent for block in every):
        ground = definition.get("transparent", "white")
        how = "taken without it" if ground == "drop" else f"laid on {ground}"
        notes.append(f"{count:,} images are transparent and were {how} (`transparent`)")
    if count := sum(block.frames for block in every):
        notes.append(f"{count:,} images have several frames, of which the first was read")
    if count := sum(block.deep for block in every):
        notes.append(f"{count:,} images have 16 bits a colour, of which the upper 8 were read")
    if levels := [block.level for block in every if block.level is not None]:
        notes.append(
            f"images of 16 bits were scaled from 0 … 65,535, their largest level being "
            f"{max(levels):,} (`levels` sets another range)"
        )
    return notes


_blocks: list[Block] = []  # what workers decode; they inherit it when they are forked


@contextmanager
def _workers(blocks: list[Block], threads: int) -> Iterator[Callable[..., Iterable[int]]]:
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
    block = _blocks[number]
    split, values = block.split, block.dataset[block.rows][block.column]
    options = {k: block.definition[k] for k in ("transparent", "levels") if k in block.definition}
    kept, arrays, digests = [], [], []
    remarks = Remarks(len(values))
    for place, (row, value) in enumerate(zip(block.rows, values, strict=True), block.start):
        try:
            picture, note = to_rgb(open_picture(value), **options)
        except Exception as error:
            cause = error if isinstance(error, UserError) else root_cause(error)
            remarks.bad.append(f"{_where(value, row)} of {split} ({cause})")
            continue
        if isinstance(note, str):
            setattr(remarks, note, getattr(remarks, note) + 1)
        elif note is not None:
            remarks.level = max(note, remarks.level or 0)
        digest = hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).digest()
        kept.append(place)
        digests.append(np.frombuffer(digest[:DIGEST], np.uint8))
        arrays.append(np.asarray(_shrunk(picture) if split == "train" else _evaluated(picture)))
    nothing = [np.zeros((0, 3), np.uint8)]
    with atomic_path(block.path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            kept=np.asarray(kept, np.int64),
            pixels=np.concatenate([array.reshape(-1, 3) for array in arrays] or nothing),
            sizes=np.asarray([array.shape[:2] for array in arrays], np.int32).reshape(-1, 2),
            digests=np.asarray(digests, np.uint8).reshape(-1, DIGEST),
            remarks=json.dumps(asdict(remarks)),
        )
    return len(values)


def _where(value: Any, row: int) -> str:
    """The file of an image if it has one, else the row's number."""
    path = value.get("path") if isinstance(value, dict) else value
    if not isinstance(path, str):
        return f"row {row}"
    below = os.path.relpath(path)
    return path if below.startswith(os.pardir) else below


def _shrunk(picture: "Image.Image") -> "Image.Image":
    """The whole image, its shortest side at most TRAIN_SIDE (bicubic, antialiased)."""
    return _resized(picture, TRAIN_SIDE) if min(picture.size) > TRAIN_SIDE else picture


def _evaluated(picture: "Image.Image") -> "Image.Image":
    """An image as evaluations read it, unless it is small: CLIP's resize and centre crop."""
    width, height = picture.size
    return picture if width == height <= SMALL else _square(picture)


def _square(picture: "Image.Image") -> "Image.Image":
    """Shortest side to RESOLUTION, centre crop: CLIP's preprocessing."""
    if min(picture.size) != RESOLUTION:
        picture = _resized(picture, RESOLUTION)
    width, height = picture.size
    left, top = round((width - RESOLUTION) / 2), round((height - RESOLUTION) / 2)
    return picture.crop((left, top, left + RESOLUTION, top + RESOLUTION))


def _resized(picture: "Image.Image", side: int) -> "Image.Image":
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
    parts: list[np.ndarray] = [NONE[key]]
    for path in paths:
        with np.load(path) as block:
            parts.append(block[key])
    return np.concatenate(parts)


def _write_images(target: Path, shape: tuple[int, ...], paths: list[Path], side: int) -> None:
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


def _shared_example(
    source: Source, kept: dict[str, np.ndarray], digests: dict[str, list[bytes]]
) -> str:
    """Where one of the images is that stand in two splits."""
    column = source.definition.image
    for pair in itertools.combinations(SPLITS, 2):
        others = set(digests[pair[1]])
        if digest := next((each for each in digests[pair[0]] if each in others), None):
            places = []
            for split in pair:
                part = source.parts[split]
                row = int(part.rows[kept[split][digests[split].index(digest)]])
                value = undecoded(part.dataset, column)[row][column]
                places.append(f"{_where(value, row)} of {split}")
            return " is ".join(places)
    return ""
