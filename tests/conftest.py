"""What several test modules share: the repository, and running its Snakefile elsewhere."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Before torch is imported: tests run beside each other and beside other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture
def snakemake(tmp_path):
    """Run the repository's Snakefile in a temporary folder: snakemake(*options) → the finished
    process, with stdout and stderr together in `.stdout`."""

    def run(*options, directory=tmp_path, snakefile=ROOT / "Snakefile", env=None):
        command = [sys.executable, "-m", "snakemake", "-s", snakefile, "-d", directory, *options]
        return subprocess.run(
            [str(word) for word in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(env or {})},
        )

    return run


def copy_project(folder: Path) -> Path:
    """A copy of the repository's workflow, configuration and code."""
    folder.mkdir(parents=True)
    for part in ("config", "envs", "profiles", "workflow", "src"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / part, folder / part)
    return folder


@pytest.fixture
def project(tmp_path) -> Path:
    """A copy of the repository's workflow, configuration and code that a test may change."""
    return copy_project(tmp_path / "project")


class Nano:
    """A folder with a copy of the repository, in which config/nano.yaml is run."""

    def __init__(self, folder: Path):
        self.folder, self.results = folder, folder / "results/nano"

    def command(self, *options) -> list[str]:
        command = [sys.executable, "-m", "snakemake", "--cores", "2"]
        command += ["--configfile", "config/nano.yaml", *options]
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
        counts = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, re.M)}
        del counts["total"]
        return {rule: count for rule, count in counts.items() if rule != "all"}


@pytest.fixture(scope="session")
def nano(tmp_path_factory) -> Nano:
    """A finished run of config/nano.yaml, for all tests; who changes it puts it back."""
    nano = Nano(copy_project(tmp_path_factory.mktemp("nano") / "project"))
    done = nano.run()
    assert done.returncode == 0, done.stdout[-6000:]
    return nano
