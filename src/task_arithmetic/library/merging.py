"""Task vectors as one: by a method that needs them alone, or the tasks' data too."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..core.encoder import Examples
from ..errors import UserError
from ..merging.merge import merge_vectors
from ..merging.method import Data, Method, Needs, options_of
from ..merging.methods import find, names
from ..progress import Bar, Progress
from .checks import check_own, check_pretrained, check_same_mode, check_seed, expect
from .encoders import Encoder
from .steps import own_accuracies
from .tasks import Task
from .vectors import MergedVector, TaskVector


def merge(
    vectors: Iterable[TaskVector],
    method: str | Method = "sum",
    *,
    encoder: Encoder | None = None,
    tasks: Sequence[str] | Sequence[Task] | Task = (),
    layer_scale: bool = False,
    seed: int = 0,
    precision: str = "auto",
    progress: Progress | None = None,
    **options: Any,
) -> TaskVector | MergedVector:
    """Task vectors as one: Σ τ_t (paper, section 2), or by another method.

    Args:
        method: a name of `merging_methods()`: sum, mean, ties, dare, consensus, tsv, iso_c, wudi …;
            or a Method of one's own.
        encoder, tasks: of a method that needs data, such as adamerging or per_task: what
            load_encoder gave, and of each vector what load_task gave, in their order. Of any other
            method the tasks, or their names, are what one that draws depends on, beside the seed.
        layer_scale: LiNeS: the deeper a block lies, the more the merged vector counts. How deep
            the encoder is, `encoder` says, or the vectors, if they reach its last block.
        precision: of a method that needs data: auto, bf16 or float32.
        progress: of a method that needs data; None: a bar.
        options: the method's own, such as `keep` of ties.
    Returns:
        B of θ(α) = θ0 + α·B; the method's own grid of α is its `grid`. With layer_scale, or by a
        method that gives an offset, a MergedVector: A and B of θ(α) = θ0 + A + α·B, where LiNeS
        takes α from 0.1 to 1.
    Raises:
        UserError: vectors of different encoders or modes, or that are not finite; an unknown method
            or option; a method that needs data and is given none, or another task's.
    """
    every: list[TaskVector] = [vectors] if isinstance(vectors, TaskVector) else list(vectors or ())
    for vector in every:
        expect(vector, TaskVector, "finetune")
        check_same_mode(every[0], vector)
    check_seed(seed)
    if isinstance(tasks, str):
        raise UserError(f"tasks is a list of names, one for each vector; found {tasks!r}.")
    given: list[Any] = [tasks] if isinstance(tasks, Task) else list(tasks or ())
    loaded = [task for task in given if isinstance(task, Task)]
    labels = [task.name if isinstance(task, Task) else task for task in given]
    if loaded and len(loaded) < len(given) or not all(isinstance(x, str) for x in labels):
        raise UserError(f"tasks are names, or what load_task gave, all of them; found {given!r}.")
    check_own(loaded, every)
    found = find(method) if isinstance(method, str) else method
    expect(found, Method, "task_arithmetic.merging.method")
    some: Sequence[TaskVector] = every
    state = None
    if found.needs_of(options_of(found, options)) != "vectors":
        state = learnt(found, options, every, encoder, loaded, seed, precision, progress)
        assert encoder is not None
        some = [vector.to(encoder.device) for vector in every]
    offset, direction = merge_vectors(
        some,
        found,
        options,
        seed,
        tasks=labels,
        state=state,
        layer_scaled=layer_scale,
        names=encoder.theta0 if encoder else (),
    )
    return direction if offset is None else MergedVector(offset, direction)


def learnt(
    method: Method,
    options: Mapping[str, Any],
    vectors: list[TaskVector],
    encoder: Encoder | None,
    tasks: list[Task],
    seed: int = 0,
    precision: str = "auto",
    progress: Progress | None = None,
) -> Any:
    """What a method that needs data learns from them, for its `merge`; arguments and errors as of
    merge."""
    chosen = options_of(method, options)
    needs = method.needs_of(chosen)
    data = _data(method, needs, vectors, encoder, tasks, seed, precision)
    assert method.learn is not None
    return method.learn(data, chosen, progress or Bar(method.name))


def _data(
    method: Method,
    needs: Needs,
    vectors: list[TaskVector],
    encoder: Encoder | None,
    tasks: list[Task],
    seed: int,
    precision: str,
) -> Data:
    """What a method that needs data is given, on the encoder's device; the individual models'
    accuracies if it needs labels."""
    if encoder is None or not tasks:
        raise UserError(
            f"The merging method {method.name} needs {needs} data of every task beside the "
            "vectors: give `encoder`, and as `tasks` what load_task gave for each of them."
        )
    if method.learn is None:
        raise UserError(
            f"The merging method {method.name} needs {needs} data of every task, and has no "
            "`learn` that reads them: choose another one."
        )
    if len({task.name for task in tasks}) != len(vectors) or len(tasks) != len(vectors):
        raise UserError(
            f"There are {len(tasks)} tasks and {len(vectors)} vectors: give each vector its own "
            "task, each of another name."
        )
    check_pretrained(encoder, vectors)
    own = own_accuracies(encoder, tasks, vectors, precision) if needs == "labelled" else []
    held = encoder

    def examples(split: str) -> list[Examples]:
        return [task.examples(split, held) for task in tasks]

    return Data(
        encoder,
        [vector.to(encoder.device) for vector in vectors],
        [task.name for task in tasks],
        examples,
        own,
        precision,
        seed,
    )


def merging_methods() -> list[Method]:
    """All methods that `merge` knows: name, title, paper, equation, grid of α, options."""
    return [find(name) for name in names()]
