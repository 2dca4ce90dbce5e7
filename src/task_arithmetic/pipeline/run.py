"""A run: one start of Snakemake on one configuration."""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import settings
from ..config.experiment import Experiment
from ..errors import UserError
from ..files.hashes import sha256_of
from ..files.paths import PathLike, node, write_json
from ..files.records import Planned, Run, as_json, name_of, read_run
from .locks import NO_LOCKS, POLL, holder, lacks_locks, try_lock
from .outcome import outcome
from .rerun import keep_plan, remember

_lock: list[int] = []  # the descriptor of this process's lock; the kernel frees it


Expected = Callable[[str, Any], float]  # (stage, wildcards) → seconds


def start(
    run_dir: PathLike, dag: Any, experiment: Experiment, expected: Expected | None = None
) -> None:
    """Say in run.json which jobs the run has, and hold its lock for the rest of this process.

    Args:
        run_dir: results/<run>. dag: Snakemake's graph of jobs. experiment: what it is of.
        expected: how long a job takes by the model of work, see planning/requests.py.
    Raises:
        SystemExit: another Snakemake works on this run, or on one that defines otherwise what the
            two share; this user may not write to the run's folder, or not lock it.
    """
    try:
        _start(Path(run_dir), dag, experiment, expected or (lambda stage, wildcards: 0.0))
    except (UserError, OSError) as error:
        if (sentence := outcome(error)[1]) is None:
            raise
        sys.exit(sentence)


def _start(run_dir: Path, dag: Any, experiment: Experiment, expected: Expected) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    _take_lock(run_dir)
    own = [job for job in dag.jobs if job.log]
    shared = {
        str(job.output[0]): sha256_of([job.params.code, str(job.params.get("settings", ""))])
        for job in own
        if Path(job.log[0]).is_relative_to(run_dir.with_name("shared"))
    }
    _refuse_others(run_dir, shared)
    keep_plan(settings.everything(experiment))
    remember(run_dir.parent)
    jobs = []
    for job in own:
        log, outputs = str(job.log[0]), [str(path) for path in job.output]
        stage, needed = name_of(log).split("/")[0], bool(dag.needrun(job))
        seconds = expected(stage, getattr(job, "wildcards", {})) if needed else 0.0
        jobs.append(Planned(stage, log, needed, outputs, round(seconds, 1)))
    if (run_dir / "run.json").is_file() and "report" not in {job.stage for job in jobs}:
        # A few files by name: the rest of the run is as it was.
        named = {job.log for job in jobs}
        others = [job for job in read_run(run_dir).jobs if job.log not in named]
        jobs += [replace(job, needed=not Path(job.outputs[0]).exists()) for job in others]
    command, text = " ".join(["snakemake", *sys.argv[1:]]), settings.as_yaml(experiment)
    run = Run(jobs, time.time(), os.getpid(), node(), shared, command, text)
    write_json(run_dir / "run.json", as_json(run))


def _take_lock(run_dir: Path) -> None:
    path, why = run_dir / ".lock", lacks_locks(run_dir)
    try:
        for _ in range(3):  # another run that starts now takes it for a moment, to see if it can
            if (fd := try_lock(path)) is not None:
                _lock.append(fd)
                break
            time.sleep(POLL)
        else:
            sys.exit(
                f"Another snakemake works on {run_dir} ({holder(path)}): wait until it ends, or "
                "stop it; `task-arithmetic status` shows what it does."
            )
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        why = f"The file system of {run_dir} keeps no locks ({error.strerror})"
    if why:
        print(f"{why}: start only one snakemake at a time on {run_dir}.", file=sys.stderr)


def failed(run_dir: PathLike, log: PathLike) -> None:
    """Note in run.json that this process ends with an error, and where Snakemake's own log is: a
    job may fail before it can say so itself."""
    path = Path(run_dir) / "run.json"
    if _lock and path.is_file():
        write_json(path, as_json(replace(read_run(run_dir), error=str(log))))


def _refuse_others(run_dir: Path, shared: dict[str, str]) -> None:
    """End this process if a run that goes on makes one of the shared outputs otherwise."""
    for other in run_dir.parent.glob("*/.lock"):
        if other.parent == run_dir or not other.with_name("run.json").is_file():
            continue
        theirs = read_run(other.parent).shared
        differing = [path for path in shared if theirs.get(path, shared[path]) != shared[path]]
        if not differing:
            continue
        if (fd := try_lock(other)) is not None:  # it has ended
            os.close(fd)
            continue
        sys.exit(
            f"The run in {other.parent} is going on, and makes {differing[0]} with other settings "
            "or code: wait until it ends."
        )
