"""What a run reads, stores and downloads, counted before it runs; None is an unknown number.

Nothing here imports torch. How long texts are nobody knows before they are there: SOURCE and TARGET
tokens are assumed.
"""

import glob
import io
import itertools
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from ..config import settings
from ..errors import UserError
from ..files.definition import Definition
from ..files.hashes import canonical
from ..files.local import WHOLE, Classes, Table, find, read_list
from ..files.manifest import SPLITS
from ..files.paths import read_json
from ..files.source import VALIDATION_FRACTION, VALIDATION_MAX
from ..vision.geometry import weights_repository
from ..vision.images import DIGEST, RESOLUTION, SMALL, TRAIN_SIDE

FLOAT = 4  # bytes of a stored parameter
HUB_SECONDS = 5.0  # to wait for each answer of the hub
# Sides of a dataset's images in pixels (if they vary, the largest), which no definition says.
SIDES = {"ylecun/mnist": 28, "ufldl-stanford/svhn": 32, "tanganke/eurosat": 64}
SIDES |= {"tanganke/resisc45": 256, "tanganke/gtsrb": 250}
EMBEDDED_SIDE = 32
ASPECT = 4 / 3  # width to height that other images are reckoned with
SOURCE, TARGET = 64, 4  # tokens of an input and of an answer, on average: assumed
SAMPLE = 48  # images of a folder's split whose sizes are looked at
LINE = 4 * SOURCE  # bytes of a row's texts: four characters for each token, assumed


def is_text(about: dict) -> bool:
    """Whether a task's definition, or an encoder's geometry, is of texts."""
    return "prompts" in about or "d_model" in about


# --- Sums of numbers of which some may be unknown -------------------------------------------------


def times(factor: Any, amount: int | None) -> Any:
    """factor × amount."""
    return None if amount is None else factor * amount


def add_up(amounts: Iterable[int | None]) -> int | None:
    """The sum of amounts, unknown if one of them is."""
    amounts = list(amounts)
    return None if None in amounts else sum(amounts)


# --- Disk ----------------------------------------------------------------------------------------


def data_bytes(definition: dict, counts: dict) -> int | None:
    """Bytes of a task's data: texts of the assumed length; arrays of images, see data.py, exactly
    if these are small, square and of one known size; of a folder, by the sizes of some of its
    images; else an upper bound, but for images that are wider than 4 to 3."""
    if None in counts.values():
        return None
    if is_text(definition):
        return LINE * sum(counts.values())
    sizes = _sizes(definition)
    if any(sizes.values()):
        shrunk = [min(1, TRAIN_SIDE / min(wh)) ** 2 * wh[0] * wh[1] for wh in sizes["train"]]
        largest = fmean(shrunk or [0])
        (width, height), *others = set(sizes["train"] + sizes["others"])
        stored = width if not others and width == height <= SMALL else RESOLUTION
    else:
        side = _known_side(definition)
        largest = side**2 if side and side <= TRAIN_SIDE else ASPECT * TRAIN_SIDE**2
        stored = side if side and side <= SMALL else RESOLUTION
    labels = (8 + DIGEST) * sum(counts.values())
    heights = 8 * counts["train"]
    evaluated = 3 * stored**2 * (counts["validation"] + counts["test"])
    return round(3 * largest * counts["train"]) + evaluated + labels + heights


def _known_side(definition: dict) -> int | None:
    return EMBEDDED_SIDE if "embedded" in definition else SIDES.get(definition.get("hub"))


def how_sized(config: dict, task: str) -> str:
    """What data_bytes is of a task of images: "there", "exact", "sample" or "bound"."""
    definition = config["definitions"]["tasks"][task]
    side = _known_side(definition)
    if _manifest(task) or (side and side <= SMALL):
        return "there" if _manifest(task) else "exact"
    return "sample" if any(_sizes(definition).values()) else "bound"


def example_counts(config: dict, task: str) -> dict[str, int | None]:
    """Split → number of examples: as expected by the task's definition, else as its manifest has
    it if the data stage has run, else of a folder what is in it; None: unknown."""
    definition = config["definitions"]["tasks"][task]
    expected, found = definition.get("expected", {}), _manifest(task).get("counts")
    if found is None:
        found = {} if set(expected) >= set(SPLITS) else _counted(definition)
    return {split: expected.get(split, found.get(split)) for split in SPLITS}


def _counted(definition: dict) -> dict[str, int]:
    """Split → number of examples in a folder, as source.py will draw them."""
    rows = {name: count for name, (count, _) in _looked_at(definition).items()}
    names = {split: definition.get(split, split) for split in SPLITS}
    if WHOLE in rows and names["train"] is not None:
        if not isinstance(names["test"], float):  # a column tells
            return {}
        test = round(names["test"] * rows[WHOLE])
        found = {"train": rows[WHOLE] - test, "test": test}
    else:
        known = {s: rows.get(WHOLE, rows.get(n)) for s, n in names.items() if isinstance(n, str)}
        found = {split: count for split, count in known.items() if count}
    held_from = "test" if names["train"] is None else "train"
    if held_from not in found or "test" not in found:
        return {}
    if not isinstance(definition.get("validation"), str):
        most = min(int(VALIDATION_FRACTION * found[held_from]), VALIDATION_MAX)
        found["validation"] = definition.get("validation") or most
        found[held_from] -= found["validation"]
    return {"train": 0, **found}


def _sizes(definition: dict) -> dict[str, list[tuple[int, int]]]:
    """train and others → width and height of some images, if they lie in a folder."""
    found: dict[str, list] = {"train": [], "others": []}
    for name, (_, sizes) in _looked_at(definition).items():
        found["train" if name in (definition.get("train", "train"), WHOLE) else "others"] += sizes
    return found


def _looked_at(definition: dict) -> dict[str, tuple[int, list[tuple[int, int]]]]:
    """Split → rows at a definition's path, and the sizes of some images; nothing of what cannot be
    read, of which `doctor` tells."""
    return _looked(_key(definition)) if "path" in definition else {}


def _key(definition: dict) -> str:
    keys = ("train", "validation", "test", "split", "image")
    chosen = {key: definition[key] for key in keys if key in definition}
    return canonical({**chosen, "path": os.path.abspath(definition["path"])})


@cache
def _looked(key: str) -> dict[str, tuple[int, list[tuple[int, int]]]]:
    definition, found = json.loads(key), {}
    for name, rows in _found(key).items():
        count, images = 0, []
        with suppress(UserError, OSError, ValueError, KeyError, ImportError):
            count, images = _rows(rows, definition.get("image", "image"))
        sizes = []
        for image in images[:: -(-len(images) // SAMPLE) or 1]:
            with suppress(Exception):  # of one that is damaged the data stage tells
                from PIL import Image

                with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as file:
                    sizes.append(file.size)
        found[name] = count, sizes
    return found


@cache
def _found(key: str) -> dict[str, Table | Classes]:
    with suppress(UserError, OSError, ValueError, KeyError):
        return find(Definition.of("", json.loads(key))).splits
    return {}


def _rows(rows: Table | Classes, column: str) -> tuple[int, list]:
    """The number of rows, and images, as paths or bytes: all, or of tables the first ones."""
    if isinstance(rows, Classes):
        return len(rows.paths), rows.paths
    if rows.kind == "list":
        columns, folder = read_list(rows.files[0]), os.path.dirname(rows.files[0])
        values = columns.get(column, [])
        return len(next(iter(columns.values()))), [os.path.join(folder, str(v)) for v in values]
    import pyarrow
    from pyarrow import parquet

    count, images = 0, []
    saved = rows.kind == "saved"
    for path in sorted(Path(rows.files[0]).glob("*.arrow")) if saved else rows.files:
        if saved:
            with pyarrow.memory_map(str(path)) as file, pyarrow.ipc.open_stream(file) as reader:
                batches = list(reader)
            first, total = batches[:1], sum(batch.num_rows for batch in batches)
        else:
            with parquet.ParquetFile(path) as table:
                total = table.metadata.num_rows
                first = list(itertools.islice(table.iter_batches(SAMPLE, columns=[column]), 1))
        for batch in first:
            if column in batch.schema.names:
                values = batch.column(column).slice(0, SAMPLE).to_pylist()
                images += [v["bytes"] or v["path"] for v in values if isinstance(v, dict)]
        count += total
    return count, images


def bytes_at(output: str) -> int:
    """Bytes of what a job has made; output: the file that the plan knows it by."""
    path = Path(output)
    files: Iterable[Path] = path.parent.glob(f"{glob.escape(path.stem)}.*")
    if path.name in ("manifest.json", "encoder.json"):
        files = path.parent.iterdir()
    elif path.with_suffix("").is_dir():
        files = path.with_suffix("").rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def free_files(folder: str) -> int | None:
    """The number of files that fit into a folder's file system; None if it has no such limit."""
    about = os.statvfs(folder)
    return about.f_favail if about.f_files else None


def class_count(config: dict, task: str) -> int | None:
    """The number of a task's classes; None: unknown."""
    definition = config["definitions"]["tasks"][task]
    listed = definition.get("classes")
    if "classes" in definition.get("expected", {}):
        return definition["expected"]["classes"]
    if isinstance(listed, list):
        return len(listed)
    if listed == "open_clip":
        return 1000
    if (known := _manifest(task).get("classes")) or "path" not in definition:
        return len(known or []) or None
    folders = [len(x.names) for x in _found(_key(definition)).values() if isinstance(x, Classes)]
    return max(folders, default=None)


def template_count(config: dict, task: str) -> int:
    """The number of prompts that each class of a head has."""
    templates = config["definitions"]["tasks"][task]["templates"]
    return 80 if templates == "open_clip" else len(templates)


def _manifest(task: str) -> dict:
    path = Path(f"results/shared/data/{task}/manifest.json")
    return read_json(path) if path.is_file() else {}


# --- Downloads -----------------------------------------------------------------------------------


def downloads(config: dict) -> tuple[list[int | None], list[str]]:
    """Bytes of each download, in the order of hub_sources; and sentences on what is unknown.

    The record of an earlier download tells its size. Of the others the hub is asked for its list of
    files; once it does not answer it is not asked again.
    """
    from huggingface_hub.errors import HfHubHTTPError

    found: list[int | None] = []
    notes: list[str] = []
    silent = False
    for record, (name, definition) in hub_sources(config).items():
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


def hub_sources(config: dict) -> dict[str, tuple[str, dict]]:
    """Record of a download → the name and definition of the task or encoder."""
    found = {}
    for kind in ("tasks", "encoders"):
        for name, definition in config["definitions"][kind].items():
            record = settings.download_record(config, kind, name)
            if record:
                found[record] = name, definition
    return found


def _remote_bytes(name: str, definition: dict) -> int | None:
    """Bytes of the files that the download stage would get; None if the hub's list does not say."""
    from huggingface_hub import HfApi

    from ..files import hub

    repo, kind = definition.get("hub"), "model" if "architecture" in definition else "dataset"
    if repo is None:
        repo, kind = weights_repository(name, definition), "model"
    info = HfApi().repo_info(
        repo,
        repo_type=kind,
        revision=definition.get("revision"),
        files_metadata=True,
        timeout=HUB_SECONDS,
    )
    sizes = {file.rfilename: file.size for file in info.siblings}
    if "architecture" in definition:
        small = [*hub.MODEL_FILES["config"], *hub.MODEL_FILES["tokenizer"]]
        weights = hub.MODEL_FILES["weights"]
        if weights[0] not in sizes:  # in shards
            weights = [name for name in sizes if fnmatch(name, "model*.safetensors*")]
        chosen = [name for name in [*small, *weights] if name in sizes]
        return add_up(sizes[name] for name in chosen) if weights else None
    if kind == "model":
        return sizes.get(hub.WEIGHTS)
    parquet = [name for name in sizes if name.endswith(".parquet")]
    if not parquet:
        return add_up(list(sizes.values()))
    card = info.card_data.to_dict() if info.card_data else {}
    patterns = hub.split_patterns("", repo, card.get("configs"), definition.get("config"))
    splits = Definition.of(name, definition).roles.values()
    chosen = [
        path
        for path in parquet
        if any(hub.of_split(path, split, patterns, definition.get("config")) for split in splits)
    ]
    return add_up([sizes[path] for path in chosen]) if chosen else None
