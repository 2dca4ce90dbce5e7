"""Named tensors with provenance, as safetensors."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import UserError, first
from .hashes import canonical, check_file
from .paths import PathLike, atomic_path, mend, missing

FORMAT = "task_arithmetic/2"  # of every safetensors file that we write


def write_tensors(path: PathLike, tensors: dict[str, Any], made_by: dict[str, Any]) -> None:
    """Write named tensors (torch) as safetensors whose header says what made them.

    Args:
        tensors: name → tensor, any shape and dtype; stored contiguous, on the CPU.
        made_by: anything JSON can hold: recipe, data hash, seed, device …
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        try:
            save_file(plain, temporary, header(made_by))
        except SafetensorError as error:  # which hides the system's own
            if (number := re.search(r"os error (\d+)", str(error))) is None:
                raise
            code = int(number[1])
            raise OSError(code, os.strerror(code), str(path)) from error


def header(made_by: dict[str, Any]) -> dict[str, str]:
    """The metadata of a safetensors artifact: one entry, because safetensors writes several in an
    order that changes from call to call, and equal artifacts must be equal files."""
    return {"made_by": canonical({"format": FORMAT, **made_by})}


def read_tensors(path: PathLike, device: Any = "cpu", framework: str = "pt") -> dict[str, Any]:
    """Read named tensors from a safetensors file (framework "pt" or "np").

    Raises:
        UserError: missing file, a pickle (or anything else) instead of safetensors, another
            version's file, bytes that are not those that were written.
    """
    with open_tensors(path, framework, device) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def read_made_by(path: PathLike) -> dict[str, Any]:
    """What made a safetensors artifact: the `made_by` of write_tensors."""
    with open_tensors(path) as file:
        return {key: value for key, value in _made_by(file).items() if key != "format"}


def _made_by(file: Any) -> dict[str, Any]:
    made_by: dict[str, Any] = json.loads((file.metadata() or {}).get("made_by", "{}"))
    return made_by


@contextmanager
def open_tensors(path: PathLike, framework: str = "np", device: Any = "cpu") -> Iterator[Any]:
    """An open safetensors file, of which single tensors and slices can be read; the same errors
    as read_tensors."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise missing(path)
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
            found = _made_by(opened).get("format", FORMAT)
            if found != FORMAT:
                raise UserError(
                    f"{path} was made by another version ({found}, not {FORMAT}): {mend(path)}."
                )
            yield opened
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(
            f"{path} is not a readable safetensors file ({error}): {mend(path)}."
        ) from None


def check_tensors(
    path: PathLike, found: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Hold the tensors of a file to the expected names and shapes.

    Args:
        expected: name → shape.
    Raises:
        UserError: naming the first missing, extra or misshapen tensors.
    """
    problems = []
    if lacking := sorted(set(expected) - set(found)):
        problems.append(f"misses {first(lacking, 3)}")
    if extra := sorted(set(found) - set(expected)):
        problems.append(f"has unexpected {first(extra, 3)}")
    for name in sorted(set(found) & set(expected)):
        if (shape := tuple(found[name].shape)) != tuple(expected[name]):
            problems.append(f"has {name} of shape {shape}, not {tuple(expected[name])}")
            break
    if problems:
        raise UserError(f"{path} {' and '.join(problems)}: it belongs to another encoder or mode.")
