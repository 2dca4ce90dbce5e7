"""Is the embedded suite in its bands? Zero-shot and fine-tuned accuracy of every task.

    python tools/embedded/bands.py --encoder embedded-base --rate 5e-4

A check of the suite on open_clip's own model, independent of the pipeline, run in the root of the
repository. It never merges anything: the suite is tuned to these two numbers alone.
"""

import argparse
import copy
import math
from pathlib import Path

import numpy as np
import open_clip
import torch
import yaml
from open_clip.tokenizer import SimpleTokenizer
from torch.nn.functional import cross_entropy, normalize

from pretrain import MEAN, STD
from pretraining import ENCODERS_FOLDER
from task_arithmetic.embedded.tasks import CLASSES, COUNTS, draw_task

STEPS, BATCH, WARMUP = 100, 128, 10


def prepare(images: np.ndarray) -> torch.Tensor:
    """(N, 32, 32, 3) uint8 -> normalised float32 (N, 3, 32, 32)."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def zero_shot_head(
    model, tokenizer, classes: tuple[str, ...], templates: list[str]
) -> torch.Tensor:
    """Frozen head (classes, width): mean of the normalised prompts, normalised, times the scale."""
    with torch.no_grad():
        rows = []
        for name in classes:
            texts = tokenizer([template.format(name) for template in templates])
            mean = model.encode_text(texts, normalize=True).mean(dim=0)
            rows.append(mean / mean.norm())
        return torch.stack(rows) * model.logit_scale.exp()


def accuracy(visual, head: torch.Tensor, pixels: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of images whose most likely class is their label."""
    with torch.no_grad():
        features = torch.cat([visual(batch) for batch in pixels.split(250)])
    logits = normalize(features, dim=-1) @ head.T
    return (logits.argmax(dim=1) == labels).float().mean().item()


def fine_tune(visual, head, pixels, labels, rate: float, seed: int = 0) -> torch.nn.Module:
    """Train a copy of the whole image tower under the frozen head; returns it."""
    visual = copy.deepcopy(visual).train()
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(visual.parameters(), lr=rate, weight_decay=0.1)
    order = np.empty(0, np.int64)
    for step in range(STEPS):
        if len(order) < BATCH:
            order = rng.permutation(len(pixels))
        chosen, order = torch.from_numpy(order[:BATCH].copy()), order[BATCH:]
        factor = (step + 1) / WARMUP
        if step >= WARMUP:
            factor = 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))
        optimizer.param_groups[0]["lr"] = rate * factor
        features = normalize(visual(pixels[chosen]), dim=-1)
        loss = cross_entropy(features @ head.T, labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(visual.parameters(), 1.0)
        optimizer.step()
    return visual.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--encoder", default="embedded-base")
    parser.add_argument("--folder", type=Path, help="default: the shipped encoder")
    parser.add_argument("--config", type=Path, default=Path("config/tasks"))
    parser.add_argument("--tasks", nargs="*", default=list(CLASSES))
    parser.add_argument("--rate", type=float, help="fine-tune too, at this learning rate")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = arguments.folder or ENCODERS_FOLDER / arguments.encoder
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    tokenizer = SimpleTokenizer(
        bpe_path=str(folder / "bpe_merges.txt.gz"), context_length=model.context_length
    )
    rows = []
    for task in arguments.tasks:
        definition = yaml.safe_load((arguments.config / f"{task}.yaml").read_bytes())
        head = zero_shot_head(model, tokenizer, CLASSES[task], definition["templates"])
        splits = {
            split: (prepare(images), torch.from_numpy(labels))
            for split, (images, labels) in draw_task(task).items()
        }
        row = [accuracy(model.visual, head, *splits["test"])]
        if arguments.rate:
            count = COUNTS[task][0] - definition["validation"]
            chosen = torch.randperm(COUNTS[task][0], generator=torch.Generator().manual_seed(0))
            pixels, labels = (part[chosen[:count]] for part in splits["train"])
            tuned = fine_tune(model.visual, head, pixels, labels, arguments.rate)
            row.append(accuracy(tuned, head, *splits["test"]))
        if task != "pictures":
            rows.append(row)
        print(f"{task:12}" + "".join(f"{100 * value:8.1f}" for value in row), flush=True)
    means = 100 * np.mean(rows, axis=0)
    print(f"{'mean':12}" + "".join(f"{value:8.1f}" for value in means) + "  (without pictures)")


if __name__ == "__main__":
    main()
