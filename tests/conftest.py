"""What several test modules share: the repository, and running its Snakefile elsewhere."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from runs import ROOT, Nano, copy_project, same_code

# Before torch is imported: tests run beside each other and beside other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser):
    told = "a folder that keeps a finished run of config/nano.yaml, made there if need be"
    parser.addoption("--nano", metavar="FOLDER", type=Path, help=told)


def pytest_collection_modifyitems(items):
    """Files with slow tests first: `make test` gives each process a file at a time, so that what a
    file prepares is prepared once, and no long file is left for one process at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, "slurm" not in item.keywords))


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
def nano(tmp_path_factory, worker_id, request) -> Nano:
    """A finished run of config/nano.yaml, for all tests; who changes it puts it back. The first
    process that asks makes it, those beside it take copies. With --nano it is kept for other
    sessions, which saves a minute and a half each time."""
    base = tmp_path_factory.getbasetemp()
    folder = request.config.getoption("nano") or (base if worker_id == "master" else base.parent)
    made = Nano(folder.resolve() / "made")
    folder.mkdir(exist_ok=True)
    with open(made.folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.folder.exists():
            done = Nano(copy_project(made.folder)).run()
            assert done.returncode == 0, done.stdout[-6000:]
        assert (made.results / "report.html").exists(), "it failed in another process"
        differs = not same_code(ROOT / "src", made.folder / "src")
        assert not differs, f"{folder} is of other code: remove it, and it is made again"
    folder = tmp_path_factory.mktemp("nano") / "project"
    subprocess.run(["cp", "-a", made.folder, folder], check=True)
    return Nano(folder)
