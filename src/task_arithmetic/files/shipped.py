"""Where the files lie that come with the code: config.yaml, config/ and workflow/reference."""

import os
from pathlib import Path

from .paths import PathLike

PACKAGE = Path(__file__).resolve().parents[1]
REPOSITORY = PACKAGE.parents[1]
# An installed wheel holds them inside of the package (pyproject.toml).
ROOT = REPOSITORY if (REPOSITORY / "Snakefile").is_file() else PACKAGE / "shipped"


def shipped_config(path: PathLike) -> PathLike:
    """A configuration file: the one at this path or, where none is, the shipped one of this name,
    such as `mini.yaml` or `config/mini.yaml`."""
    known = [ROOT / "config" / path, ROOT / path]
    return path if os.path.exists(path) else next((p for p in known if p.is_file()), path)


def local_path(path: str, basedir: PathLike) -> str:
    """A definition's path, given relative to `basedir`, as seen from the working directory. One
    into the package (src/task_arithmetic/...) is found where the package is installed."""
    if os.path.isabs(path):
        return path
    place = Path(basedir) / path
    if not place.exists() and Path(path).parts[:2] == ("src", PACKAGE.name):
        place = PACKAGE.joinpath(*Path(path).parts[2:])
    return os.path.relpath(place)
