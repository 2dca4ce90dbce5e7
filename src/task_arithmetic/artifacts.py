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
import time
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from shlex import quote

FORMAT = "task_arithmetic/2"  # of every safetensors file that we write

_temporaries: set[Path] = set()  # what this process is writing
_checked: dict[tuple, str] = {}  # a file and its state → the hash that it was found to have


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
    _temporaries.add(temporary)
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
            raise UserError(f"{no_space(error, path)}; nothing was left half-written.") from error
        raise
    finally:
        remove(temporary)
        _temporaries.discard(temporary)


def remove(path: Path) -> None:
    """Remove a file or folder that is of no use, if it is there and may be removed."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # such as another user's, in a folder where only owners remove
            path.unlink()


def place_of_log(log) -> tuple[Path, str] | None:
    """The results' folder that a log `results/<run>/logs/<job>.log` lies in, and the job's name;
    None if it is no such path. Runs, tasks and the like may be called logs or results as well."""
    parts = Path(log).with_suffix("").parts
    for i, part in enumerate(parts[:-3]):
        if part == "results" and parts[i + 2] == "logs":
            return Path(*parts[: i + 1]), "/".join(parts[i + 3 :])
    return None


def remove_temporaries() -> None:
    """Remove what this process has not finished writing, before it ends at once."""
    for path in list(_temporaries):
        remove(path)


def remove_partial(output) -> None:
    """Remove what killed processes left half-written beside a stage's output, under hidden names;
    for who holds the lock on it."""
    output = Path(output)
    # Not those of an output whose name only begins like this one's: v1.5 and v1.6, a and a.b.
    beside = "csv|md|tex|png|pdf|html|json|sha256|safetensors|[0-9a-f]+.state"
    names = f"{re.escape(output.name)}|{re.escape(output.stem)}.({beside})"
    for name in os.listdir(output.parent) if output.parent.is_dir() else []:
        if re.fullmatch(rf"\.+({names})(\.\d+\.partial)+", name):
            remove(output.parent / name)


def _put(source: Path, target: Path) -> None:
    """Flush `source` to disk and give it its final name."""
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
    else:
        with open(source, "rb") as file:
            os.fsync(file.fileno())
            own = os.fstat(file.fileno()).st_uid == os.geteuid()
        if own:  # safetensors makes files that only their owner may read; a link is another user's
            source.chmod(0o666 & ~_umask())
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


def write_json(path, content) -> None:
    """Write `content` as readable JSON with sorted keys."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", "utf-8")


def read_json(path):
    """Read a JSON artifact. Raises UserError if it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run the stage that makes it first.") from None
    except ValueError:
        raise UserError(f"{path} is damaged (not JSON): {mend(path)}.") from None


def sealed(content: dict) -> dict:
    """`content` with a hash of itself, which read_sealed checks."""
    return {**content, "seal": sha256_of(content)}


def read_sealed(path) -> dict:
    """Read a JSON artifact that was written `sealed`. Raises UserError if it is not as written."""
    content = read_json(path)
    if (
        "seal" in content
        and sha256_of({k: v for k, v in content.items() if k != "seal"}) != (content["seal"])
    ):
        raise UserError(damaged(path))
    return content


def damaged(path) -> str:
    """The sentence for a file that is not as it was written."""
    return (
        f"{path} is damaged (its SHA-256 is not the one recorded when it was made): {mend(path)}."
    )


def mend(path) -> str:
    """What to do about a file that cannot be used: a result is made again, all else is the user's
    own, which nobody shall be told to delete."""
    if Path(os.path.relpath(path)).parts[0] != "results":
        return "put a whole one in its place and run again"
    return f"delete it with `rm {'-r ' * Path(path).is_dir()}{quote(str(path))}` and {again(path)}"


def again(path) -> str:
    """How to make one file again: a run without it may have nothing to do that needs it."""
    return f"make it again with `snakemake {quote(str(path))}` and the run's other options"


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


def write_sha256(files, hashes: dict[str, str] | None = None) -> None:
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


def read_sha256(file) -> dict[str, str]:
    """File name → hash, as recorded beside `file`; empty if nothing is."""
    try:
        lines = Path(file).with_suffix(".sha256").read_text("utf-8").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {name: value for value, _, name in (line.partition("  ") for line in lines)}


def check_file(path, expected: str | None = None) -> None:
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
    packages = ["torch", "open_clip_torch", "transformers", "tokenizers", "snakemake", "datasets"]
    packages += ["pandas", "matplotlib"]
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
        UserError: missing file, a pickle (or anything else) instead of safetensors, another
            version's file, bytes that are not those that were written.
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
        check_file(path)
        with safe_open(path, framework, str(device)) as opened:
            made_by = json.loads((opened.metadata() or {}).get("made_by", "{}"))
            if made_by.get("format", FORMAT) != FORMAT:
                raise UserError(
                    f"{path} was made by another version ({made_by['format']}, not {FORMAT}): "
                    f"{mend(path)}."
                )
            yield opened
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(
            f"{path} is not a readable safetensors file ({error}): {mend(path)}."
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


def now() -> str:
    """The time in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
