"""`task-arithmetic export`: vectors in files, merged and written as another library loads them."""

import math
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..answer import answer
from ..core.encoder import CPU
from ..errors import UserError
from ..files.paths import human_bytes
from ..files.tensors import read_made_by
from ..library.card import Source, sources_of_files
from ..library.checks import check_same_mode
from ..library.encoders import Encoder, load_encoder
from ..library.export import Exported, check_known, check_place
from ..library.export import export as write
from ..library.tasks import load_task
from ..library.vectors import MergedVector, TaskVector, check_file
from ..merging.merge import labels_of, merge_parts
from ..merging.method import options_of
from ..merging.methods import find
from ..stages.evaluate import MERGED, read_vector_header
from ..stages.merge import VectorFiles
from .words import check_once, read_options


def export(
    *,
    vectors: list[str],
    base: str,
    method: str | None,
    options: list[str],
    seed: int | None,
    alpha: float | None,
    chosen: str,
    to: str,
    out: str,
    tasks: list[str],
    license: str,
    evaluate: bool,
    as_nonlinear: bool,
    keep_base_projection: bool,
    as_json: bool = False,
) -> None:
    """Merge vectors' files, one tensor at a time, and export θ0 + α·M; see library.export.

    Args:
        vectors: files of task vectors; or one file: of a task's, or of what was merged.
        method: of merging; None: sum, and one file is taken as it is.
        options: NAME=VALUE, the method's own.
    Raises:
        UserError: vectors of another encoder or mode; no α; a method that needs data; and what
            library.export refuses.
    """
    check_known(to)
    check_place(out)
    if alpha is None or not math.isfinite(alpha):
        raise UserError(
            "Give --alpha, a number: the one that was best on validation, which a run's "
            "results/<run>/tables name for each method, and choose_alpha of the library finds."
        )
    for path in vectors:
        check_file(path)
    check_once(vectors)
    if method and len(vectors) == 1 and (before := read_made_by(vectors[0]).get("merging")):
        raise UserError(
            f"{vectors[0]} is merged already, by {before['method']}: leave out --method."
        )
    given: dict[str, Any] = {**read_options(options), **({"seed": seed} if seed else {})}
    merging = method or ("sum" if len(vectors) > 1 else "")
    if given and not merging:
        raise UserError("One vector is exported as it is: --option and --seed need --method.")
    flags = {"evaluate": evaluate, "as-nonlinear": as_nonlinear}
    flags |= {"keep-base-projection": keep_base_projection}
    near, near_out = (not (os.path.isabs(x) or x.startswith("..")) for x in (base, out))
    words = {
        "base": base if near else Path(base).name,
        "method": method,
        "option": options,
        "seed": seed or None,
    }
    words |= {
        "alpha": str(alpha),
        "chosen": chosen,
        "to": to,
        "out": out if near_out else Path(out).name,
    }
    words |= {"tasks": tasks, "license": license}
    encoder = load_encoder(base)
    model = encoder + alpha * _merged(vectors, merging, given, encoder)
    names = _public(vectors)
    sources, merging, given, merged = _told(vectors, names, merging, given)
    done = write(
        model,
        out,
        to,
        tasks=[load_task(task, encoder) for task in tasks],
        vectors=sources,
        merged=merged,
        method=merging,
        options=given,
        alpha=alpha,
        chosen=chosen,
        evaluate=evaluate,
        license=license,
        as_nonlinear=as_nonlinear,
        keep_base_projection=keep_base_projection,
        command=_command(names, words, flags),
    )
    scores = [{**asdict(score), "normalized": score.normalized} for score in done.scores]
    found = {"folder": done.folder, "format": done.to, "scores": scores}
    answer(found, _lines(done), as_json)


def _merged(
    paths: Sequence[str], method: str, given: Mapping[str, Any], encoder: Encoder
) -> TaskVector | MergedVector:
    """M of θ0 + α·M, held to the encoder."""
    if not method:
        kind = MergedVector if read_made_by(paths[0]).get("stage") == MERGED else TaskVector
        return kind.load(paths[0])
    found = find(method)
    options = options_of(found, {k: v for k, v in given.items() if k != "seed"})
    if (needs := found.needs_of(options)) != "vectors":
        raise UserError(
            f"The merging method {method} needs {needs} data of every task: merge "
            "first, with `task-arithmetic merge` or in a run, and give its merged file alone."
        )
    said = [read_vector_header(path) for path in paths]
    headers = [TaskVector({}, of.mode, of.linearized, of.base, of.task) for of in said]
    for header in headers:
        encoder.check(header)
        check_same_mode(headers[0], header)
    labels = _labels(paths, [header.task for header in headers])
    parts = VectorFiles(paths, labels, given.get("seed", 0), CPU)
    merged = dict(merge_parts(parts, found, options))
    about = headers[0].mode, headers[0].linearized, encoder.base
    direction = TaskVector({name: each.direction for name, each in merged.items()}, *about)
    offset = {name: each.offset for name, each in merged.items() if each.offset is not None}
    return MergedVector(TaskVector(offset, *about), direction) if offset else direction


def _labels(paths: Sequence[str], tasks: Sequence[str]) -> list[str]:
    """What the vectors are called: see labels_of. Raises UserError: two are of one task."""
    for i, task in enumerate(tasks):
        if task and task in tasks[:i]:
            raise UserError(
                f"{paths[tasks.index(task)]} and {paths[i]} are both of {task}: give one vector of "
                "each task."
            )
    return labels_of(tasks)


def _told(
    paths: Sequence[str], names: Sequence[str], method: str, given: dict[str, Any]
) -> tuple[list[Source], str, dict[str, Any], Source | None]:
    """What the card says of the vectors, of how they were merged, by which options and in which
    file: what was merged before says so itself."""
    found = [replace(s, file=n) for s, n in zip(sources_of_files(paths), names, strict=True)]
    if method:
        labels = _labels(paths, [source.task for source in found])
        named = [replace(each, task=label) for each, label in zip(found, labels, strict=True)]
        return named, method, given, None
    if found[0].task:
        return found, "", {}, None
    said = read_made_by(paths[0]).get("merging", {"method": "", "options": {}, "sources": {}})
    weights = said.get("weights", {})
    own = [
        Source(task, found[0].mode, sha256, weight=weights.get(task))
        for task, sha256 in said["sources"].items()
    ]
    more: dict[str, Any] = {"layer_scale": True} if said.get("layer_scaled") else {}
    if said["method"] and found[0].seed is not None:
        more["seed"] = found[0].seed
    merged = replace(found[0], coefficients=said.get("coefficients", []))
    return own, said["method"], {**said["options"], **more}, merged


def _public(paths: Sequence[str]) -> list[str]:
    """How a card, which is public, names files: as they were given or, of other folders than this,
    from the folder on that holds them all."""
    if not any(os.path.isabs(path) or path.startswith("..") for path in paths):
        return list(paths)
    start = os.path.commonpath([Path(path).absolute().parent for path in paths])
    return [os.path.relpath(path, start) for path in paths]


def _command(names: Sequence[str], words: Mapping[str, Any], flags: Mapping[str, bool]) -> str:
    """The command line."""
    said = ["task-arithmetic", "export", *names]
    for name, value in words.items():
        if name == "option":
            said += [word for each in value or () for word in ("--option", each)]
        elif value:
            said += [f"--{name}", *(value if isinstance(value, list) else [str(value)])]
    return shlex.join([*said, *(f"--{name}" for name, given in flags.items() if given)])


def _lines(done: Exported) -> Iterator[str]:
    """What was made: a line, and a line for each task that was evaluated."""
    size = sum(file.stat().st_size for file in done.folder.iterdir())
    yield f"{done.folder}: {done.to}, {human_bytes(size)}; README.md is its card."
    for score in done.scores:
        own = score.individual, score.normalized
        more = f", individual {own[0]:.4f}, normalized {own[1]:.4f}" if all(own) else ""
        yield f"{score.task}: zero-shot {score.zero_shot:.4f}, merged {score.merged:.4f}{more}"
    if any(score.individual is None for score in done.scores):
        yield "No individual accuracy where the task's own vector is not among those exported."
