"""The data stage: a labelled dataset becomes the arrays and the manifest of arrays.py."""

import ctypes
import itertools
import os
import re
import shutil
import signal
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from . import jobs
from .arrays import FORMAT, RESOLUTION, SMALL, SPLITS, TRAIN_SIDE
from .artifacts import (
    UserError,
    atomic_path,
    read_json,
    sealed,
    sha256_of,
    sha256_of_file,
    write_json,
)

BLOCK = 256  # images that are decoded, and kept if the stage is interrupted, at a time
VALIDATION_FRACTION, VALIDATION_MAX, SPLIT_SEED = 0.1, 5000, 0


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
    record = None if download is None else read_json(download)
    source = _open_source(task, definition, record, working / "source")
    test_name, train_name = definition.get("test", "test"), definition.get("train", "train")
    test = _split(task, source, test_name, definition)
    train = None if train_name is None else _split(task, source, train_name, definition)
    held_from = test if train is None else train
    own = getattr(held_from.features[definition.get("label", "label")], "names", None)
    classes = class_names(task, definition, own)
    try:
        kept, held = draw_validation(len(held_from), definition.get("validation"))
    except UserError as error:
        raise UserError(f"Task {task}: {error}") from None
    nothing = np.arange(0)
    parts = {
        "train": (test, nothing) if train is None else (train, kept),
        "validation": (held_from, held),
        "test": (test, kept) if train is None else (test, np.arange(len(test))),
    }
    counts = {split: len(indices) for split, (_, indices) in parts.items()}
    _check_expected(task, definition.get("expected"), {**counts, "classes": len(classes)})
    labels = {
        split: _labels(task, split, *part, definition, len(classes))
        for split, part in parts.items()
    }
    fingerprints = [FORMAT, BLOCK, definition, test._fingerprint, held_from._fingerprint]
    fingerprints.append(jobs.current_code("data"))
    blocks = working / sha256_of(fingerprints)[:16]
    paths = _decode(task, parts, definition, blocks, threads)
    digests = {split: _joined(paths[split], "digests").tolist() for split in SPLITS}
    shared = {
        f"{a}-{b}": len(set(digests[a]) & set(digests[b]))
        for a, b in itertools.combinations(SPLITS, 2)
    }
    problem = too_many_shared(task, definition, counts, shared)
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
        files = {path.name: sha256_of_file(path) for path in sorted(folder.iterdir())}
        manifest = {
            "format": FORMAT,
            "task": task,
            "definition": definition,
            "source": record and {k: record[k] for k in ("repo", "revision", "commit", "files")},
            "classes": classes,
            "source_classes": own,
            "validation_indices_sha256": sha256_of([int(i) for i in held]),
            "counts": counts,
            "sha256": hashes,
            "repeated_within_split": {k: len(v) - len(set(v)) for k, v in digests.items()},
            "shared_between_splits": shared,
            "data_sha256": sha256_of([classes, files]),
            "files": files,
        }
        write_json(folder / "manifest.json", sealed(manifest))


def _open_source(task: str, definition: dict, record: dict | None, cache: Path):
    """The dataset's splits, through `datasets`; what it prepares for itself lies in `cache`."""
    import datasets

    from .hub import EVERYTHING, located, snapshot_dir

    datasets.disable_progress_bars()
    where = definition.get("path", definition.get("hub"))
    try:
        if "path" in definition:
            folder = Path(where)
            if not folder.is_dir():
                raise UserError(f"Task {task}: there is no folder {folder}; correct its `path`.")
            if (folder / "dataset_dict.json").is_file():
                for state in sorted(folder.glob("*/state.json")):
                    if not read_json(state)["_data_files"]:
                        raise _empty(task, state.parent.name)
                return datasets.load_from_disk(str(folder))
            return datasets.load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(cache))
        if record is None:
            raise UserError(f"Task {task} is a hub's: give the record of its download.")
        files = located(record)
        if EVERYTHING in files:
            folder = snapshot_dir(record, files)
            return datasets.load_dataset(
                str(folder), definition.get("config"), cache_dir=str(cache)
            )
        paths = {split: [str(path) for path in found] for split, found in files.items()}
        return datasets.load_dataset("parquet", data_files=paths, cache_dir=str(cache))
    except UserError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UserError(
            f"Task {task}: {where} cannot be read as a dataset ({type(error).__name__}: {reason}); "
            "check its definition."
        ) from error


def _split(task: str, source, name: str, definition: dict):
    if name not in source:
        folder = Path(definition.get("path", "")) / name
        if "path" in definition and folder.is_dir():
            raise UserError(
                f"Task {task}: {folder} holds no image; put <class>/<image> files there."
            )
        raise UserError(
            f"Task {task}: its dataset has no split {name!r} (it has {', '.join(source)}); set "
            "`train` and `test` in its definition."
        )
    dataset = source[name]
    if len(dataset) == 0:
        raise _empty(task, name)
    for role in ("image", "label"):
        column = definition.get(role, role)
        if column not in dataset.column_names:
            raise UserError(
                f"Task {task}: its dataset has no column {column!r} (it has "
                f"{', '.join(dataset.column_names)}); set `{role}` in its definition."
            )
    return dataset


def _empty(task: str, split: str) -> UserError:
    return UserError(f"Task {task}: its split {split!r} is empty; choose another split.")


def class_names(task: str, definition: dict, own: list[str] | None) -> list[str]:
    """The class names in label order: the definition's `classes`, else the dataset's own.

    The dataset's own names must be those that `classes` stands for, in the same order, up to
    case, punctuation and a leading one-letter folder: a wrong order would give wrong numbers
    without an error. Names that only count (0, 1, 2 …) say nothing, and are not compared.
    """
    classes = definition.get("classes") or own
    if classes == "open_clip":
        from open_clip import IMAGENET_CLASSNAMES

        classes = list(IMAGENET_CLASSNAMES)
    if not classes:
        raise UserError(
            f"Task {task}: its labels have no names; list them as `classes` in its definition."
        )
    classes = [str(name) for name in classes]
    if own and len(own) != len(classes):
        raise UserError(
            f"Task {task}: its definition lists {len(classes)} classes, its dataset has "
            f"{len(own)}; correct `classes`."
        )
    meant = definition.get("source_classes", classes)
    if (
        not own
        or meant == "any"
        or [_plain(name) for name in own] == list(map(str, range(len(own))))
    ):
        return classes
    if len(meant) != len(own):
        raise UserError(
            f"Task {task}: its definition lists {len(meant)} source_classes, its dataset has "
            f"{len(own)}; correct `source_classes`."
        )
    for i, (theirs, ours) in enumerate(zip(own, meant, strict=True)):
        if _plain(theirs) != _plain(ours):
            raise UserError(
                f"Task {task}: label {i} is {theirs!r} in its dataset and {ours!r} in its "
                "definition; put `classes` in the dataset's order, or list the dataset's own "
                "names as `source_classes` if they mean the same."
            )
    return classes


def _plain(name: str) -> str:
    """A class name without case, punctuation and a leading folder: a/art_gallery → art gallery."""
    name = re.sub(r"^/?[a-z]/", "", str(name).lower())
    return " ".join(re.findall(r"[^\W_]+", name))


def draw_validation(count: int, size: int | None = None, seed: int = SPLIT_SEED):
    """The indices that stay in train and those held out, each in ascending order.

    The held-out ones are the last `size` of a seeded permutation without stratification;
    size = min(10 % of count, 5,000) unless given (paper, appendix A: "a small held-out
    proportion of the training set").
    """
    if size is None:
        size = min(int(VALIDATION_FRACTION * count), VALIDATION_MAX)
    if not 0 < size < count:
        raise UserError(
            f"cannot hold out {size} of {count} images for validation; set `validation` in the "
            "definition to a number between them."
        )
    order = np.random.Generator(np.random.PCG64(seed)).permutation(count)
    return np.sort(order[:-size]), np.sort(order[-size:])


def _labels(task, split, dataset, indices, definition, classes) -> np.ndarray:
    """The chosen rows' labels (N,) int64."""
    column = definition.get("label", "label")
    try:
        every = np.asarray(dataset[column][:])
        labels = every.astype(np.int64)[indices]
        if (labels != every[indices]).any():
            raise ValueError("some are fractions")
    except (TypeError, ValueError) as error:
        raise UserError(
            f"Task {task}: the column {column!r} of its {split} images is not a label of "
            f"whole numbers ({error}); mend the dataset, or set `label` to another column."
        ) from None
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise UserError(
            f"Task {task}: row {indices[wrong[0]]} of the {split} images has label "
            f"{labels[wrong[0]]}, outside its {classes} classes; mend the dataset or `classes`."
        )
    return labels


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


def too_many_shared(task: str, definition: dict, counts: dict, shared: dict) -> str | None:
    """A sentence if more images stand in two splits than the definition's `shared_images` allows, a
    share of the smaller split (default 0).

    Args:
        counts: split → images; shared: "train-test" and the other pairs → images in both.
    """
    for pair, count in shared.items():
        a, b = pair.split("-")
        if count > definition.get("shared_images", 0) * min(counts[a], counts[b]):
            return (
                f"Task {task}: {a} and {b} have {count:,} image{'s' * (count > 1)} in common; "
                "remove them from one of the two, or set `shared_images` in its definition to the "
                "share that may be."
            )
    return None


def _check_expected(task: str, expected: dict | None, found: dict) -> None:
    for what, count in (expected or {}).items():
        if found[what] != count:
            raise UserError(
                f"Task {task}: {found[what]} {what} instead of the expected {count}; check its "
                "dataset's revision, config and splits."
            )
