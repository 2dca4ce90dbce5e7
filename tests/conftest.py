"""What several test modules share: the repository, and running its Snakefile elsewhere."""

import os
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


@pytest.fixture
def project(tmp_path) -> Path:
    """A copy of the repository's workflow and configuration that a test may change."""
    folder = tmp_path / "project"
    folder.mkdir()
    for part in ("config", "envs", "profiles", "workflow"):
        shutil.copytree(ROOT / part, folder / part)
    for part in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / part, folder / part)
    (folder / "src").symlink_to(ROOT / "src")
    return folder
