"""Task vectors τ = θ_t − θ0 (paper, Definition 1) and the names that a mode moves."""

from __future__ import annotations  # names of torch: what only plans does not import it

from collections.abc import Iterable, KeysView, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Self, TypeVar

from ..errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class TaskVector:
    """Named tensors with the arithmetic of the paper's formulas.

    `a + b`, `a - b`, `-a`, `alpha * a`, `a / 2`, `sum(vectors)`, `a.dot(b)`, `a.norm()`,
    `a.cosine(b)`, and `a.apply(theta0, alpha)` for θ0 + α·τ. A tensor that a vector does not name
    is zero.

    Args:
        tensors: name → tensor, of the parameters that moved.
        mode: the mode that moved them. linearized: it trained f_lin, in which τ is to be used.
        base: SHA-256 of θ0; "": not known, and not compared. task: of a single one, its name.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        mode: str = "",
        linearized: bool = False,
        base: str = "",
        task: str = "",
    ) -> None:
        self.tensors = dict(tensors)
        self.mode, self.linearized, self.base, self.task = mode, linearized, base, task

    def __repr__(self) -> str:
        count = sum(tensor.numel() for tensor in self.tensors.values())
        what = ", ".join(filter(None, [self.task, self.mode or "no mode"]))
        return (
            f"TaskVector({what}, {len(self.tensors)} tensors, {count:,} numbers, "
            f"norm {self.norm():.4g}, base {self.base[:8] or 'unknown'})"
        )

    def keys(self) -> KeysView[str]:
        """The names of the tensors that moved."""
        return self.tensors.keys()

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def to(self, device: torch.device | str) -> Self:
        """The same vector on a device."""
        return self._like({name: tensor.to(device) for name, tensor in self.tensors.items()})

    def copy(self) -> Self:
        """The same vector in memory of its own."""
        return self._like({name: tensor.clone() for name, tensor in self.tensors.items()})

    def _like(self, tensors: dict[str, Tensor]) -> Self:
        return type(self)(tensors, self.mode, self.linearized, self.base, self.task)

    def __add__(self, other: TaskVector | int) -> Self:
        if isinstance(other, int):  # sum() starts from 0
            if other != 0:
                raise TypeError(f"a task vector and the number {other} cannot be added")
            return self
        check_alike(self, other)
        if not (self.tensors and other.tensors):  # nothing has no mode
            some = self if self.tensors else other
            base = self.base or other.base
            return type(self)(some.tensors, some.mode, some.linearized, base, some.task)
        merged = dict(self.tensors)
        for name, tensor in other.tensors.items():
            merged[name] = merged[name] + tensor if name in merged else tensor
        mode = self.mode if self.mode == other.mode else f"{self.mode} + {other.mode}"
        return type(self)(merged, mode, self.linearized, self.base or other.base)

    __radd__ = __add__

    def __mul__(self, alpha: float) -> Self:
        return self._like({name: alpha * tensor for name, tensor in self.tensors.items()})

    __rmul__ = __mul__

    def __truediv__(self, number: float) -> Self:
        return self * (1 / number)

    def __neg__(self) -> Self:
        return -1.0 * self

    def __sub__(self, other: TaskVector) -> Self:
        return self + (-other)

    def dot(self, other: TaskVector) -> float:
        """Inner product over all entries, accumulated in float64."""
        shared = self.tensors.keys() & other.tensors.keys()
        check_base(self, other)
        pairs = (
            (self.tensors[name].double(), other.tensors[name].double()) for name in sorted(shared)
        )
        return float(sum((a * b).sum() for a, b in pairs))

    def norm(self) -> float:
        """Euclidean norm over all entries."""
        return self.dot(self) ** 0.5

    def cosine(self, other: TaskVector) -> float:
        """Cosine similarity (paper, Figure 10), in [-1, 1]; a vector of zeros has none."""
        lengths = self.norm() * other.norm()
        if lengths == 0:
            raise UserError("A task vector is zero everywhere: it has no cosine similarity.")
        return self.dot(other) / lengths

    def apply(self, theta0: Mapping[str, Tensor], alpha: float = 1.0) -> dict[str, Tensor]:
        """θ0 + α·τ (paper, Definition 1); tensors that did not move are θ0's own, and at α = 0
        all are, bit for bit (-0 + 0 is not -0). Raises UserError if τ has others than θ0."""
        if foreign := sorted(self.tensors.keys() - theta0.keys()):
            raise UserError(
                f"The task vector moves {foreign[0]}, which the encoder has not: it is of another "
                "encoder."
            )
        if alpha == 0:
            return dict(theta0)
        return {
            name: tensor + alpha * self.tensors[name] if name in self.tensors else tensor
            for name, tensor in theta0.items()
        }


Vector = TypeVar("Vector", bound=TaskVector)


def check_base(a: TaskVector, b: TaskVector) -> None:
    """Raises UserError: two vectors of different encoders."""
    if a.base and b.base and a.base != b.base:
        raise UserError(
            f"The task vectors are of different encoders (base {a.base[:8]} and {b.base[:8]}): "
            "take vectors that were fine-tuned from the same weights."
        )


def check_alike(a: TaskVector, b: TaskVector) -> None:
    """Hold two vectors that are to be added to each other. Raises UserError: they are of different
    encoders, or one is of f and the other of f_lin; or they move other tensors, and it is not known
    whether they are of the same encoder."""
    check_base(a, b)
    if a.tensors and b.tensors and a.linearized != b.linearized:
        raise UserError(
            f"One task vector is of the linearized encoder, the other is not ({a.mode} and "
            f"{b.mode}): add vectors of one mode."
        )
    if not (a.base and b.base) and a.tensors and b.tensors and a.keys() != b.keys():
        raise UserError("The task vectors to add are of different modes or encoders.")


def moved_names(names: Iterable[str], patterns: list[str], mode: str = "this mode") -> list[str]:
    """The tensors that a mode fine-tunes, in the order of `names`.

    Args:
        names: tensor names of the encoder.
        patterns: shell-style patterns such as `*.attn.in_proj_weight`; case counts.
    Raises:
        UserError: a pattern matches no tensor, so that nothing is ever left out silently.
    """
    names = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(
                f"Mode {mode}: the pattern {pattern!r} matches no tensor of the encoder (it has "
                f"{names[0]}, …, {names[-1]}); correct `train` in the mode's definition."
            )
    chosen = [name for name in names if any(fnmatchcase(name, p) for p in patterns)]
    if not chosen:
        raise UserError(f"Mode {mode} fine-tunes no tensor: give `train` at least one pattern.")
    return chosen
