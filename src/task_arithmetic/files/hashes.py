"""Hashes: what a file holds, and whether it is what was written."""

import hashlib
import json
import platform
import time
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from ..errors import UserError
from .paths import PathLike, atomic_path, mend, read_json

_checked: dict[tuple[Path, int, int, int], str] = {}  # a file and its state → its hash


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """`content` with a hash of itself, which read_sealed checks."""
    return {**content, "seal": sha256_of(content)}


def read_sealed(path: PathLike) -> dict[str, Any]:
    """Read a JSON artifact that was written `sealed`. Raises UserError if it is not as written."""
    content: dict[str, Any] = read_json(path)
    rest = {key: value for key, value in content.items() if key != "seal"}
    if "seal" in content and sha256_of(rest) != content["seal"]:
        raise UserError(damaged(path))
    return content


def damaged(path: PathLike) -> str:
    """The sentence for a file that is not as it was written."""
    return (
        f"{path} is damaged (its SHA-256 is not the one recorded when it was made): {mend(path)}."
    )


def canonical(content: Any) -> str:
    """JSON with sorted keys and no spaces: equal settings give equal text."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def sha256_of(content: Any) -> str:
    """SHA-256 of bytes, of text, or of the canonical JSON of anything else."""
    if not isinstance(content, (bytes, bytearray, memoryview)):
        content = (content if isinstance(content, str) else canonical(content)).encode()
    return hashlib.sha256(content).hexdigest()


def sha256_of_file(path: PathLike) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sha256(files: Iterable[PathLike], hashes: dict[str, str] | None = None) -> None:
    """Write the SHA-256 of files of one stem beside them, as `sha256sum` does and checks it.

    Args:
        files: paths `<stem>.<suffix>` of one folder, or a folder, of which all files count; the
            hashes go to `<stem>.sha256`.
        hashes: suffix → hash, if they are known.
    """
    first, *others = map(Path, files)
    every = sorted(p for p in first.rglob("*") if p.is_file()) if first.is_dir() else [first]
    lines = [
        f"{hashes[file.suffix] if hashes else sha256_of_file(file)}"
        f"  {file.relative_to(first.parent)}\n"
        for file in [*every, *others]
    ]
    with atomic_path(first.with_suffix(".sha256")) as temporary:
        temporary.write_text("".join(lines), "utf-8")


def read_sha256(file: PathLike) -> dict[str, str]:
    """File name → hash, as recorded beside `file`; empty if nothing is."""
    try:
        lines = Path(file).with_suffix(".sha256").read_text("utf-8").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {name: value for value, _, name in (line.partition("  ") for line in lines)}


def check_file(path: PathLike, expected: str | None = None) -> None:
    """Hold a file to its SHA-256, before it is used; once for each state of the file.

    Args:
        expected: the hash; None takes the one recorded beside the file, if there is one.
    Raises:
        UserError: they differ.
    """
    path = Path(path)
    recorded = {path.name: expected} if expected else read_sha256(path)
    if not recorded or not path.is_file():
        return
    about = path.stat()
    state = (path.absolute(), about.st_size, about.st_mtime_ns, about.st_ino)
    wanted = recorded.get(path.name, "none")  # a list of hashes without the file's is cut
    if _checked.get(state) != wanted and sha256_of_file(path) != wanted:
        raise UserError(damaged(path))
    _checked[state] = wanted


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on; imports none of them."""
    packages = "task_arithmetic numpy safetensors torch open_clip_torch transformers tokenizers "
    packages += "snakemake datasets pandas matplotlib"
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in packages.split():
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def now() -> str:
    """The time in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
