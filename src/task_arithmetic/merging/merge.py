"""Merging whole vectors: the parts of a model handed to a method, one by one, held to be finite."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from ..core.vectors import TaskVector, Vector, check_alike
from ..errors import UserError
from ..progress import SILENT, Progress
from .layer_scale import layer_scale, ramp
from .method import Merged, Method, Options, Part, options_of
from .methods import find
from .pieces import is_finite
from .sum import sum_of


def merge_vectors(
    vectors: Sequence[Vector],
    method: str | Method,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    *,
    tasks: Sequence[str] = (),
    state: Any = None,
    layer_scaled: bool = False,
    names: Iterable[str] = (),
    progress: Progress = SILENT,
) -> tuple[Vector | None, Vector]:
    """Merge vectors that are in memory: θ(α) = θ0 + offset + α · direction.

    Args:
        vectors: at least one, of one encoder and all linearized or none; a tensor that one of them
            does not move is zero in it.
        method: a name of `methods.names()`, or a method. options: some of its options.
        seed: of a method that draws. tasks: the vectors' names; else those that they know of, or
            "1", "2", ….
        state: what a method needs of data, such as regmean's Gram matrices; else what its own first
            pass over the vectors gives.
        layer_scaled: scaled by depth (LiNeS), α then being its slope b; names: the encoder's
            tensors, which say how deep it is; else those that the vectors move.
    Returns:
        offset (None: zero) and direction, float32, of the vectors' mode, flag and base.
    Raises:
        UserError: no vector; vectors of other encoders or modes, other shapes, or values that are
            not finite; unknown method or options; or what the method refuses.
    """
    if not vectors:
        raise UserError("There is no task vector to merge: give at least one.")
    for a, b in combinations(vectors, 2):
        check_alike(a, b)
    labels = list(tasks) or labels_of([vector.task for vector in vectors])
    if len(labels) != len(vectors) or len(set(labels)) != len(labels):
        raise UserError(
            f"Each task vector needs a name of its own: there are {len(vectors)} vectors and "
            f"{len(set(labels))} different names."
        )
    found = find(method) if isinstance(method, str) else method
    chosen = options_of(found, options or {})
    parts = InMemory(vectors, labels, seed)
    merged: dict[str, Merged] = {}
    for name, each in merge_parts(parts, found, chosen, state):
        merged[name] = each
        progress.at(len(merged), len(parts.names), "tensor")
    if layer_scaled:
        merged = scaled(merged, prepared(parts, chosen), len(labels), names)
    offsets = {name: each.offset for name, each in merged.items() if each.offset is not None}
    directions = {name: each.direction for name, each in merged.items()}
    return _like(vectors, offsets) if offsets else None, _like(vectors, directions)


def labels_of(tasks: Sequence[str]) -> list[str]:
    """The names of vectors, on which what is drawn depends: of their tasks, or "1", "2", … where
    these are not known or not all different."""
    named = all(tasks) and len(set(tasks)) == len(tasks)
    return list(tasks) if named else [str(t + 1) for t in range(len(tasks))]


def scaled(
    merged: Mapping[str, Merged], parts: Iterable[Part], tasks: int, names: Iterable[str] = ()
) -> dict[str, Merged]:
    """A merged model scaled by depth (LiNeS): θ0 + a · M + b · (l / (L − 1)) · M, α then being b.

    Args:
        merged: name → M. parts: what it was merged of, see prepared.
        names: of the encoder's tensors; else those of `merged`, which may not reach its last block.
    """
    summed = math.fsum(_l1(sum_of(part)) for part in parts)
    scale = ramp(
        [*names, *merged], summed, math.fsum(_l1(m.direction) for m in merged.values()), tasks
    )
    return {name: layer_scale(name, each, scale) for name, each in merged.items()}


def merge_parts(
    parts: Iterable[Part], method: Method, options: Options, state: Any = None
) -> Iterator[tuple[str, Merged]]:
    """Name and merged tensor of each part, in their order, with the memory of one part.

    Args:
        parts: what may be walked over again, as a list can and an iterator cannot: norms, first
            passes and merging each do. Walking may read files.
        state: given in place of the method's first pass.
    Raises:
        UserError: an input or a result is not finite; or what the method refuses.
    """
    ready = prepared(parts, options)
    if state is None and method.first_pass:
        state = method.first_pass(ready, options)
    for part in ready:
        try:
            merged = method.merge(part, options, state)
        except torch.linalg.LinAlgError:  # of a sum that overflows
            raise _overflow(method, part) from None
        _check_merged(method, part, merged)
        both = [merged.direction] + ([] if merged.offset is None else [merged.offset])
        if not all(map(is_finite, both)):
            raise _overflow(method, part)
        yield part.name, merged


def _check_merged(method: Method, part: Part, merged: Any) -> None:
    """Hold what a method gives to its form: one of one's own may give anything."""
    like, right = part.deltas[0], isinstance(merged, Merged)
    given = [merged.direction, merged.offset][: 2 - (merged.offset is None)] if right else [merged]
    for tensor in given:
        found = type(tensor).__name__
        if isinstance(tensor, torch.Tensor):
            if right and (tensor.shape, tensor.dtype) == (like.shape, like.dtype):
                continue
            found = f"{found} {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
            found += "" if right else ", which is no Merged"
        raise UserError(
            f"The merging method {method.name} must give a Merged of float32 {tuple(like.shape)} "
            f"for {part.name}; found {found}: correct it."
        )


def _overflow(method: Method, part: Part) -> UserError:
    return UserError(
        f"Merging with {method.name} gives values in {part.name} that are not finite: its vectors "
        "are too large or too small for float32, or it divides by zero."
    )


def prepared(parts: Iterable[Part], options: Options) -> Iterable[Part]:
    """The same parts as float32, held to be of one shape and finite, and with the option
    `normalize` each task's times mean ‖τ‖ / ‖τ_t‖. May be walked over again, as `parts` may.
    Raises UserError, then or while it is walked over: see merge_parts."""
    if isinstance(parts, Iterator):
        raise TypeError("parts are walked over several times: give no iterator")
    ready = _Prepared(parts)
    return _Prepared(parts, _factors(ready)) if options.normalize else ready


@dataclass(frozen=True)
class InMemory:
    """The parts of vectors in memory, in the order of the tensors' names; copies, as a method of
    one's own may change them in place."""

    vectors: Sequence[TaskVector]
    tasks: Sequence[str]
    seed: int

    @property
    def names(self) -> list[str]:
        return sorted({name for vector in self.vectors for name in vector.keys()})

    def __iter__(self) -> Iterator[Part]:
        for name in self.names:
            held = [vector.tensors.get(name) for vector in self.vectors]
            like = next(tensor for tensor in held if tensor is not None)
            filled = (torch.zeros_like(like) if tensor is None else tensor for tensor in held)
            deltas = [tensor.to(torch.float32, copy=True) for tensor in filled]
            yield Part(name, deltas, self.tasks, self.seed)


@dataclass(frozen=True)
class _Prepared:
    """Parts whose deltas are float32, of one shape and finite, times a factor of each task."""

    parts: Iterable[Part]
    factors: Sequence[float] = ()

    def __iter__(self) -> Iterator[Part]:
        for part in self.parts:
            deltas = [delta.float() for delta in part.deltas]
            for task, delta in zip(part.tasks, deltas, strict=True):
                if delta.shape != deltas[0].shape:
                    raise UserError(
                        f"{part.name} has shape {tuple(deltas[0].shape)} in the vector of "
                        f"{part.tasks[0]} and {tuple(delta.shape)} in that of {task}: they are of "
                        "different encoders."
                    )
                if not is_finite(delta):
                    raise UserError(
                        f"The vector of {task} has values in {part.name} that are not finite: "
                        "fine-tune it again."
                    )
            if self.factors:
                pairs = zip(deltas, self.factors, strict=True)
                deltas = [factor * delta for delta, factor in pairs]
            yield replace(part, deltas=deltas)


def _factors(parts: Iterable[Part]) -> list[float]:
    """Of each task mean ‖τ‖ / ‖τ_t‖, over whole vectors; one that is zero stays so, and does not
    count in the mean."""
    squares: list[float] = []
    for part in parts:
        squares = squares or [0.0] * len(part.deltas)
        for t, delta in enumerate(part.deltas):
            squares[t] += float(delta.double().square().sum())
    norms = [math.sqrt(square) for square in squares]
    some = [norm for norm in norms if norm > 0]
    return [math.fsum(some) / len(some) / norm if norm > 0 else 1.0 for norm in norms]


def _l1(tensor: Tensor) -> float:
    return float(tensor.abs().sum(dtype=torch.float64))


def _like(vectors: Sequence[Vector], tensors: dict[str, Tensor]) -> Vector:
    """A vector of the same mode, flag and base as these."""
    some = [vector for vector in vectors if vector.tensors] or list(vectors)
    mode = " + ".join(dict.fromkeys(vector.mode for vector in some))
    base = next((vector.base for vector in vectors if vector.base), "")
    return type(vectors[0])(tensors, mode, some[0].linearized, base)
