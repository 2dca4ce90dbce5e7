"""Time the hot paths against each other, in one run on one machine: `make bench`.

Prints ratios and writes benchmarks/latest.json. Every ratio compares medians of interleaved
repetitions, so that a busy machine slows both sides alike. Random weights: speed does not depend
on them.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import yaml

from task_arithmetic.artifacts import now, versions
from task_arithmetic.encoder import encode, encode_linearized, image_tower_shapes
from task_arithmetic.evaluate import accuracies
from task_arithmetic.finetune import best_device, start, step
from task_arithmetic.vector import TaskVector

ROOT = Path(__file__).resolve().parents[1]
MODES = ("nonlinear", "ntk", "attention")
ALPHAS = [round(0.05 * i, 2) for i in range(21)]
RECIPE = {"learning_rate": 1e-5, "weight_decay": 0.1, "gradient_clip": 1.0}
VIT_B_32 = {
    "image_size": 224,
    "patch_size": 32,
    "width": 768,
    "layers": 12,
    "heads": 12,
    "mlp_width": 3072,
    "embed_dim": 512,
    "activation": "quick_gelu",
}
EMBEDDED = {
    "image_size": 32,
    "patch_size": 8,
    "width": 96,
    "layers": 4,
    "heads": 3,
    "mlp_width": 384,
    "embed_dim": 64,
    "activation": "gelu",
}


def medians(actions: dict, repeats: int, device) -> dict:
    """Median seconds of each action, the actions taking turns; the first turn is not counted."""
    seconds = {name: [] for name in actions}
    for turn in range(repeats + 1):
        for name, action in actions.items():
            began = time.perf_counter()
            action()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def measure(geometry: dict, batch: int, repeats: int, device) -> dict:
    """The ratios of one geometry.

    train_step_ratio: one training step, relative to `nonlinear`.
    alpha_grid_ratio.nonlinear: a grid of 21 α ÷ (21 × bare forward passes).
    alpha_grid_ratio.ntk: a grid of 21 α ÷ one linearized forward pass.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = image_tower_shapes(geometry)
    theta0 = {k: (0.02 * torch.randn(s, generator=generator)).to(device) for k, s in shapes.items()}
    tau = {k: 0.01 * t for k, t in theta0.items()}
    size = geometry["image_size"]
    images = torch.randint(0, 256, (batch, size, size, 3), generator=generator).byte().numpy()
    labels = torch.randint(0, 10, (batch,), generator=generator)
    head = torch.randn(10, geometry["embed_dim"], generator=generator).to(device)
    about = {"geometry": geometry, "mean": [0.5] * 3, "std": [0.25] * 3}
    pixels = torch.randn(batch, 3, size, size, generator=generator).to(device)

    def train(mode):
        definition = yaml.safe_load((ROOT / f"config/modes/{mode}.yaml").read_text())
        run = start(theta0, about, head, {"mode": definition, "finetune": RECIPE}, mode)
        return lambda: step(run, pixels, labels.to(device), 1e-5)

    def grid(linearized):
        split = {"task": (images, labels.numpy(), head)}
        return lambda: accuracies(theta0, about, TaskVector(tau), ALPHAS, split, linearized)

    steps = medians({mode: train(mode) for mode in MODES}, repeats, device)
    with torch.inference_mode():
        forward = medians(
            {
                "bare": lambda: [encode(theta0, pixels, geometry) for _ in ALPHAS],
                "grid": grid(False),
                "bare_linearized": lambda: encode_linearized(theta0, tau, pixels, geometry),
                "grid_linearized": grid(True),
            },
            repeats,
            device,
        )
    return {
        "step_seconds": steps,
        "train_step_ratio": {mode: steps[mode] / steps["nonlinear"] for mode in MODES[1:]},
        "alpha_grid_ratio": {
            "nonlinear": forward["grid"] / forward["bare"],
            "ntk": forward["grid_linearized"] / forward["bare_linearized"],
        },
    }


def main() -> None:
    """Measure both geometries, print the ratios and write latest.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=16, help="images of ViT-B-32 in one step")
    arguments = parser.parse_args()
    device = best_device()
    result = {
        "time": now(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "command": f"benchmarks/run.py --repeats {arguments.repeats} --batch {arguments.batch}",
        "embedded-base": measure(EMBEDDED, 128, arguments.repeats, device),
        "ViT-B-32": measure(VIT_B_32, arguments.batch, arguments.repeats, device),
    }
    for name in ("embedded-base", "ViT-B-32"):
        for key in ("train_step_ratio", "alpha_grid_ratio"):
            for mode, ratio in result[name][key].items():
                print(f"{name:14} {key}.{mode:10} {ratio:.2f}")
    (ROOT / "benchmarks/latest.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
