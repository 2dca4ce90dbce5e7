"""Running config/nano.yaml in a folder of its own, and comparing two such runs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ["step_seconds", "step_seconds_low", "step_seconds_high"]
MEASURED += ["training_seconds", "peak_memory_bytes"]  # differ from run to run
MEASURED += ["merge_seconds", "merge_peak_memory_bytes"]


def copy_project(folder: Path) -> Path:
    """A copy of the repository's workflow, configuration and code."""
    folder.mkdir(parents=True)
    for part in ("config", "envs", "profiles", "workflow", "src"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / part, folder / part)
    return folder


def same_code(one: Path, other: Path) -> bool:
    """Whether two folders hold the same Python files."""
    read = [
        {p.relative_to(root): p.read_bytes() for p in root.rglob("*.py")} for root in (one, other)
    ]
    return read[0] == read[1]


class Nano:
    """A folder with a copy of the repository, in which config/nano.yaml is run, or another file."""

    def __init__(self, folder: Path, config="nano", run="nano"):
        self.folder, self.results = folder, folder / "results" / run
        self.config = f"config/{config}.yaml"

    def command(self, *options) -> list[str]:
        command = [sys.executable, "-m", "snakemake", "--cores", "2"]
        command += ["--configfile", self.config, *options]
        return [str(word) for word in command]

    def run(self, *options, env=None):
        """Run it; the finished process, with stdout and stderr together in `.stdout`."""
        return subprocess.run(
            self.command(*options),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": str(self.folder / "src"), **(env or {})},
        )

    def planned(self, *options, env=None) -> dict[str, int]:
        """Rule → number of jobs that a dry run plans."""
        done = self.run("--dry-run", *options, env=env)
        assert done.returncode == 0, done.stdout[-3000:]
        if "Nothing to be done" in done.stdout:
            return {}
        table = done.stdout.split("Job stats:")[1].split("\n\n")[0]
        counts = {rule: int(count) for rule, count in re.findall(r"^(\S+) +(\d+)$", table, re.M)}
        del counts["total"]
        return {rule: count for rule, count in counts.items() if rule != "all"}


# Of nano what is not the paper's, which runs that are disturbed on purpose do without.
WITHOUT_ADDITIONS = ["--config", "analyses=null", "merging=null"]


def same_files(one, other, additions=True):
    """Names of the result files that differ: weights, vectors, metrics, tables, figures. If the
    other is a run WITHOUT_ADDITIONS, those of the stages that it has."""
    differing, roots = [], (one, other) if additions else (other,)
    folders = ["finetuned", "vectors", "metrics"]
    folders += ["statistics", "merged", "tables", "figures"] if additions else []
    for folder in folders:
        names = {p.relative_to(root) for root in roots for p in (root / folder).rglob("*.*")}
        for name in sorted(names):
            measured = "efficiency" in name.parts or name.stem in ("table4", "merging", "timeline")
            measured = measured and (name.stem, name.parts[0]) != ("merging", "figures")
            timed = name.parts[0] in ("finetuned", "merged") and name.suffix in (".csv", ".sha256")
            if measured or timed:  # images per second are in the logs of fine-tuning
                assert (one / name).exists() == (other / name).exists(), name
            elif (one / name).read_bytes() != (other / name).read_bytes():
                differing.append(str(name))
    metrics = [pd.read_csv(root / "metrics.csv", dtype=str) for root in (one, other)]
    metrics = [rows[~rows.metric.isin(MEASURED)].reset_index(drop=True) for rows in metrics]
    if not additions:  # the rows that both have are all of the other's
        metrics = [metrics[0].merge(metrics[1]), metrics[1]]
    pd.testing.assert_frame_equal(*metrics)
    return differing
