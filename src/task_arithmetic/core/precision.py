"""Precision of the forward pass, and parts of a batch that fit into memory."""

from __future__ import annotations  # names of torch, which is imported where it is used

import re
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING, TypeVar, cast

from ..errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Tensors = TypeVar("Tensors", bound=tuple[Tensor, ...])

FULL = re.compile("out of memory|ALLOC_FAILED|cudaErrorMemoryAllocation")


def autocast(precision: str, device: torch.device | str) -> AbstractContextManager[None]:
    """The context of forward passes in a precision; master weights and sums stay float32.

    Args:
        precision: the configuration's `precision`: auto, bf16 or float32.
        device: a torch.device or its name.
    """
    import torch

    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=uses_bf16(precision, kind))


def uses_bf16(precision: str, device: torch.device | str) -> bool:
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


def in_parts(
    function: Callable[[Tensor], Tensors], rows: Tensor, precision: str = "float32"
) -> Tensors:
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
    joined = tuple(torch.cat(results) for results in zip(*halves, strict=True))
    return cast("Tensors", joined)


def check_finite(values: Tensor, alphas: Sequence[float] | None = None) -> None:
    """Raises UserError: what an encoder puts out is not finite, of which no class or token is the
    largest; alphas: of each value its α, to be named."""
    wrong = ~values.isfinite()
    if bool(wrong.any()):
        at = "" if alphas is None else f" at α = {alphas[int(wrong.int().argmax())]:g}"
        raise UserError(
            f"The encoder puts out numbers that are not finite{at}: the task vectors, or α, are "
            "far too large; train with a lower learning rate, or take smaller α."
        )
