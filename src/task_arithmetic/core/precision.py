"""Precision of the forward pass, and parts of a batch that fit into memory."""

import re
import sys
from functools import cache

from ..errors import UserError

FULL = re.compile("out of memory|ALLOC_FAILED|cudaErrorMemoryAllocation")


def autocast(precision: str, device):
    """The context of forward passes in a precision; master weights and sums stay float32.

    Args:
        precision: the configuration's `precision`: auto, bf16 or float32.
        device: a torch.device or its name.
    """
    import torch

    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=uses_bf16(precision, kind))


def uses_bf16(precision: str, device) -> bool:
    """Whether `precision` stands for bfloat16 on a device: always for bf16, never for float32; for
    auto on a GPU that computes in it (which emulates it does not count), and not on the CPU.

    Raises:
        UserError: an unknown precision.
    """
    import torch

    if precision not in ("auto", "bf16", "float32"):
        raise UserError(f"precision must be auto, bf16 or float32; found {precision!r}.")
    if precision == "auto" and torch.device(device).type == "cuda":
        return _gpu_has_bf16()
    return precision == "bf16"


@cache
def _gpu_has_bf16() -> bool:
    import torch

    if torch.cuda.is_bf16_supported(including_emulation=False):
        return True
    print(
        "task-arithmetic: this GPU does not compute in bfloat16: `precision: auto` is float32 "
        "here.",
        file=sys.stderr,
        flush=True,
    )
    return False


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that the GPU's memory is full: torch and its libraries have several ways
    to."""
    names = {kind.__name__ for kind in type(error).__mro__}  # torch may not be imported
    return "OutOfMemoryError" in names or FULL.search(str(error)) is not None


def in_parts(function, rows, precision: str = "float32") -> tuple:
    """function(rows) under autocast: a tuple of tensors of as many rows. Where the GPU's memory is
    too small, in halves, and these in halves again."""
    import torch

    try:
        with autocast(precision, rows.device):
            return function(rows)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        if len(rows) == 1:
            raise UserError(
                "One example alone does not fit into the GPU's memory: use a GPU with more memory, "
                "or a smaller encoder."
            ) from None
    torch.cuda.empty_cache()
    halves = [in_parts(function, half, precision) for half in rows.chunk(2)]
    return tuple(torch.cat(results) for results in zip(*halves, strict=True))
