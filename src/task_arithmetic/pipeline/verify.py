"""Whether a run's results are those that were made: their bytes, and what was made from what."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from ..errors import UserError
from ..files.hashes import check_file, damaged, read_sealed, read_sha256
from ..files.manifest import read_manifest
from ..files.paths import again, human_bytes, mend, read_json
from ..files.records import read_run, record_of
from ..files.tensors import read_made_by
from ..stages.declared import STAGES
from .identity import identity
from .status import run_folder

THREADS = 8  # that read files: hashing leaves the interpreter to others


def verify(run: str | None = None, results="results") -> None:
    """Hold the files of all jobs of a run to what was recorded when they were made; print a line
    for each that is not as it was, and how many are.

    Args:
        run: its name; None: the run that started last.
        results: the folder of all runs.
    Raises:
        UserError: no such run, or one whose files are damaged, missing, not recorded, of another
            version or made from other inputs than those that are there.
    """
    folder = run_folder(run, Path(results))
    root, known = folder.parent.parent, read_run(folder)["jobs"]
    with ThreadPoolExecutor(THREADS) as pool:
        records = list(pool.map(lambda job: _record(job, folder), known))
        hashes = {root / k: v for made, _ in records for k, v in _hashes(made, root).items()}
        checks = dict(zip(hashes, pool.map(_problem, hashes, hashes.values()), strict=True))
        inputs = sorted({root / path for made, _ in records for path in made.get("inputs", {})})
        there = dict(zip(inputs, pool.map(_identity, inputs), strict=True))
    fine = [path for path, line in checks.items() if line is None]
    lines = [*(line for _, line in records), *checks.values()]
    for job, (made, _) in zip(known, records, strict=True):
        outputs = [root / path for path in job["outputs"]] if made else []
        hashed = (stage := STAGES.get(job["stage"].replace("_", "-"))) and stage.hashed
        files = [*outputs, *(path.with_suffix(".sha256") for path in outputs if hashed)]
        lines += [_missing(path) for path in files if path not in checks and not path.exists()]
        for path, value in made.get("inputs", {}).items():
            if there[root / path] not in ("", value):
                made_from = f"{outputs[0]} was made from another {root / path} than is there now"
                lines.append(f"{made_from}: {mend(outputs[0])}.")
    problems = [line for line in dict.fromkeys(lines) if line]
    print(*problems, sep="\n", end="\n" * bool(problems))
    size = human_bytes(sum(path.stat().st_size for path in fine))
    made_jobs = sum(bool(made) for made, _ in records)
    print(f"{len(fine):,} files of {made_jobs:,} jobs are as they were made ({size}).")
    if unmade := sum(not made and line is None for made, line in records):
        print(f"{unmade:,} more jobs have not made theirs yet.")
    if problems:
        raise UserError(
            f"{folder} is not as it was made (lines above: {len(problems):,}): do what they say."
        )


def _record(job: dict, folder: Path) -> tuple[dict, str | None]:
    """What a job's record says of how its outputs were made, and what is wrong with it."""
    path = Path(record_of(job["log"], folder))
    output = folder.parent.parent / job["outputs"][0]
    try:
        made = read_json(path).get("made", {}) if path.is_file() else {}
    except UserError as error:
        return {}, str(error)
    if made:
        return made, None
    if output.exists():
        line = f"{output} has no record of how it was made, {path}"
        return {}, f"{line}: {mend(output)}."
    return {}, None  # not made yet


def _missing(path: Path) -> str:
    return f"{path} does not exist: {again(path)}."


def _hashes(made: dict, root: Path) -> dict[str, str]:
    """Path → SHA-256 of all files that a job made, as recorded."""
    found = dict(made.get("outputs", {}))
    for path in list(map(Path, found)):
        if path.suffix == ".sha256":  # of a folder
            files = read_sha256(root / path)
            found |= {str(path.parent / name): value for name, value in files.items()}
        with suppress(UserError):  # which is said of the file itself
            if path.name == "manifest.json":
                files = read_manifest((root / path).parent).files
                found |= {str(path.with_name(name)): value for name, value in files.items()}
            if path.name == "encoder.json":
                about = read_sealed(root / path)
                beside = {about.get("theta0", ""): "theta0", "text_tower.safetensors": "text_tower"}
                beside |= {"merges.gz": "merges", "tokenizer.json": "tokenizer"}
                for name, key in beside.items():
                    if about.get(f"{key}_sha256"):
                        found[str(path.with_name(name))] = about[f"{key}_sha256"]
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
