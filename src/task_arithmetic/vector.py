"""Task vectors τ = θ_t − θ0 (paper, Definition 1) and the names that a mode moves."""

from contextlib import ExitStack
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from .artifacts import (
    UserError,
    atomic_path,
    check_file,
    check_tensors,
    header,
    open_tensors,
    read_made_by,
    read_sealed,
    read_tensors,
)
from .metrics import write_rows

SLICE = 2**25  # numbers in memory at a time while many vectors are compared


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


def write_vector(encoder_dir, finetuned, output) -> None:
    """Write τ = θ_t − θ0 of the tensors that moved, float32. Needs no torch.

    Args:
        encoder_dir: the encoder stage's folder.
        finetuned: moved weights θ_t, from the finetune stage.
    Raises:
        UserError: the weights are not those of this encoder.
    """
    from safetensors.numpy import save_file

    about = read_sealed(Path(encoder_dir) / "encoder.json")
    weights = Path(encoder_dir) / about["theta0"]
    check_file(weights, about["theta0_sha256"])
    theta0 = read_tensors(weights, framework="np")
    theta = read_tensors(finetuned, framework="np")
    check_tensors(finetuned, theta, {k: v.shape for k, v in theta0.items() if k in theta})
    tau = {name: theta[name] - theta0[name] for name in theta}
    made_by = {**read_made_by(finetuned), "stage": "vector"}
    with atomic_path(output) as temporary:
        tau = {name: np.ascontiguousarray(t) for name, t in tau.items()}
        save_file(tau, temporary, header(made_by))


def cosine(*, encoder, mode, seed, tasks, vectors, output) -> None:
    """Cosine similarity of every pair of task vectors (paper, Figure 10): `cosine_similarity`.

    Each vector is read once, in slices of all of them: time grows with their number, and memory
    does not. Needs no torch.

    Raises:
        UserError: vectors of different encoders or modes; a vector of zeros, which has none.
    """
    products = inner_products(vectors)
    norms = np.sqrt(products.diagonal())
    for task, norm in zip(tasks, norms, strict=True):
        if norm == 0:
            raise UserError(f"The task vector of {task} is zero: it has no cosine similarity.")
    rows = [
        {"task": a, "other_task": b, "value": products[i, j] / (norms[i] * norms[j])}
        for i, a in enumerate(tasks)
        for j, b in enumerate(tasks)
    ]
    write_rows(output, rows, encoder=encoder, mode=mode, seed=seed, metric="cosine_similarity")


def inner_products(paths) -> np.ndarray:
    """The inner products of all pairs of vector artifacts, float64 (n, n)."""
    products = np.zeros((len(paths), len(paths)))
    with ExitStack() as stack:
        files = [stack.enter_context(open_tensors(path)) for path in paths]
        names = [set(file.keys()) for file in files]
        for path, own in zip(paths, names, strict=True):
            if own != names[0]:
                raise UserError(
                    f"{path} and {paths[0]} are of different modes or encoders: compare vectors of "
                    "one encoder and one mode."
                )
        for name in sorted(names[0]):
            slices = [file.get_slice(name) for file in files]
            shape = slices[0].get_shape()
            if any(part.get_shape() != shape for part in slices):
                raise UserError(f"The task vectors differ in the shape of {name}.")
            rows = max(1, SLICE // len(paths) // max(1, int(np.prod(shape[1:]))))
            for start in range(0, shape[0], rows):
                end = min(start + rows, shape[0])
                parts = [part[start:end].ravel() for part in slices]
                block = np.stack(parts).astype(np.float64)
                products += block @ block.T
    return products
