"""The paper's steps on values: fine-tune, merge, choose α, evaluate, disentanglement."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config.checks import check_recipe
from ..config.experiment import ImageRecipe, TextRecipe
from ..config.reading import read_yaml
from ..config.sentences import hold
from ..core import arithmetic
from ..core.disentanglement import disentanglement_errors
from ..core.schedule import Recipe, learning_rate_at
from ..core.training import Training, batches
from ..core.vectors import TaskVector, check_alike, total
from ..errors import UserError
from ..files.manifest import sample_indices
from ..files.shipped import ROOT
from ..progress import Bar, Progress
from ..stages import modalities
from .cache import defined
from .encoders import Encoder
from .tasks import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        recipe: any other key of `finetune` in config.yaml: batch_size, learning_rate, schedule …;
            by default as it stands there for images or texts, the warm-up at most a tenth of steps.
    Raises:
        UserError: an unknown mode or key, a loss that is not finite.
    """
    encoder = task.encoder
    if not (isinstance(seed, int) and seed >= 0):
        raise UserError(f"seed must be a whole number, 0 or more; found {seed!r}.")
    how = _recipe(encoder.modality, {"steps": steps, **recipe})
    definition = defined("modes", mode)
    form = modalities.form(encoder.modality)
    examples = task.examples("train", encoder)
    linearized = definition.linearized
    training = Training(
        encoder.theta0,
        encoder.about,
        examples[-1],
        form,
        how,
        definition.patterns(encoder.modality),
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


def _recipe(modality: str, given: dict[str, Any]) -> Recipe:
    """The recipe of config.yaml for a modality and over it what is given, held to what a
    configuration may say of one; the warm-up is at most a tenth of the steps."""
    config = read_yaml(ROOT / "config.yaml")
    usual = (config if modality == "vision" else config[modality])["finetune"]
    form = ImageRecipe if modality == "vision" else TextRecipe
    usual = {key: usual[key] for key in form.model_fields if key in usual}
    given = {key: list(v) if isinstance(v, tuple) else v for key, v in given.items()}
    held = hold(form, {**usual, **given}, "The recipe")
    if "warmup_steps" not in given:
        short = min(held.warmup_steps, held.steps // 10)
        held = held.model_copy(update={"warmup_steps": short})
    check_recipe(held, "The recipe's ")
    return Recipe(**held.model_dump())


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
    of different modes."""
    if encoder.tau.tensors:
        raise UserError(
            f"A task vector was added to this {encoder.name} already: give the encoder as "
            "load_encoder gave it."
        )
    some = list(vectors)
    for vector in some:
        encoder.check(vector)
        check_alike(some[0], vector)
        if vector.mode != some[0].mode:
            raise UserError(
                f"The task vectors are of different modes ({some[0].mode} and {vector.mode}): "
                "compare vectors of one mode."
            )


def _of_each(tasks: Iterable[Task], encoder: Encoder, split: str) -> dict[str, Any]:
    """task → its examples of a split. Raises UserError: an unknown split, no task, or two tasks of
    one name, of which one would be lost."""
    if split not in ("validation", "test"):
        raise UserError(f"There is no split {split!r} to evaluate: it is validation or test.")
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
    splits, tau = _of_each(tasks, encoder, split), tau.to(encoder.device)
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
        from ..report.figures import draw_heatmaps

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
        low, high, points: the grid of both coefficients. samples: random test images of each task.
            The defaults are for a look: config.yaml's figures have 15 points and 2,048 samples.
    Raises:
        UserError: texts; vectors of another encoder or of different modes; a grid that is none.
    """
    if encoder.modality != "vision" or min(len(vectors), len(tasks)) < 2:
        raise UserError("Disentanglement needs an encoder of images, two vectors and two tasks.")
    if not (points >= 2 and samples >= 1 and low < high):
        raise UserError(
            f"The grid needs low < high, 2 points and 1 sample; found {low} to {high}, {points} "
            f"points and {samples} samples."
        )
    _check_pretrained(encoder, vectors[:2])
    taus, parts = [tau.to(encoder.device) for tau in vectors[:2]], []
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
