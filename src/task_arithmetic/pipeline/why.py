"""Why Snakemake would make a file again: its own plan, in the words of what the jobs recorded."""

import ast
import json
import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from typing import Any, NamedTuple

import yaml

from ..answer import answer
from ..config.reading import ROOT, read_yaml
from ..errors import UserError
from ..files.paths import PathLike
from ..files.records import Attempt, Made, Record, read_record, read_run
from ..stages.command import read_command
from ..stages.declaration import Declared
from . import store
from .identity import fingerprint_of, identities
from .rerun import code_changes

FIRST = "for the first time"
LONG = 80  # characters of a value that is told as it is


class Reason(NamedTuple):
    """Whether the next run makes a file again, and why, as a sentence.

    Attributes:
        configured: the file that tells how its run was configured; None: who asks says so.
    """

    target: str
    again: bool
    reason: str
    configured: Path | None = None


def why(*paths: PathLike, target: str, as_json: bool = False) -> None:
    """Print one sentence: why the next run makes a file again, or that it does not.

    Args:
        paths: the run's configuration files; without any, those that its last start was of.
        target: a file that a job of the run makes.
    Raises:
        UserError: no rule makes it. UserError, SystemExit: a mistake in the configuration.
    """
    target = os.path.relpath(target)
    list(map(read_yaml, paths))  # which fails in our own words
    with TemporaryDirectory() as folder:
        where = None
        if not paths and (own := own_configuration(target)):
            where, text = own
            paths = (Path(folder) / "config.yaml",)
            Path(paths[0]).write_text(text, "utf-8")
            asked = f"as its run was configured when it was last started ({where})"
            print(f"{asked}; --config asks for another configuration", file=sys.stderr)
        dag = plan(target, paths)
        again, sentence = dag.needrun(next(iter(dag.targetjobs))), explain(dag, target)
        answer(Reason(target, bool(again), sentence, where), [sentence], as_json)


def own_configuration(target: str) -> tuple[Path, str] | None:
    """The file that tells the resolved configuration of a result's run, and that configuration, as
    YAML; None if there is none. Of what runs share, that of the run that was last started on it."""
    parts, found = Path(target).parts, []
    if parts[:1] != ("results",) or len(parts) < 3:
        return None
    folder, shared = Path(*parts[:2]), parts[1] == "shared"
    for each in folder.parent.iterdir() if shared else [folder]:
        with suppress(UserError):
            run = read_run(each)
            if not shared or any(target in job.outputs for job in run.jobs):
                found.append((each / "run.json", run.config))
    if not shared and (path := folder / "config.yaml").is_file():  # of its report
        found.append((path, path.read_text("utf-8")))
    told = [each for each in found if each[1]]
    return max(told, key=lambda each: each[0].stat().st_mtime, default=None)


def plan(target: str, paths: Iterable[PathLike]) -> Any:
    """Snakemake's graph of the jobs that make a file, as `snakemake FILE` plans them now, whatever
    the conda environments; from private parts of its API, which a test holds to a dry run."""
    from snakemake.api import SnakemakeApi
    from snakemake.exceptions import MissingRuleException, WorkflowError
    from snakemake.settings import types

    triggers = types.RerunTrigger.all() - {types.RerunTrigger.SOFTWARE_ENV}
    quiet = types.OutputSettings(log_level_override=logging.CRITICAL, enable_file_logging=False)
    with SnakemakeApi(quiet) as api:
        try:
            config = types.ConfigSettings(configfiles=[Path(path) for path in paths])
            inner = api.workflow(types.ResourceSettings(1), config, snakefile=ROOT / "Snakefile")
            known = {"force_incomplete": True, "max_checksum_file_size": 10**11}  # by the profile
            inner.dag(types.DAGSettings({target}, rerun_triggers=triggers, **known))
            workflow = inner._workflow
            workflow._prepare_dag(False, ignore_incomplete=False, lock_warn_only=True, nolock=True)
            workflow._build_dag()
        except MissingRuleException:
            wrong = f"No rule of run {workflow.globals['experiment'].run} makes {target}"
            raise UserError(f"{wrong}: correct the path or give its run's --config.") from None
        except WorkflowError as error:
            raise UserError(f"No plan of {target}: {' '.join(str(error).split())}") from None
    return workflow.dag


def explain(dag: Any, target: str) -> str:
    """The sentence on the target of Snakemake's graph."""
    first = next(iter(dag.targetjobs))
    if not dag.needrun(first):
        return f"{target} is up to date."
    queue, files = [first], {first: target}
    causes: dict[str, list[Any]] = {}
    for job in queue:  # those that run, nearest first, each with what the target needs of it
        if clause := "; ".join(_causes(job, dag, target)):
            causes.setdefault(clause, []).append(job)
        for other, needed in sorted(dag.dependencies[job].items(), key=lambda item: min(item[1])):
            if dag.needrun(other) and other not in files:
                files[other] = str(min(needed))
                queue.append(other)
    causes = causes or {f"Snakemake says: {dag.reason(first)}": [first]}
    clause, (nearest, *same) = next(iter(causes.items()))
    sentence = f"{target} would be made {FIRST if clause == FIRST else f'again: {clause}'}"
    if nearest is not first:
        others = f" and {len(same):,} more" if same else ""
        sentence = f"{target} would be made again because {files[nearest]}{others} would: {clause}"
    if (more := len(causes) - 1) > 0:
        sentence += f"; further reasons upstream: {more:,}"
    stored = "; the finished result is in the store and will be taken from there"
    return f"{sentence}{stored * _is_stored(nearest, dag)}."


def _causes(job: Any, dag: Any, target: str) -> list[str]:
    """Clauses that say why a job runs, other than for the sake of other jobs that run."""
    reason, kept, record = dag.reason(job), dag.workflow.persistence, Record()
    is_missing = target in map(str, job.output) and not os.path.exists(target)
    with suppress(UserError):
        record = read_record(Path(job.log[0]).with_suffix(".json")) if job.log else record
    if reason.forced or is_missing:
        if unfinished := _unfinished(record.attempts):
            return [unfinished]
        if is_missing:
            return ["it does not exist" if record.made else FIRST]
        return ["Snakemake did not see its last attempt end"]
    clauses = []
    if files := sorted(map(str, reason.updated_input)):
        clauses.append(f"its input{'s' * (len(files) > 1)} {_few(files)} changed")
    if changed := kept.params_changed(job):
        clauses += _changes(job, record.made, changed)
    elif any(kept.input_changed(job)):
        before = {file for output in job.output for file in kept.input(output) or []}
        clauses.append(
            f"its set of inputs changed ({_few(sorted(before ^ {*map(str, job.input)}))})"
        )
    if any(kept.code_changed(job)):
        clauses.append(f"the command of its rule, {job.rule.name}, changed")
    return clauses


def _unfinished(attempts: list[Attempt]) -> str | None:
    """How a job's last attempt ended, if not well."""
    last = attempts[-1] if attempts else Attempt(exit=0)
    if (state := last.state(time.time())) == "running":
        return f"process {last.pid} on {last.node} is making it now"
    if last.exit:
        with suppress(ValueError):
            return f"the last attempt was stopped by {signal.Signals(last.exit - 128).name}"
        return f"the last attempt failed ({(last.error or 'see its log').rstrip('.')})"
    return "the last attempt ended without notice" if state == "lost" else None


class Call(NamedTuple):
    """A planned call of a stage, with the label of its code."""

    stage: Declared
    code: str
    arguments: dict[str, Any]


def _planned(job: Any) -> Call | None:
    """What a job calls; None: no stage."""
    if not job.shellcmd:
        return None
    words = shlex.split(job.shellcmd)
    stage, arguments = read_command(words[2 : words.index("&>")])
    del arguments["job"]
    return Call(stage, arguments.pop("code"), arguments)


def _changes(job: Any, made: Made | None, changed: Any) -> list[str]:
    """What of a job's parameters changed; changed: the values (repr), in Snakemake's view."""
    call, found, clauses = _planned(job), [], []
    if made and call:
        old, new = dict(made.arguments), call.stage.computed(call.arguments)
        found = differences(old.pop("settings", {}), new.pop("settings", {}))
        found += differences(old, new)
        if made.code != call.code:
            variant = call.stage.variant(made.arguments)
            clauses = code_changes(made.code, call.stage.command, variant)
    if not found:  # no record; or the configuration that the report shows
        for old, new in zip(*map(_mappings, (changed.only_old, changed.only_new)), strict=False):
            found += differences(old, new)
    clauses = [_few(found), *clauses] if found else clauses
    return clauses or [f"Snakemake says: {shorten(str(changed), 300, placeholder=' …')}"]


def _few(words: list[str]) -> str:
    """The first two, and how many more there are."""
    return ", ".join(words[:2]) + (f" and {len(words) - 2:,} more" if len(words) > 2 else "")


def _mappings(values: Iterable[str]) -> list[dict[str, Any]]:
    texts = [ast.literal_eval(value) for value in sorted(values) if value[:1] in "'\""]
    read = [json.loads(text) if text[:1] == "{" else yaml.safe_load(text) for text in texts]
    return [value for value in read if isinstance(value, dict)]


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """How two JSON values differ, as clauses: "`finetune.steps` was 3 and is 4"."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
        pairs = [(old.get(key), new.get(key), f"{name}.{key}".lstrip(".")) for key in keys]
        return [clause for pair in pairs for clause in differences(*pair)]
    if isinstance(old, list) and isinstance(new, list):
        clauses = [f"`{name}` now has {_word(value)}" for value in new if value not in old]
        clauses += [f"`{name}` no longer has {_word(value)}" for value in old if value not in new]
        if clauses:
            return clauses
        if sorted(map(str, old)) == sorted(map(str, new)):
            return [f"`{name}` has its entries in another order"]
    if name == "files":  # a hash of a folder's listing
        return ["what is in its folder changed"]
    return [f"`{name}` was {_told(old, new)} and is {_told(new, old)}"]


def _word(value: Any) -> str:
    return value if isinstance(value, str) else _told(value)


def _told(value: Any, other: Any = "") -> str:
    """A JSON value; of a long one its length, of a long text the place where it differs."""
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= LONG:
        return text
    if isinstance(value, dict):
        return f"a mapping of {len(value)} keys"
    if isinstance(value, list):
        return f"a list of {len(value)} entries"
    start = max(0, len(os.path.commonprefix([value, str(other)])) - LONG // 2)
    part = "…" * (start > 0) + value[start : start + LONG] + "…" * (start + LONG < len(value))
    return json.dumps(part, ensure_ascii=False)


def _is_stored(job: Any, dag: Any) -> bool:
    """Whether the store holds what a job would make of inputs that are there."""
    call = _planned(job)
    if call is None or not call.stage.stored or any(map(dag.needrun, dag.dependencies[job])):
        return False
    inputs = identities(call.stage, call.arguments)
    fingerprint = fingerprint_of(call.stage, call.arguments, call.code, inputs)
    entry = Path("results") / store.FOLDER / call.stage.command / f"{fingerprint}.sha256"
    return dag.workflow.globals["experiment"].store_gb > 0 and entry.is_file()
