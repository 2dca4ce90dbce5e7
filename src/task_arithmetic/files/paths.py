"""Reading and writing artifacts: whole files or none.

Every file appears under its final name complete or not at all: it is written beside its
place under a temporary name, flushed to disk and renamed.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote
from typing import Any

from ..errors import UserError, is_disk_full, no_space

PathLike = str | os.PathLike[str]
_temporaries: set[Path] = set()  # what this process is writing


@contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it otherwise.

    The block may make a file or a folder. A folder's entries are moved into `path` one by one,
    JSON last; other entries of `path` stay. A full disk, and a folder that is a file, become a
    UserError.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    _temporaries.add(temporary)
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            wrong = f"{path} cannot be written, as {path.parent} lies where a file is"
            raise UserError(f"{wrong}: choose another place.") from None
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


def place_of_log(log: PathLike) -> tuple[Path, str] | None:
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


def remove_partial(output: PathLike) -> None:
    """Remove what killed processes left half-written beside a stage's output, under hidden names;
    for who holds the lock on it."""
    output = Path(output)
    # Not those of an output whose name only begins like this one's: v1.5 and v1.6, a and a.b.
    beside = "csv|md|tex|png|pdf|svg|html|json|sha256|safetensors|[0-9a-f]+.state"
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


def write_json(path: PathLike, content: Any) -> None:
    """Write `content` as readable JSON with sorted keys."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", "utf-8")


def read_json(path: PathLike) -> Any:
    """Read a JSON artifact. Raises UserError if it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise missing(path) from None
    except ValueError:
        raise UserError(f"{path} is damaged (not JSON): {mend(path)}.") from None


def missing(path: PathLike) -> UserError:
    """What to do about a file of a stage that is not there."""
    return UserError(f"{path} does not exist: run the stage that makes it first.")


def mend(path: PathLike) -> str:
    """What to do about a file that cannot be used: a result is made again, all else is the user's
    own, which nobody shall be told to delete."""
    if Path(os.path.relpath(path)).parts[0] != "results":
        return "put a whole one in its place and run again"
    return f"delete it with `rm {'-r ' * Path(path).is_dir()}{quote(str(path))}` and {again(path)}"


def again(path: PathLike) -> str:
    """How to make one file again: a run without it may have nothing to do that needs it."""
    return f"make it again with `snakemake {quote(str(path))}` and the run's other options"


def three_digits(value: float) -> str:
    """1.23, 12.3 or 1,234."""
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def human_bytes(count: float) -> str:
    """A number of bytes in words: 12.3 MB, of 1000 kB each."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{three_digits(count)} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def read_users_json(name: str, path: Path) -> dict[str, Any]:
    """A JSON object of a user's checkpoint. Raises UserError if it is none."""
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"Encoder {name}: {path} is no readable JSON ({error}); correct it."
        ) from None
    if not isinstance(config, dict):
        raise UserError(f"Encoder {name}: {path} must be a JSON object; correct it.")
    return config


def node() -> str:
    """The name of this machine, as SLURM calls it within one of its jobs."""
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename
