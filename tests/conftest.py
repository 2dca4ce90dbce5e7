"""What several test modules share: the repository, and running its Snakefile elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from runs import ROOT, Nano, copy_project, same_code

# Before torch is imported: tests run beside each other and beside other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser):
    told = "a finished run of config/nano.yaml in a copy of the repository, made there if need be"
    parser.addoption("--nano", metavar="FOLDER", type=Path, help=told)


def pytest_collection_modifyitems(items):
    """Two groups, which `make test` runs side by side: what mostly waits, and the rest."""
    for item in items:
        waits = item.path.parent.name == "slurm" or item.path.stem == "test_killed"
        item.add_marker(pytest.mark.xdist_group("waits" if waits else "computes"))


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
    """A copy of the repository's workflow, configuration and code that a test may change."""
    return copy_project(tmp_path / "project")


@pytest.fixture(scope="session")
def nano(tmp_path_factory, request) -> Nano:
    """A finished run of config/nano.yaml, for all tests; who changes it puts it back. With --nano
    it is kept for other sessions, which saves a minute and a half each time."""
    kept = request.config.getoption("nano")
    if kept and kept.exists():
        nano = Nano(kept.resolve())
        differs = not same_code(ROOT / "src", kept / "src")
        assert not differs, f"{kept} is of other code: remove it, and it is made again"
        return nano
    nano = Nano(copy_project((kept or tmp_path_factory.mktemp("nano") / "project").resolve()))
    done = nano.run()
    assert done.returncode == 0, done.stdout[-6000:]
    return nano
