"""Contrastive pretraining of the embedded encoders, from nothing but a seed.

    python tools/embedded/pretrain.py --encoder embedded-base --output FOLDER

draws the corpus, learns the tokenizer's merges from its captions, trains a small CLIP on one
thread and writes open_clip's own form: open_clip_config.json, open_clip_model.safetensors and
bpe_merges.txt.gz, with a provenance.json beside them.
"""

import argparse
import gzip
import math
import re
import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file

from corpus import SIZE, draw_corpus
from pretraining import machine, scheduled, write_json, write_record

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
CONTEXT = 20  # tokens of a caption, start and end included
MERGES = 600  # at most; learning stops when every word of the corpus is one token

VISION = {
    "embedded-small": {"width": 64, "layers": 3, "head_width": 32},
    "embedded-base": {"width": 96, "layers": 4, "head_width": 32},
}
# As openai's CLIP: one encoder with QuickGELU, the other with GELU, so that both are exercised.
QUICK_GELU = {"embedded-small": False, "embedded-base": True}
STEPS = {"embedded-small": 10000, "embedded-base": 7000}
BATCH = 256
LEARNING_RATE = 1.5e-3
WEIGHT_DECAY = 0.1
WARMUP = 300


def model_config(encoder: str, vocabulary: int) -> dict:
    """open_clip_config.json of an embedded encoder; vocabulary: number of tokens."""
    vision = {"image_size": 32, "patch_size": 8, **VISION[encoder]}
    text = {
        "context_length": CONTEXT,
        "vocab_size": vocabulary,
        "width": 64,
        "heads": 2,
        "layers": 2,
    }
    return {
        "model_cfg": {
            "embed_dim": 64,
            "quick_gelu": QUICK_GELU[encoder],
            "vision_cfg": vision,
            "text_cfg": text,
        },
        "preprocess_cfg": {
            "mean": list(MEAN),
            "std": list(STD),
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }


def learn_merges(captions: list[str], most: int = MERGES) -> list[tuple[str, str]]:
    """Byte pair merges of the captions' words, most frequent pair first (ties: alphabetical)."""
    counts = Counter(w for c in captions for w in re.findall(r"[a-z]+|[^\sa-z0-9]+", c.lower()))
    words = {tuple(word[:-1]) + (word[-1] + "</w>",): n for word, n in counts.items()}
    merges = []
    while len(merges) < most:
        pairs = Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:], strict=False):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = {_merge(word, best): count for word, count in words.items()}
    return merges


def _merge(word: tuple[str, ...], pair: tuple[str, ...]) -> tuple[str, ...]:
    merged, index = [], 0
    while index < len(word):
        if word[index : index + 2] == pair:
            merged.append(word[index] + word[index + 1])
            index += 2
        else:
            merged.append(word[index])
            index += 1
    return tuple(merged)


def write_merges(merges: list[tuple[str, str]], path: Path) -> None:
    """open_clip's merges file: a header, then a pair a line, no newline at the end."""
    lines = ["#version: task_arithmetic embedded"] + [" ".join(pair) for pair in merges]
    path.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))


def augment(rng: Generator, images: np.ndarray) -> torch.Tensor:
    """A batch (B, 32, 32, 3) uint8, moved, lit and degraded a little -> float32 (B, 3, 32, 32).

    Each image is shifted by up to two pixels, its channels gain up to 15 % and 12 grey levels,
    a third get noise and a fifth a 3 x 3 blur; then CLIP's normalisation.
    """
    count = len(images)
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    rows = rng.integers(0, 5, (count, 1, 1)) + np.arange(32)[None, :, None]
    columns = rng.integers(0, 5, (count, 1, 1)) + np.arange(32)[None, None, :]
    pixels = torch.from_numpy(padded[np.arange(count)[:, None, None], rows, columns])
    pixels = pixels.permute(0, 3, 1, 2).float().contiguous() / 255
    gain = rng.normal(1, 0.12, (count, 1, 1, 1)) + rng.normal(0, 0.04, (count, 3, 1, 1))
    offset = rng.normal(0, 0.05, (count, 1, 1, 1))
    noise = rng.uniform(0, 0.06, (count, 1, 1, 1)) * (rng.random((count, 1, 1, 1)) < 0.33)
    blurred = torch.from_numpy(rng.random(count) < 0.2)
    pixels[blurred] = torch.nn.functional.avg_pool2d(
        pixels[blurred], 3, stride=1, padding=1, count_include_pad=False
    )
    grain = rng.standard_normal(pixels.shape, dtype=np.float32) * noise.astype(np.float32)
    pixels = (
        0.5 + (pixels - 0.5) * torch.from_numpy(gain).float() + torch.from_numpy(offset).float()
    )
    pixels = (pixels + torch.from_numpy(grain)).clamp(0, 1)
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return (pixels - mean) / std


def contrastive_loss(image_features, text_features, scale, same: torch.Tensor) -> torch.Tensor:
    """CLIP's symmetric loss where equal captions (same, (B, B) bool) share the probability."""
    logits = scale * image_features @ text_features.T
    target = same.float() / same.sum(dim=1, keepdim=True)
    forward = -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()
    backward = -(target * logits.T.log_softmax(dim=1)).sum(dim=1).mean()
    return (forward + backward) / 2


def save(
    model: CLIP, config: dict, merges: list[tuple[str, str]], output: Path, record: dict
) -> None:
    """Write the encoder's folder: weights first under a temporary name, provenance last."""
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "open_clip_config.json", config)
    write_merges(merges, output / "bpe_merges.txt.gz")
    weights = output / "open_clip_model.safetensors"
    temporary = output / ".partial.safetensors"
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, temporary, metadata={"format": "pt"})
    temporary.chmod(0o644)
    temporary.replace(weights)
    names = ("open_clip_config.json", "open_clip_model.safetensors", "bpe_merges.txt.gz")
    write_record(output, record, names)


def pretrain(
    encoder: str,
    output: Path,
    seed: int = 0,
    steps: int | None = None,
    size: int = SIZE,
    corpus: Path | None = None,
    checkpoint_steps: int = 500,
) -> None:
    """Train an embedded encoder and write its folder; corpus: optional .npz cache of the images.

    Progress goes to standard output, a line every 50 steps; the folder is complete and loadable
    from the first second on (untrained weights) and again every `checkpoint_steps`.
    """
    started = time.monotonic()
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 2])
    steps = STEPS[encoder] if steps is None else steps
    images, captions = _load_corpus(corpus, seed, size)
    merges = learn_merges(captions)
    config = model_config(encoder, 512 + len(merges) + 2)
    model = CLIP(**config["model_cfg"]).train()
    record = {
        "encoder": encoder,
        "command": f"python tools/embedded/pretrain.py --encoder {encoder} "
        f"--seed {seed} --steps {steps} --output FOLDER",
        "seed": seed,
        "steps": 0,
        "batch_size": BATCH,
        "learning_rate": LEARNING_RATE,
        "corpus_images": size,
        **machine("torch", "open_clip_torch", "numpy", "pillow", "matplotlib"),
    }
    save(model, config, merges, output, record)
    print(f"{encoder}: {len(images)} images, {len(set(captions))} captions, {len(merges)} merges")

    distinct_captions = sorted(set(captions))
    number = {caption: index for index, caption in enumerate(distinct_captions)}
    caption_of = torch.tensor([number[caption] for caption in captions])
    tokenizer = SimpleTokenizer(bpe_path=str(output / "bpe_merges.txt.gz"), context_length=CONTEXT)
    tokens = tokenizer(distinct_captions)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0}],
        lr=LEARNING_RATE,
        betas=(0.9, 0.98),
        eps=1e-6,
    )
    order, total = np.empty(0, np.int64), 0.0
    for step in range(steps):
        if len(order) < BATCH:
            order = rng.permutation(len(images))
        chosen, order = order[:BATCH], order[BATCH:]
        for group in optimizer.param_groups:
            group["lr"] = scheduled(step, LEARNING_RATE, WARMUP, steps)
        image_features = model.encode_image(augment(rng, images[chosen]), normalize=True)
        # Equal captions are encoded once.
        unique, position = caption_of[torch.from_numpy(chosen)].unique(return_inverse=True)
        text_features = model.encode_text(tokens[unique], normalize=True)[position]
        same = position[:, None] == position[None, :]
        loss = contrastive_loss(image_features, text_features, model.logit_scale.exp(), same)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        total += loss.item()
        record |= {"steps": step + 1, "seconds": round(time.monotonic() - started, 1)}
        if (step + 1) % 50 == 0:
            scale = model.logit_scale.exp().item()
            rate = record["seconds"]
            print(
                f"step {step + 1} loss {total / 50:.3f} scale {scale:.1f} seconds {rate}",
                flush=True,
            )
            total = 0.0
        if (step + 1) % checkpoint_steps == 0 or step + 1 == steps:
            save(model, config, merges, output, record)


def _load_corpus(cache: Path | None, seed: int, size: int) -> tuple[np.ndarray, list[str]]:
    if cache and cache.exists():
        with np.load(cache) as stored:
            return stored["images"], stored["captions"].tolist()
    images, captions = draw_corpus(seed, size)
    if cache:
        temporary = cache.with_suffix(".partial.npz")
        np.savez(temporary, images=images, captions=np.asarray(captions))
        shutil.move(temporary, cache)
    return images, captions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--encoder", choices=sorted(VISION), required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="default: as the shipped encoder")
    parser.add_argument("--size", type=int, default=SIZE, help="images of the corpus")
    parser.add_argument("--corpus", type=Path, help="cache of the drawn corpus (.npz)")
    arguments = parser.parse_args()
    pretrain(
        arguments.encoder,
        arguments.output,
        arguments.seed,
        arguments.steps,
        arguments.size,
        arguments.corpus,
    )


if __name__ == "__main__":
    main()
