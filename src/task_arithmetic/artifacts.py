"""Reading and writing artifacts: atomic files, named tensors with provenance, hashes, user errors.

Every file appears under its final name complete or not at all: it is written beside its
place under a temporary name, flushed to disk and renamed.
"""

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import time
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path

FORMAT = "task_arithmetic/1"  # of every safetensors file that we write


class UserError(Exception):
    """A mistake that the user can mend; its text is one sentence: what, where, what to do."""


@contextmanager
def atomic_path(path):
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it otherwise.

    The block may make a file or a folder. A folder's entries are moved into `path` one by one,
    JSON last; other entries of `path` stay. A full disk becomes a UserError.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_dir():
            path.mkdir(exist_ok=True)
            for entry in sorted(temporary.iterdir(), key=lambda e: (e.suffix == ".json", e.name)):
                _put(entry, path / entry.name)
        else:
            _put(temporary, path)
    except Exception as error:
        if is_disk_full(error):
            raise UserError(
                f"The disk is full while writing {path}: free some space and run the same "
                "command again; nothing was left half-written."
            ) from error
        raise
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def _put(source: Path, target: Path) -> None:
    """Flush `source` to disk and give it its final name."""
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
    else:
        with open(source, "rb+") as file:
            os.fsync(file.fileno())
        source.chmod(0o666 & ~_umask())  # safetensors makes files that only their owner may read
    os.replace(source, target)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


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


def write_json(path, content) -> None:
    """Write `content` as readable JSON with sorted keys."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def read_json(path):
    """Read a JSON artifact. Raises UserError if it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run the stage that makes it first.") from None
    except ValueError:
        raise UserError(f"{path} is damaged (not JSON): delete it and run again.") from None


def canonical(content) -> str:
    """JSON with sorted keys and no spaces: equal settings give equal text."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def sha256_of(content) -> str:
    """SHA-256 of bytes, of text, or of the canonical JSON of anything else."""
    if not isinstance(content, (bytes, bytearray, memoryview)):
        content = (content if isinstance(content, str) else canonical(content)).encode()
    return hashlib.sha256(content).hexdigest()


def sha256_of_file(path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on; imports none of them."""
    packages = ["torch", "open_clip_torch", "snakemake", "datasets", "pandas", "matplotlib"]
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ["task_arithmetic", "numpy", "safetensors", *packages]:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def write_tensors(path, tensors: dict, made_by: dict) -> None:
    """Write named tensors (torch) as safetensors whose header says what made them.

    Args:
        tensors: name → tensor, any shape and dtype; stored contiguous, on the CPU.
        made_by: anything JSON can hold: recipe, data hash, seed, device …
    """
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in tensors.items()},
            temporary,
            header(made_by),
        )


def header(made_by: dict) -> dict[str, str]:
    """The metadata of a safetensors artifact: one entry, because safetensors writes several in an
    order that changes from call to call, and equal artifacts must be equal files."""
    return {"made_by": canonical({"format": FORMAT, **made_by})}


def read_tensors(path, device="cpu", framework="pt") -> dict:
    """Read named tensors from a safetensors file (framework "pt" or "np").

    Raises:
        UserError: missing file, a pickle (or anything else) instead of safetensors.
    """
    with open_tensors(path, framework, device) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def read_made_by(path) -> dict:
    """What made a safetensors artifact: the `made_by` of write_tensors."""
    with open_tensors(path) as file:
        found = file.metadata() or {}
    made_by = json.loads(found.get("made_by", "{}"))
    made_by.pop("format", None)
    return made_by


@contextmanager
def open_tensors(path, framework="np", device="cpu"):
    """An open safetensors file, of which single tensors and slices can be read; the same errors
    as read_tensors."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise UserError(f"{path} does not exist: run the stage that makes it first.")
    with open(path, "rb") as file:
        start = file.read(9)  # safetensors: 8 bytes of length, then a JSON object
    if start[8:] != b"{" and (start[:2] == b"PK" or start[:1] == b"\x80"):
        raise UserError(
            f"{path} is a pickled PyTorch file, which can run any code when it is opened: convert "
            "it to safetensors (safetensors.torch.save_file) and give that file instead."
        )
    try:
        with safe_open(path, framework, str(device)) as opened:
            yield opened
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(
            f"{path} is not a readable safetensors file ({error}): delete it and run again."
        ) from None


def check_tensors(path, found: dict, expected: dict[str, tuple]) -> None:
    """Hold the tensors of a file to the expected names and shapes.

    Args:
        expected: name → shape.
    Raises:
        UserError: naming the first missing, extra or misshapen tensors.
    """
    problems = []
    if missing := sorted(set(expected) - set(found)):
        problems.append(f"misses {_some(missing)}")
    if extra := sorted(set(found) - set(expected)):
        problems.append(f"has unexpected {_some(extra)}")
    for name in sorted(set(found) & set(expected)):
        if tuple(found[name].shape) != tuple(expected[name]):
            shapes = f"{tuple(found[name].shape)}, not {tuple(expected[name])}"
            problems.append(f"has {name} of shape {shapes}")
            break
    if problems:
        raise UserError(f"{path} {' and '.join(problems)}: it belongs to another encoder or mode.")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


class Interrupted(Exception):
    """SIGTERM or SIGINT reached a job that was asked to stop at the next safe point."""

    def __init__(self, number: int, note: str):
        super().__init__(note)
        self.number = number


@contextmanager
def stop_signals():
    """Within the block, SIGTERM and SIGINT only set entry [0] of the yielded list: the number."""
    caught = [0]

    def remember(number, _frame):
        caught[0] = number

    before = {s: signal.signal(s, remember) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def now() -> str:
    """The time in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
