"""A run: one start of Snakemake on one configuration."""

import os
import sys
import time
from pathlib import Path

from .artifacts import UserError, sha256_of, write_json
from .locks import lacks_locks, node, try_lock
from .rerun import remember, stage_code

PLANNED = "TASK_ARITHMETIC_PLANNED"  # what the run was planned with, for the jobs of a cluster
_lock: list[int] = []  # the descriptor of this process's lock; the kernel frees it


def start(run_dir, dag, planned: dict) -> None:
    """Say in run.json which jobs the run has, and hold its lock for the rest of this process.

    Args:
        run_dir: results/<run>. dag: Snakemake's graph of jobs. planned: the configuration.
    Raises:
        SystemExit: another Snakemake works on this run.
    """
    run_dir = Path(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / ".lock"
    try:
        fd = try_lock(path)
    except OSError:
        fd = -1
    if fd is None:
        sys.exit(
            f"Another snakemake works on {run_dir} ({path.read_text().strip()}): wait until it "
            "ends, or stop it; `task-arithmetic status` shows what it does."
        )
    _lock.append(fd)
    if why := lacks_locks(run_dir):
        print(f"{why}: start only one snakemake at a time on {run_dir}.", file=sys.stderr)
    os.environ[PLANNED] = _plan(planned)
    remember([job.params.name for job in dag.jobs if "/figures/" in str(job.log)], run_dir.parent)
    jobs = [
        {
            "stage": _stage(str(job.log[0])),
            "log": str(job.log[0]),
            "outputs": [str(path) for path in job.output],
            "needed": bool(dag.needrun(job)),
        }
        for job in dag.jobs
        if job.log
    ]
    about = {"started": time.time(), "pid": os.getpid(), "node": node(), "jobs": jobs}
    write_json(run_dir / "run.json", {**about, "command": " ".join(["snakemake", *sys.argv[1:]])})


def _stage(log: str) -> str:
    """The stage of a log `results/<run>/logs/<stage>/…`."""
    parts = Path(log).parts
    return parts[parts.index("logs") + 1]


def check_plan(config: dict) -> None:
    """Refuse to run a job of a cluster with another configuration or code than was planned with.

    A job there reads the configuration and the code again, perhaps hours later.
    """
    if os.environ.get(PLANNED) not in (None, _plan(config)):
        raise UserError(
            "The configuration or the code changed since this run was planned: run the same "
            "snakemake command again, which plans with what is there now."
        )


def _plan(config: dict) -> str:
    from .cli import STAGES

    codes = {stage_code(command).partition("-")[0] for command in STAGES}  # without versions
    return sha256_of([config, sorted(codes)])
