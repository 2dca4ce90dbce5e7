"""A run that is killed again and again ends as one that never was."""

import os
import random
import signal
import subprocess
import time

import pandas as pd
import pytest
from runs import WITHOUT_ADDITIONS, Nano, copy_project, same_files

pytestmark = pytest.mark.slow

KILLS = 30
LONGEST = 8.0  # seconds from a start to its kill


def processes_of(folder):
    """The processes that were started in a folder, with all that they started."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if os.path.realpath(f"/proc/{pid}/cwd") == str(folder):
                found.append(int(pid))
        except OSError:
            continue
    return set(found) - {os.getpid()}


def kill(process, folder):
    """SIGKILL of Snakemake, its shells and its jobs, as when a machine goes down."""
    process.kill()
    while left := processes_of(folder):
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        process.poll()
        time.sleep(0.01)
    process.wait()


def test_thirty_kills_of_the_whole_tree_change_no_result(nano, tmp_path):
    killed = Nano(copy_project(tmp_path / "project"))
    generator, moments = random.Random(0), []
    for _ in range(KILLS):
        process = subprocess.Popen(
            killed.command(*WITHOUT_ADDITIONS),
            cwd=killed.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(killed.folder / "src")},
        )
        moments.append(generator.uniform(0, LONGEST))
        time.sleep(moments[-1])
        assert process.poll() in (None, 0), "the run failed by itself"
        kill(process, killed.folder)
    done = killed.run(*WITHOUT_ADDITIONS)
    assert done.returncode == 0, done.stdout[-6000:]
    assert same_files(nano.results, killed.results, additions=False) == []
    assert killed.planned(*WITHOUT_ADDITIONS) == {}
    left = [p for p in killed.results.rglob(".*") if p.suffix in (".partial", ".state")]
    assert left == [], moments
    # Each kill costs a training at most one checkpoint interval (2 steps) and the step at hand.
    trace = pd.read_csv(killed.results / "trace.csv")
    trained = trace[(trace.stage == "finetune") & trace.steps_first.notna()]
    for job, rows in trained.groupby("job"):
        steps = (rows.steps_done - rows.steps_first).sum()
        assert 4 <= steps <= 4 + 3 * (len(rows) - 1), (job, rows)
