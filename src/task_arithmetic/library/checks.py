"""What the steps ask of their arguments."""

import warnings
from collections.abc import Iterable, Sequence

import numpy as np

from ..core.alpha import alpha_grid, alpha_values, end_of_grid
from ..core.vectors import check_alike
from ..errors import UserError
from ..merging.method import Method
from ..merging.methods import find
from .encoders import Encoder
from .tasks import Task
from .vectors import TaskVector


def expect(value: object, kind: type, origin: str) -> None:
    """Raises UserError: a value of another kind than is needed."""
    if not isinstance(value, kind):
        raise UserError(
            f"{origin} gives the {kind.__name__} that is needed here; found {repr(value)[:60]} "
            f"({type(value).__name__})."
        )


def check_seed(seed: object) -> None:
    if not (isinstance(seed, int) and seed >= 0):
        raise UserError(f"seed must be a whole number, 0 or more; found {seed!r}.")


def check_same_mode(a: TaskVector, b: TaskVector) -> None:
    check_alike(a, b)
    if b.mode != a.mode:
        raise UserError(
            f"The task vectors are of different modes ({a.mode} and {b.mode}): take vectors of one "
            "mode."
        )


def check_own(tasks: Sequence[Task], vectors: Sequence[TaskVector]) -> None:
    """Raises UserError: a vector of one of the tasks stands beside another."""
    names = [task.name for task in tasks]
    for name, vector in zip(names, vectors, strict=False):
        if vector.task != name and vector.task in names:
            raise UserError(
                f"The vector of task {vector.task} stands beside task {name}: give each task its "
                "own."
            )


def check_pretrained(encoder: Encoder, vectors: Iterable[TaskVector]) -> None:
    """Raises UserError: an encoder that vectors were added to already, vectors of another one, or
    of different modes."""
    expect(encoder, Encoder, "load_encoder")
    if encoder.tau.tensors:
        raise UserError(
            f"A task vector was added to this {encoder.name} already: give the encoder as "
            "load_encoder gave it."
        )
    some = list(vectors)
    for vector in some:
        expect(vector, TaskVector, "finetune")
        encoder.check(vector)
        check_same_mode(some[0], vector)


def grid_of(alphas: Sequence[float] | str | Method | None) -> list[float]:
    if alphas is None:
        return alpha_grid(0, 1, 0.05)
    if isinstance(alphas, str | Method):
        method = find(alphas) if isinstance(alphas, str) else alphas
        alphas = alpha_values(*method.grid)
    try:
        grid = [float(alpha) for alpha in alphas]
    except (TypeError, ValueError):
        grid = []
    if not grid or not np.isfinite(grid).all():
        raise UserError(f"alphas must be finite numbers, at least one; found {alphas!r}.")
    return grid


def warn_at_the_end(alpha: float, grid: list[float]) -> None:
    if end := end_of_grid(alpha, grid):
        warnings.warn(
            f"α = {alpha:g} is the {end} of the grid: one beyond may be better; give `alphas` "
            "that go on.",
            stacklevel=3,
        )
