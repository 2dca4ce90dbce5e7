"""A coefficient of its own for each task, by coordinate search on validation."""

from __future__ import annotations  # names of torch

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from ..core.addition import choose_alpha, normalized
from ..core.alpha import alpha_grid
from ..errors import UserError
from ..progress import Progress
from .affine import features_of
from .coefficients import EVERY, Coefficients, check_data, deltas_of, is_linearized, merge, weighted
from .method import Cost, Data, Method, Options, option

GRID = alpha_grid(0, 1, 0.05)  # of the common α that is started from
MOVES = (-0.2, -0.1, 0.1, 0.2)


@dataclass(frozen=True)
class PerTaskOptions(Options):
    sweeps: int = option(2, "how often each task's coefficient is moved", low=1)


def learn(data: Data, options: PerTaskOptions, progress: Progress) -> Coefficients:
    """α of each task: from the best common one, for each task in turn the best of α_t − 0.2, − 0.1,
    + 0, + 0.1, + 0.2 by mean normalized validation accuracy. Of equals the one that stands stays,
    else the first wins; a sweep that moves nothing is the last. At most 22 + 4·T·sweeps accuracies;
    of a classifier in f_lin T passes give them all, see affine.

    Raises:
        UserError: not one vector, one set of examples and one individual accuracy for each task.
    """
    from ..core.vectors import TaskVector  # here, as what follows: beside torch

    examples = check_data(data, "per_task", "validation")
    if len(data.own) != len(data.tasks):
        raise UserError(
            f"The merging method per_task takes the validation accuracy of each task's individual "
            f"model: there are {len(data.tasks)} tasks and {len(data.own)} accuracies."
        )
    tasks, deltas, linearized = len(data.tasks), deltas_of(data, options), is_linearized(data)
    splits = dict(zip(data.tasks, examples, strict=True))
    encoder, affine = data.encoder, {}
    if linearized and hasattr(encoder.modality, "features_linearized"):
        taus = [TaskVector({n: each[t] for n, each in deltas.items()}) for t in range(tasks)]
        affine = features_of(encoder, taus, splits, data.precision)

    def accuracies(coefficients: tuple[float, ...], alphas: Sequence[float]) -> np.ndarray:
        """Normalized accuracies of θ0 + α Σ c_t τ_t, (alphas, tasks)."""
        if affine:
            rows = [[alpha * c for c in coefficients] for alpha in alphas]
            measured = {
                task: np.array([of.accuracy(encoder, row) for row in rows])
                for task, of in affine.items()
            }
        else:
            summed = {name: weighted(each, coefficients) for name, each in deltas.items()}
            tau = TaskVector(summed, "", linearized)
            measured = encoder.modality.accuracies(
                encoder.theta0, tau, alphas, splits, linearized, data.precision
            )
        return normalized([measured[task] for task in data.tasks], data.own)

    @cache
    def score(coefficients: tuple[float, ...]) -> float:
        """Rounded, so that equal accuracies are equal whatever the order of their sum."""
        return round(float(accuracies(coefficients, [1.0]).mean()), 12)

    common = GRID[choose_alpha(GRID, accuracies((1.0,) * tasks, GRID))]
    found = (common,) * tasks
    for sweep in range(options.sweeps):
        before = found
        for t in range(tasks):
            moved = [round(found[t] + move, 10) for move in MOVES]
            tried = [found, *((*found[:t], alpha, *found[t + 1 :]) for alpha in moved)]
            found = max(tried, key=score)  # the first of equals
            done = sweep * tasks + t + 1
            progress.at(done, options.sweeps * tasks, "task", accuracy=score(found))
        if found == before:
            progress.at(options.sweeps * tasks, options.sweeps * tasks, "task")
            break
    return Coefficients({(task, EVERY): a for task, a in zip(data.tasks, found, strict=True)})


METHOD = Method(
    name="per_task",
    title="A coefficient per task",
    paper="no paper: a coordinate search over validation accuracy",
    arxiv="",
    equation=r"M = \sum_t \alpha_t \tau_t",
    needs="labelled",
    scope="element",
    grid=(1.0, 1.0, 1.0),  # one value
    merge=merge,
    options=PerTaskOptions,
    learn=learn,
    cost=lambda o, tasks: Cost(
        evaluations=len(GRID) + 1 + len(MOVES) * tasks * o.sweeps, tangents=tasks
    ),
)
