"""Locks on files."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from task_arithmetic.pipeline import locks

HOLD = """
import sys, time
from task_arithmetic.pipeline.locks import locked
with locked(sys.argv[1], "the run") as waited:
    print("held", waited, flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(path, seconds):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, path, str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(locks.__file__).parents[2])},
    )
    return process


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_second_process_waits_until_the_first_is_gone_however_it_goes(number, tmp_path):
    first = hold(tmp_path / "lock", 600)
    assert first.stdout.readline() == "held False\n"
    second = hold(tmp_path / "lock", 0)
    said = second.stderr.readline()
    assert f"the run is being made by process {first.pid} on {locks.node()}" in said
    assert second.poll() is None
    first.send_signal(number)
    first.communicate()
    assert second.communicate(timeout=30)[0] == "held True\n"
    assert second.returncode == 0
    assert not (tmp_path / "lock").exists()


def test_the_lock_is_free_after_the_block_and_after_an_error_in_it(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), locks.locked(tmp_path / "a" / "lock", "x") as waited:
            assert not waited
            assert locks.try_lock(tmp_path / "a" / "lock") is None
            raise ZeroDivisionError
    assert list((tmp_path / "a").iterdir()) == []


def test_a_file_that_was_removed_meanwhile_excludes_nobody(tmp_path, monkeypatch):
    """Its holder removes it just before it lets go: who had opened it before must try again."""
    path = tmp_path / "lock"
    original = fcntl.flock

    def remove(fd, how):
        original(fd, how)
        path.unlink()
        monkeypatch.setattr(fcntl, "flock", original)

    monkeypatch.setattr(fcntl, "flock", remove)
    assert locks.try_lock(path) is None
    fd = locks.try_lock(path)
    assert fd is not None
    os.close(fd)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named_and_the_work_done(
    number, tmp_path, monkeypatch, capsys
):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locks.locked(tmp_path / "lock", "x") as waited:
        assert not waited
    assert f"The file system of {tmp_path} keeps no locks" in capsys.readouterr().err


MOUNTS = """\
/dev/vda1 / ext4 rw,relatime 0 0
srv:/home /home nfs4 rw,vers=4.2,hard 0 0
srv:/old /mnt/old nfs rw,vers=3,nolock 0 0
srv:/mine /mnt/with\\040space nfs rw,vers=3,local_lock=all 0 0
srv:/none /mnt/fine nfs rw,vers=3,local_lock=none 0 0
mds:/l /lustre lustre rw,flock 0 0
mds:/m /lustre/local lustre rw,localflock 0 0
"""


@pytest.mark.parametrize(
    "folder, why",
    [
        ("/tmp", None),
        ("/home/me/results", None),
        ("/mnt/old", "nolock"),
        ("/mnt/older", None),
        ("/mnt/with space/results", "local_lock=all"),
        ("/mnt/fine/x", None),
        ("/lustre/x", None),
        ("/lustre/local/x", "localflock"),
    ],
)
def test_mounts_that_keep_locks_to_themselves_are_named(folder, why, tmp_path):
    (tmp_path / "mounts").write_text(MOUNTS)
    found = locks.lacks_locks(folder, tmp_path / "mounts")
    assert (found is None) if why is None else (why in found)


def test_a_lock_is_taken_at_once_when_it_is_free(tmp_path):
    began = time.perf_counter()
    with locks.locked(tmp_path / "lock", "x"):
        pass
    assert time.perf_counter() - began < locks.POLL
