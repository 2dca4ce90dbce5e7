"""Merging task vectors into one, tensor by tensor."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..core.encoder import CPU, Examples
from ..core.vectors import TaskVector, check_base
from ..errors import UserError
from ..files.hashes import read_sealed, sha256_of_file
from ..files.metrics import read_rows, write_rows
from ..files.paths import PathLike, mend
from ..files.tensors import open_tensors
from ..merging.coefficients import Coefficients
from ..merging.merge import merge_parts, prepared, scaled
from ..merging.method import Data, Merged, Method, Options, Part, options_of
from ..merging.methods import find
from ..progress import SILENT, Progress
from . import modalities
from .evaluate import read_vector_header, vector_of, write_merged
from .memory import measured
from .settings import EncoderSettings
from .statistics import GramFiles


@dataclass(frozen=True, kw_only=True)
class MergeSettings(EncoderSettings):
    """method: a name of merging.methods; options: its own. layer_scaled: by depth (LiNeS)."""

    method: str = "sum"
    options: Mapping[str, Any] = field(default_factory=dict)
    layer_scaled: bool = False

    def read(self) -> tuple[Method, Options]:
        """The method of this name, and all of its options."""
        found = find(self.method)
        return found, options_of(found, self.options)


@dataclass(frozen=True)
class Sources:
    """What is merged: of an encoder ("": no run's, and tasks are any names), mode and seed the
    tasks, of each its vector's file, and what it is multiplied by first; no weights: all are 1."""

    encoder: str
    mode: str
    seed: int
    tasks: list[str]
    vectors: list[PathLike]
    weights: Sequence[float] = ()

    def check(self) -> TaskVector:
        """What the first file says of itself. Raises UserError: a task that is there twice, or a
        file of another task (of an encoder's run), mode or encoder."""
        tasks, vectors = self.tasks, self.vectors
        if len(tasks) != len(vectors) or len(set(tasks)) != len(tasks):
            raise UserError(
                f"There are {len(vectors)} vectors and {len(set(tasks))} different tasks: give "
                "each vector the name of its own task."
            )
        headers = [read_vector_header(path) for path in vectors]
        first = headers[0]
        for path, task, header in zip(vectors, tasks, headers, strict=True):
            check_base(first, header)
            of = header.task if self.encoder else task
            if of not in ("", task):
                raise UserError(
                    f"{path} is of task {of}, where the vector of {task} is needed: give each task "
                    "its own."
                )
            if header.mode not in ("", self.mode):
                raise UserError(
                    f"{path} is of mode {header.mode}, where one of {self.mode} is needed: merge "
                    "vectors of one mode."
                )
            if header.linearized != first.linearized:
                raise UserError(
                    f"{path} and {vectors[0]} are not both linearized, or both not: merge vectors "
                    "of one mode."
                )
        return first


@dataclass(frozen=True)
class VectorFiles:
    """The parts of vectors' files, in the order of the tensors' names: one tensor of each file is
    in memory at a time. May be walked over again."""

    paths: Sequence[PathLike]
    tasks: Sequence[str]
    seed: int
    device: torch.device
    weights: Sequence[float] = ()

    @property
    def names(self) -> list[str]:
        """Of the tensors that any of the vectors moves, sorted."""
        found: set[str] = set()
        for path in self.paths:
            with open_tensors(path) as file:
                found |= set(file.keys())
        return sorted(found)

    def __iter__(self) -> Iterator[Part]:
        with ExitStack() as stack:
            opened = [
                stack.enter_context(open_tensors(path, "pt", self.device)) for path in self.paths
            ]
            for name in self.names:
                held = [file.get_tensor(name) if name in file.keys() else None for file in opened]  # noqa: SIM118
                like = next(tensor for tensor in held if tensor is not None)
                deltas = [(torch.zeros_like(like) if t is None else t).float() for t in held]
                if self.weights:
                    pairs = zip(self.weights, deltas, strict=True)
                    deltas = [weight * delta for weight, delta in pairs]
                yield Part(name, deltas, self.tasks, self.seed)


def merge(
    *,
    encoder: str,
    mode: str,
    seed: int,
    tasks: list[str],
    vectors: list[PathLike],
    statistics: list[PathLike] | None = None,
    geometry: PathLike | None = None,
    settings: dict[str, Any],
    output: PathLike,
    log: PathLike | None = None,
    method: str | None = None,
    device: torch.device = CPU,
    progress: Progress = SILENT,
) -> None:
    """Merge task vectors by a method that needs no examples now, and write the merged one: B, and A
    if there is one, of θ(α) = θ0 + A + α·B.

    Args:
        tasks, vectors: of each task its name, which what is drawn depends on, and its file.
        statistics: of each task what the stage statistics collected, for regmean.
        geometry: of what is scaled by depth: encoder.json, which says how deep the encoder is.
        settings: see MergeSettings.
        output: a vector's file; its header has the method, its options and the vectors' hashes.
        log: metrics of what it took: `merge_seconds`, from reading to writing, and
            `merge_peak_memory_bytes`, without libraries and what is mapped from files.
        method: what these rows call the method; None: its name.
    Raises:
        UserError: vectors of different encoders or modes, an unknown method or option, a method
            that needs more, values that are not finite.
    """
    how = MergeSettings.of(settings)
    found, options = how.read()
    if (needs := found.needs_of(options)) != "vectors" and not statistics:
        raise UserError(
            f"The merging method {how.method} needs {needs} examples of every task: give what "
            "`statistics` collected (regmean), or use `merge-on-data` (the others)."
        )
    state = GramFiles(statistics, device) if statistics else None
    headers = state.headers if state else []
    for path, task, header in zip(statistics or (), tasks, headers, strict=False):
        of = header["task"], header["mode"], header["seed"]
        if of != (task, mode, seed):
            raise UserError(
                f"{path} is of {of[0]}, {of[1]}, seed {of[2]}, where statistics of {task}, {mode}, "
                f"seed {seed} are needed: give those of each vector."
            )
    named = {"encoder": encoder, "mode": mode, "seed": seed, "method": method or how.method}
    with _logged(device, log, named):
        sources = Sources(encoder, mode, seed, tasks, vectors)
        merge_files(sources, how, state, output, device, progress, names_of(geometry))


def merge_on_data(
    encoder_dir: PathLike,
    *,
    encoder: str,
    mode: str,
    seed: int,
    tasks: list[str],
    heads: list[PathLike],
    data_dirs: list[PathLike],
    vectors: list[PathLike],
    single_task: list[PathLike],
    settings: dict[str, Any],
    output: PathLike,
    log: PathLike | None = None,
    method: str | None = None,
    device: torch.device = CPU,
    progress: Progress = SILENT,
) -> None:
    """Merge task vectors by a method that passes examples through the encoder, as `merge` does.

    Args:
        single_task: metrics of each individual model's own accuracy.
    """
    how = MergeSettings.of(settings)
    found, options = how.read()
    if found.learn is None or found.needs_of(options) == "vectors":
        raise UserError(f"The merging method {found.name} needs vectors alone: use `merge`.")
    named = {"encoder": encoder, "mode": mode, "seed": seed, "method": method or how.method}
    with _logged(device, log, named):
        model = modalities.read_encoder(encoder_dir, how.modality, device)
        files = list(zip(heads, data_dirs, strict=True))

        def examples(split: str) -> list[Examples]:
            read = model.modality.read_examples
            return [read(head, folder, split, how.limit, device) for head, folder in files]

        pairs = zip(single_task, tasks, strict=True)
        own = [_validation_accuracy(path, task) for path, task in pairs]
        taus = [vector_of(path, model) for path in vectors]
        data = Data(model, taus, tasks, examples, own, how.precision, seed)
        state = found.learn(data, options, progress)
        sources = Sources(encoder, mode, seed, tasks, vectors)
        merge_files(sources, how, state, output, device, SILENT, model.theta0)


def names_of(geometry: PathLike | None) -> list[str]:
    """The names of an encoder's tensors, from its encoder.json; None: none."""
    if geometry is None:
        return []
    with open_tensors(Path(geometry).with_name(read_sealed(geometry)["theta0"])) as file:
        return list(file.keys())


def _validation_accuracy(path: PathLike, task: str) -> float:
    found = [r.value for r in read_rows(path) if (r.task, r.split) == (task, "validation")]
    if len(found) != 1:
        raise UserError(f"{path} has no validation accuracy of {task}: {mend(path)}.")
    return found[0]


def merge_files(
    sources: Sources,
    how: MergeSettings,
    state: Any,
    output: PathLike,
    device: torch.device = CPU,
    progress: Progress = SILENT,
    names: Iterable[str] = (),
) -> dict[str, Merged]:
    """Merge vectors' files into one, a tensor of each in memory at a time; what was written.

    Args:
        state: what the method needs of data; None: what its first pass over the vectors gives.
        names: of the encoder's tensors, for what is scaled by depth.
    """
    first = sources.check()
    merged = merge_tensors(sources, how, state, device, progress, names)
    offsets, directions = offsets_and_directions(merged)
    made_by = _made_by(sources, how, first)
    if isinstance(state, Coefficients):
        made_by["merging"]["coefficients"] = state.as_rows()
    write_merged(output, offsets, directions, made_by)
    return merged


def merge_tensors(
    sources: Sources,
    how: MergeSettings,
    state: Any = None,
    device: torch.device = CPU,
    progress: Progress = SILENT,
    names: Iterable[str] = (),
) -> dict[str, Merged]:
    """What merge_files merges of files that were checked, as it is in memory."""
    method, options = how.read()
    parts = VectorFiles(sources.vectors, sources.tasks, sources.seed, device, sources.weights)
    merged: dict[str, Merged] = {}
    count = len(parts.names)
    for name, each in merge_parts(parts, method, options, state):
        merged[name] = each
        progress.at(len(merged), count, "tensor")
    if how.layer_scaled:
        merged = scaled(merged, prepared(parts, options), len(sources.tasks), names)
    return merged


def offsets_and_directions(
    merged: Mapping[str, Merged],
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A, which may have no tensor, and B of θ(α) = θ0 + A + α·B."""
    offsets = {name: each.offset for name, each in merged.items() if each.offset is not None}
    return offsets, {name: each.direction for name, each in merged.items()}


@contextmanager
def _logged(device: torch.device, log: PathLike | None, named: dict[str, Any]) -> Iterator[None]:
    """Write what the block took to a log, if there is one; named: what is alike in all rows."""
    with measured(device) as took:
        yield
    metrics = {"merge_seconds": "seconds", "merge_peak_memory_bytes": "bytes"}
    if log is not None:
        write_rows(log, [{"metric": k, "value": took[v]} for k, v in metrics.items()], **named)


def _made_by(sources: Sources, how: MergeSettings, like: TaskVector) -> dict[str, Any]:
    """The header of a vector that was merged: what makes it one, and what it was made of."""
    files = zip(sources.tasks, sources.vectors, strict=True)
    weights = zip(sources.tasks, sources.weights, strict=False)  # all, or none
    return {
        "encoder": sources.encoder,
        "mode": like.mode,
        "seed": sources.seed,
        "settings": {"mode": {"linearized": like.linearized}},
        "theta0_sha256": like.base,
        "merging": {
            "method": how.method,
            "options": dict(how.options),
            "layer_scaled": how.layer_scaled,
            "sources": {task: sha256_of_file(path) for task, path in files},
            # By name, as the sources: a header's keys are sorted.
            **({"weights": dict(weights)} if sources.weights else {}),
        },
    }
