"""Task vectors τ = θ_t − θ0 (paper, Definition 1) and the names that a mode moves."""

from fnmatch import fnmatchcase

from ..errors import UserError
from ..files.tensors import read_tensors


class TaskVector:
    """Named tensors with the arithmetic of the paper's formulas.

    `a + b`, `a - b`, `-a`, `alpha * a`, `sum(vectors)`, `a.dot(b)`, `a.norm()`, `a.cosine(b)`, and
    `a.apply(theta0, alpha)` for θ0 + α·τ. A tensor that a vector does not name is zero.

    Args:
        tensors: name → tensor, of the parameters that moved.
    """

    def __init__(self, tensors: dict):
        self.tensors = dict(tensors)

    @classmethod
    def read(cls, path, device="cpu") -> "TaskVector":
        """Read a vector artifact. Raises UserError if it is missing or no safetensors file."""
        return cls(read_tensors(path, device))

    def __add__(self, other):
        if other == 0:  # sum() starts from 0
            return self
        merged = dict(self.tensors)
        for name, tensor in other.tensors.items():
            merged[name] = merged[name] + tensor if name in merged else tensor
        return TaskVector(merged)

    __radd__ = __add__

    def __mul__(self, alpha: float):
        return TaskVector({name: alpha * tensor for name, tensor in self.tensors.items()})

    __rmul__ = __mul__

    def __neg__(self):
        return -1.0 * self

    def __sub__(self, other):
        return self + (-other)

    def dot(self, other) -> float:
        """Inner product over all entries, accumulated in float64."""
        shared = self.tensors.keys() & other.tensors.keys()
        pairs = (
            (self.tensors[name].double(), other.tensors[name].double()) for name in sorted(shared)
        )
        return float(sum((a * b).sum() for a, b in pairs))

    def norm(self) -> float:
        """Euclidean norm over all entries."""
        return self.dot(self) ** 0.5

    def cosine(self, other) -> float:
        """Cosine similarity (paper, Figure 10), in [-1, 1]; a vector of zeros has none."""
        lengths = self.norm() * other.norm()
        if lengths == 0:
            raise UserError("A task vector is zero everywhere: it has no cosine similarity.")
        return self.dot(other) / lengths

    def apply(self, theta0: dict, alpha: float = 1.0) -> dict:
        """θ0 + α·τ (paper, Definition 1); tensors that did not move are θ0's own, and at α = 0
        all are, bit for bit (-0 + 0 is not -0)."""
        if alpha == 0:
            return dict(theta0)
        return {
            name: tensor + alpha * self.tensors[name] if name in self.tensors else tensor
            for name, tensor in theta0.items()
        }


def total(vectors) -> TaskVector:
    """Σ τ_t, reading one vector at a time: memory does not grow with the number of tasks.

    Args:
        vectors: iterable of TaskVector, all of the same mode.
    """
    summed = None
    for vector in vectors:
        if summed is None:
            summed = TaskVector({name: tensor.clone() for name, tensor in vector.tensors.items()})
            continue
        if vector.tensors.keys() != summed.tensors.keys():
            raise UserError("The task vectors to add are of different modes or encoders.")
        for name, tensor in vector.tensors.items():
            summed.tensors[name] += tensor
    return summed


def moved_names(names, patterns: list[str], mode: str = "this mode") -> list[str]:
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
