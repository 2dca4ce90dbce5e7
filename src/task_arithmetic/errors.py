"""What is said to people: a mistake that they can mend, in one sentence."""

import difflib
import errno
import os
import re
from collections.abc import Sequence
from pathlib import Path
from shlex import quote


class UserError(Exception):
    """A mistake that the user can mend; its text is one sentence: what, where, what to do."""


def is_disk_full(error: BaseException) -> bool:
    """True if `error`, or what caused it, says that no space is left (native writers only say so
    in their message)."""
    seen = error
    while seen is not None:
        if getattr(seen, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(words in str(seen) for words in ("No space left", "os error 28", "StorageFull")):
            return True
        if isinstance(seen, OSError) and re.fullmatch(r"\d+ requested and \d+ written", str(seen)):
            return True  # numpy.save, which drops the error's number
        seen = seen.__cause__ or seen.__context__
    return False


def root_cause(error: BaseException) -> str:
    """The kind and the first line of what an error came from in the end: libraries wrap what
    happened in words of their own."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def no_space(error: BaseException, path=None) -> str:
    """What there is no more of where `path` was to be written (None: it is not known), and what to
    do."""
    place = next(each for each in Path(path or "x").absolute().parents if each.is_dir())
    path = path or f"a file ({error})"
    seen, numbers = error, set()
    while seen is not None:
        numbers.add(getattr(seen, "errno", None))
        seen = seen.__cause__ or seen.__context__
    about = os.statvfs(place)
    what, how = f"The disk is full while writing {path}", "free some space"
    if errno.EDQUOT in numbers:
        what = f"The disk is full while writing {path}, as far as your quota goes (`quota -s`)"
    elif about.f_files and not about.f_favail:
        what = f"No file can be made any more on the disk of {path}, whose inodes are used up"
        how = f"make room for files (`df -i {quote(str(place))}`)"
    return f"{what}: {how} and run the same command again"


def first(names: Sequence[str], most: int = 20) -> str:
    """The first of many names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def nearest(name: str, known: list[str]) -> str:
    """The name that may be meant, if one is near."""
    near = difflib.get_close_matches(name, known, 1, 0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""
