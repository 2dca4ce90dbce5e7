"""Whether a run's results are those that were made: their bytes, and what was made from what."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..answer import answer
from ..errors import UserError
from ..files.hashes import check_file, damaged, read_sealed, read_sha256
from ..files.manifest import read_manifest
from ..files.paths import again, human_bytes, mend
from ..files.records import Made, Planned, read_record, read_run
from ..files.tensors import read_made_by
from ..stages.catalogue import STAGES
from .identity import identity
from .status import run_folder

BESIDE = {  # files beside encoder.json → whose hash each is there
    "text_tower.safetensors": "text_tower",
    "merges.gz": "merges",
    "tokenizer.json": "tokenizer",
}
THREADS = 8  # that read files: hashing leaves the interpreter to others


class Verified(NamedTuple):
    """What a run's files were found to be.

    Attributes:
        files: those that are as they were made, of so many jobs, and their bytes. unmade: jobs that
            have not made theirs yet. problems: a sentence on each file that is not as it was made.
    """

    run: str
    files: int
    bytes: int
    jobs: int
    unmade: int
    problems: list[str]


def verify(run: str | None = None, as_json: bool = False) -> None:
    """Hold the files of all jobs of a run to what was recorded when they were made; print a line
    for each that is not as it was, and how many are.

    Args:
        run: its name; None: the run that started last.
    Raises:
        UserError: no such run, or one whose files are damaged, missing, not recorded, of another
            version or made from other inputs than those that are there.
    """
    folder = run_folder(run, Path("results"))
    root, jobs = folder.parent.parent, read_run(folder).jobs
    with ThreadPoolExecutor(THREADS) as pool:
        read = list(pool.map(lambda job: _made(job, folder), jobs))
        done = [(job, made) for job, made in zip(jobs, read, strict=True) if isinstance(made, Made)]
        hashes = {root / k: v for _, made in done for k, v in _hashes(made, root).items()}
        checks = dict(zip(hashes, pool.map(_problem, hashes, hashes.values()), strict=True))
        inputs = sorted({root / path for _, made in done for path in made.inputs})
        there = dict(zip(inputs, pool.map(_identity, inputs), strict=True))
    lines = [line for line in (*read, *checks.values()) if isinstance(line, str)]
    for job, made in done:
        files, stage = (
            [root / path for path in job.outputs],
            STAGES.get(job.stage.replace("_", "-")),
        )
        first = files[0]
        if stage and stage.hashed:
            files += [path.with_suffix(".sha256") for path in files]
        lines += [_missing(path) for path in files if path not in checks and not path.exists()]
        for name, value in made.inputs.items():
            if there[root / name] not in ("", value):
                made_from = f"{first} was made from another {root / name} than is there now"
                lines.append(f"{made_from}: {mend(first)}.")
    problems = list(dict.fromkeys(lines))
    fine = [path for path, line in checks.items() if line is None]
    size = sum(path.stat().st_size for path in fine)
    found = Verified(folder.name, len(fine), size, len(done), read.count(None), problems)
    answer(found, _lines(found), as_json)
    if problems:
        raise UserError(
            f"{folder} is not as it was made (lines above: {len(problems):,}): do what they say."
        )


def _lines(found: Verified) -> Iterator[str]:
    yield from found.problems
    size = human_bytes(found.bytes)
    yield f"{found.files:,} files of {found.jobs:,} jobs are as they were made ({size})."
    if found.unmade:
        yield f"{found.unmade:,} more jobs have not made theirs yet."


def _made(job: Planned, folder: Path) -> Made | str | None:
    """How a job made its outputs, as recorded; or what is wrong; or None: it has not yet."""
    path, output = job.record(folder), folder.parent.parent / job.outputs[0]
    try:
        made = read_record(path).made
    except UserError as error:
        return str(error)
    if made is None and output.exists():
        return f"{output} has no record of how it was made, {path}: {mend(output)}."
    return made


def _missing(path: Path) -> str:
    return f"{path} does not exist: {again(path)}."


def _hashes(made: Made, root: Path) -> dict[str, str]:
    """Path → SHA-256 of all files that a job made, as recorded."""
    found = dict(made.outputs)
    for path in map(Path, made.outputs):
        files: dict[str, str] = {}
        if path.suffix == ".sha256":  # of a folder
            files = read_sha256(root / path)
        with suppress(UserError):  # which is said of the file itself
            if path.name == "manifest.json":
                files = read_manifest((root / path).parent).files
            if path.name == "encoder.json":
                about = read_sealed(root / path)
                keys = {about.get("theta0", ""): "theta0", **BESIDE}
                files = {name: about.get(f"{key}_sha256") or "" for name, key in keys.items()}
        found |= {str(path.parent / name): value for name, value in files.items() if value}
    return found


def _problem(path: Path, expected: str) -> str | None:
    """What is wrong with a file; None: nothing."""
    if not path.is_file():
        return _missing(path)
    try:
        check_file(path, expected)
        if path.name == "manifest.json":
            read_manifest(path.parent)
        beside = read_sha256(path) if path.suffix != ".sha256" else {}
        if beside and beside.get(path.name) != expected:
            return damaged(path.with_suffix(".sha256"))
        if path.suffix == ".safetensors":
            read_made_by(path)
    except (UserError, OSError) as error:
        return str(error)
    return None


def _identity(path: Path) -> str:
    """What identifies an input as it is now; empty if it is missing or damaged."""
    with suppress(UserError):
        return identity(path)
    return ""
