"""Consensus task arithmetic (TALL masks): the entries of the sum that several tasks use."""

from __future__ import annotations  # names of torch

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ..errors import UserError, nearest
from ..progress import Progress
from .coefficients import EVERY, Coefficients, check_data, deltas_of, is_linearized
from .lazy import torch
from .method import Cost, Data, Merged, Method, Options, Part, option
from .pieces import entrywise, pieces
from .sum import added

if TYPE_CHECKING:
    from torch import Tensor


LEVELS = (0.2, 0.3, 0.4, 0.5, 0.6)  # of λ, from which a task's own may be chosen


@dataclass(frozen=True)
class ConsensusOptions(Options):
    threshold: float = option(0.4, "λ: larger, and a task uses fewer entries", low=0)
    thresholds: Mapping[str, float] = option({}, "λ of single tasks, by their names", low=0)
    agree: int = option(2, "how many tasks must use an entry", low=1)
    select: Literal["none", "validation"] = option(
        "none", "validation: each task's λ is the best of 0.2 to 0.6 by its validation accuracy"
    )

    def __post_init__(self) -> None:
        if self.select == "validation" and self.thresholds:
            raise UserError(
                "consensus has `thresholds`, and `select: validation`, which chooses them: leave "
                "one of the two out."
            )


def masks(part: Part, options: ConsensusOptions, state: Coefficients | None = None) -> list[Tensor]:
    """Of each task m_t = [ |τ_t| > λ_t · |Σ τ − τ_t| ], bool, in the tensor's shape: the entries
    that it uses. They are compared in float64, where the order of the tasks does not matter.

    Args:
        state: each task's λ_t, of `learn`, with `select: validation`.
    Raises:
        UserError: a threshold is of an unknown task, or none was chosen.
    """
    held = _thresholds(part, options, state)
    found = [torch.empty_like(delta, dtype=torch.bool) for delta in part.deltas]
    for own in pieces([*found, *part.deltas]):
        for mask, used in zip(own, _used(own[len(held) :], held), strict=False):
            mask.copy_(used)
    return found


def _thresholds(part: Part, options: ConsensusOptions, state: Coefficients | None) -> list[float]:
    """Of each task λ_t, see masks."""
    if options.select == "validation":
        if state is None:
            raise UserError(
                "The thresholds of consensus are chosen by data: give what its `learn` gave as "
                "`state`, or the encoder and the tasks."
            )
        return [state.of(task, part.name) for task in part.tasks]
    for task in options.thresholds:
        if task not in part.tasks:
            known = list(part.tasks)
            near = nearest(task, known) or f"; they are {', '.join(known)}"
            raise UserError(f"thresholds of consensus names {task!r}, which is no task{near}.")
    return [options.thresholds.get(task, options.threshold) for task in part.tasks]


def _used(deltas: Sequence[Tensor], thresholds: Sequence[float]) -> Iterator[Tensor]:
    """m_t of some entries, bool."""
    wide = [delta.double() for delta in deltas]
    summed = added(wide)
    for delta, threshold in zip(wide, thresholds, strict=True):
        yield delta.abs() > (summed - delta).abs_().mul_(threshold)


def users(part: Part, options: ConsensusOptions) -> Tensor:
    """How many tasks use each entry, int64 in the tensor's shape."""
    return torch.stack(masks(part, options)).sum(0)


def learn(data: Data, options: ConsensusOptions, progress: Progress) -> Coefficients:
    """λ of each task: of 0.2, 0.3, 0.4, 0.5 and 0.6 the one with the best validation accuracy of
    the task's own model, θ0 + m_t ⊙ Σ τ, of linearized vectors in f_lin; of equals the smallest.

    Raises:
        UserError: fewer tasks than must agree; not one vector and set of examples for each task.
    """
    from ..core.vectors import TaskVector  # beside torch

    check_tasks(options, len(data.tasks))
    examples = check_data(data, "consensus", "validation")
    deltas, linearized = deltas_of(data, options), is_linearized(data)
    summed = {name: added(each) for name, each in deltas.items()}
    found: dict[str, dict[float, float]] = {task: {} for task in data.tasks}
    for level in LEVELS:
        fixed = replace(options, select="none", threshold=level)
        used = {n: masks(Part(n, each, data.tasks), fixed) for n, each in deltas.items()}
        for t, (task, own) in enumerate(zip(data.tasks, examples, strict=True)):
            tau = TaskVector({n: summed[n] * of[t] for n, of in used.items()}, "", linearized)
            measured = data.encoder.modality.accuracies(
                data.encoder.theta0, tau, [1.0], {task: own}, linearized, data.precision
            )
            found[task][level] = float(measured[task][0])
            progress.at(sum(map(len, found.values())), len(LEVELS) * len(found), "accuracy")
    best = {task: max(of, key=lambda level: of[level]) for task, of in found.items()}
    return Coefficients({(task, EVERY): level for task, level in best.items()})


def check_tasks(options: ConsensusOptions, count: int) -> None:
    """Raises UserError: there are fewer tasks than must agree, which would leave nothing."""
    if count < options.agree:
        raise UserError(
            f"consensus keeps what {options.agree} tasks use, and there is no more than {count}: "
            "give more vectors, or a smaller `agree`."
        )


def merge(part: Part, options: ConsensusOptions, state: Coefficients | None = None) -> Merged:
    """M = [ Σ m_t ≥ agree ] ⊙ Σ τ_t of one tensor of any shape.

    Args:
        state: see masks.
    Raises:
        UserError: see check_tasks and masks.
    """
    check_tasks(options, len(part.deltas))
    held = _thresholds(part, options, state)

    def shared(deltas: list[Tensor]) -> Tensor:
        count = torch.zeros_like(deltas[0], dtype=torch.int32)
        for used in _used(deltas, held):
            count += used
        return added(deltas).mul_(count >= options.agree)

    return Merged(None, entrywise(shared, part.deltas))


METHOD = Method(
    name="consensus",
    title="Consensus task arithmetic",
    paper="Localizing Task Information for Improved Model Merging and Compression",
    arxiv="2405.07813",
    equation=r"M = \Bigl[\,\sum_t m_t \ge 2\,\Bigr] \odot \tau, \quad "
    r"m_t = \bigl[\,|\tau_t| > \lambda_t |\tau - \tau_t|\,\bigr], \quad \tau = \sum_t \tau_t",
    scope="element",
    grid=(0.1, 1.0, 0.1),
    merge=merge,
    options=ConsensusOptions,
    learn=learn,
    cost=lambda options, tasks: Cost(evaluations=len(LEVELS)),
    needs_by=lambda options: "labelled" if options.select == "validation" else "vectors",
)
