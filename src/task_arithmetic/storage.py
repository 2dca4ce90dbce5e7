"""What a run stores and downloads, counted before it runs; None stands for an unknown number."""

import os
from collections.abc import Iterable
from pathlib import Path

from . import settings
from .arrays import RESOLUTION, SMALL, SPLITS, TRAIN_SIDE
from .artifacts import UserError, read_json
from .geometry import image_tower_shapes, parameters, text_parameters, weights_repository
from .vector import moved_names

FLOAT = 4  # bytes of a stored parameter
HUB_SECONDS = 5.0  # to wait for each answer of the hub
# Sides of a dataset's images in pixels (if they vary, the largest), which no definition says.
SIDES = {"ylecun/mnist": 28, "ufldl-stanford/svhn": 32, "tanganke/eurosat": 64}
SIDES |= {"tanganke/resisc45": 256, "tanganke/gtsrb": 250}
EMBEDDED_SIDE = 32
ASPECT = 4 / 3  # width to height that other images are reckoned with


# --- Sums of numbers of which some may be unknown -------------------------------------------------


def times(factor: float, amount: int | None):
    """factor × amount."""
    return None if amount is None else factor * amount


def add_up(amounts: Iterable[int | None]) -> int | None:
    """The sum of amounts, unknown if one of them is."""
    amounts = list(amounts)
    return None if None in amounts else sum(amounts)


def three_digits(value: float) -> str:
    """1.23, 12.3 or 1,234."""
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def human_bytes(count: float) -> str:
    """A number of bytes in words: 12.3 MB, of 1000 kB each."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{three_digits(count)} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


# --- Disk ----------------------------------------------------------------------------------------


def disk_bytes(config: dict, geometries: dict) -> dict[str, list[int | None]]:
    """Stage → bytes of what each of its jobs writes; None: unknown. Stages that write less than
    megabytes are left out."""
    tasks, control = config["tasks"], config["negation"]["control"]
    definitions, repeats = config["definitions"]["tasks"], len(tasks) * len(config["seeds"])
    classes = {task: class_count(config, task) for task in [*tasks, control]}
    counts = {task: image_counts(config, task) for task in [*tasks, control]}
    moved = []
    for encoder, mode in models(config):
        shapes = image_tower_shapes(geometries[encoder])
        names = moved_names(shapes, config["definitions"]["modes"][mode]["train"], mode)
        moved += repeats * [FLOAT * parameters(shapes[name] for name in names)]
    return {
        "embedded": [
            add_up([n and n * EMBEDDED_SIDE**2 * 3 for n in counts[task].values()])
            for task in counts
            if "embedded" in definitions[task]
        ],
        "data": [array_bytes(definitions[task], counts[task]) for task in counts],
        "encoder": [
            FLOAT * (parameters(image_tower_shapes(g).values()) + text_parameters(g["text"]))
            for g in geometries.values()
        ],
        "head": [
            n and FLOAT * n * g["embed_dim"] for g in geometries.values() for n in classes.values()
        ],
        "finetune": moved,
        "vector": moved,
    }


def models(config: dict) -> list[tuple[str, str]]:
    """(encoder, mode) of everything that is fine-tuned."""
    models = [(encoder, mode) for encoder in config["encoders"] for mode in config["modes"]]
    return models + [(config["focus"], mode) for mode in config["ablations"]]


def array_bytes(definition: dict, counts: dict) -> int | None:
    """Bytes of a task's arrays, see data.py: exact if its images are small, square and of one known
    size; else an upper bound, but for images that are wider than 4 to 3."""
    if None in counts.values():
        return None
    side = EMBEDDED_SIDE if "embedded" in definition else SIDES.get(definition.get("hub"))
    largest = side**2 if side and side <= TRAIN_SIDE else round(ASPECT * TRAIN_SIDE**2)
    stored = side if side and side <= SMALL else RESOLUTION
    labels = 8 * sum(counts.values())
    sizes = 8 * counts["train"]
    evaluated = 3 * stored**2 * (counts["validation"] + counts["test"])
    return 3 * largest * counts["train"] + evaluated + labels + sizes


def size_is_known(definition: dict) -> bool:
    """Whether a task's arrays have exactly the bytes that array_bytes says."""
    side = EMBEDDED_SIDE if "embedded" in definition else SIDES.get(definition.get("hub"))
    return side is not None and side <= SMALL


def image_counts(config: dict, task: str) -> dict[str, int | None]:
    """Split → number of images: as expected by the task's definition, else as its manifest has it
    if the data stage has run; None: unknown."""
    expected = config["definitions"]["tasks"][task].get("expected", {})
    found = _manifest(task).get("counts", {})
    return {split: expected.get(split, found.get(split)) for split in SPLITS}


def class_count(config: dict, task: str) -> int | None:
    """The number of a task's classes; None: unknown."""
    definition = config["definitions"]["tasks"][task]
    listed = definition.get("classes")
    if "classes" in definition.get("expected", {}):
        return definition["expected"]["classes"]
    if isinstance(listed, list):
        return len(listed)
    return 1000 if listed == "open_clip" else len(_manifest(task).get("classes", [])) or None


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

    from . import hub

    kind, repo = "dataset", definition.get("hub")
    if repo is None:
        kind, repo = "model", weights_repository(name, definition)
    info = HfApi().repo_info(
        repo,
        repo_type=kind,
        revision=definition.get("revision"),
        files_metadata=True,
        timeout=HUB_SECONDS,
    )
    sizes = {file.rfilename: file.size for file in info.siblings}
    if kind == "model":
        return sizes.get(hub.WEIGHTS)
    parquet = [name for name in sizes if name.endswith(".parquet")]
    if not parquet:
        return add_up(list(sizes.values()))
    card = info.card_data.to_dict() if info.card_data else {}
    patterns = hub.split_patterns("", repo, card.get("configs"), definition.get("config"))
    splits = [definition.get(role, role) for role in ("train", "test")]
    chosen = [
        path
        for path in parquet
        if any(split and hub.of_split(path, split, patterns, definition) for split in splits)
    ]
    return add_up([sizes[path] for path in chosen]) if chosen else None
