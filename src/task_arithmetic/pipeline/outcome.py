"""How a command ends: its exit status and the sentence that people read."""

import errno
import pwd
import shlex
from pathlib import Path

from ..errors import UserError, is_disk_full, no_space
from . import gpu


def outcome(error: BaseException) -> tuple[int, str | None]:
    """The exit status of a command that ended in `error`, and what to say; None: it is a defect of
    ours, whose traceback is shown."""
    if isinstance(error, UserError):
        return 1, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, "Stopped before it was done; run the same command again."
    if is_disk_full(error):
        return 1, f"{no_space(error, getattr(error, 'filename', None))}."
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return 1, not_allowed(error)
    if gpu.lost_gpu(error):
        return 1, (
            f"The GPU failed or disappeared ({str(error).strip().splitlines()[0]}): look at "
            "nvidia-smi and run the same command again; training resumes where it was saved."
        )
    return 1, None


def not_allowed(error: OSError) -> str:
    """The sentence for a file that this user may not read or write: whom to ask for it."""
    path = str(error.filename)
    if error.errno == errno.EROFS:
        return f"{path} cannot be written, because its file system is mounted read-only."
    place = next((each for each in (Path(path), *Path(path).parents) if each.exists()), Path("."))
    try:
        owner = pwd.getpwuid(place.stat().st_uid).pw_name
    except (OSError, KeyError):  # of another machine's users
        owner = "its owner"
    return (
        f"{path} cannot be read or written ({error.strerror}): ask {owner}, to whom {place} "
        f"belongs, for the right to (`chmod g+rwX {shlex.quote(str(place))}`)."
    )
