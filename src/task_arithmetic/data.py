"""Images as uint8 arrays: the data stage, its manifest, and reading them back.

A task's folder holds, for each split, `<split>_images.npy` (uint8, N × H × W × 3) and
`<split>_labels.npy` (int64, N), and manifest.json.
"""

import itertools
import sys
from pathlib import Path

import numpy as np

from .artifacts import UserError, atomic_path, read_json, sha256_of, write_json

SPLITS = ("train", "validation", "test")
RESOLUTION = 224  # larger images are stored at this size, as every CLIP ViT here reads them
SMALL = 64  # images of one size, square and at most this, are stored as they are
VALIDATION_FRACTION, VALIDATION_MAX, SPLIT_SEED = 0.1, 5000, 0


# --- The data stage ------------------------------------------------------------------------------


def write_task(task: str, definition: dict, output_dir) -> None:
    """Read a labelled dataset and write its arrays and manifest.

    Args:
        task: the task's name.
        definition: `path` (a datasets.save_to_disk folder or an image folder) or `hub` with
            optional `config` and `revision`; `image`, `label`: columns; `train`, `test`: names of
            the source's splits (`train: null`: the task is only evaluated, and validation is
            drawn from the test images); `validation`: number of images to hold out of train;
            `classes`: names that replace the dataset's; `templates`.
    Raises:
        UserError: a missing split or column, an empty split, an unreadable image, a label outside
            the classes, an image in two splits, counts other than expected.
    """
    source = _open_source(task, definition)
    test_name, train_name = definition.get("test", "test"), definition.get("train", "train")
    test = _split(task, source, test_name, definition)
    train = None if train_name is None else _split(task, source, train_name, definition)
    classes = class_names(task, definition, test if train is None else train)
    held_from = test if train is None else train
    try:
        kept, held = draw_validation(len(held_from), definition.get("validation"))
    except UserError as error:
        raise UserError(f"Task {task}: {error}") from None
    parts = {
        "train": None if train is None else (train, kept),
        "validation": (held_from, held),
        "test": (test, kept) if train is None else (test, range(len(test))),
    }
    manifest = {
        "task": task,
        "definition": definition,
        "classes": classes,
        "validation_indices_sha256": sha256_of([int(i) for i in held]),
        "counts": {},
        "sha256": {},
    }
    digests = {}
    with atomic_path(output_dir) as folder:
        folder.mkdir()
        for split, part in parts.items():
            if part is None:
                images, labels = np.zeros((0, 1, 1, 3), np.uint8), np.zeros(0, np.int64)
            else:
                images, labels = _arrays(task, split, *part, definition, len(classes))
            np.save(folder / f"{split}_images.npy", images)
            np.save(folder / f"{split}_labels.npy", labels)
            digests[split] = [sha256_of(image.tobytes()) for image in images]
            manifest["counts"][split] = len(images)
            manifest["sha256"][split] = sha256_of(
                [list(images.shape), digests[split], labels.tolist()]
            )
        manifest["repeated_within_split"] = {k: len(v) - len(set(v)) for k, v in digests.items()}
        manifest["shared_between_splits"] = _check_disjoint(task, definition, digests)
        _check_expected(task, definition.get("expected"), manifest)
        manifest["data_sha256"] = sha256_of([classes, manifest["sha256"]])
        write_json(folder / "manifest.json", manifest)


def _open_source(task: str, definition: dict):
    """The dataset's splits, through `datasets`."""
    import datasets

    datasets.disable_progress_bars()
    try:
        if "path" in definition:
            folder = Path(definition["path"])
            if not folder.is_dir():
                raise UserError(f"Task {task}: there is no folder {folder}; correct its `path`.")
            if (folder / "dataset_dict.json").is_file():
                for state in sorted(folder.glob("*/state.json")):
                    if not read_json(state)["_data_files"]:
                        raise _empty(task, state.parent.name)
                return datasets.load_from_disk(str(folder))
            return datasets.load_dataset("imagefolder", data_dir=str(folder))
        return datasets.load_dataset(
            definition["hub"], definition.get("config"), revision=definition.get("revision")
        )
    except UserError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        where = definition.get("path", definition.get("hub"))
        raise UserError(
            f"Task {task}: {where} cannot be read as a dataset ({type(error).__name__}: {reason}); "
            "check its definition, and the connection if it comes from a hub."
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


def class_names(task: str, definition: dict, dataset) -> list[str]:
    """The class names in label order: the definition's `classes`, else the dataset's own."""
    feature = dataset.features[definition.get("label", "label")]
    own = getattr(feature, "names", None)
    classes = definition.get("classes") or own
    if classes == "open_clip":
        from open_clip import IMAGENET_CLASSNAMES

        classes = list(IMAGENET_CLASSNAMES)
    if not classes:
        raise UserError(
            f"Task {task}: its labels have no names; list them as `classes` in its definition."
        )
    if own and len(own) != len(classes):
        raise UserError(
            f"Task {task}: its definition lists {len(classes)} classes, its dataset has "
            f"{len(own)}; correct `classes`."
        )
    return [str(name) for name in classes]


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


def _arrays(task, split, dataset, indices, definition, classes):
    """Decode the chosen rows: images (N, H, W, 3) uint8, labels (N,) int64."""
    image_column, label_column = definition.get("image", "image"), definition.get("label", "label")
    try:
        labels = np.asarray(dataset[label_column][:], dtype=np.int64)[np.asarray(indices)]
    except (TypeError, ValueError) as error:
        raise UserError(
            f"Task {task}: the column {label_column!r} of its {split} images is not a label of "
            f"whole numbers ({error}); mend the dataset, or set `label` to another column."
        ) from None
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise UserError(
            f"Task {task}: row {indices[wrong[0]]} of the {split} images has label "
            f"{labels[wrong[0]]}, outside its {classes} classes; mend the dataset or `classes`."
        )
    pictures = []
    for i in _progress(indices, f"{task} {split}"):
        try:
            picture = dataset[int(i)][image_column].convert("RGB")
        except Exception as error:
            raise UserError(
                f"Task {task}: {_where(dataset, image_column, int(i))} ({split}) cannot be read as "
                f"an image ({type(error).__name__}); remove or replace it in the dataset."
            ) from error
        pictures.append(picture)
    sizes = {picture.size for picture in pictures}
    (width, height) = next(iter(sizes))
    if len(sizes) > 1 or width != height or width > SMALL:
        pictures = [_square(picture) for picture in pictures]
    return np.stack([np.asarray(picture, np.uint8) for picture in pictures]), labels


def _where(dataset, column: str, row: int) -> str:
    """The file of a row's image if it has one, else the row's number."""
    from datasets import Image

    path = None
    if isinstance(dataset.features[column], Image):
        path = (dataset.cast_column(column, Image(decode=False))[row][column] or {}).get("path")
    return f"the image of row {row}" + (f", {path}," if path else "")


def _square(picture):
    """Shortest side to RESOLUTION (bicubic, antialiased), centre crop: CLIP's preprocessing."""
    from PIL import Image

    width, height = picture.size
    short = min(width, height)
    if short != RESOLUTION:
        width, height = (int(RESOLUTION * side / short) for side in (width, height))
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - RESOLUTION) / 2), round((height - RESOLUTION) / 2)
    return picture.crop((left, top, left + RESOLUTION, top + RESOLUTION))


def _check_disjoint(task: str, definition: dict, digests: dict[str, list[str]]) -> int:
    """The number of images in two splits; an error unless the definition allows them."""
    count = 0
    for a, b in itertools.combinations(SPLITS, 2):
        shared = set(digests[a]) & set(digests[b])
        count += len(shared)
        if shared and definition.get("shared_images") != "allow":
            first = min(digests[a].index(digest) for digest in shared)
            raise UserError(
                f"Task {task}: {len(shared)} images are in both {a} and {b} (the first is "
                f"{a} image {first}); remove them from one of the two, or set `shared_images: "
                "allow` in its definition."
            )
    return count


def _check_expected(task: str, expected: dict | None, manifest: dict) -> None:
    found = {**manifest["counts"], "classes": len(manifest["classes"])}
    for what, count in (expected or {}).items():
        if found[what] != count:
            raise UserError(
                f"Task {task}: {found[what]} {what} instead of the expected {count}; check its "
                "dataset's revision, config and splits."
            )


def _progress(items, label: str):
    from tqdm import tqdm

    return tqdm(items, desc=label, file=sys.stderr, mininterval=1.0, leave=False)


# --- Reading -------------------------------------------------------------------------------------


def read_split(data_dir, split: str, limit: dict | None = None):
    """A split's images and labels, mapped from disk.

    Args:
        limit: split → only n images, drawn at random with a fixed seed; None takes all.
    Returns:
        images uint8 (N, H, W, 3), labels int64 (N,).
    """
    data_dir = Path(data_dir)
    count = (limit or {}).get(split)
    arrays = []
    for what, mode in (("images", "r"), ("labels", None)):
        path = data_dir / f"{split}_{what}.npy"
        try:
            arrays.append(np.load(path, mmap_mode=mode))
        except FileNotFoundError:
            raise UserError(f"{path} does not exist: run the data stage of this task.") from None
        except (ValueError, EOFError, OSError) as error:
            raise UserError(f"{path} is damaged ({error}): delete it and run again.") from None
    images, labels = arrays
    if len(images) == 0 or len(images) != len(labels):
        raise UserError(f"{data_dir} has no labelled {split} images: make it again.")
    if count is None or count >= len(images):
        return images, labels
    chosen = sample_indices(len(images), count)
    return images[chosen], labels[chosen]


def sample_indices(count: int, samples: int) -> np.ndarray:
    """A random subset of indices without replacement, ascending, always the same; all of them if
    there are no more than `samples`."""
    if samples >= count:
        return np.arange(count)
    generator = np.random.Generator(np.random.PCG64(SPLIT_SEED))
    return np.sort(generator.permutation(count)[:samples])


def read_manifest(data_dir) -> dict:
    """manifest.json of a task's folder."""
    return read_json(Path(data_dir) / "manifest.json")
