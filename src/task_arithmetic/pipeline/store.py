"""The store of finished outputs: what was once computed is not computed again.

An entry is a stage's output files under the fingerprint of all that they depend on (code,
settings, inputs): `<stage>/<fingerprint>.<suffix>`, its .sha256 written last. Entries share their
bytes with the results they were made for (hard links), and cost nothing until those change.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..answer import answer
from ..errors import UserError
from ..files.hashes import check_file, read_sha256, write_sha256
from ..files.paths import atomic_path, human_bytes

FOLDER = Path("shared") / "store"  # below the results


def put(store: Path, stage: str, fingerprint: str, files: list[Path], limit: float) -> None:
    """Keep the output files of a finished job, all of one stem; the longest unused entries make
    place.

    Args:
        limit: bytes that the store may hold beyond what the results hold; 0 keeps nothing.
    """
    entry = store / stage / fingerprint
    if limit <= 0 or entry.with_suffix(".sha256").exists():
        return
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        for file in files:
            _copy(file, entry.with_suffix(file.suffix))
        hashes = {Path(name).suffix: value for name, value in read_sha256(files[0]).items()}
        write_sha256([entry.with_suffix(file.suffix) for file in files], hashes)
    except (OSError, UserError):  # a full disk: the store is no result
        _remove(entry)
        return
    if sum(file.stat().st_size for file in files) > 2**20:  # looking at all entries takes time
        with suppress(OSError):
            collect(store, limit)


def take(store: Path, stage: str, fingerprint: str, files: list[Path]) -> bool:
    """Give a finished job's outputs their places again; returns whether there were any.

    A damaged entry is removed.
    """
    entry = store / stage / fingerprint
    kept = [entry.with_suffix(file.suffix) for file in files]
    if not entry.with_suffix(".sha256").exists():
        return False
    try:
        for file in kept:
            check_file(file, read_sha256(file)[file.name])
            file.stat()
    except (UserError, KeyError, FileNotFoundError):
        _remove(entry)
        return False
    except OSError:  # another user's, who lets nobody read it
        return False
    for source, target in zip(kept, files, strict=True):
        with atomic_path(target) as temporary:
            _copy(source, temporary)
            os.utime(temporary)  # made now, as Snakemake sees it
    with suppress(OSError):
        os.utime(entry.with_suffix(".sha256"))  # last used now
    return True


def collect(store: Path, limit: float) -> tuple[int, int]:
    """Remove the longest unused entries until the store holds at most `limit` bytes that no result
    holds as well; returns the number of entries removed and the bytes that this freed."""
    entries = []
    for mark in store.glob("*/*.sha256"):
        with suppress(FileNotFoundError):  # another job collects as well
            own = 0
            for path in set(mark.parent.glob(f"{mark.stem}.*")) - {mark}:
                about = path.stat()
                own += about.st_size * (about.st_nlink == 1)
            entries.append((mark.stat().st_mtime, own, mark))
    held, removed, freed = sum(size for _, size, _ in entries), 0, 0
    for _, size, mark in sorted(entries):
        if held - freed <= limit:
            break
        if size and _remove(mark):
            removed, freed = removed + 1, freed + size
    return removed, freed


class Collected(NamedTuple):
    """What was removed from a store."""

    entries: int
    freed_bytes: int


def gc(keep_gb: float, as_json: bool = False) -> None:
    """Remove the longest unused entries of the results' store; prints what that freed.

    Args:
        keep_gb: GB that may stay, beyond what the results hold as well.
    Raises:
        UserError: no store, a negative size.
    """
    store = Path("results") / FOLDER
    if not store.is_dir():
        raise UserError(f"There is no store in {store}: run this where results/ lies.")
    if keep_gb < 0:
        raise UserError(f"--keep-gb must be at least 0; found {keep_gb}.")
    found = Collected(*collect(store, keep_gb * 1e9))
    said = (
        f"Removed {found.entries} entries of the store: {human_bytes(found.freed_bytes)} are free "
        "again; what results hold as well stays."
    )
    answer(found, [said], as_json)


def _copy(source: Path, target: Path) -> None:
    """The same file under another name: as a hard link if it is one's own, whose time and mode may
    be changed, and the file system has links."""
    try:
        if source.stat().st_uid != os.geteuid():
            raise PermissionError
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)


def _remove(entry: Path) -> bool:
    """Whether the entry is gone: another user's may not be one's to remove."""
    try:
        for path in sorted(entry.parent.glob(f"{entry.stem}.*"), reverse=True):  # .sha256 first
            path.unlink(missing_ok=True)
    except OSError:
        return False
    return True
