"""When a stage's results count as made by the code of today."""

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError
from ..files.hashes import now, sha256_of
from ..files.paths import read_json, write_json
from ..files.records import Made, as_json, read_record
from ..merging.methods import names
from ..stages.catalogue import STAGES
from ..stages.declaration import MODALITIES, Declared
from .code import PACKAGE, changes, code_hash, code_parts, package_versions, written

RESULTS = Path("results")
SHARED = "shared"  # below the results
PLAN = "TASK_ARITHMETIC_PLAN"  # what a run was planned with, for its jobs, in their environment

_labels: dict[str, str] = {}  # as told in this process; keys: a command, and its variant


class Plan(NamedTuple):
    """What a run was planned with: the state of its sources, its labels, a hash of its
    configuration."""

    sources: str = ""
    labels: Mapping[str, str] = {}
    config: str = ""


def stage_code(command: str, variant: str | None = None) -> str:
    """The label of the code that a command can reach: `<hash of the code>-<hash of the versions>`.

    Code that was accepted as harmless has the label of the code whose results it leaves valid.

    Args:
        variant: whose of several codes a command reaches, a modality's or a merging method's;
            None: all of them.
    """
    key = _key(command, variant)
    if key not in _labels:
        planned = plan()
        if planned.sources == sources() and key in planned.labels:
            _labels[key] = planned.labels[key]
        else:
            label = code_hash(*modules(command, variant))
            known = {each["code"]: each["as"] for each in acceptances().get(command, [])}
            _labels[key] = known.get(label, label)
    return _labels[key]


def _key(command: str, variant: str | None) -> str:
    return f"{command} {variant}" if variant else command


def plan() -> Plan:
    """What the run was planned with that this process is a job of; empty if it is none."""
    return Plan(**json.loads(os.environ.get(PLAN, "{}")))


def keep_plan(config: dict[str, Any]) -> None:
    """Hand the labels that were told so far, and the configuration, to this process's jobs."""
    os.environ[PLAN] = json.dumps(Plan(sources(), _labels, sha256_of(config))._asdict())


def check_plan(config: dict[str, Any]) -> None:
    """Refuse to go on in a job of a cluster with another configuration than was planned with: it
    reads it again, perhaps hours later. Of the code, each command sees to itself."""
    if plan().config not in ("", sha256_of(config)):
        raise UserError(
            "The configuration changed since this run was planned: run the same snakemake command "
            "again, which plans with what is there now."
        )


def modules(command: str, variant: str | None = None) -> list[str]:
    """Where a command's code starts: the module of its function and, if it calls one, that of the
    modality or of the merging method; None: of all of them."""
    stage, found, methods = STAGES[command], list[str](), names()
    if stage.by_method:  # a method that a record names may be gone
        chosen = [name for name in methods if variant in (None, name)]
        found += [str(stage.code).rpartition(".")[0], *[f"merging.{name}" for name in chosen]]
        return found + [f"{each}.modality" for each in MODALITIES] * stage.modal
    for each in [variant] if variant else MODALITIES:
        code = stage.code[each] if isinstance(stage.code, dict) else stage.code
        found += [code.rpartition(".")[0], *[f"{each}.modality"] * stage.modal]
    return list(dict.fromkeys(found))


def sources() -> str:
    """A hash of the sizes and times of all source files: equal while nobody touches them."""
    states = [(path.relative_to(PACKAGE), path.stat()) for path in sorted(written(PACKAGE))]
    return sha256_of([[str(name), state.st_size, state.st_mtime_ns] for name, state in states])


def planned_code(stage: Declared, arguments: dict[str, Any], planned: str | None) -> str:
    """The label that a job's results get: what Snakemake planned with, if that is still the code.

    Args:
        planned: the label; None: the command was called by hand.
    Raises:
        UserError: the stage's code changed since the run was planned.
    """
    known = plan()
    if planned and known.sources == sources():
        return planned
    variant = stage.variant(arguments)
    today = stage_code(stage.command, variant)
    for expected in (planned, known.labels.get(_key(stage.command, variant))):
        if expected and expected.split("-")[0] != today.split("-")[0]:  # versions are the planner's
            raise UserError(
                f"The code of `{stage.command}` changed since this run was planned: run the same "
                "snakemake command again, which plans with the code of now."
            )
    return planned or today


# --- What code was, and which changes of it are harmless -----------------------------------------


def acceptances() -> dict[str, list[dict[str, str]]]:
    """stage → what was accepted for it, oldest first: code, as, reason, date."""
    path = RESULTS / SHARED / "accepted.json"
    return read_json(path) if path.is_file() else {}


def remember(results: Path = RESULTS) -> None:
    """Keep what the labels stand for that were told so far, for `why` and `accept` to name changes
    of the code."""
    for key in list(_labels):
        start = modules(*key.split(" "))
        path = results / SHARED / "code" / f"{code_hash(*start)}.json"
        if not path.is_file():
            write_json(path, {"parts": code_parts(*start), "versions": package_versions(*start)})


@cache
def code_changes(old: str, command: str, variant: str | None = None) -> list[str]:
    """What changed since the code of a label, as clauses: "core/training.py changed"."""
    start = modules(command, variant)
    path, clauses = RESULTS / SHARED / "code" / f"{old}.json", []
    known = read_json(path) if path.is_file() else {}
    of_code, of_versions = (
        x != y for x, y in zip(old.split("-"), code_hash(*start).split("-"), strict=True)
    )
    if of_code:
        named = changes(known["parts"], code_parts(*start)) if known else ""
        clauses.append(named or "the code changed")
    if of_versions:
        before, today = known.get("versions", {}), package_versions(*start)
        clauses += [
            f"{name} was {before.get(name, 'not used')} and is {today.get(name, 'not used')}"
            for name in sorted(before | today)
            if known and before.get(name) != today.get(name)
        ] or ["the version of a package changed"]
    return clauses or ["today's code was accepted as that of other results"]


def accept(stage: str, reason: str, run: str | None = None, code: str | None = None) -> None:
    """Declare that today's code of a stage gives the results that are there, which then stay; print
    what that covers.

    Covered are the results of one label, in all runs. Their records note it.

    Args:
        run: the run whose results are looked at; None: all runs.
        code: the label of the results to keep; needed if there are several, or if packages have
            other versions now.
    Raises:
        UserError: no reason, no such stage, no results; a label must be named.
    """
    if not reason.strip():
        raise UserError("The --reason is empty: say why the change leaves the results as they are.")
    if stage not in STAGES:
        raise UserError(f"There is no stage {stage!r}: take one of {', '.join(STAGES)}.")
    accepted, counts, clauses = acceptances(), Counter[str](), []
    too: list[str] = []  # other stages whose code changed
    for (command, variant), found in _recorded().items():
        today = stage_code(command, variant)
        if command != stage:
            too += [command] * any(label != today for label in found.values())
            continue
        labels = Counter(
            label for path, label in found.items() if not run or path.parts[1] in (run, SHARED)
        )
        old = code or _only(labels, today, stage, variant)
        if old not in labels:
            continue
        same = [path for path, label in found.items() if label == old]
        counts["unchanged" if old == today else "covered"] += len(same)
        counts["other"] += len(found) - len(same)
        if old == today:
            continue
        clauses += code_changes(old, stage, variant)
        label = code_hash(*modules(stage, variant))
        entry = {"code": label, "as": old, "reason": reason, "date": now()}
        accepted.setdefault(stage, []).append(entry)
        for path in same:
            record = read_record(path)
            made = record.made or Made()
            made = replace(made, accepted=[*made.accepted, entry])
            write_json(path, as_json(replace(record, made=made)))
    if not counts:
        where = f"run {run}" if run else f"any run in {RESULTS}"
        raise UserError(f"No result of {stage} is recorded in {where}: there is none to keep.")
    if clauses:  # last, so that nothing is kept whose record does not say why
        write_json(RESULTS / SHARED / "accepted.json", accepted)
        _labels.clear()
        what = "; ".join(dict.fromkeys(clauses))
        print(f"Accepted for {_results(counts['covered'])} of {stage}: {reason} ({what}).")
    else:
        print(f"Nothing to accept: {_results(counts['unchanged'])} of {stage} bear today's code.")
    if too:
        others = ", ".join(dict.fromkeys(too))
        print(f"Of other code are also results of {others}: `accept` each that stays.")
    if counts["other"]:
        print(f"{_results(counts['other'])} of other code will be made again where a run needs it.")


def _recorded() -> dict[tuple[str, str | None], dict[Path, str]]:
    """(command, variant) → its finished jobs' records → the label of the code of each."""
    found: dict[tuple[str, str | None], dict[Path, str]] = {}
    for path in sorted(RESULTS.glob("*/logs/**/*.json")):
        record = read_record(path)
        if made := record.made:
            key = record.stage, STAGES[record.stage].variant(made.arguments)
            found.setdefault(key, {})[path] = made.code
    return found


def _only(labels: Counter[str], today: str, stage: str, variant: str | None) -> str:
    """The label of the results that are there, if it is the only one and differs from today's in
    the code alone: else a person has to name it."""
    others = [label for label, _ in labels.most_common() if label != today]
    if not others:
        return today
    if len(labels) > 1 or others[0].split("-")[1] != today.split("-")[1]:
        told = []
        for label in others:
            what = ", ".join(code_changes(label, stage, variant))
            told.append(f"{label} ({_results(labels[label])}: {what})")
        name = f"Name the code whose results of {stage} stay valid, with --code"
        raise UserError(f"{name}: {'; '.join(told)}.")
    return others[0]


def _results(count: int) -> str:
    return f"{count:,} result{'s' * (count != 1)}"
