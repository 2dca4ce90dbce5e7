"""A full disk, at every stage: one sentence, nothing half-written, and success once there is room.

Each stage's command is that of a job of the finished run of nano, with its outputs elsewhere: on a
small file system of their own.
"""

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from task_arithmetic.cli import STAGES, main
from task_arithmetic.stages.declaration import Output

pytestmark = pytest.mark.slow
SIZE = 64 * 2**20  # bytes of the file system
# The files of nano come with the code, and no rule merges by another method than the sum.
STAGES_OF_NANO = sorted(set(STAGES) - {"download", "merge", "published"})


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A file system of 64 MiB."""
    folder = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True)
    except OSError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip("mounting a file system is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def command_of(nano, stage, folder) -> list[str]:
    """The words of one of nano's jobs, its outputs moved to a folder."""
    for path in sorted((nano.folder / "results").glob("*/logs/**/*.json")):
        record = json.loads(path.read_text())
        if record["stage"] == stage:
            break
    words = shlex.split(record["attempts"][-1]["command"])[1:]
    written = [f"--{name.replace('_', '-')}" for name in STAGES[stage].of_kind(Output)]
    for option in (*written, "--job"):
        if option in words:
            at = words.index(option) + 1
            words[at] = str(folder / "out" / words[at])
    return words


def fill(disk, free: int) -> Path:
    """A file that leaves so many bytes."""
    left = os.statvfs(disk)
    filler = disk / "filler"
    with open(filler, "wb") as file:
        for _ in range(max(0, left.f_bavail * left.f_frsize - free) // 4096):
            file.write(b"\0" * 4096)
    return filler


def written(disk):
    """Files under final names, but for the records of jobs."""
    return {
        str(path.relative_to(disk)): path.stat().st_size
        for path in disk.rglob("*")
        if path.is_file() and not path.name.endswith(".lock") and "logs" not in path.parts
    }


def used(disk) -> int:
    about = os.statvfs(disk)
    return (about.f_blocks - about.f_bfree) * about.f_frsize


@pytest.mark.parametrize("stage", STAGES_OF_NANO)
def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(
    stage, nano, disk, monkeypatch, capsys
):
    monkeypatch.chdir(nano.folder)
    words = command_of(nano, stage, disk)
    assert main(words) == 0  # how much it takes
    whole, size = written(disk), used(disk)
    capsys.readouterr()
    for free in (0, size // 2 // 4096 * 4096):
        subprocess.run(["rm", "-rf", *disk.iterdir()], check=True)
        filler = fill(disk, free)
        assert main(words) == 1, free
        said = capsys.readouterr().err.splitlines()
        assert "disk is full" in said[-1] and said[-1].startswith(f"task-arithmetic {stage}: ")
        filler.unlink()
        for name, bytes_written in written(disk).items():
            assert whole[name] == bytes_written, (name, free)  # complete, or not there
    assert main(words) == 0
    assert written(disk).keys() == whole.keys()
    subprocess.run(["rm", "-rf", *disk.iterdir()], check=True)
