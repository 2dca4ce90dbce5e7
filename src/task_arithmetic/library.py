"""What a notebook uses: encoders, tasks and task vectors as values, and the paper's steps on them.

A thin layer over the functions that a run of the pipeline calls, which gives the same numbers.
Prepared encoders and tasks are kept in the folder that cache_dir() names.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .config import checks
from .config.experiment import ImageRecipe, patterns
from .config.reading import FORMS, load_definition
from .config.sentences import hold
from .config.settings import data_settings, download_settings, encoder_settings, head_settings
from .core import arithmetic
from .core.disentanglement import disentanglement_errors
from .core.schedule import Recipe, learning_rate_at
from .core.training import Training, batches
from .core.vectors import TaskVector, check_alike, total
from .errors import UserError
from .files.hashes import canonical, read_sealed
from .files.local import listing
from .files.manifest import SPLITS, read_manifest, sample_indices
from .files.paths import PathLike
from .pipeline.code import code_hash
from .progress import Bar, Progress
from .stages import modalities
from .stages.declared import STAGES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILES = {"encoder.json": None, "open_clip_config.json": "vision", "config.json": "language"}
TEMPLATES = ["a photo of a {}."]


def cache_dir() -> Path:
    """Where prepared encoders and tasks are kept: the folder that the environment variable
    TASK_ARITHMETIC_CACHE names, or ~/.cache/task_arithmetic."""
    found = os.environ.get("TASK_ARITHMETIC_CACHE") or "~/.cache/task_arithmetic"
    return Path(found).expanduser()


# --- Encoders ------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Encoder:
    """An encoder at θ0 + τ. `encoder + vector` and `encoder - vector` are encoders again.

    Attributes:
        name: its name. folder: where its files lie. modality: vision or language.
        theta0: pretrained tensors by name, float32. about: what encoder.json says of it.
        tau: the task vector that was added; one of a linearized mode is used in f_lin.
        prompts: of texts: the prompt set of a task that it reads; "": a task's only one.
    """

    name: str
    folder: Path
    modality: str
    theta0: dict[str, Tensor]
    about: dict[str, Any]
    tau: TaskVector
    prompts: str = ""

    @property
    def base(self) -> str:
        """The SHA-256 of θ0, which a task vector carries."""
        return str(self.about["theta0_sha256"])

    @property
    def theta(self) -> dict[str, Tensor]:
        """θ0 + τ by name."""
        return self.tau.apply(self.theta0)

    @property
    def device(self) -> torch.device:
        return next(iter(self.theta0.values())).device

    def check(self, tau: TaskVector) -> None:
        """Raises UserError: a vector of another encoder."""
        if tau.base and tau.base != self.base:
            raise UserError(
                f"The task vector is of another encoder (base {tau.base[:8]}) than {self.name} "
                f"(base {self.base[:8]}): use the one that it was fine-tuned from."
            )
        for name, tensor in tau.tensors.items():
            if name not in self.theta0 or tensor.shape != self.theta0[name].shape:
                raise UserError(
                    f"The task vector moves {name} of shape {tuple(tensor.shape)}, which "
                    f"{self.name} has not: it is of another encoder."
                )

    def __add__(self, tau: TaskVector) -> "Encoder":
        if not isinstance(tau, TaskVector):
            return NotImplemented
        self.check(tau)
        moved = self.tau + tau.to(self.device) if self.tau.tensors else tau.to(self.device)
        return replace(self, tau=moved)

    def __sub__(self, tau: TaskVector) -> "Encoder":
        return self + (-tau) if isinstance(tau, TaskVector) else NotImplemented

    def to(self, device: torch.device | str) -> "Encoder":
        """The same encoder on a device."""
        theta0 = {name: tensor.to(device) for name, tensor in self.theta0.items()}
        return replace(self, theta0=theta0, tau=self.tau.to(device))

    def __repr__(self) -> str:
        count = sum(tensor.numel() for tensor in self.theta0.values())
        moved = f" + {self.tau!r}" if self.tau.tensors else ""
        return f"Encoder({self.name}, {self.modality}, {count:,} numbers){moved}"


def load_encoder(name: PathLike, device: torch.device | str = "cpu") -> Encoder:
    """An encoder at θ0.

    Args:
        name: a name of config/encoders, of the working directory or those that come with the code;
            or a folder: an encoder's of a run, or a checkpoint of open_clip or of a T5. Only an
            encoder of a hub is downloaded.
    Raises:
        UserError: there is none of this name, or it is no plain CLIP ViT or T5.
    """
    found = [file for file in FILES if (Path(name) / file).is_file()]
    if found and found[0] == "encoder.json":
        return _read_encoder(Path(name), device)
    key = os.path.basename(os.path.normpath(name))
    if found:
        modality = FILES[found[0]] or "vision"
        definition: dict[str, Any] = {"path": str(name)}
        definition |= {"prompts": "any"} if modality == "language" else {}
        where = f"The checkpoint {name}"
        hold(FORMS["encoders"][modality], definition, where)
        checks.check_path(str(name), "encoders", modality, where)
    else:
        if os.sep in str(name):
            raise UserError(
                f"{name} is no folder of an encoder: it has none of {', '.join(FILES)}; give such "
                "a folder, or a name of config/encoders."
            )
        modality, definition = _defined("encoders", str(name))
    config = {
        "definitions": {"encoders": {key: definition}},
        "parts": {modality: {"encoders": [key]}},
    }
    settings = json.loads(encoder_settings(config, key))
    files = _sizes(definition["path"]) if "path" in definition else []
    folder = _cached("encoder", modality, key, settings, files)
    if not folder.exists():
        record = _downloaded(config, "encoders", key, folder)
        given = {"encoder": key, "settings": settings, "output": str(folder)}
        _run("encoder", {**given, "download": record})
    encoder = _read_encoder(folder, device)
    return encoder if found else replace(encoder, prompts=definition.get("prompts", ""))


def _read_encoder(folder: Path, device: torch.device | str) -> Encoder:
    modality = read_sealed(folder / "encoder.json").get("modality", "vision")
    theta0, about = modalities.form(modality).read_encoder(folder, device)
    none = TaskVector({}, base=about["theta0_sha256"])
    return Encoder(about["name"], folder, modality, theta0, about, none)


def _defined(kind: str, name: str) -> tuple[str, dict[str, Any]]:
    """The modality and the definition that a name of config/ stands for."""
    own = Path("config") / kind / f"{name}.yaml"
    place = {"basedir": Path()} if own.is_file() else {}
    try:
        return "vision", load_definition(kind, name, kind, **place)
    except UserError as error:
        if "is a definition for texts" not in str(error):
            raise
    return "language", load_definition(kind, name, kind, modality="language", **place)


def _sizes(path: PathLike) -> list[tuple[str, int, int]]:
    """The files of a checkpoint: names, sizes, times."""
    some = sorted(file for file in Path(path).iterdir() if file.is_file())
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in some]


def _cached(stage: str, modality: str, name: str, *content: Any) -> Path:
    """Where the cache has what a stage makes of this content alone, and by today's code."""
    code = STAGES[stage].code
    module = (code if isinstance(code, str) else code[modality]).rpartition(".")[0]
    key = canonical([code_hash(module), *content])
    return cache_dir() / stage / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _downloaded(config: dict[str, Any], kind: str, name: str, folder: Path) -> str | None:
    """The record of a hub's files, which are downloaded; None: they are no hub's."""
    definition = config["definitions"][kind][name]
    if "hub" not in definition and "pretrained" not in definition:
        return None
    record = folder.with_name(f"{folder.name}.download.json")
    if not record.is_file():
        settings = json.loads(download_settings(config, kind, name))
        _run("download", {"settings": settings, "output": str(record)})
    return str(record)


def _run(stage: str, given: dict[str, Any]) -> None:
    """A stage of the pipeline, into the cache."""
    Path(given["output"]).parent.mkdir(parents=True, exist_ok=True)
    STAGES[stage].function(given)(**given)


# --- Tasks ---------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Task:
    """A labelled data set as one encoder reads it.

    Attributes:
        name: its name. encoder: at θ0, whose head of the task it is.
        data_dir, head: its prepared data, and its zero-shot head, or prompts and answers.
        limit: split → only so many examples of it, drawn at random; None: all.
    """

    name: str
    encoder: Encoder
    data_dir: Path
    head: Path
    limit: dict[str, int] | None = None

    @property
    def classes(self) -> list[str]:
        """The classes' names in label order; none if labels are scores."""
        return read_manifest(self.data_dir).classes

    def examples(self, split: str, encoder: Encoder) -> Any:
        """The examples of train, validation or test, as the modality reads them. Raises UserError:
        the task was loaded for another encoder."""
        if self.encoder.base != encoder.base:
            raise UserError(
                f"Task {self.name} was loaded for another encoder than this {encoder.name}: load "
                "it with load_task(..., encoder)."
            )
        form = modalities.form(encoder.modality)
        return form.read_examples(
            self.head, self.data_dir, split, self.limit, encoder.about, encoder.device
        )

    def __repr__(self) -> str:
        counts = read_manifest(self.data_dir).counts
        shown = ", ".join(f"{count:,} {split}" for split, count in counts.items())
        return f"Task({self.name}, {len(self.classes)} classes, {shown})"


def load_task(
    source: PathLike,
    encoder: Encoder,
    *,
    templates: list[str] | str | None = None,
    name: str | None = None,
    limit: dict[str, int] | None = None,
    **definition: Any,
) -> Task:
    """A labelled data set as an encoder reads it, prepared once.

    Args:
        source: a folder or file of images (class folders, a data set saved by `datasets`, parquet,
            CSV, JSON lines) or of texts; or a name of config/tasks.
        templates: of images: prompts with one {} for the class name, or "open_clip"; of a folder
            "a photo of a {}." if none are given.
        name: what to call it; by default as the source.
        limit: split → only so many examples of it, drawn at random.
        definition: any other key of a task's definition (`task-arithmetic schema --of tasks`).
    Raises:
        UserError: what is wrong with the data or their definition.
    """
    for split, count in (limit or {}).items():
        if split not in SPLITS or not (isinstance(count, int) and count >= 1):
            raise UserError(
                f"limit has {split}: {count!r}: give whole numbers above 0 of {', '.join(SPLITS)}."
            )
    key = name or Path(os.path.normpath(source)).stem
    given = {**definition, **({"templates": templates} if templates is not None else {})}
    local = os.sep in str(source) or os.path.exists(source)
    if local:
        task: dict[str, Any] = {"path": str(source), **given}
        modality = "language" if "prompts" in task else "vision"
        if modality == "vision":
            task.setdefault("templates", TEMPLATES)
    else:
        modality, task = _defined("tasks", str(source))
        task |= given
    where = f"Task {key}"
    model = hold(FORMS["tasks"][modality], task, where)
    checks.check_source(model, where)
    if modality == "vision":
        checks.check_task(model, where)
    if "path" in task:
        checks.check_path(task["path"], "tasks", modality, where)
    if modality != encoder.modality:
        kinds = {"vision": "images", "language": "texts"}
        raise UserError(
            f"Task {key} is of {kinds[modality]}, and encoder {encoder.name} reads "
            f"{kinds[encoder.modality]}: choose one of the other."
        )
    sets = list(task.get("prompts", {}))
    prompts = encoder.prompts or (sets[0] if len(sets) == 1 else None)
    if sets and prompts not in sets:
        raise UserError(
            f"Task {key} has the prompt sets {', '.join(sets)}, and encoder {encoder.name} reads "
            f"{prompts or 'none in particular'}: give a task with one prompt set, or an encoder "
            "of config/encoders that names one of them."
        )
    pretrained = replace(encoder, tau=TaskVector({}, base=encoder.base))
    config = {
        "definitions": {"tasks": {key: task}, "encoders": {encoder.name: {"prompts": prompts}}},
        "parts": {modality: {"encoders": [encoder.name]}},
    }
    settings = json.loads(data_settings(config, key))
    if "embedded" in task:
        settings["path"] = str(_cached("embedded", modality, task["embedded"]))
        if not Path(settings["path"]).exists():
            _run("embedded", {"task": task["embedded"], "output": settings["path"]})
    elif "path" in task:
        settings["files"] = listing(task)
    data_dir = _cached("data", modality, key, settings)
    if not data_dir.exists():
        record = _downloaded(config, "tasks", key, data_dir)
        _run(
            "data", {"task": key, "settings": settings, "output": str(data_dir), "download": record}
        )
    own = json.loads(head_settings(config, key, encoder.name))
    data = read_manifest(data_dir).data_sha256
    head = _cached("head", modality, key, own, data, encoder.about["seal"])
    head = head.with_name(f"{head.name}.safetensors")
    if not head.exists():
        files = {"encoder_dir": str(encoder.folder), "data_dir": str(data_dir)}
        _run("head", {**files, "settings": own, "output": str(head)})
    return Task(key, pretrained, data_dir, head, limit)


# --- The paper's steps ---------------------------------------------------------------------------


def finetune(
    task: Task,
    mode: str = "attention",
    *,
    steps: int = 2000,
    seed: int = 0,
    precision: str = "float32",
    micro_batch: int | None = None,
    progress: Progress | None = None,
    **recipe: Any,
) -> TaskVector:
    """Fine-tune the task's encoder on it in a mode: τ = θ_t − θ0 (paper, Definition 1).

    Args:
        mode: a name of config/modes: attention, nonlinear, ntk …
        steps: optimizer steps. seed: of the order of the data, and of crops.
        precision, micro_batch: see Training.
        progress: None: a bar.
        recipe: any other attribute of core.schedule.Recipe: batch_size, learning_rate,
            warmup_steps (default: a tenth of the steps, at most 200), schedule …
    Raises:
        UserError: an unknown mode or key, a loss that is not finite.
    """
    encoder = task.encoder
    if not (isinstance(seed, int) and seed >= 0):
        raise UserError(f"seed must be a whole number, 0 or more; found {seed!r}.")
    how = _recipe({"steps": steps, **recipe})
    _, definition = _defined("modes", mode)
    form = modalities.form(encoder.modality)
    examples = task.examples("train", encoder)
    linearized = definition["linearized"]
    training = Training(
        encoder.theta0,
        encoder.about,
        examples[-1],
        form,
        how,
        patterns(definition, encoder.modality),
        linearized=linearized,
        mode=mode,
        precision=precision,
        micro_batch=micro_batch,
    )
    progress = progress or Bar(f"{mode} {task.name}")
    for batch in batches(form, examples, range(steps), seed, how, encoder.about, encoder.device):
        loss = training.step(*batch, learning_rate_at(training.done, how))
        if not math.isfinite(loss):
            raise UserError(
                f"The loss or its gradient is {loss} at step {training.done + 1} of {steps} of "
                f"{mode} {task.name}: lower learning_rate."
            )
        progress.at(training.done, steps, "step", loss=loss)
    tau = {name: tensor.detach() - encoder.theta0[name] for name, tensor in training.theta.items()}
    return TaskVector(tau, mode, linearized, encoder.base)


def _recipe(given: dict[str, Any]) -> Recipe:
    """A recipe of what is given, held to what a configuration may say of one."""
    steps = given["steps"] if isinstance(given["steps"], int) else 0
    whole = {**asdict(Recipe(steps)), "warmup_steps": min(200, steps // 10), **given}
    whole["crop_scale"] = list(whole["crop_scale"])
    hold(ImageRecipe, whole, "The recipe")
    return Recipe(**{**whole, "crop_scale": tuple(whole["crop_scale"])})


def merge(vectors: Iterable[TaskVector]) -> TaskVector:
    """Σ τ_t (paper, section 2). Raises UserError: vectors of different encoders or modes."""
    return total([vectors] if isinstance(vectors, TaskVector) else vectors)


def evaluate(
    encoder: Encoder, tasks: Iterable[Task], split: str = "test", precision: str = "float32"
) -> dict[str, float]:
    """Accuracy of an encoder on tasks: top-1 of images, exact match or Spearman's ρ of texts.

    Returns:
        task → accuracy, a fraction.
    """
    found = _accuracies(encoder, encoder.tau, [1.0], tasks, split, precision)
    return {task: float(values[0]) for task, values in found.items()}


def _check_pretrained(encoder: Encoder, vectors: Iterable[TaskVector]) -> None:
    """Raises UserError: an encoder that vectors were added to already, vectors of another one, or
    some of f and some of f_lin."""
    if encoder.tau.tensors:
        raise UserError(
            f"A task vector was added to this {encoder.name} already: give the encoder as "
            "load_encoder gave it."
        )
    some = list(vectors)
    for vector in some:
        encoder.check(vector)
        check_alike(some[0], vector)


def _of_each(tasks: Iterable[Task], encoder: Encoder, split: str) -> dict[str, Any]:
    """task → its examples of a split. Raises UserError: an unknown split, no task, or two tasks of
    one name, of which one would be lost."""
    if split not in SPLITS:
        raise UserError(f"There is no split {split!r}: it is one of {', '.join(SPLITS)}.")
    if isinstance(tasks, Task):
        tasks = [tasks]
    found: dict[str, Any] = {}
    for task in tasks:
        if task.name in found:
            raise UserError(f"Two tasks are called {task.name}: give one another `name`.")
        found[task.name] = task.examples(split, encoder)
    if not found:
        raise UserError("There is no task to evaluate: give at least one.")
    return found


def _accuracies(
    encoder: Encoder,
    tau: TaskVector,
    alphas: list[float],
    tasks: Iterable[Task],
    split: str,
    precision: str,
) -> dict[str, np.ndarray]:
    """task → accuracy of θ0 + α·τ for each α; of a linearized mode, through f_lin."""
    splits = _of_each(tasks, encoder, split)
    found: dict[str, np.ndarray] = modalities.form(encoder.modality).accuracies(
        encoder.theta0, encoder.about, tau, alphas, splits, tau.linearized, precision
    )
    return found


def choose_alpha(
    encoder: Encoder,
    tau: TaskVector,
    tasks: Sequence[Task],
    vectors: Sequence[TaskVector],
    alphas: Sequence[float] | None = None,
    precision: str = "float32",
) -> float:
    """The α with the largest mean normalized accuracy of θ0 + α·τ on validation (paper,
    appendix A); the first wins a tie.

    Args:
        tau: the merged vector. vectors: of each task its own, whose accuracy normalizes.
        alphas: default 0, 0.05, …, 1.
    Raises:
        UserError: not one vector for each task, or an accuracy of 0, which cannot normalize.
    """
    if len(tasks) != len(vectors):
        raise UserError(
            f"There are {len(tasks)} tasks and {len(vectors)} vectors: give each task its own."
        )
    grid = arithmetic.alpha_grid({"start": 0, "stop": 1, "step": 0.05})
    if alphas is not None:
        grid = [float(alpha) for alpha in alphas]
        if not grid or not np.isfinite(grid).all():
            raise UserError(f"alphas must be finite numbers, at least one; found {grid}.")
    _check_pretrained(encoder, (tau, *vectors))
    found = _accuracies(encoder, tau, grid, tasks, "validation", precision)
    own = []
    for task, vector in zip(tasks, vectors, strict=True):
        alone = _accuracies(encoder, vector, [1.0], [task], "validation", precision)
        own.append(float(alone[task.name][0]))
        if own[-1] <= 0 and not modalities.form(encoder.modality).MAY_FAIL:
            raise UserError(
                f"The individual model of {task.name} has no validation accuracy above 0, so that "
                "normalized accuracy is undefined: train longer."
            )
    accuracies = arithmetic.normalized([found[task.name] for task in tasks], own)
    return grid[arithmetic.choose_alpha(grid, accuracies)]


@dataclass(frozen=True)
class Disentanglement:
    """ξ(α1, α2) of two tasks (paper, Eq. 2).

    Attributes:
        tasks: the names of both. mode: of their vectors. alphas: the values of α1 and of α2.
        representation, classification: float64 (len(alphas), len(alphas)), first axis α1.
    """

    tasks: tuple[str, str]
    mode: str
    alphas: list[float]
    representation: np.ndarray
    classification: np.ndarray

    def plot(self) -> "Figure":
        """Both as heatmaps, α1 to the right."""
        from .report.figures import draw_heatmaps

        maps = {name: [(self.alphas, getattr(self, name)[None])] for name in MODULES}
        return draw_heatmaps(maps, [self.mode], self.tasks)


MODULES = ("representation", "classification")


def disentanglement(
    encoder: Encoder,
    vectors: Sequence[TaskVector],
    tasks: Sequence[Task],
    *,
    low: float = -2.0,
    high: float = 2.0,
    points: int = 9,
    samples: int = 256,
    progress: Progress | None = None,
) -> Disentanglement:
    """Disentanglement error of two tasks on a grid of both coefficients (paper, Eq. 2).

    Args:
        vectors, tasks: two of each, of images; only the first two are read.
        samples: random test images of each task.
    """
    if encoder.modality != "vision" or min(len(vectors), len(tasks)) < 2:
        raise UserError("Disentanglement needs an encoder of images, two vectors and two tasks.")
    if not (points >= 2 and samples >= 1 and low < high):
        raise UserError(
            f"The grid needs low < high, 2 points and 1 sample; found {low} to {high}, {points} "
            f"points and {samples} samples."
        )
    taus, parts = list(vectors[:2]), []
    _check_pretrained(encoder, taus)
    for images, _, head in _of_each(tasks[:2], encoder, "test").values():
        chosen = sample_indices(len(images), samples)
        weights = np.full(len(chosen), 1 / len(chosen))
        parts.append((np.array(images[chosen]), weights, head))
    alphas = np.linspace(low, high, points).round(12).tolist()
    found = disentanglement_errors(
        encoder.theta0,
        encoder.about,
        taus,
        parts,
        alphas,
        taus[0].linearized,
        progress=progress or Bar("disentanglement"),
    )
    names = (tasks[0].name, tasks[1].name)
    return Disentanglement(names, taus[0].mode, alphas, *(found[name] for name in MODULES))
