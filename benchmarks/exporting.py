"""What an export costs, as ratios: `python benchmarks/run.py exporting`, which runs this file.

Eight vectors of random weights of ViT-B-32 in files, merged by `sum` and written for transformers.
"""

import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import torch
from merging import TASKS, _anonymous, medians, vit, write_vectors  # beside this file

from task_arithmetic.commands.export import export
from task_arithmetic.files.hashes import sealed, sha256_of_file
from task_arithmetic.files.paths import write_json
from task_arithmetic.files.tensors import open_tensors, write_tensors
from task_arithmetic.vision.geometry import ViT


def write_encoder(folder: Path, geometry: ViT) -> Path:
    """An encoder's folder, of random weights, without a text tower."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    theta0 = {
        k: 0.03 * torch.randn(shape, generator=generator) for k, shape in geometry.shapes().items()
    }
    write_tensors(folder / "image_tower.safetensors", theta0, {})
    about = {"name": "random", "definition": {}, "source": None, "mean": [0.5] * 3}
    about |= {"std": [0.25] * 3, "geometry": {**asdict(geometry), "text": None}}
    about |= {"theta0_sha256": sha256_of_file(folder / "image_tower.safetensors")}
    write_json(folder / "encoder.json", sealed(about))
    return folder


def exported(paths: list[Path], encoder: Path, out: Path) -> None:
    """The command, without its start."""
    given = {"method": None, "options": [], "seed": None, "alpha": 0.3, "chosen": "", "tasks": []}
    given |= {"license": "", "evaluate": False, "as_nonlinear": False}
    given |= {"keep_base_projection": False, "base": str(encoder), "to": "transformers"}
    export(vectors=[str(path) for path in paths], out=str(out), **given)


def read(paths: list[Path]) -> None:
    """Every tensor once, into memory of its own."""
    for path in paths:
        with open_tensors(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                file.get_tensor(name).clone()


def forget(paths: list[Path]) -> None:
    """Let the system drop files from its cache, so that a disk is read."""
    os.sync()
    for path in paths:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def peak_models(paths: list[Path], encoder: Path, out: Path) -> float:
    """Peak memory of the command in a process of its own, above what its libraries take and without
    what is mapped from files, in models."""
    command = [sys.executable, __file__, *map(str, [encoder, out, *paths])]
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
    return (peak - before) / (4 * sum(map(math.prod, shapes)))


def measured(repeats: int, layers: int = 12, width: int = 768) -> dict[str, object]:
    """Seconds of an export ÷ seconds of reading the vectors once: from the page cache, with their
    SHA-256 beside it, and from the disk."""
    with tempfile.TemporaryDirectory() as name:
        folder, outs, geometry = Path(name), iter(range(10**6)), vit(layers, width)
        encoder = write_encoder(folder / "encoder", geometry)
        theta0 = encoder / "image_tower.safetensors"
        paths = write_vectors(folder, geometry, sha256_of_file(theta0))
        peak = peak_models(paths, encoder, folder / "out")

        def once() -> None:
            exported(paths, encoder, folder / f"out{next(outs)}")

        def hashed() -> None:
            read(paths)
            for path in paths:
                sha256_of_file(path)

        warm = medians({"export": once, "read": lambda: read(paths), "hash": hashed}, repeats)

        def cold(action):
            def run() -> float:
                forget([*paths, theta0])
                began = time.perf_counter()
                action()
                return time.perf_counter() - began

            return sorted(run() for _ in range(repeats))[repeats // 2]

        from_disk = cold(once) / cold(lambda: read(paths))
        return {
            "tasks": len(TASKS),
            "export_ratio": {
                "of_reading": warm["export"] / warm["read"],
                "of_reading_and_hashing": warm["export"] / warm["hash"],
                "of_reading_from_disk": from_disk,
            },
            "export_seconds": warm["export"],
            "peak_models": {"export": peak},
        }


if __name__ == "__main__":
    print("ready", flush=True)
    time.sleep(0.1)
    where, to, *vectors = map(Path, sys.argv[1:])
    exported(vectors, where, to)
