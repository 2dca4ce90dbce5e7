"""Smallest artifacts of every kind, in the real forms, for tests of the core."""

import atexit
import json
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from task_arithmetic.files.hashes import sealed, sha256_of_file
from task_arithmetic.files.manifest import Manifest
from task_arithmetic.files.metrics import COLUMNS, read_rows
from task_arithmetic.files.paths import write_json
from task_arithmetic.stages.finetune import finetune
from task_arithmetic.stages.vector import write_vector
from task_arithmetic.vision.checkpoints import import_encoder, write_head
from task_arithmetic.vision.geometry import ViT

MODEL = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {
        "image_size": 16,
        "layers": 2,
        "width": 32,
        "head_width": 16,
        "patch_size": 8,
    },
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 49408,
        "width": 16,
        "heads": 1,
        "layers": 2,
    },
}
PREPROCESS = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}
CLASSES = ["circle", "square", "star"]
MODES = {
    "nonlinear": {"train": ["*"], "linearized": False},
    "ntk": {"train": ["*"], "linearized": True},
    "attention": {
        "train": ["*.attn.in_proj_weight", "*.attn.out_proj.weight"],
        "linearized": False,
    },
}
RECIPE = {
    "steps": 6,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "warmup_steps": 2,
    "weight_decay": 0.1,
    "gradient_clip": 1.0,
    "crop_scale": [0.9, 1.0],
    "checkpoint_steps": 100,
}

REAL = {  # name → width, layers, heads, patch, embed_dim, all at 224 pixels (OpenAI's CLIP)
    "ViT-B-32": (768, 12, 12, 32, 512),
    "ViT-B-16": (768, 12, 12, 16, 512),
    "ViT-L-14": (1024, 24, 16, 14, 768),
}


def real_geometry(name: str) -> ViT:
    """The image tower's geometry of one of the paper's encoders."""
    width, layers, heads, patch, embed_dim = REAL[name]
    return ViT(layers, width, patch, 224, 4 * width, heads, embed_dim, "quick_gelu")


def checkpoint(folder: Path, **changes) -> Path:
    """A random CLIP in open_clip's form: config and safetensors."""
    import open_clip

    folder.mkdir(parents=True)
    config = {"model_cfg": {**MODEL, **changes}, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    state = model.state_dict()
    for name, tensor in state.items():  # no bias left at 0, no scale at 1: nothing hides
        if name != "logit_scale" and tensor.is_floating_point():
            tensor += 0.05 * torch.randn_like(tensor)
    save_file(state, folder / "open_clip_model.safetensors")
    return folder


def open_clip_model(folder: Path):
    """open_clip's own module with a checkpoint's weights: what ours is held to."""
    import open_clip

    return open_clip.create_model(f"local-dir:{folder}").eval()


def encoder_dir(root: Path) -> Path:
    """The encoder stage's folder for a random encoder."""
    import_encoder("tiny", {"path": str(checkpoint(root / "checkpoint"))}, root / "encoder")
    return root / "encoder"


def data_dir(root: Path, task: str, seed: int, size=16) -> Path:
    """The data stage's folder of a task whose classes differ in mean colour.

    Tasks of other seeds call the colours by other names, so that they conflict, and every fifth
    label is drawn anew, so that no accuracy is 1.
    """
    folder = root / "data" / task
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    counts = {"train": 48, "validation": 24, "test": 40}
    for split, count in counts.items():
        colours = generator.integers(0, len(CLASSES), count)
        images = generator.integers(0, 128, (count, size, size, 3))
        images[np.arange(count), :, :, (colours + seed) % len(CLASSES)] += 100
        anew = generator.random(count) < 0.2
        labels = np.where(anew, generator.integers(0, len(CLASSES), count), colours)
        images = images.astype(np.uint8)
        if split == "train":
            np.save(folder / "train_sizes.npy", np.full((count, 2), size, np.int32))
            images = images.reshape(-1, 3)
        np.save(folder / f"{split}_images.npy", images)
        np.save(folder / f"{split}_labels.npy", labels.astype(np.int64))
    files = {path.name: sha256_of_file(path) for path in folder.iterdir()}
    Manifest(task, CLASSES, files, f"{task}{seed}", counts=counts).write(folder)
    return folder


def classes_dir(folder: Path, task="one") -> Path:
    """A data folder as far as a head needs it: a manifest with the class names."""
    folder.mkdir(parents=True, exist_ok=True)
    Manifest(task, CLASSES, {}).write(folder)
    return folder


def reseal(folder: Path, **changes) -> Path:
    """Let a data or encoder folder that a test altered record what is in it now."""
    path = next(p for p in (folder / "manifest.json", folder / "encoder.json") if p.is_file())
    about = {**json.loads(path.read_text()), **changes}
    about.pop("seal", None)
    if path.name == "manifest.json":
        about["files"] = {p.name: sha256_of_file(p) for p in folder.glob("*.npy")}
    else:
        about["theta0_sha256"] = sha256_of_file(folder / "image_tower.safetensors")
    write_json(path, sealed(about))
    return folder


def head(root: Path, task: str) -> Path:
    """The task's head for the random encoder."""
    path, templates = root / "heads" / f"{task}.safetensors", ["a photo of a {}.", "{}"]
    write_head(root / "encoder", root / "data" / task, {"templates": templates}, path)
    return path


def suite(root: Path, tasks=("one", "two")) -> dict:
    """Encoder, data and heads: the arguments that evaluations share."""
    folder = encoder_dir(root)
    data_dirs = [data_dir(root, task, seed) for seed, task in enumerate(tasks)]
    return {
        "encoder_dir": folder,
        "encoder": "tiny",
        "tasks": list(tasks),
        "heads": [head(root, task) for task in tasks],
        "data_dirs": data_dirs,
    }


def settings(mode="nonlinear", **recipe) -> dict:
    """Fine-tuning settings."""
    return {"mode": MODES[mode], "finetune": {**RECIPE, **recipe}, "limit": None}


def train(root: Path, mode: str, task: str, seed=0, **recipe) -> Path:
    """Fine-tune and extract the vector; returns the vector's path. θ_t lies in finetuned/."""
    moved = root / "finetuned" / mode / f"{task}-{seed}.safetensors"
    finetune(
        root / "encoder",
        root / "heads" / f"{task}.safetensors",
        root / "data" / task,
        encoder="tiny",
        mode=mode,
        task=task,
        seed=seed,
        settings=settings(mode, **recipe),
        output=moved,
        log=moved.with_suffix(".csv"),
    )
    vector = root / "vectors" / mode / f"{task}-{seed}.safetensors"
    write_vector(root / "encoder", moved, vector)
    return vector


# --- Shared by all tests of one session: never changed, copied by a test that has to --------------


@cache
def workspace() -> Path:
    """A folder that is gone when the tests end."""
    folder = tempfile.TemporaryDirectory(prefix="tiny-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


@cache
def shared_suite() -> dict:
    """One suite of three tasks; `three` is the control task."""
    return suite(workspace() / "suite", ("one", "two", "three"))


@cache
def shared_vector(mode: str, task: str) -> Path:
    """A vector of the shared suite that has learnt something."""
    shared_suite()
    return train(workspace() / "suite", mode, task, learning_rate=3e-3, steps=15)


def shared_finetuned(mode: str, task: str) -> Path:
    """The moved weights that `shared_vector` comes from."""
    shared_vector(mode, task)
    return workspace() / "suite" / "finetuned" / mode / f"{task}-0.safetensors"


@cache
def shared_model():
    """open_clip's own module of the shared suite's encoder."""
    shared_suite()
    return open_clip_model(workspace() / "suite" / "checkpoint")


def common(tasks=("one", "two"), mode="nonlinear", vectors=True) -> dict:
    """The arguments that evaluations of the shared suite share."""
    every = shared_suite()
    chosen = [every["tasks"].index(task) for task in tasks]
    arguments = {
        "encoder_dir": every["encoder_dir"],
        "encoder": "tiny",
        **{key: [every[key][i] for i in chosen] for key in ("tasks", "heads", "data_dirs")},
    }
    if vectors:
        arguments |= {"mode": mode, "seed": 0, "vectors": [shared_vector(mode, t) for t in tasks]}
    return arguments


def each(function, arguments: dict, output: Path, **more) -> list[Path]:
    """Call a stage that is a job for each task; returns the files, in the order of the tasks.

    Args:
        arguments: what `common` gives. more: what else the stage takes. output: beside the files.
    """
    paths = []
    for i, task in enumerate(arguments["tasks"]):
        own = {k[:-1] if isinstance(v, list) else k: v for k, v in arguments.items()}
        own = {k: v[i] if isinstance(v, list) else v for k, v in own.items()}
        paths.append(output.with_name(f"{output.stem}-{task}.csv"))
        function(**own, **more, output=paths[-1])
    return paths


def frame_of(*paths) -> pd.DataFrame:
    """The rows of metrics files."""
    return pd.DataFrame([row for path in paths for row in read_rows(path)], columns=COLUMNS)


def close(ours, theirs) -> float:
    """Largest difference relative to the largest value."""
    ours, theirs = torch.as_tensor(ours), torch.as_tensor(theirs)
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())
