"""The paper's steps on values: fine-tune, choose α, evaluate, disentanglement."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config.checks import check_recipe
from ..config.experiment import ImageRecipe, TextRecipe
from ..config.reading import read_yaml
from ..config.sentences import hold
from ..core import addition, negation
from ..core.disentanglement import MODULES, Sample, disentanglement_errors
from ..core.encoder import Examples
from ..core.schedule import Recipe, learning_rate_at
from ..core.training import Training, batches
from ..core.vectors import check_alike
from ..errors import UserError
from ..files.manifest import sample_indices
from ..files.shipped import ROOT
from ..merging.method import Method
from ..progress import Bar, Progress
from .cache import defined
from .checks import (
    check_own,
    check_pretrained,
    check_seed,
    expect,
    grid_of,
    warn_at_the_end,
)
from .encoders import Encoder
from .tasks import Task
from .vectors import MergedVector, TaskVector

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def finetune(
    task: Task,
    mode: str = "attention",
    *,
    steps: int = 2000,
    seed: int = 0,
    precision: str = "auto",
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
    expect(task, Task, "load_task")
    encoder = task.encoder
    modality = encoder.modality
    if not isinstance(mode, str):
        raise UserError(f"mode must be a name of config/modes, such as attention; found {mode!r}.")
    check_seed(seed)
    if micro_batch is not None and not (isinstance(micro_batch, int) and micro_batch >= 1):
        raise UserError(f"micro_batch must be a whole number above 0; found {micro_batch!r}.")
    how = _recipe(modality.name, {"steps": steps, **recipe})
    definition = defined("modes", mode)
    examples = task.examples("train", encoder)
    linearized = definition.linearized
    training = Training(
        encoder.theta0,
        modality,
        examples.head,
        how,
        definition.patterns(modality.name),
        linearized=linearized,
        mode=mode,
        precision=precision,
        micro_batch=micro_batch,
    )
    progress = progress or Bar(f"{mode} {task.name}")
    for batch in batches(modality, examples, range(steps), seed, how, encoder.device):
        loss = training.step(*batch, learning_rate_at(training.done, how))
        if not math.isfinite(loss):
            raise UserError(
                f"The loss or its gradient is {loss} at step {training.done + 1} of {steps} of "
                f"{mode} {task.name}: lower learning_rate."
            )
        progress.at(training.done, steps, "step", loss=loss)
    tau = {name: tensor.detach() - encoder.theta0[name] for name, tensor in training.theta.items()}
    return TaskVector(tau, mode, linearized, encoder.base, task.name)


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


def evaluate(
    encoder: Encoder, tasks: Iterable[Task], split: str = "test", precision: str = "auto"
) -> dict[str, float]:
    """Accuracy of an encoder on tasks: top-1 of images, exact match or Spearman's ρ of texts.

    Args:
        precision: as a run's: auto (bf16 on a GPU that computes in it), bf16 or float32.
    Returns:
        task → accuracy, a fraction.
    """
    expect(encoder, Encoder, "load_encoder")
    found = _accuracies(encoder, encoder.tau, [1.0], tasks, split, precision)
    return {task: float(values[0]) for task, values in found.items()}


def _of_each(tasks: Iterable[Task], encoder: Encoder, split: str) -> dict[str, Examples]:
    """task → its examples of a split. Raises UserError: an unknown split, no task, or two tasks of
    one name, of which one would be lost."""
    if split not in ("validation", "test"):
        raise UserError(f"There is no split {split!r} to evaluate: it is validation or test.")
    expect(encoder, Encoder, "load_encoder")
    if isinstance(tasks, Task | str):
        tasks = [tasks]
    found: dict[str, Examples] = {}
    for task in tasks:
        expect(task, Task, "load_task")
        if task.name in found:
            raise UserError(f"Two tasks are called {task.name}: give one another `name`.")
        found[task.name] = task.examples(split, encoder)
    if not found:
        raise UserError("There is no task to evaluate: give at least one.")
    return found


def _accuracies(
    encoder: Encoder,
    tau: TaskVector | MergedVector,
    alphas: list[float],
    tasks: Iterable[Task],
    split: str,
    precision: str,
) -> dict[str, np.ndarray]:
    """task → accuracy of θ0 + α·τ, or θ0 + A + α·B, for each α; of a linearized mode, through
    f_lin."""
    splits, tau, offset = _of_each(tasks, encoder, split), tau.to(encoder.device), None
    if isinstance(tau, MergedVector):
        check_alike(tau.offset, tau.direction)
        offset, tau = tau.offset, tau.direction
    how = alphas, splits, tau.linearized, precision, offset
    return encoder.modality.accuracies(encoder.theta0, tau, *how)


def choose_alpha(
    encoder: Encoder,
    tau: TaskVector | MergedVector,
    tasks: Sequence[Task],
    vectors: Sequence[TaskVector],
    alphas: Sequence[float] | str | Method | None = None,
    precision: str = "auto",
) -> float:
    """The α with the largest mean normalized accuracy of θ0 + α·τ on validation (paper,
    appendix A); the first wins a tie.

    Args:
        tau: the merged vector. vectors: of each task its own, whose accuracy normalizes.
        alphas: default 0, 0.05, …, 1; a merging method, or its name: its own grid, that of its
            default options.
    Raises:
        UserError: not one vector for each task, or an accuracy of 0, which cannot normalize.
    """
    tasks = [tasks] if isinstance(tasks, Task) else list(tasks)
    vectors = [vectors] if isinstance(vectors, TaskVector) else list(vectors)
    if len(tasks) != len(vectors):
        raise UserError(
            f"There are {len(tasks)} tasks and {len(vectors)} vectors: give each task its own."
        )
    grid = grid_of(alphas)
    merged = (tau.offset, tau.direction) if isinstance(tau, MergedVector) else (tau,)
    check_pretrained(encoder, (*merged, *vectors))
    check_own(tasks, vectors)
    found = _accuracies(encoder, tau, grid, tasks, "validation", precision)
    own = own_accuracies(encoder, tasks, vectors, precision)
    accuracies = addition.normalized([found[task.name] for task in tasks], own)
    chosen = grid[addition.choose_alpha(grid, accuracies)]
    warn_at_the_end(chosen, grid)
    return chosen


def own_accuracies(
    encoder: Encoder, tasks: Sequence[Task], vectors: Sequence[TaskVector], precision: str
) -> list[float]:
    """The validation accuracy of each task's individual model, which normalizes. Raises UserError:
    one is 0 and cannot."""
    own = []
    for task, vector in zip(tasks, vectors, strict=True):
        alone = _accuracies(encoder, vector, [1.0], [task], "validation", precision)
        own.append(float(alone[task.name][0]))
        if own[-1] <= 0 and not encoder.modality.may_fail:
            raise UserError(
                f"The individual model of {task.name} has no validation accuracy above 0, so that "
                "normalized accuracy is undefined: train longer."
            )
    return own


def choose_negation(
    encoder: Encoder,
    tau: TaskVector,
    task: Task,
    control: Task,
    keep: float = 0.95,
    alphas: Sequence[float] | None = None,
    precision: str = "auto",
) -> float:
    """The α with which θ0 − α·τ forgets a task: of those that keep the accuracy of a control task
    on validation, the one with the lowest accuracy of the task (paper, appendix A).

    Args:
        tau: the task's own vector. keep: the least share of the pretrained model's accuracy on
            the control task that is to be kept.
        alphas: default 0, 0.05, …, 1.
    Raises:
        UserError: no α keeps it.
    """
    grid = grid_of(alphas)
    if not (isinstance(keep, int | float) and 0 < keep <= 1):
        raise UserError(f"keep must be a share above 0 and at most 1; found {keep!r}.")
    check_pretrained(encoder, [tau])
    check_own([task, control], [tau])
    found = _accuracies(encoder, -tau, grid, [task, control], "validation", precision)
    before = _accuracies(encoder, tau, [0.0], [control], "validation", precision)
    kept = float(before[control.name][0])
    chosen = grid[negation.choose_negation(found[task.name], found[control.name], kept, keep)]
    warn_at_the_end(chosen, grid)
    return chosen


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
        from ..report.cells import OverGrid
        from ..report.figures import draw_heatmaps

        alphas = np.array(self.alphas)
        maps = {name: [OverGrid(alphas, getattr(self, name)[None])] for name in MODULES}
        return draw_heatmaps(maps, [self.mode], self.tasks)


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
    if encoder.modality.name != "vision" or min(len(vectors), len(tasks)) < 2:
        raise UserError("Disentanglement needs an encoder of images, two vectors and two tasks.")
    if not (points >= 2 and samples >= 1 and low < high):
        raise UserError(
            f"The grid needs low < high, 2 points and 1 sample; found {low} to {high}, {points} "
            f"points and {samples} samples."
        )
    check_pretrained(encoder, vectors[:2])
    check_own(tasks[:2], vectors[:2])
    taus, drawn = [tau.to(encoder.device) for tau in vectors[:2]], []
    for images, labels, head in _of_each(tasks[:2], encoder, "test").values():
        chosen = sample_indices(len(images), samples)
        weights = np.full(len(chosen), 1 / len(chosen))
        drawn.append(Sample(np.array(images[chosen]), weights, labels[chosen], head))
    alphas = np.linspace(low, high, points).round(12).tolist()
    found = disentanglement_errors(
        encoder,
        taus,
        drawn,
        alphas,
        taus[0].linearized,
        progress=progress or Bar("disentanglement"),
    )
    names = (tasks[0].name, tasks[1].name)
    return Disentanglement(names, taus[0].mode, alphas, *(getattr(found, name) for name in MODULES))
