"""What a run reads, stores and downloads, counted before it runs; None is an unknown number.

Nothing here imports torch. How long texts are nobody knows before they are there: SOURCE and TARGET
tokens are assumed.
"""

import glob
import io
import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, TypeVar

from ..config import settings
from ..config.definitions import AnyTask, Checkpoint, Encoder, Task, TextEncoder
from ..config.experiment import Experiment
from ..errors import UserError
from ..files.definition import Definition
from ..files.hashes import canonical
from ..files.local import WHOLE, Classes, Table, find, read_list
from ..files.manifest import SPLITS
from ..files.paths import read_json
from ..files.source import VALIDATION_FRACTION, VALIDATION_MAX
from ..vision.geometry import weights_repository
from ..vision.images import DIGEST, RESOLUTION, SMALL, TRAIN_SIDE
from .operations import SOURCE

FLOAT = 4  # bytes of a stored parameter
HUB_SECONDS = 5.0  # to wait for each answer of the hub
# Sides of a dataset's images in pixels (if they vary, the largest), which no definition says.
SIDES = {"ylecun/mnist": 28, "ufldl-stanford/svhn": 32, "tanganke/eurosat": 64}
SIDES |= {"tanganke/resisc45": 256, "tanganke/gtsrb": 250, "nateraw/rendered-sst2": 448}
SIDES |= dict.fromkeys(["tanganke/cifar10", "tanganke/cifar100"], 32)
SIDES |= dict.fromkeys(["tanganke/stl10", "1aurent/PatchCamelyon"], 96)
SIDES |= dict.fromkeys(["ernestchu/emnist-digits", "tanganke/emnist_letters"], 28)
SIDES |= dict.fromkeys(["tanganke/kmnist", "zalando-datasets/fashion_mnist"], 28)
SIDES |= {"clip-benchmark/wds_fer2013": 48}
EMBEDDED_SIDE = 32
ASPECT = 4 / 3  # width to height that other images are reckoned with
SAMPLE = 48  # images of a folder's split whose sizes are looked at
LINE = 4 * SOURCE  # bytes of a row's texts: four characters for each token, assumed
OPEN_CLIP = {"classes": 1000, "templates": 80}  # of its lists, by which ImageNet is defined

Amount = TypeVar("Amount", int, float)
Splits = dict[str, int | None]  # split → number of examples


class Counts(NamedTuple):
    """How many examples of each split, and classes, a task has."""

    splits: Splits
    classes: int | None

    @property
    def rows(self) -> int | None:
        """Examples of all splits."""
        return add_up(self.splits.values())


# --- Sums of numbers of which some may be unknown -------------------------------------------------


def times(factor: Amount, amount: int | None) -> Amount | None:
    """factor × amount."""
    return None if amount is None else factor * amount


def add_up(amounts: Iterable[int | None]) -> int | None:
    """The sum of amounts, unknown if one of them is."""
    amounts = list(amounts)
    return None if None in amounts else sum(filter(None, amounts))


# --- Disk ----------------------------------------------------------------------------------------


def data_bytes(task: AnyTask, counts: Splits) -> int | None:
    """Bytes of a task's data: texts of the assumed length; arrays of images (vision/images.py),
    exactly if these are small, square and of one known size; of a folder, by the sizes of some of
    its images; else an upper bound, but for images that are wider than 4 to 3."""
    known = {split: count for split, count in counts.items() if count is not None}
    if len(known) < len(counts):
        return None
    rows = sum(known.values())
    if not isinstance(task, Task):
        return LINE * rows
    _, area, side = _stored(task)
    evaluated = 3 * side**2 * (known["validation"] + known["test"])
    labels, heights = (8 + DIGEST) * rows, 8 * known["train"]
    return round(3 * area * known["train"]) + evaluated + labels + heights


def _stored(task: Task) -> tuple[str, float, int]:
    """How a task's images are stored: the area of one in train, and the side of others; and whether
    this is exact, of a sample, or a bound."""
    seen = _seen(task)
    every = {size for each in seen.values() for size in each.sizes}
    if every:
        train = [each.sizes for name, each in seen.items() if name in (task.train, WHOLE)]
        shrunk = [min(1, TRAIN_SIDE / min(wh)) ** 2 * wh[0] * wh[1] for wh in sum(train, [])]
        (width, height), *others = every
        small = not others and width == height <= SMALL
        return "sample", fmean(shrunk or [0]), width if small else RESOLUTION
    side = EMBEDDED_SIDE if task.embedded else SIDES.get(task.hub or "", math.inf)
    if side <= SMALL:
        return "exact", side**2, int(side)
    return "bound", side**2 if side <= TRAIN_SIDE else ASPECT * TRAIN_SIDE**2, RESOLUTION


def how_sized(name: str, task: Task) -> str:
    """What data_bytes is of a task of images: "there", "exact", "sample" or "bound"."""
    return "there" if _manifest(name) else _stored(task)[0]


def counts_of(name: str, task: AnyTask) -> Counts:
    """A task's counts: as expected by its definition, else as its manifest has them if the data
    stage has run, else of a folder what is in it."""
    expected, made = task.expected.given() if task.expected else {}, _manifest(name)
    found = made.get("counts")
    if found is None:
        found = {} if set(expected) >= set(SPLITS) else _counted(task)
    splits = {split: expected.get(split, found.get(split)) for split in SPLITS}
    listed = OPEN_CLIP["classes"] if task.classes == "open_clip" else len(task.classes or [])
    classes = expected.get("classes") or listed or len(made.get("classes") or [])
    if not classes:
        classes = max((seen.classes for seen in _seen(task).values()), default=0)
    return Counts(splits, classes or None)


def _counted(task: AnyTask) -> dict[str, int]:
    """Split → number of examples in a folder, as source.py will draw them."""
    rows, found = {name: seen.rows for name, seen in _seen(task).items()}, {}
    if WHOLE in rows and task.train is not None:
        if not isinstance(task.test, float):  # a column tells
            return {}
        test = round(task.test * rows[WHOLE])
        found = {"train": rows[WHOLE] - test, "test": test}
    else:
        for split in SPLITS:
            name = getattr(task, split)
            if isinstance(name, str) and (count := rows.get(WHOLE, rows.get(name))):
                found[split] = count
    held_from = "test" if task.train is None else "train"
    if held_from not in found or "test" not in found:
        return {}
    if not isinstance(task.validation, str):
        most = min(int(VALIDATION_FRACTION * found[held_from]), VALIDATION_MAX)
        found["validation"] = task.validation or most
        found[held_from] -= found["validation"]
    return {"train": 0, **found}


def template_count(task: AnyTask) -> int:
    """The number of prompts that each class of a head has; of texts there are none."""
    templates = task.templates if isinstance(task, Task) else []
    return OPEN_CLIP["templates"] if templates == "open_clip" else len(templates)


def _manifest(task: str) -> dict[str, Any]:
    path = Path(f"results/shared/data/{task}/manifest.json")
    return dict(read_json(path)) if path.is_file() else {}


def bytes_at(output: str) -> int:
    """Bytes of what a job has made; output: the file that the plan knows it by."""
    path = Path(output)
    files: Iterable[Path] = path.parent.glob(f"{glob.escape(path.stem)}.*")
    if path.name in ("manifest.json", "encoder.json"):
        files = path.parent.iterdir()
    elif path.with_suffix("").is_dir():
        files = path.with_suffix("").rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


# --- A look into a user's folder -----------------------------------------------------------------


class Seen(NamedTuple):
    """What was seen of a split in a folder: its rows, class folders, and width and height of some
    of its images."""

    rows: int
    classes: int
    sizes: list[tuple[int, int]]


def _seen(task: AnyTask) -> dict[str, Seen]:
    """Split → what was seen of it at a definition's path; nothing of what cannot be read, of which
    `doctor` tells."""
    if task.path is None:
        return {}
    keys = {"train", "validation", "test", "split", "image"}
    chosen = task.model_dump(include=keys, exclude_unset=True)
    return _looked(canonical({**chosen, "path": os.path.abspath(task.path)}))


@cache
def _looked(key: str) -> dict[str, Seen]:
    definition, found = json.loads(key), {}
    splits: dict[str, Table | Classes] = {}
    with suppress(UserError, OSError, ValueError, KeyError):
        splits = find(Definition.of("", definition)).splits
    for name, rows in splits.items():
        count, images = 0, list[Any]()
        with suppress(UserError, OSError, ValueError, KeyError, ImportError):
            count, images = _rows(rows, definition.get("image", "image"))
        classes = len(rows.names) if isinstance(rows, Classes) else 0
        sizes = list(_sizes_of(images[:: -(-len(images) // SAMPLE) or 1]))
        found[name] = Seen(count, classes, sizes)
    return found


def _sizes_of(images: Iterable[str | bytes]) -> Iterator[tuple[int, int]]:
    from PIL import Image

    for image in images:
        with suppress(Exception):  # of one that is damaged the data stage tells
            with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as file:
                yield file.size


def _rows(rows: Table | Classes, column: str) -> tuple[int, list[Any]]:
    """The number of rows, and images, as paths or bytes: all, or of tables the first ones."""
    if isinstance(rows, Classes):
        return len(rows.paths), rows.paths
    if rows.kind == "list":
        columns, folder = read_list(rows.files[0]), os.path.dirname(rows.files[0])
        images = [os.path.join(folder, str(value)) for value in columns.get(column, [])]
        return len(next(iter(columns.values()))), images
    from pyarrow import ipc, memory_map, parquet

    count, images = 0, list[Any]()
    files = rows.files if rows.kind == "parquet" else sorted(Path(rows.files[0]).glob("*.arrow"))
    for path in files:
        if rows.kind == "parquet":
            with parquet.ParquetFile(path) as table:
                count += table.metadata.num_rows
                batches = [next(table.iter_batches(SAMPLE, columns=[column]), None)]
        else:
            with memory_map(str(path)) as file, ipc.open_stream(file) as reader:
                batches = list[Any](reader)
            count += sum(batch.num_rows for batch in batches)
        for batch in batches[:1]:
            if batch and column in batch.schema.names:
                values = batch.column(column).slice(0, SAMPLE).to_pylist()
                images += [v["bytes"] or v["path"] for v in values if isinstance(v, dict)]
    return count, images


# --- Downloads -----------------------------------------------------------------------------------


def downloads(experiment: Experiment) -> tuple[list[int | None], list[str]]:
    """Bytes of each download, in the order of hub_sources; and sentences on what is unknown.

    The record of an earlier download tells its size. Of the others the hub is asked for its list of
    files; once it does not answer it is not asked again.
    """
    from huggingface_hub.errors import HfHubHTTPError

    found: list[int | None] = []
    notes: list[str] = []
    silent = False
    for record, (name, definition) in settings.hub_sources(experiment).items():
        size = None
        if os.path.isfile(record):
            files = read_json(record)["files"].values()
            size = sum(file["size"] for part in files for file in part)
        elif not silent:
            try:
                size = _remote_bytes(name, definition)
            except (UserError, HfHubHTTPError) as error:
                notes.append(f"The size of {name} is unknown: {str(error).strip().splitlines()[0]}")
            except Exception as error:
                if not isinstance(error, OSError) and "httpx" not in type(error).__module__:
                    raise
                silent = True
                notes.append(f"Downloads unknown (hub not reachable: {type(error).__name__}).")
        found.append(size)
    return found, notes


def _remote_bytes(name: str, definition: settings.Downloaded) -> int | None:
    """Bytes of the files that the download stage would get; None if the hub's list does not say."""
    from huggingface_hub import HfApi

    from ..files import hub

    given = definition.given()
    repo, kind = str(given.get("hub", "")), "dataset"
    if isinstance(definition, Encoder | TextEncoder | Checkpoint):
        repo, kind = repo or weights_repository(name, given), "model"
    info: Any = HfApi().repo_info(
        repo,
        repo_type=kind,
        revision=given.get("revision"),
        files_metadata=True,
        timeout=HUB_SECONDS,
    )
    sizes = {file.rfilename: file.size for file in info.siblings}
    if isinstance(definition, Encoder):
        return sizes.get(hub.WEIGHTS)
    if isinstance(definition, TextEncoder | Checkpoint):
        small = [*hub.MODEL_FILES["config"], *hub.MODEL_FILES["tokenizer"]]
        small = ["config.json"] if isinstance(definition, Checkpoint) else small
        weights = hub.MODEL_FILES["weights"]
        if weights[0] not in sizes:  # in shards
            weights = [name for name in sizes if fnmatch(name, "model*.safetensors*")]
        chosen = [name for name in [*small, *weights] if name in sizes]
        return add_up(sizes[name] for name in chosen) if weights else None
    parquet = [name for name in sizes if name.endswith(".parquet")]
    if not parquet:
        return add_up(sizes.values())
    card = info.card_data.to_dict() if info.card_data else {}
    patterns = hub.split_patterns("", repo, card.get("configs"), given.get("config"))
    splits = Definition.of(name, given).roles.values()
    chosen = [
        path
        for path in parquet
        if any(hub.of_split(path, split, patterns, given.get("config")) for split in splits)
    ]
    return add_up([sizes[path] for path in chosen]) if chosen else None
