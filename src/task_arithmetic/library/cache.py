"""What is prepared once: kept in a folder, under a hash of all that it depends on."""

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

from ..config.definitions import AnyEncoder, AnyTask
from ..config.reading import load_definition
from ..config.settings import download_record, download_settings
from ..errors import UserError
from ..files.hashes import canonical
from ..files.paths import PathLike
from ..files.shipped import ROOT
from ..pipeline.code import code_hash
from ..stages.catalogue import STAGES


def cache_dir() -> Path:
    """Where prepared encoders and tasks are kept: the folder that the environment variable
    TASK_ARITHMETIC_CACHE names, or ~/.cache/task_arithmetic."""
    found = os.environ.get("TASK_ARITHMETIC_CACHE") or "~/.cache/task_arithmetic"
    return Path(found).expanduser()


def is_path(kind: str, source: PathLike) -> bool:
    """Whether a source is meant as a path: it has a slash, or something lies there that is no name
    of config/, so that a folder beside a notebook does not stand for a task that comes with the
    code."""
    if os.sep in str(source) or not os.path.exists(source):
        return os.sep in str(source)
    for place in (Path(), ROOT):
        if (place / "config" / kind / f"{source}.yaml").is_file():
            warnings.warn(
                f"{source} is taken for a name of config/{kind}, not for what lies here under "
                f"that name: ./{source} would be that.",
                stacklevel=3,
            )
            return False
    return True


def defined(kind: str, name: str) -> Any:
    """The definition that a name of config/ stands for."""
    place = Path() if (Path("config") / kind / f"{name}.yaml").is_file() else ROOT
    try:
        return load_definition(kind, name, kind, basedir=place)
    except UserError as error:
        if "is a definition for texts" not in str(error):
            raise
    return load_definition(kind, name, kind, basedir=place, modality="language")


def cached(stage: str, modality: str, name: str, *content: Any) -> Path:
    """Where the cache has what a stage makes of this content alone, and by today's code."""
    code = STAGES[stage].code
    module = (code if isinstance(code, str) else code[modality]).rpartition(".")[0]
    key = canonical([code_hash(module), *content])
    return cache_dir() / stage / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def downloaded(name: str, definition: AnyTask | AnyEncoder, folder: Path) -> str | None:
    """The record of a hub's files, which are downloaded; None: they are no hub's."""
    if not download_record(name, definition):
        return None
    record = folder.with_name(f"{folder.name}.download.json")
    if not record.is_file():
        settings = json.loads(download_settings(name, definition))
        run_stage("download", {"settings": settings, "output": str(record)})
    return str(record)


def run_stage(stage: str, given: dict[str, Any]) -> None:
    """A stage of the pipeline, into the cache."""
    Path(given["output"]).parent.mkdir(parents=True, exist_ok=True)
    STAGES[stage].function(given)(**given)
