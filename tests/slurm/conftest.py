"""A SLURM for the tests of this folder, which are all slow; without one they are skipped."""

import os
import subprocess
import sys
from pathlib import Path

import cluster
import pytest

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks
def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("slow")
            item.add_marker("slurm")


@pytest.fixture(scope="session")
def slurm():
    """The environment of a cluster: two nodes, n1 and n2, of two GPUs and four cores each."""
    if missing := cluster.missing():
        pytest.skip(f"SLURM is not installed: no {', '.join(missing)} (docs/guides/cluster.md)")
    env = cluster.start()
    # Each job starts Python three times: without its bytecode that takes twice as long.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    try:
        yield env
    finally:
        cluster.stop(env)


@pytest.fixture
def submit(slurm, root, tmp_path):
    """submit(*options, snakefile, directory) starts snakemake with the cluster's profile; returns
    its process, whose `log` is the file of what it says. Jobs train on one thread."""
    started = []

    def start(*options, snakefile=root / "Snakefile", directory=tmp_path, env=None):
        command = [sys.executable, HERE / "snakemake_quick.py", "-s", snakefile, "-d", directory]
        command += ["--profile", root / "profiles/slurm", "--latency-wait", "20"]
        command += ["--slurm-init-seconds-before-status-checks", "1", "--max-threads", "1"]
        log = tmp_path / f"snakemake-{len(started)}.log"
        with open(log, "wb") as out:
            process = subprocess.Popen(
                [str(word) for word in (*command, *options)],
                env={**slurm, **(env or {}), "OMP_NUM_THREADS": "1"},
                stdout=out,
                stderr=out,
            )
        process.log = log
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
    if started:
        cluster.ask(slurm, "scancel", "--user", str(os.getuid()))
