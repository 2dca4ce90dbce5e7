"""What merging costs, as ratios: `python benchmarks/run.py merging`, which runs this file.

Eight vectors of random weights whose matrices have decaying spectra, in files: times of tensors in
the page cache do not depend on their values, times of a decomposition hardly.
"""

import math
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from task_arithmetic.files.tensors import open_tensors, write_tensors
from task_arithmetic.merging.linear import LostRank
from task_arithmetic.merging.matrices import is_matrix
from task_arithmetic.merging.merge import merge_parts
from task_arithmetic.merging.method import Part, options_of
from task_arithmetic.merging.methods import find
from task_arithmetic.stages.merge import VectorFiles, merge
from task_arithmetic.vision.geometry import ViT

CPU = torch.device("cpu")
TASKS = [f"task{t}" for t in range(8)]
ENTRIES = ("mean", "sum", "ties", "dare", "consensus")
ATTENTION = ("attn.in_proj_weight", "attn.out_proj.weight")


def vit(layers: int, width: int = 768) -> ViT:
    """ViT-B-32 of some layers."""
    return ViT(layers, width, 32, 224, 4 * width, 12, 512, "quick_gelu")


def write_vectors(folder: Path, geometry: ViT, base: str = "0") -> list[Path]:
    """A file of each task, all tensors of the tower; base: of θ0."""
    paths = []
    for t, task in enumerate(TASKS):
        generator = torch.Generator().manual_seed(t)
        tau = {k: _drawn(k, shape, generator) for k, shape in geometry.shapes().items()}
        made_by = {"stage": "vector", "encoder": "random", "mode": "nonlinear", "seed": 0}
        about = {"task": task, "theta0_sha256": base, "settings": {"mode": {"linearized": False}}}
        paths.append(folder / f"{task}.safetensors")
        write_tensors(paths[-1], tau, made_by | about)
    return paths


def write_statistics(vectors: list[Path]) -> list[Path]:
    """Beside each vector's file random Gram matrices of its matrices, as regmean reads them."""
    paths = [path.with_suffix(".grams") for path in vectors]
    for vector, path, task in zip(vectors, paths, TASKS, strict=True):
        with open_tensors(vector) as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        sides = {k: s[k != "proj"] for k, s in shapes.items() if is_matrix(k, len(s))}
        grams = {name: torch.randn(side, side) for name, side in sides.items()}
        grams = {name: x.T @ x / len(x) for name, x in grams.items()}
        about = {"task": task, "mode": "nonlinear", "seed": 0, "theta0_sha256": "0"}
        write_tensors(path, grams, {"stage": "statistics", **about})
    return paths


def _drawn(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    drawn = 1e-3 * torch.randn(shape, generator=generator)
    if not is_matrix(name, len(shape)):
        return drawn
    tall = drawn if shape[0] >= shape[1] else drawn.T
    side = tall.shape[1]
    turn = torch.linalg.qr(torch.randn(side, side, generator=generator)).Q
    tall = tall * torch.arange(1, side + 1) ** -0.5 @ turn
    return tall if shape[0] >= shape[1] else tall.T


def matrices(paths: list[Path], attention: bool = False) -> list[Part]:
    """The first block's, in memory: every block's are alike."""
    parts = VectorFiles(paths, TASKS, 0, CPU)
    some = [
        part for part in parts if ".0." in part.name and is_matrix(part.name, part.deltas[0].dim())
    ]
    return [part for part in some if not attention or part.name.endswith(ATTENTION)]


def medians(actions: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Seconds, the actions taking turns; the first turn is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(repeats + 1):
        for name, action in actions.items():
            began = time.perf_counter()
            action()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def merging(parts, name: str, state: object = None) -> Callable[[], object]:
    """A whole merge, its result kept."""
    method = find(name)
    options = options_of(method, {})

    def merged() -> list[object]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LostRank)
            return list(merge_parts(parts, method, options, state))

    return merged


# --- Ratios --------------------------------------------------------------------------------------


def entry_ratio(paths: list[Path], repeats: int) -> dict[str, float]:
    """Methods that go entry by entry, from files to the merged tensors in memory ÷ reading the
    files once, tensor by tensor, into memory of its own. `drawing`: the random numbers of dare."""
    files = VectorFiles(paths, TASKS, 0, CPU)

    def read() -> None:
        for path in paths:
            with open_tensors(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118
                    file.get_tensor(name).clone()

    with open_tensors(paths[0]) as file:
        sizes = [math.prod(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118

    def drawing() -> None:
        for _ in paths:
            for size in sizes:
                for at in range(0, size, 2**16):
                    torch.rand(min(2**16, size - at))

    actions = {name: merging(files, name) for name in ENTRIES}
    seconds = medians({"read": read, "drawing": drawing, **actions}, repeats)
    return {name: seconds[name] / seconds["read"] for name in (*ENTRIES, "drawing")}


def decomposition_ratio(parts: list[Part], repeats: int) -> dict[str, float]:
    """iso_c ÷ one SVD of each matrix, tsv and iso_cts ÷ T + 2 and T + 3 of them: torch's alone, of
    matrices turned so that they are tall, which is faster."""

    def svds(found: Callable[[Part], Iterator[Tensor]]) -> Callable[[], None]:
        def alone() -> None:
            for part in parts:
                for x in found(part):
                    torch.linalg.svd(x if x.shape[0] >= x.shape[1] else x.T, full_matrices=False)

        return alone

    actions = {
        "of the sum": svds(lambda part: iter([sum(part.deltas[1:], part.deltas[0])])),
        "of each": svds(lambda part: iter(part.deltas)),
        **{name: merging(parts, name) for name in ("iso_c", "tsv", "iso_cts")},
    }
    seconds = medians(actions, repeats)
    each = seconds["of each"] / len(TASKS)
    return {
        "iso_c": seconds["iso_c"] / seconds["of the sum"],
        "tsv": seconds["tsv"] / (each * (len(TASKS) + 2)),
        "iso_cts": seconds["iso_cts"] / (each * (len(TASKS) + 3)),
    }


def product_ratio(parts: list[Part], repeats: int) -> dict[str, float]:
    """wudi and regmean ÷ the float64 matrix products of their definitions: τᵀτ and τ(τᵀτ) or
    (ττᵀ)τ, whichever is cheaper, and τG, of each task; what is solved is left out."""
    grams = {part.name: [(x.T @ x / len(x)) for x in map(_inputs, part.deltas)] for part in parts}

    def wudi() -> None:
        for part in parts:
            for delta in part.deltas:
                tau = delta.double()
                gram = tau.T @ tau
                (tau @ tau.T) @ tau if len(tau) < len(gram) else tau @ gram

    def regmean() -> None:
        for part in parts:
            for delta, gram in zip(part.deltas, grams[part.name], strict=True):
                delta.double() @ gram.double()

    actions = {
        "wudi products": wudi,
        "wudi": merging(parts, "wudi"),
        "regmean products": regmean,
        "regmean": merging(parts, "regmean", grams),
    }
    seconds = medians(actions, repeats)
    return {name: seconds[name] / seconds[f"{name} products"] for name in ("wudi", "regmean")}


def _inputs(delta: Tensor) -> Tensor:
    """Random inputs of a layer, more of them than it has dimensions."""
    side = delta.shape[1]
    return torch.randn(side + 64, side, generator=torch.Generator().manual_seed(side))


def all_ratio(paths: list[Path], repeats: int) -> float:
    """tsv of all matrices of a block ÷ of those of attention alone."""
    actions = {"all": merging(matrices(paths), "tsv")}
    actions["attention"] = merging(matrices(paths, attention=True), "tsv")
    seconds = medians(actions, repeats)
    return seconds["all"] / seconds["attention"]


# --- Memory --------------------------------------------------------------------------------------


def memory(paths: list[Path], method: str) -> dict[str, float]:
    """Peak memory of the stage `merge`, in a process of its own, above what it had when its
    libraries were there, without what is mapped from files: in models, and as a share of
    T × the largest tensor + 2 models."""
    command = [sys.executable, __file__, method, *map(str, paths)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        before = peak = _anonymous(process.pid)
        while process.poll() is None:
            peak = max(peak, _anonymous(process.pid))
            time.sleep(0.003)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    with open_tensors(paths[0]) as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    sizes = [4 * math.prod(shape) for shape in shapes]
    bound = len(paths) * max(sizes) + 2 * sum(sizes)
    return {"models": (peak - before) / sum(sizes), "of_bound": (peak - before) / bound}


def _anonymous(process: int) -> int:
    """Bytes of a process that are no file's; 0: it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text("utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


def run_stage(method: str, paths: list[Path]) -> None:
    """Merge in this process, which says when it begins: what libraries take once is taken."""
    wide = torch.ones(64, 64, dtype=torch.float64)
    torch.linalg.svd(wide @ wide)
    torch.linalg.eigh(wide)
    warnings.simplefilter("ignore", LostRank)
    named = {"encoder": "random", "mode": "nonlinear", "seed": 0, "tasks": TASKS}
    with tempfile.TemporaryDirectory(dir=paths[0].parent) as folder:
        print("ready", flush=True)
        time.sleep(0.1)
        output = Path(folder, "merged.safetensors")
        grams = [path.with_suffix(".grams") for path in paths] if method == "regmean" else None
        settings = {"method": method}
        merge(**named, vectors=paths, statistics=grams, settings=settings, output=output)


# --- The row -------------------------------------------------------------------------------------


def measured(
    repeats: int,
    layers: int = 12,
    width: int = 768,
    measured_in_memory: tuple[str, ...] = (*ENTRIES, "iso_c", "wudi", "regmean"),
) -> dict[str, object]:
    """All ratios of eight vectors of ViT-B-32; what decompositions and products cost, of one block,
    since all blocks are alike."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_vectors(folder, vit(layers, width))
        if "regmean" in measured_in_memory:
            write_statistics(paths)
        used = {method: memory(paths, method) for method in measured_in_memory}
        entries = entry_ratio(paths, repeats)
        (folder / "one").mkdir()
        paths = write_vectors(folder / "one", vit(1, width))
        parts, few = matrices(paths), max(1, repeats // 2)
        return {
            "tasks": len(TASKS),
            "layers": layers,
            "entry_ratio": entries,
            "decomposition_ratio": decomposition_ratio(parts, few),
            "product_ratio": product_ratio(parts, few),
            "all_to_attention": all_ratio(paths, few),
            "peak_models": {method: each["models"] for method, each in used.items()},
            "peak_of_bound": {method: each["of_bound"] for method, each in used.items()},
        }


if __name__ == "__main__":  # a child process of `memory`
    torch.set_num_threads(1)
    run_stage(sys.argv[1], [Path(path) for path in sys.argv[2:]])
