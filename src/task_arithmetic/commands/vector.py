"""`task-arithmetic vector`: a task vector from fine-tuned weights."""

import os

from ..answer import answer
from ..errors import UserError
from ..files.paths import PathLike


def vector(
    source: str,
    base: str,
    task: str,
    out: PathLike,
    mode: str | None = None,
    revision: str | None = None,
    as_json: bool = False,
) -> None:
    """Write the task vector of fine-tuned weights, and say what it is.

    Args:
        source: a folder, a file, or a hub's owner/name.
        base: the encoder that was fine-tuned, see load_encoder. task: a name for the vector.
        mode, revision: see import_vector.
        out: a safetensors file, which must not be there.
        as_json: print JSON.
    Raises:
        UserError: out is there; as import_vector.
    """
    from ..files.fine_tuned import write
    from ..library.encoders import load_encoder
    from ..library.imports import read_published

    if os.path.exists(out):
        raise UserError(f"{out} is there already: give another name.")
    encoder = load_encoder(base)
    read = read_published(source, encoder, task, mode, revision)
    write(read.imported, read.source, read.patterns, encoder.name, out)
    found = read.imported.vector
    said = {
        "out": str(out),
        "task": task,
        "encoder": encoder.name,
        "mode": found.mode,
        "linearized": found.linearized,
        "tensors": len(found.tensors),
        "parameters": sum(tensor.numel() for tensor in found.tensors.values()),
        "norm": found.norm(),
        "source": read.source,
    }
    line = (
        f"{out}: the task vector of {task}, {encoder.name}, {found.mode}: "
        f"{said['parameters']:,} numbers in {said['tensors']} tensors, norm {said['norm']:.4g}."
    )
    answer(said, [line], as_json)
