"""A task vector's file: writing it; comparing many."""

from collections.abc import Container, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files.hashes import check_file, read_sealed
from ..files.metrics import write_rows
from ..files.paths import PathLike, atomic_path
from ..files.tensors import check_tensors, header, open_tensors, read_made_by, read_tensors

SLICE = 2**25  # numbers in memory at a time while many vectors are compared


def write_vector(encoder_dir: PathLike, finetuned: PathLike, output: PathLike) -> None:
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


def cosine(
    *, encoder: str, mode: str, seed: int, tasks: list[str], vectors: list[str], output: PathLike
) -> None:
    """Norms of task vectors, `vector_norm`, and the cosine similarity of every pair (paper, Figure
    10), `cosine_similarity`.

    Each vector is read once, in slices of all of them: time grows with their number, and memory
    does not. Needs no torch.

    Raises:
        UserError: vectors of different encoders or modes; a vector of zeros, which has none.
    """
    products = np.sum([*inner_products(vectors).values()], axis=0)
    norms = np.sqrt(products.diagonal())
    for task, norm in zip(tasks, norms, strict=True):
        if norm == 0:
            raise UserError(f"The task vector of {task} is zero: it has no cosine similarity.")
    rows: list[dict[str, Any]] = [
        {"metric": "vector_norm", "task": task, "value": norm}
        for task, norm in zip(tasks, norms, strict=True)
    ]
    rows += [
        {
            "metric": "cosine_similarity",
            "task": a,
            "other_task": b,
            "value": products[i, j] / (norms[i] * norms[j]),
        }
        for i, a in enumerate(tasks)
        for j, b in enumerate(tasks)
    ]
    write_rows(output, rows, encoder=encoder, mode=mode, seed=seed)


def inner_products(
    paths: Sequence[PathLike], wanted: Container[str] | None = None
) -> dict[str, np.ndarray]:
    """Of each tensor the inner products of all pairs of vector artifacts, float64 (n, n).

    Args:
        wanted: names of tensors; None: all.
    """
    products: dict[str, np.ndarray] = {}
    with ExitStack() as stack:
        files = [stack.enter_context(open_tensors(path)) for path in paths]
        names = [set(file.keys()) for file in files]
        for path, own in zip(paths, names, strict=True):
            if own != names[0]:
                raise UserError(
                    f"{path} and {paths[0]} are of different modes or encoders: compare vectors of "
                    "one encoder and one mode."
                )
        for name in sorted(name for name in names[0] if wanted is None or name in wanted):
            slices = [file.get_slice(name) for file in files]
            shape = slices[0].get_shape()
            if any(part.get_shape() != shape for part in slices):
                raise UserError(f"The task vectors differ in the shape of {name}.")
            rows = max(1, SLICE // len(paths) // max(1, int(np.prod(shape[1:]))))
            products[name] = np.zeros((len(paths), len(paths)))
            for start in range(0, shape[0], rows):
                end = min(start + rows, shape[0])
                parts = [part[start:end].ravel() for part in slices]
                block = np.stack(parts).astype(np.float64)
                products[name] += block @ block.T
    return products
