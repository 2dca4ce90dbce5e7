"""Locks on files, which the kernel frees when their process ends, however it ends."""

import errno
import fcntl
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..files.paths import PathLike, node
from ..files.records import is_alive

POLL = 0.5  # seconds between two looks at a lock that another process holds
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def say(sentence: str) -> None:
    """Tell people what a command does, on stderr."""
    print(f"task-arithmetic: {sentence}", file=sys.stderr, flush=True)


def try_lock(path: PathLike) -> int | None:
    """Lock a file, made if need be, without waiting.

    Returns:
        its descriptor, to be closed by the caller; None if another process holds the lock.
    Raises:
        OSError: the file cannot be opened, or its file system keeps no locks (see NO_LOCKS).
    """
    fd, held = _opened(path), False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its last holder may have removed the file in between: then this lock excludes nobody.
        held = os.path.samestat(os.fstat(fd), os.stat(path))
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError as error:
        if error.errno == errno.EBADF:  # NFS locks what may be written
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path)) from None
        raise
    finally:
        if not held:
            os.close(fd)
    if not held:
        return None
    with suppress(OSError):  # for whoever wonders who holds it; a full disk does not matter here
        os.truncate(fd, 0)
        os.write(fd, f"process {os.getpid()} on {node()}\n".encode())
    return fd


def _opened(path: PathLike) -> int:
    """A descriptor of a lock's file. Its mode follows the umask, so that who may write to its
    folder may lock it too; another user's that may only be read can be locked as well."""
    while True:
        with suppress(FileNotFoundError):  # not O_CREAT: in /tmp and its like that opens only own
            try:
                return os.open(path, os.O_RDWR | os.O_NOFOLLOW)
            except PermissionError:
                return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with suppress(FileExistsError):  # by another job, since we looked
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)


@contextmanager
def locked(path: PathLike, what: str) -> Iterator[bool]:
    """Hold a lock for the length of the block, waiting for it if need be; yields whether it had to.

    A file system that keeps no locks is named on stderr, and the block runs without one.

    Args:
        path: the lock's file, which is removed at the end.
        what: for the messages, what is locked.
    Raises:
        OSError: the file cannot be made or opened.
    """
    path, waited = Path(path), False
    path.parent.mkdir(parents=True, exist_ok=True)
    if why := lacks_locks(path.parent):
        say(f"{why}: two jobs at once on {what} would not notice each other.")
    try:
        while (fd := try_lock(path)) is None:
            if not waited:
                waited = True
                say(f"{what} is being made by {holder(path)}: waiting until that ends.")
            time.sleep(POLL)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        say(f"The file system of {path.parent} keeps no locks ({error.strerror}).")
        yield False
        return
    try:
        yield waited
    finally:
        with suppress(OSError):  # another user's, in a folder where only owners remove
            path.unlink()
        os.close(fd)


def holder(path: PathLike) -> str:
    """Who holds a lock, as it wrote into the file; a user who may only read it could not."""
    with suppress(OSError):
        text = Path(path).read_text(encoding="utf-8").strip()
        known = re.fullmatch(r"process (\d+) on (.+)", text)
        if known and (known[2] != node() or is_alive(int(known[1]))):
            return text
    return "another process"


def lacks_locks(folder: PathLike, mounts: PathLike = "/proc/mounts") -> str | None:
    """Why locks in a folder are not seen by other machines, from how it is mounted; None if they
    are, as far as one can tell: NFS keeps them unless it is mounted with nolock or local_lock,
    Lustre if it is mounted with flock."""
    try:
        lines = Path(mounts).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    place, best, kind, options = Path(os.path.realpath(folder)), Path(), "", ""
    for line in lines:
        _, name, *about = line.split(" ")
        mount = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), name))
        if place.is_relative_to(mount) and len(mount.parts) >= len(best.parts):
            best, kind, options = mount, about[0], about[1]
    alone = {"nolock", "local_lock=all", "local_lock=flock", "localflock", "noflock"}
    local = alone & {*options.split(",")}
    if kind in ("nfs", "nfs4", "lustre") and local:
        return f"{best} is mounted with {min(local)}, which keeps locks from other machines"
    return None
