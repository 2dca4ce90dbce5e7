"""A run: one start of Snakemake on one configuration."""

import os
import sys
import time
from pathlib import Path

from .artifacts import write_json
from .locks import lacks_locks, node, try_lock
from .rerun import keep_plan, remember

_lock: list[int] = []  # the descriptor of this process's lock; the kernel frees it


def start(run_dir, dag, config: dict) -> None:
    """Say in run.json which jobs the run has, and hold its lock for the rest of this process.

    Args:
        run_dir: results/<run>. dag: Snakemake's graph of jobs. config: the configuration.
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
    keep_plan(config)
    remember(run_dir.parent)
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
