"""Merging task vectors' files into one, by words on the command line or a file of them."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from torch import Tensor

from ..answer import answer
from ..config import kinds as a  # a.Number
from ..config.kinds import Section, key
from ..config.reading import read_yaml
from ..config.sentences import hold
from ..errors import UserError
from ..files.paths import PathLike
from ..library import TaskVector, load_encoder, load_task
from ..library.checks import check_own
from ..library.merging import learnt
from ..merging.coefficients import Coefficients
from ..merging.layer_scale import GRID
from ..merging.merge import labels_of
from ..merging.method import options_of
from ..merging.methods import find
from ..stages.merge import MergeSettings, Sources, merge_files
from .words import check_once, read_options


class Weighted(Section):
    """A vector, and what it is multiplied by before it is merged."""

    vector: a.Text = key("the file of a task vector, from where the command is run")
    weight: a.Number = key("what the vector is multiplied by first; -1 subtracts it", 1)


class Recipe(Section):
    """What is merged, and how."""

    models: Annotated[list[Weighted], a.SOME] = key("the vectors, each with its weight")
    merge_method: a.Text = key("a merging method", "sum")
    parameters: dict[a.Text, Any] = key("options of the method, such as keep of ties", {})
    base: a.Maybe[a.Text] = key("the vectors' encoder, by name or folder", None)
    tasks: a.Maybe[a.Texts] = key("of each vector its task, by name or path", None)
    layer_scale: bool = key("whether deeper blocks count the more (LiNeS)", False)
    seed: a.Natural = key("of a method that draws", 0)


class Source(NamedTuple):
    """One of the vectors that were merged, under what name, and what it was multiplied by."""

    name: str
    file: str
    weight: float


class Wrote(NamedTuple):
    """A merged vector's file: θ(α) = θ0 + A + α·B.

    Attributes:
        norm: of B. offset_norm: of A; None: there is none.
        alphas: start, stop and step of the method's grid. coefficients: those that data taught,
            (task, tensor or "", λ).
    """

    file: str
    method: str
    mode: str
    sources: list[Source]
    tensors: int
    norm: float
    offset_norm: float | None
    seconds: float
    alphas: tuple[float, float, float]
    coefficients: list[tuple[str, str, float]]


def merge(
    vectors: list[str],
    recipe: PathLike | None,
    method: str | None,
    options: list[str],
    weights: list[float],
    base: str | None,
    tasks: list[str],
    layer_scale: bool,
    seed: int | None,
    out: PathLike,
    as_json: bool = False,
) -> None:
    """Merge task vectors into one file, of which evaluate and TaskVector.load read; prints what it
    wrote.

    Args:
        vectors, method, options ("keep=0.2"), weights, base, tasks, layer_scale, seed: a Recipe in
            words; or recipe: a YAML file that holds one.
        out: a file that is not there yet.
    Raises:
        UserError: what is there already, both words and a file, and what the merging refuses.
    """
    if len(weights) not in (0, len(vectors)):
        raise UserError(
            f"There are {len(vectors)} vectors and {len(weights)} weights: give each vector its "
            "own."
        )
    pairs = zip(vectors, weights or [1.0] * len(vectors), strict=True)
    said = {
        "merge_method": method,
        "models": [{"vector": path, "weight": weight} for path, weight in pairs],
        "parameters": read_options(options),
        "base": base,
        "tasks": tasks,
        "layer_scale": layer_scale,
        "seed": seed,
    }
    given = {name: value for name, value in said.items() if value not in (None, [], {}, False)}
    if recipe is None and not vectors:
        raise UserError("There is no vector to merge: name their files, or a YAML file by --from.")
    if recipe is not None and given:
        raise UserError(
            f"{recipe} says what is merged, and so do other words of the command: leave out "
            "--from, or all but --from and --out."
        )
    where = "the command" if recipe is None else str(recipe)
    how = hold(Recipe, given if recipe is None else read_yaml(recipe), where)
    wrote = merge_recipe(how, out)
    answer(wrote, _lines(wrote), as_json)


def merge_recipe(how: Recipe, out: PathLike) -> Wrote:
    """Merge what a recipe says; arguments and errors as of merge."""
    if Path(out).exists():
        raise UserError(f"{out} is there already: give the name of a new file.")
    method = find(how.merge_method)
    options = options_of(method, how.parameters)
    paths: list[PathLike] = [each.vector for each in how.models]
    weights = [float(each.weight) for each in how.models]
    check_once(paths)
    headers = [_header(path) for path in paths]
    encoder = load_encoder(how.base) if how.base else None
    for header in headers:
        if encoder:
            encoder.check(header)
    started = time.perf_counter()
    names, state = how.tasks or labels_of([header.task for header in headers]), None
    some = weights if set(weights) != {1.0} else []
    if options.normalize and {abs(weight) for weight in weights} != {1.0}:
        raise UserError(
            "normalize gives all vectors one norm, so that their weights would be lost: leave out "
            "normalize or the weights."
        )
    if (needs := method.needs_of(options)) != "vectors":
        if encoder is None or how.tasks is None:
            raise UserError(
                f"The merging method {method.name} needs {needs} data of every task beside "
                "the vectors: give their encoder (base) and the tasks of the vectors (tasks)."
            )
        if some and needs == "labelled":
            raise UserError(
                f"The merging method {method.name} measures the individual models, whose vectors "
                "have no weights: leave them out."
            )
        loaded = [load_task(task, encoder) for task in how.tasks]
        names = [task.name for task in loaded]
        check_own(loaded, headers)
        taus = [w * TaskVector.load(path) for w, path in zip(weights, paths, strict=True)]
        state = learnt(method, how.parameters, taus, encoder, loaded, how.seed)
    sources = Sources("", headers[0].mode, how.seed, names, paths, some)
    scaled = how.layer_scale
    settings = MergeSettings(method=method.name, options=how.parameters, layer_scaled=scaled)
    merged = merge_files(sources, settings, state, out, names=encoder.theta0 if encoder else ())
    offsets = [each.offset for each in merged.values() if each.offset is not None]
    return Wrote(
        str(out),
        method.name,
        headers[0].mode,
        list(map(Source, names, map(str, paths), weights)),
        len(merged),
        _norm([each.direction for each in merged.values()]),
        _norm(offsets) if offsets else None,
        time.perf_counter() - started,
        GRID if scaled else method.grid_of(options),
        state.as_rows() if isinstance(state, Coefficients) else [],
    )


def _header(path: PathLike) -> TaskVector:
    """What a vector's file says of it, without its tensors, which are held to their hash."""
    of = TaskVector.load(path)
    return TaskVector({}, of.mode, of.linearized, of.base, of.task)


def _norm(tensors: list[Tensor]) -> float:
    return math.sqrt(math.fsum(float(tensor.double().square().sum()) for tensor in tensors))


def _lines(wrote: Wrote) -> Iterator[str]:
    of = [
        f"{weight:g} · " * (weight != 1) + (file if name.isdecimal() else name)
        for name, file, weight in wrote.sources
    ]
    yield f"{wrote.file}: {wrote.method} of {', '.join(of)} (mode {wrote.mode or 'unknown'})"
    offset = "" if wrote.offset_norm is None else f", of its offset {wrote.offset_norm:.4g}"
    yield f"{wrote.tensors} tensors, norm {wrote.norm:.4g}{offset}; {wrote.seconds:.1f} s"
    for task, tensor, value in wrote.coefficients if len(wrote.coefficients) <= 30 else []:
        yield f"λ of {' '.join(filter(None, [task, tensor]))}: {value:.4g}"
    start, stop, step = wrote.alphas
    grid = f"{start:g} to {stop:g} in steps of {step:g}, by the accuracy on validation"
    yield f"its α: {grid if start != stop else format(start, 'g')}"
