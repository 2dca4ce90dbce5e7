"""Time the hot paths against each other, in one run on one machine: `make bench`.

Prints ratios and writes benchmarks/latest.json. Every ratio compares medians of interleaved
repetitions, so that a busy machine slows both sides alike. Random weights and images: speed does
not depend on them. benchmarks/README.md says what each key means, docs/evidence/speed.md what was
found.
"""

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml
from torch.nn.attention import SDPBackend, sdpa_kernel

from task_arithmetic.config.definitions import Mode
from task_arithmetic.core.disentanglement import Sample, disentanglement_errors
from task_arithmetic.core.encoder import Encoder
from task_arithmetic.core.precision import in_parts, uses_bf16
from task_arithmetic.core.schedule import Recipe
from task_arithmetic.core.training import Training
from task_arithmetic.core.vectors import TaskVector
from task_arithmetic.files.hashes import now, sha256_of_file, versions
from task_arithmetic.files.manifest import Manifest
from task_arithmetic.files.paths import read_json, write_json
from task_arithmetic.files.tensors import read_tensors, write_tensors
from task_arithmetic.language.geometry import T5, t5_geometry
from task_arithmetic.language.modality import Language
from task_arithmetic.language.t5 import generate
from task_arithmetic.pipeline.gpu import torch_device
from task_arithmetic.planning.operations import flops
from task_arithmetic.stages.memory import peak_memory, start_memory, wait
from task_arithmetic.vision.clip import encode, encode_linearized
from task_arithmetic.vision.geometry import ViT
from task_arithmetic.vision.modality import Images, Vision
from task_arithmetic.vision.pixels import to_pixels

ROOT = Path(__file__).resolve().parents[1]
MODES = ("nonlinear", "ntk", "attention")
RECIPE = {"steps": 1000, "learning_rate": 1e-5, "weight_decay": 0.1, "gradient_clip": 1.0}
CLASSES = 10
NAMES = ("embedded-base", "ViT-B-32")  # of `make bench`


GEOMETRIES = {
    "embedded-base": ViT(4, 96, 8, 32, 384, 3, 64, "quick_gelu"),
    "ViT-B-32": ViT(12, 768, 32, 224, 3072, 12, 512, "quick_gelu"),
    "ViT-B-16": ViT(12, 768, 16, 224, 3072, 12, 512, "quick_gelu"),
    "ViT-L-14": ViT(24, 1024, 14, 224, 4096, 16, 768, "quick_gelu"),
}
EMBEDDED_T5 = ROOT / "src/task_arithmetic/embedded/encoders/embedded-t5"
T5_BASE = {
    **{"d_model": 768, "d_ff": 3072, "d_kv": 64, "num_heads": 12, "num_layers": 12},
    "vocab_size": 32128,
}
TEXTS = {  # of one step: batch, tokens of a source and of a target
    "embedded-t5": (4, 24, 3),
    "T5-base": (4, 64, 3),
}
ANSWER = 10  # tokens generated


def medians(actions: dict, repeats: int, device) -> dict:
    """Median seconds of each action, the actions taking turns; the first turn is not counted."""
    seconds = {name: [] for name in actions}
    for turn in range(repeats + 1):
        for name, action in actions.items():
            began = time.perf_counter()
            action()
            wait(device)
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


NO_VECTOR = TaskVector({})


class Setting(NamedTuple):
    """An encoder of one geometry, its head, and random inputs and targets of one step; of an image
    tower also a task vector, and the images before they were pixels."""

    encoder: Encoder
    head: torch.Tensor | None
    inputs: torch.Tensor
    targets: torch.Tensor
    tau: TaskVector = NO_VECTOR
    images: np.ndarray | None = None

    @property
    def geometry(self) -> ViT | T5:
        return self.encoder.modality.geometry

    def examples(self) -> Images:
        """The images as an evaluation reads them."""
        return Images(self.images, self.targets.cpu().numpy(), self.head)


def setting(name: str, batch: int, device) -> Setting:
    return (texts if name in TEXTS else images)(name, batch, device)


def drawn(shapes: dict, generator, device) -> dict:
    """Random tensors of these shapes; norms scale by 1."""
    return {
        key: (0.02 * torch.randn(shape, generator=generator) + key.endswith("norm.weight")).to(
            device
        )
        for key, shape in shapes.items()
    }


def images(name: str, batch: int, device) -> Setting:
    geometry = GEOMETRIES[name]
    generator = torch.Generator().manual_seed(0)
    theta0 = drawn(geometry.shapes(), generator, device)
    size = geometry.image_size
    some = torch.randint(0, 256, (batch, size, size, 3), generator=generator).byte()
    modality = Vision(geometry, (0.5,) * 3, (0.25,) * 3)
    return Setting(
        Encoder(name, theta0, modality, "", ""),
        torch.randn(CLASSES, geometry.embed_dim, generator=generator).to(device),
        modality.pixels(some.to(device)),
        torch.randint(0, CLASSES, (batch,), generator=generator).to(device),
        TaskVector({k: 0.01 * t for k, t in theta0.items()}),
        some.numpy(),
    )


def texts(name: str, batch: int, device) -> Setting:
    """The embedded T5 with its own weights, others with random ones. Later rows end in
    padding."""
    generator = torch.Generator().manual_seed(0)
    if name == "embedded-t5":
        geometry = t5_geometry(name, read_json(EMBEDDED_T5 / "config.json"))
        theta0 = read_tensors(EMBEDDED_T5 / "model.safetensors", device)
    else:
        geometry = t5_geometry(name, T5_BASE)
        theta0 = drawn(geometry.shapes(), generator, device)
    _, length, target = TEXTS[name]
    source = torch.randint(2, geometry.vocab_size, (batch, length), generator=generator)
    for i, row in enumerate(source):
        row[length - i * length // (2 * batch) :] = geometry.pad
    targets = torch.randint(2, geometry.vocab_size, (batch, target), generator=generator)
    encoder = Encoder(name, theta0, Language(geometry), "", "")
    return Setting(encoder, None, source.to(device), targets.to(device))


def definition(mode: str, modality: str) -> dict:
    """A mode's definition, as it is for a modality."""
    found = yaml.safe_load((ROOT / f"config/modes/{mode}.yaml").read_text())
    return {**found, "train": Mode(**found).patterns(modality)}


def training(given: Setting, mode: str, precision: str = "auto"):
    """One training step of a mode, as a function; it holds what training does, and no more."""
    modality = given.encoder.modality
    moves = definition(mode, modality.name)
    run = Training(
        given.encoder.theta0,
        modality,
        given.head,
        Recipe(**RECIPE),
        moves["train"],
        linearized=moves["linearized"],
        precision=precision,
    )
    inputs, targets = given.inputs, given.targets
    return lambda: run.step(inputs, targets, 1e-5)


# --- Ratios --------------------------------------------------------------------------------------


def train_step_ratio(name: str, batch: int, repeats: int, device) -> dict:
    """One training step, relative to `nonlinear`."""
    given = setting(name, batch, device)
    seconds = medians({mode: training(given, mode) for mode in MODES}, repeats, device)
    return {mode: seconds[mode] / seconds["nonlinear"] for mode in MODES[1:]}


def train_memory_ratio(name: str, batch: int) -> dict:
    """Peak memory of training steps, relative to `nonlinear`, each in a process of its own. On a
    CPU the C library gives freed memory back at once, so that what is in use is measured."""
    peak, environment = {}, {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    for mode in MODES:
        command = [sys.executable, __file__, "--memory", mode, name, str(batch)]
        done = subprocess.run(command, check=True, capture_output=True, env=environment)
        peak[mode] = int(done.stdout)
    return {mode: peak[mode] / peak["nonlinear"] for mode in MODES[1:]}


def train_memory(mode: str, name: str, batch: int) -> int:
    """Peak bytes of three training steps: weights, moments, gradients and activations, without the
    workspace that libraries take once."""
    device = torch_device()
    training(setting(name, 2, device), mode)()
    before = start_memory(device)
    train = training(setting(name, batch, device), mode)
    for _ in range(3):
        train()
    return peak_memory(device) - before


@torch.inference_mode()
def alpha_grid_ratio(name: str, batch: int, points: int, repeats: int, device) -> dict:
    """nonlinear: a grid of α ÷ (as many bare forward passes); ntk: ÷ one linearized pass."""
    alphas = np.linspace(0, 1, points).tolist()
    given = setting(name, batch, device)
    theta0, modality, tau = given.encoder.theta0, given.encoder.modality, given.tau
    geometry, split = given.geometry, {"task": given.examples()}

    def grid(linearized):
        return lambda: modality.accuracies(theta0, tau, alphas, split, linearized, "auto")

    def bare(function):
        return lambda: in_parts(function, given.inputs, "auto")

    def forwards(pixels):
        return [encode(theta0, pixels, geometry) for _ in alphas]

    actions = {
        "bare": bare(forwards),
        "grid": grid(False),
        "bare linearized": bare(lambda x: encode_linearized(theta0, tau.tensors, x, geometry)),
        "grid linearized": grid(True),
    }
    seconds = medians(actions, repeats, device)
    return {
        "nonlinear": seconds["grid"] / seconds["bare"],
        "ntk": seconds["grid linearized"] / seconds["bare linearized"],
    }


@torch.inference_mode()
def generation_ratio(name: str, points: int, repeats: int, device) -> dict:
    """Generation from f_lin for a grid of α ÷ for one α. alike: all α choose the same tokens;
    apart: each chooses its own, from the second token on."""
    given = setting(name, TEXTS[name][0], device)
    theta0, source = given.encoder.theta0, given.inputs
    geometry = replace(given.geometry, eos=-1)  # none ends before the others
    generator = torch.Generator().manual_seed(1)
    tau = {
        key: (tensor.std().cpu() * torch.randn(tensor.shape, generator=generator)).to(device)
        for key, tensor in theta0.items()
        if tensor.dim() > 1
    }
    grids = {"one": [0.0], "alike": [0.0] * points, "apart": np.linspace(-9, 9, points).tolist()}

    def generation(alphas):
        return lambda: generate(theta0, source, geometry, ANSWER, tau, alphas)

    seconds = medians({key: generation(grid) for key, grid in grids.items()}, repeats, device)
    return {key: seconds[key] / seconds["one"] for key in ("alike", "apart")}


@torch.inference_mode()
def heatmap_ratio(name: str, batch: int, points: int, repeats: int, device) -> dict:
    """One task's part of a heatmap. nonlinear: ÷ the fewest merged models and their forward passes
    (points²: those on the task's own axis are its individual models); ntk: ÷ one forward pass and
    two jvps."""
    given = setting(name, batch, device)
    theta0, geometry, pixels = given.encoder.theta0, given.geometry, given.inputs
    taus = [given.tau, -0.5 * given.tau]
    alphas = np.linspace(-2, 2, points).tolist()
    labels = np.zeros(batch, np.int64)
    samples = [Sample(given.images, np.full(batch, 1 / batch), labels, given.head)]

    def heatmap(linearized):
        return lambda: disentanglement_errors(given.encoder, taus, samples, alphas, linearized)

    def merged():
        for a in alphas:
            for b in alphas:
                theta = (a * taus[0] + b * taus[1]).apply(theta0)
                encode(theta, pixels, geometry)

    def jvps():
        encode(theta0, pixels, geometry)
        for tau in taus:
            with sdpa_kernel(SDPBackend.MATH):
                torch.func.jvp(lambda p: encode(p, pixels, geometry), (theta0,), (tau.tensors,))

    actions = {
        "merged": merged,
        "heatmap": heatmap(False),
        "jvps": jvps,
        "heatmap linearized": heatmap(True),
    }
    seconds = medians(actions, repeats, device)
    return {
        "nonlinear": seconds["heatmap"] / seconds["merged"],
        "ntk": seconds["heatmap linearized"] / seconds["jvps"],
    }


def evaluation_speedup(name: str, repeats: int, device) -> float:
    """Decoding and transforming a 500 × 375 photograph with open_clip's preprocessing, relative to
    reading and normalising it from the array on disk: seconds per image."""
    import open_clip
    from PIL import Image
    from skimage import data

    size = GEOMETRIES[name].image_size
    photograph = Image.fromarray(data.astronaut()).resize((500, 375))
    buffer = io.BytesIO()
    photograph.save(buffer, "JPEG", quality=90)
    transform = open_clip.image_transform(size, is_train=False)
    count = 32  # fresh memory of more than 32 MB costs more than what is done with it
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        square = np.asarray(photograph.resize((size, size)))
        np.save(path, np.broadcast_to(square, (count, size, size, 3)))
        stored = np.load(path, mmap_mode="r")

        def decode():
            for _ in range(count):
                transform(Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")).to(device)

        def read():
            stored_images = torch.from_numpy(np.array(stored)).to(device)
            to_pixels(stored_images, size, (0.5,) * 3, (0.25,) * 3)

        seconds = medians({"decode": decode, "read": read}, repeats, device)
    return seconds["decode"] / seconds["read"]


def folder(images: int) -> dict:
    """The data stage of a folder of 28 × 28 PNGs, on two processes, as a command: its seconds, and
    those relative to opening and decoding the files one after another and no more."""
    from PIL import Image

    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as root:
        paths = []
        for i in range(images):
            path = Path(root, "digits", "test" if i % 7 == 0 else "train", str(i % 10), f"{i}.png")
            if i < 70:
                path.parent.mkdir(parents=True, exist_ok=True)
            digit = np.zeros((28, 28), np.uint8)
            digit[4:24, 4:24] = generator.integers(0, 256, (20, 20))
            Image.fromarray(digit).save(path)
            paths.append(path)
        began = time.perf_counter()
        for path in paths:
            Image.open(path).convert("RGB")
        bare = time.perf_counter() - began
        settings = json.dumps({"path": str(Path(root, "digits"))})
        command = [sys.executable, "-m", "task_arithmetic", "stage", "data", "--task", "digits"]
        command += ["--settings", settings, "--threads", "2", "--output", str(Path(root, "out"))]
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds = time.perf_counter() - began
    return {"images": images, "data_seconds": seconds, "data_ratio": seconds / bare}


def startup_seconds(name: str, repeats: int) -> float:
    """Seconds from the start of a real `task-arithmetic finetune` to its first step: median."""
    code = (
        "import os, sys, time\n"
        "from task_arithmetic import cli\n"
        "from task_arithmetic.core.training import Training\n"
        "def first(*arguments):\n"
        "    print(time.time(), flush=True)\n"
        "    os._exit(0)\n"
        "Training.gradient = first\n"
        "cli.main(sys.argv[1:])\n"
    )
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        options = finetune_options(name, Path(folder))
        for _ in range(repeats):
            began = time.time()
            command = [sys.executable, "-c", code, "stage", "finetune", *options]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            seconds.append(float(done.stdout.split()[-1]) - began)
    return statistics.median(seconds)


def finetune_options(name: str, folder: Path) -> list[str]:
    """Real artifacts of one geometry in `folder`, and the command's options for them."""
    given = setting(name, 16, torch.device("cpu"))
    tower = folder / "encoder/image_tower.safetensors"
    write_tensors(tower, given.encoder.theta0, {})
    geometry = {k: v for k, v in asdict(given.geometry).items() if k != "text"}
    about = {"name": name, "geometry": geometry, "mean": [0.5] * 3, "std": [0.25] * 3}
    about["theta0_sha256"] = sha256_of_file(tower)
    write_json(folder / "encoder/encoder.json", about)
    write_tensors(folder / "head.safetensors", {"head": given.head}, {})
    size = given.images.shape[1]
    (folder / "data").mkdir()
    np.save(folder / "data/train_images.npy", given.images.reshape(-1, 3))
    np.save(folder / "data/train_sizes.npy", np.full((16, 2), size, np.int32))
    np.save(folder / "data/train_labels.npy", given.targets.numpy())
    names = [str(i) for i in range(CLASSES)]
    files = {path.name: sha256_of_file(path) for path in (folder / "data").iterdir()}
    Manifest("benchmark", names, files).write(folder / "data")
    recipe = {**RECIPE, "steps": 2, "warmup_steps": 1, "batch_size": 16}
    recipe |= {"crop_scale": [0.9, 1.0], "checkpoint_steps": 100}
    moves = {k: definition("attention", "vision")[k] for k in ("train", "linearized")}
    settings = {"mode": moves, "finetune": recipe, "limit": None}
    values = {
        **{"encoder-dir": folder / "encoder", "head": folder / "head.safetensors"},
        **{"data-dir": folder / "data", "encoder": name, "mode": "attention", "task": "random"},
        **{"seed": 0, "settings": json.dumps(settings)},
        **{"output": folder / "moved.safetensors", "log": folder / "log.csv"},
    }
    return [word for key, value in values.items() for word in (f"--{key}", str(value))]


# --- Throughput ----------------------------------------------------------------------------------


def throughput(name: str, batch: int, repeats: int, device, peak_tflops: float | None) -> dict:
    """Images per second of training in each mode and of evaluation through f and f_lin; with a
    peak, the share of it that the model's own operations reach (one forward pass for evaluation,
    three for training: 1 + 2, whatever a mode saves or adds)."""
    given = setting(name, batch, device)
    theta0, geometry = given.encoder.theta0, given.geometry

    def evaluation(function):
        @torch.inference_mode()
        def run():
            in_parts(function, given.inputs, "auto")

        return run

    actions = {f"train {mode}": training(given, mode) for mode in MODES}
    actions["evaluate"] = evaluation(lambda x: (encode(theta0, x, geometry),))
    actions["evaluate linearized"] = evaluation(
        lambda x: encode_linearized(theta0, given.tau.tensors, x, geometry)
    )
    found = {}
    for action, seconds in medians(actions, repeats, device).items():
        found[action] = {"images_per_second": batch / seconds}
        if peak_tflops:
            passes = 3 if action.startswith("train") else 1
            done = passes * flops("image", geometry, None) * batch / seconds
            found[action]["share_of_peak"] = done / (peak_tflops * 1e12)
    return found


# --- The command ---------------------------------------------------------------------------------


def measured(name: str, arguments, device) -> dict:
    """All ratios of one geometry."""
    repeats, cuda = arguments.repeats, device.type == "cuda"
    if name == "folder":
        return folder(70_000)
    if name == "merging":
        import merging  # beside this file

        return merging.measured(repeats)
    if name == "exporting":
        import exporting  # beside this file

        return exporting.measured(repeats)
    if name in TEXTS:
        size = dict(zip(("batch", "source", "target"), TEXTS[name], strict=True)) | {"alphas": 21}
        return {
            **size,
            "train_step_ratio": train_step_ratio(name, size["batch"], repeats, device),
            "train_memory_ratio": train_memory_ratio(name, size["batch"]),
            "generation_ratio": generation_ratio(name, size["alphas"], repeats, device),
        }
    if name == "embedded-base":
        few, size = repeats, {"batch": 128, "grid_batch": 128, "alphas": 21, "heatmap_points": 15}
    else:  # on a CPU a pass of ViT-B-32 takes seconds: smaller grids of like cells
        few, size = (
            repeats if cuda else 1,
            {
                "batch": arguments.batch,
                "grid_batch": 2 * arguments.batch,
                "alphas": 21 if cuda else 4,
                "heatmap_points": 15 if cuda else 3,
            },
        )
    batch, grid, points = size["batch"], size["grid_batch"], size["heatmap_points"]
    return {
        **size,
        "train_step_ratio": train_step_ratio(name, batch, min(repeats, 2 * few), device),
        "train_memory_ratio": train_memory_ratio(name, batch),
        "alpha_grid_ratio": alpha_grid_ratio(name, grid, size["alphas"], few, device),
        "heatmap_ratio": heatmap_ratio(name, grid, points, few, device),
        "evaluation_speedup": evaluation_speedup(name, repeats, device),
        "startup_seconds": startup_seconds(name, repeats),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="rows to make anew; others stay")
    parser.add_argument("--repeats", type=int, default=5, help="counted repetitions")
    parser.add_argument("--batch", type=int, default=16, help="images a step for ViT-B-32")
    parser.add_argument("--peak-tflops", type=float, help="the GPU's dense peak in its precision")
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)  # a child process
    arguments = parser.parse_args()
    if arguments.memory:
        mode, name, batch = arguments.memory
        print(train_memory(mode, name, int(batch)))
        return
    device, repeats = torch_device(), arguments.repeats
    cuda = device.type == "cuda"
    path = ROOT / "benchmarks/latest.json"
    result = read_json(path) if arguments.names else {}
    how = {
        "time": now(),
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or "CPU",
        "threads": torch.get_num_threads(),
        "precision": "bf16" if uses_bf16("auto", device) else "float32",
        "versions": versions(),
        "command": f"python benchmarks/run.py --repeats {repeats} --batch {arguments.batch}",
    }
    for name in arguments.names or (*NAMES, *TEXTS, "folder", "merging", "exporting"):
        if name == "embedded-t5" and not EMBEDDED_T5.is_dir():
            print(f"{name:14} is not there")
            continue
        found = measured(name, arguments, device)
        result[name] = {**how, **found}
        for key, value in found.items():
            for mode, ratio in value.items() if isinstance(value, dict) else [("", value)]:
                print(f"{name:14} {key:20} {mode:10} {ratio:8.2f}", flush=True)
    if cuda and not arguments.names:
        result["throughput"] = {}
        for name, batch in (("ViT-B-32", 128), ("ViT-B-16", 128), ("ViT-L-14", 64)):
            found = throughput(name, batch, repeats, device, arguments.peak_tflops)
            result["throughput"][name] = found
            for action, values in found.items():
                print(f"{name:14} {action:20}", *(f"{k} {v:.3g}" for k, v in values.items()))
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
