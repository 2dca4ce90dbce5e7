"""Why Snakemake would make a file again: its own plan, in the words of what the jobs recorded."""

import ast
import json
import logging
import os
import shlex
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten

import yaml

from ..cli import parser
from ..config.reading import ROOT, read_yaml
from ..errors import UserError
from ..files.paths import read_json
from ..files.records import read_attempts, state_of
from ..stages.declare import Declared
from ..stages.declared import STAGES
from . import store
from .identity import fingerprint_of, identities
from .rerun import code_changes

FIRST = "for the first time"
OWN = ("run.json", "config.yaml")  # of results/<run>: what its last start, and its report, was of
LONG = 80  # characters of a value that is told as it is


def why(*paths, target: str) -> None:
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
        if not paths and (own := own_configuration(target)):
            where, text = own
            paths = [Path(folder) / "config.yaml"]
            paths[0].write_text(text, "utf-8")
            asked = f"as its run was configured when it was last started ({where})"
            print(f"{asked}; --config asks for another configuration", file=sys.stderr)
        print(explain(plan(target, paths), target))


def own_configuration(target: str) -> tuple[Path, str] | None:
    """The file that tells the resolved configuration of a result's run, and that configuration, as
    YAML; None if there is none. Of what runs share, that of the run that was last started on it."""
    parts = Path(target).parts
    if parts[:1] != ("results",) or len(parts) < 3:
        return None
    if parts[1] != "shared":
        found = [path for path in Path(parts[0], parts[1]).glob("*.*") if path.name in OWN]
    else:
        found = [path for path in Path(parts[0]).glob(f"*/{OWN[0]}") if target in made_by(path)]
    for path in sorted(found, key=os.path.getmtime, reverse=True):
        with suppress(UserError, OSError):
            own = path.name == OWN[1]
            if text := path.read_text("utf-8") if own else read_json(path).get("config"):
                return path, text
    return None


def made_by(run_json: Path) -> set[str]:
    """All outputs of the jobs of a run."""
    with suppress(UserError):
        return {output for job in read_json(run_json)["jobs"] for output in job["outputs"]}
    return set()


def plan(target: str, paths):
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


def explain(dag, target: str) -> str:
    """The sentence on the target of Snakemake's graph."""
    queue = list(dag.targetjobs)
    if not dag.needrun(queue[0]):
        return f"{target} is up to date."
    files, causes = {queue[0]: target}, {}
    for job in queue:  # those that run, nearest first, each with what the target needs of it
        if clause := "; ".join(_causes(job, dag, target)):
            causes.setdefault(clause, []).append(job)
        for other, needed in sorted(dag.dependencies[job].items(), key=lambda item: min(item[1])):
            if dag.needrun(other) and other not in files:
                files[other] = str(min(needed))
                queue.append(other)
    says = f"Snakemake says: {dag.reason(queue[0])}"
    clause, (nearest, *same) = next(iter(causes.items()), (says, queue[:1]))
    sentence = f"{target} would be made {FIRST if clause == FIRST else f'again: {clause}'}"
    if nearest is not queue[0]:
        others = f" and {len(same):,} more" if same else ""
        sentence = f"{target} would be made again because {files[nearest]}{others} would: {clause}"
    if (more := len(causes) - 1) > 0:
        sentence += f"; further reasons upstream: {more:,}"
    stored = "; the finished result is in the store and will be taken from there"
    return f"{sentence}{stored * _is_stored(nearest, dag)}."


def _causes(job, dag, target: str) -> list[str]:
    """Clauses that say why a job runs, other than for the sake of other jobs that run."""
    reason, kept, record = dag.reason(job), dag.workflow.persistence, {}
    is_missing = target in map(str, job.output) and not os.path.exists(target)
    if job.log and (path := Path(job.log[0]).with_suffix(".json")).is_file():
        with suppress(UserError, ValueError):
            record = {**read_json(path), "attempts": read_attempts(path)}
    if reason.forced or is_missing:
        if unfinished := _unfinished(record.get("attempts")):
            return [unfinished]
        if is_missing:
            return ["it does not exist" if "made" in record else FIRST]
        return ["Snakemake did not see its last attempt end"]
    changed_files = sorted(map(str, reason.updated_input))
    clauses = [f"its input {file} changed" for file in changed_files[:2]]
    clauses += [f"{len(changed_files) - 2:,} more of its inputs"] * (len(changed_files) > 2)
    if changed := kept.params_changed(job):
        clauses += _changes(job, record.get("made"), changed)
    elif any(kept.input_changed(job)):
        before = {file for output in job.output for file in kept.input(output) or []}
        others = sorted(before ^ {*map(str, job.input)})
        clauses.append(f"its set of inputs changed ({_few(others)})")
    if any(kept.code_changed(job)):
        clauses.append(f"the command of its rule, {job.rule.name}, changed")
    return clauses


def _unfinished(attempts: list[dict] | None) -> str | None:
    """How a job's last attempt ended, if not well."""
    last = attempts[-1] if attempts else {"exit": 0}
    if (state := state_of(last, time.time())) == "running":
        return f"process {last['pid']} on {last['node']} is making it now"
    if state in ("failed", "stopped"):
        with suppress(ValueError):
            return f"the last attempt was stopped by {signal.Signals(last['exit'] - 128).name}"
        return f"the last attempt failed ({(last['error'] or 'see its log').rstrip('.')})"
    return "the last attempt ended without notice" if state == "lost" else None


def _planned(job) -> tuple[Declared | None, str, dict]:
    """A planned stage, the label of its code and its arguments; None if it is no stage's."""
    if not job.shellcmd:
        return None, "", {}
    words = shlex.split(job.shellcmd)
    arguments = vars(parser().parse_args(words[1 : words.index("&>")]))
    del arguments["job"]
    return STAGES[arguments.pop("command")], arguments.pop("code"), arguments


def _changes(job, made: dict | None, changed) -> list[str]:
    """What of a job's parameters changed; changed: the values (repr), in Snakemake's view."""
    (stage, code, arguments), found, clauses = _planned(job), [], []
    if made and stage:
        old, new = dict(made["arguments"]), stage.computed(arguments)
        found = differences(old.pop("settings", {}), new.pop("settings", {}))
        found += differences(old, new)
        if made["code"] != code:
            clauses = code_changes(made["code"], stage.command, stage.modality(made["arguments"]))
    if not found:  # no record; or the configuration that the report shows
        for old, new in zip(*map(_mappings, (changed.only_old, changed.only_new)), strict=False):
            found += differences(old, new)
    clauses = [_few(found), *clauses] if found else clauses
    return clauses or [f"Snakemake says: {shorten(str(changed), 300, placeholder=' …')}"]


def _few(words: list[str]) -> str:
    """The first two, and how many more there are."""
    return ", ".join(words[:2]) + (f" and {len(words) - 2:,} more" if len(words) > 2 else "")


def _mappings(values) -> list[dict]:
    texts = [ast.literal_eval(value) for value in sorted(values) if value[:1] in "'\""]
    read = [json.loads(text) if text[:1] == "{" else yaml.safe_load(text) for text in texts]
    return [value for value in read if isinstance(value, dict)]


def differences(old, new, name="") -> list[str]:
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


def _word(value) -> str:
    return value if isinstance(value, str) else _told(value)


def _told(value, other=None) -> str:
    """A JSON value; of a long one whole entries, or the text around where it differs."""
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= LONG:
        return text
    if isinstance(value, dict):
        return f"a mapping of {len(value)} keys"
    if isinstance(value, list):
        return f"a list of {len(value)} entries"
    start = len(os.path.commonprefix([value, other])) if isinstance(other, str) else 0
    start = max(0, start - LONG // 2)
    part = value[start : start + LONG]
    return json.dumps(
        "…" * (start > 0) + part + "…" * (start + LONG < len(value)), ensure_ascii=False
    )


def _is_stored(job, dag) -> bool:
    """Whether the store holds what a job would make of inputs that are there."""
    stage, code, arguments = _planned(job)
    if stage is None or not stage.stored or any(map(dag.needrun, dag.dependencies[job])):
        return False
    fingerprint = fingerprint_of(stage, arguments, code, identities(stage, arguments))
    entry = Path("results") / store.FOLDER / stage.command / f"{fingerprint}.sha256"
    return dag.workflow.globals["experiment"].store_gb > 0 and entry.is_file()
