"""When a stage's results count as made by the code of today."""

import json
import os
from collections import Counter
from functools import cache
from pathlib import Path

from ..errors import UserError
from ..files import hashes
from ..files.hashes import sha256_of
from ..files.paths import read_json, write_json
from ..stages.declare import MODALITIES, Declared
from ..stages.declared import STAGES
from .code import PACKAGE, changes, code_hash, code_parts, package_versions

SHARED = Path("shared")  # below the results
PLAN = "TASK_ARITHMETIC_PLAN"  # what a run was planned with, for its jobs, in their environment

_labels: dict[tuple, str] = {}  # (command, modality, results) → label, as told in this process


def stage_code(command: str, modality: str | None = None, results: str = "results") -> str:
    """The label of the code that a command can reach: `<hash of the code>-<hash of the versions>`.

    Code that was accepted as harmless has the label of the code whose results it leaves valid.

    Args:
        modality: whose of several codes a command reaches; None: all of them.
    """
    key = command, modality, str(results)
    if key not in _labels:
        planned = plan()
        if planned.get("sources") == sources() and _text(key) in planned["labels"]:
            _labels[key] = planned["labels"][_text(key)]
        else:
            label = code_hash(*modules(command, modality))
            known = {each["code"]: each["as"] for each in acceptances(results).get(command, [])}
            _labels[key] = known.get(label, label)
    return _labels[key]


def _text(key: tuple) -> str:
    return " ".join(str(part) for part in key)


def plan() -> dict:
    """What the run was planned with that this process is a job of; empty if it is none: sources,
    labels, config (a hash)."""
    return json.loads(os.environ.get(PLAN, "{}"))


def keep_plan(config: dict) -> None:
    """Hand the labels that were told so far, and the configuration, to this process's jobs."""
    labels = {_text(key): label for key, label in _labels.items()}
    kept = {"sources": sources(), "labels": labels, "config": sha256_of(config)}
    os.environ[PLAN] = json.dumps(kept)


def check_plan(config: dict) -> None:
    """Refuse to go on in a job of a cluster with another configuration than was planned with: it
    reads it again, perhaps hours later. Of the code, each command sees to itself."""
    if plan().get("config") not in (None, sha256_of(config)):
        raise UserError(
            "The configuration changed since this run was planned: run the same snakemake command "
            "again, which plans with what is there now."
        )


def modules(command: str, modality: str | None = None) -> list[str]:
    """Where a command's code starts: the module of its function and, if it calls one, that of the
    modality; None: of all of them."""
    stage, found = STAGES[command], []
    for each in [modality] if modality else MODALITIES:
        code = stage.code[each] if isinstance(stage.code, dict) else stage.code
        found += [code.rpartition(".")[0], *[f"{each}.modality"] * stage.modal]
    return list(dict.fromkeys(found))


def sources() -> str:
    """A hash of the sizes and times of all source files: equal while nobody touches them."""
    found = []
    for path in sorted(PACKAGE.rglob("[!.]*.*")):  # editors keep hidden ones
        if path.suffix == ".pyc":
            continue
        about = path.stat()
        found.append([str(path.relative_to(PACKAGE)), about.st_size, about.st_mtime_ns])
    return sha256_of(found)


def planned_code(stage: Declared, arguments: dict, planned: str | None) -> str:
    """The label that a job's results get: what Snakemake planned with, if that is still the code.

    Args:
        planned: the label; None: the command was called by hand.
    Raises:
        UserError: the stage's code changed since the run was planned.
    """
    if planned and plan().get("sources") == sources():
        return planned
    key = stage.command, stage.modality(arguments), "results"
    now = stage_code(*key)
    for expected in (planned, plan().get("labels", {}).get(_text(key))):
        if expected and expected.partition("-")[0] != now.partition("-")[0]:
            raise UserError(  # the other half, versions, is the planner's
                f"The code of `{stage.command}` changed since this run was planned: run the same "
                "snakemake command again, which plans with the code of now."
            )
    return planned or now


def acceptances(results="results") -> dict[str, list[dict]]:
    """stage → what was accepted for it, oldest first: code, as, reason, date."""
    path = Path(results) / SHARED / "accepted.json"
    return read_json(path) if path.is_file() else {}


# --- What code was, and which changes of it are harmless -----------------------------------------


def remember(results="results") -> None:
    """Keep what the labels stand for that were told so far, for `why` and `accept` to name changes
    of the code."""
    for command, modality, _ in list(_labels):
        start = modules(command, modality)
        path = Path(results) / SHARED / "code" / f"{code_hash(*start)}.json"
        if not path.is_file():
            write_json(path, {"parts": code_parts(*start), "versions": package_versions(*start)})


@cache
def code_changes(
    old: str, command: str, modality: str | None = None, results="results"
) -> list[str]:
    """What changed since the code of a label, as clauses: "`merge` in vector.py changed"."""
    start = modules(command, modality)
    new, path = code_hash(*start), Path(results) / SHARED / "code" / f"{old}.json"
    known, clauses = read_json(path) if path.is_file() else {}, []
    if old.partition("-")[0] != new.partition("-")[0]:
        named = changes(known["parts"], code_parts(*start)) if known else ""
        clauses.append(named or "the code changed")
    if old.partition("-")[2] != new.partition("-")[2]:
        before, now = known.get("versions", {}), package_versions(*start)
        clauses += [
            f"{package} was {before.get(package, 'not used')} and is {now.get(package, 'not used')}"
            for package in sorted(before | now)
            if known and before.get(package) != now.get(package)
        ] or ["the version of a package changed"]
    return clauses or ["today's code was accepted as that of other results"]


def accept(
    stage: str, reason: str, run: str | None = None, code: str | None = None, results="results"
) -> None:
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
    records: dict[str | None, list] = {}  # modality → path and content of each
    too: dict[str, None] = {}  # other stages whose code changed
    for path in sorted(Path(results).glob("*/logs/**/*.json")):
        record = read_json(path)
        if "made" not in record:
            continue
        command = record["stage"]
        modality = STAGES[command].modality(record["made"]["arguments"])
        key = command, modality, str(results)
        if key[0] == stage:
            records.setdefault(key[1], []).append((path, record))
        elif record["made"]["code"] != stage_code(*key):
            too[key[0]] = None
    accepted, counts, clauses = acceptances(results), Counter(), []
    for modality, found in records.items():
        of_run = [
            record["made"]["code"]
            for path, record in found
            if run is None or path.relative_to(results).parts[0] in (run, SHARED.name)
        ]
        if not of_run:
            continue
        today = stage_code(stage, modality, str(results))
        old = code or _only(Counter(of_run), today, stage, modality, results)
        if old not in of_run:
            continue
        same = [(path, record) for path, record in found if record["made"]["code"] == old]
        counts["covered" if old != today else "unchanged"] += len(same)
        counts["other"] += len(found) - len(same)
        if old == today:
            continue
        clauses += code_changes(old, stage, modality, str(results))
        entry = {"code": code_hash(*modules(stage, modality)), "as": old, "reason": reason}
        entry["date"] = hashes.now()
        accepted.setdefault(stage, []).append(entry)
        for path, record in same:
            record["made"].setdefault("accepted", []).append(entry)
            write_json(path, record)
    if not counts:
        where = f"run {run}" if run else f"any run in {results}"
        raise UserError(f"No result of {stage} is recorded in {where}: there is none to keep.")
    if clauses:  # last, so that nothing is kept whose record does not say why
        write_json(Path(results) / SHARED / "accepted.json", accepted)
        _labels.clear()
        what = "; ".join(dict.fromkeys(clauses))
        print(f"Accepted for {_results(counts['covered'])} of {stage}: {reason} ({what}).")
    else:
        print(f"Nothing to accept: {_results(counts['unchanged'])} of {stage} bear today's code.")
    if too:
        print(f"Of other code are also results of {', '.join(too)}: `accept` each that stays.")
    if counts["other"]:
        print(f"{_results(counts['other'])} of other code will be made again where a run needs it.")


def _only(labels: Counter, today: str, stage: str, modality: str | None, results) -> str:
    """The label of the results that are there, if it is the only one and differs from today's in
    the code alone: else a person has to name it."""
    others = [label for label, _ in labels.most_common() if label != today]
    if not others:
        return today
    versions_differ = others[0].partition("-")[2] != today.partition("-")[2]
    if len(labels) > 1 or versions_differ:
        listed = "; ".join(
            f"{label} ({_results(labels[label])}: "
            + ", ".join(code_changes(label, stage, modality, str(results)))
            + ")"
            for label in others
        )
        raise UserError(
            f"Name the code whose results of {stage} stay valid, with --code: {listed}."
        )
    return others[0]


def _results(count: int) -> str:
    return f"{count:,} result{'s' * (count != 1)}"
