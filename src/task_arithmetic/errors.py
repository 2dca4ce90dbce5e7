"""What is said to people: a mistake that they can mend, in one sentence."""

import difflib
import errno
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from shlex import quote


class UserError(Exception):
    """A mistake that the user can mend; its text is one sentence: what, where, what to do."""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what caused it, what caused that …"""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def is_disk_full(error: BaseException) -> bool:
    """True if `error`, or what caused it, says that no space is left (native writers only say so
    in their message; numpy.save drops the error's number)."""
    words = re.compile(r"No space left|os error 28|StorageFull|^\d+ requested and \d+ written$")
    return any(
        getattr(each, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or words.search(str(each))
        for each in _chain(error)
    )


def root_cause(error: BaseException) -> str:
    """The kind and the first line of what an error came from in the end: libraries wrap what
    happened in words of their own."""
    *_, last = _chain(error)
    lines = str(last).strip().splitlines()
    return f"{type(last).__name__}: {lines[0]}" if lines else type(last).__name__


def no_space(error: BaseException, path: str | os.PathLike[str] | None = None) -> str:
    """What there is no more of where `path` was to be written (None: it is not known), and what to
    do."""
    place = next(each for each in Path(path or "x").absolute().parents if each.is_dir())
    path = path or f"a file ({error})"
    about = os.statvfs(place)
    what, how = f"The disk is full while writing {path}", "free some space"
    if any(getattr(each, "errno", None) == errno.EDQUOT for each in _chain(error)):
        what += ", as far as your quota goes (`quota -s`)"
    elif about.f_files and not about.f_favail:
        what = f"No file can be made any more on the disk of {path}, whose inodes are used up"
        how = f"make room for files (`df -i {quote(str(place))}`)"
    return f"{what}: {how} and run the same command again"


def first(names: Sequence[str], most: int = 20) -> str:
    """The first of many names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def nearest(name: str, known: Iterable[str]) -> str:
    """A question whether the most similar known name is meant; "" if none is similar."""
    near = difflib.get_close_matches(name, list(known), 1, 0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""
