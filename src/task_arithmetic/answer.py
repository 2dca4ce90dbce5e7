"""What a command for people found: lines for them, or JSON for machines, of the same values."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any


def answer(found: Any, lines: Iterable[str], as_json: bool) -> None:
    """Print what was found.

    Args:
        found: NamedTuples, dataclasses, mappings, lists and plain values. lines: the same, said.
        as_json: print `found` as one JSON value, in which a number that is none is null.
    """
    if as_json:
        print(json.dumps(plain(found), indent=1, allow_nan=False))
    else:
        for line in lines:
            print(line)


def plain(found: Any) -> Any:
    """A value as JSON can hold it: the fields of a NamedTuple or dataclass are keys."""
    if isinstance(found, Mapping):
        return {str(key): plain(value) for key, value in found.items()}
    if is_dataclass(found):
        return {each.name: plain(getattr(found, each.name)) for each in fields(found)}
    if hasattr(found, "_asdict"):
        return plain(found._asdict())
    if hasattr(found, "model_dump"):  # of a configuration: what is given
        return plain(found.model_dump(exclude_unset=True))
    if isinstance(found, list | tuple):
        return [plain(value) for value in found]
    if isinstance(found, float):
        return float(found) if math.isfinite(found) else None
    return str(found) if isinstance(found, Path) else found
