"""What several commands read of their words."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from ..files.paths import PathLike


def check_once(paths: Sequence[PathLike]) -> None:
    """Raises UserError: a file is named twice."""
    seen: dict[Path, PathLike] = {}
    for path in paths:
        if (place := Path(path).resolve()) in seen:
            raise UserError(f"{path} and {seen[place]} are one file: give each vector once.")
        seen[place] = path


def read_options(words: list[str]) -> dict[str, Any]:
    """The options of a merging method, NAME=VALUE …, with values as YAML has them."""
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if not (name and equals):
            raise UserError(f"--option takes NAME=VALUE, such as keep=0.2; found {word!r}.")
    return found
