"""The language modality: texts, T5, greedy generation, exact match or Spearman's ρ.

See modality.py for what these functions are to training and evaluation. "Accuracy" is what the
paper's Table 3 calls so: the share of generated answers that are the label's words, or, of a task
of scores, Spearman's rank correlation of the generated number with the true one.
"""

from functools import cache
from itertools import takewhile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.precision import in_parts
from ..core.schedule import Recipe, batch_indices
from ..core.vectors import TaskVector
from ..files.hashes import check_file, read_sealed
from ..files.manifest import SPLITS, read_manifest
from ..files.tensors import check_tensors, read_made_by, read_tensors
from .geometry import t5_shapes
from .t5 import Tensors, generate, logits, logits_linearized
from .tokens import Texts, read_tokenizer, read_tokens

WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"


def read_t5(encoder_dir, device="cpu") -> tuple[Tensors, dict]:
    """θ0 and what encoder.json says of it.

    Returns:
        tensors (float32) under transformers' names, a tied embedding once; the description: name,
        geometry, theta0 (the weights' file), theta0_sha256, tokenizer_sha256 …
    Raises:
        UserError: a file is missing or damaged, is not safetensors, or does not fit the geometry.
    """
    encoder_dir = Path(encoder_dir)
    about = read_sealed(encoder_dir / "encoder.json")
    path = encoder_dir / about["theta0"]
    check_file(path, about["theta0_sha256"])
    params = read_tensors(path, device)
    check_tensors(path, params, t5_shapes(about["geometry"]))
    return params, about


UNIT = "text"
MAY_FAIL = True  # an answer may never be right, and ρ may be negative
BATCH = 64  # texts of one forward pass
NO_TARGET = -100  # where a target is padded


# --- Reading -------------------------------------------------------------------------------------


def read_encoder(encoder_dir, device="cpu") -> tuple[Tensors, dict]:
    """θ0 and what encoder.json says of it, with the `folder` that it and the tokenizer lie in.

    Raises:
        UserError: a file is missing or damaged, or does not fit the geometry.
    """
    theta0, about = read_t5(encoder_dir, device)
    return theta0, {**about, "folder": str(encoder_dir)}


def read_examples(head, data_dir, split: str, limit: dict | None, about: dict, device) -> tuple:
    """A split's texts as tokens, from the head; nothing of it is a tensor that the loss needs."""
    return read_tokens(head, read_manifest(data_dir), about, split, limit), None


def remarks(head) -> list[dict]:
    """Rows of metrics on how examples are read: `cut_inputs`, the number of texts of each split
    that were longer than the task's max_tokens."""
    cut = read_made_by(head)["cut"]
    return [{"split": k, "metric": "cut_inputs", "value": cut[k]} for k in SPLITS]


# --- Training ------------------------------------------------------------------------------------


def read_batch(examples: tuple, step: int, seed: int, recipe: Recipe) -> tuple[Tensor, ...]:
    """The tokens of one training step, int64 (B, S), and their targets, int64 (B, T), each padded
    to the longest of the batch: a function of the step and the seed alone."""
    texts: Texts = examples[0]
    chosen = batch_indices(step, len(texts.target), recipe.batch_size, seed)
    words = texts.words[texts.target[chosen]].astype(np.int64)
    words = words[:, : (words != 0).sum(axis=1).max()]
    targets = np.where(words == 0, NO_TARGET, words)
    return torch.from_numpy(padded(texts, chosen)), torch.from_numpy(targets)


def padded(texts: Texts, chosen: np.ndarray) -> np.ndarray:
    """The chosen texts' tokens, int64 (B, S), with zeros after the shorter ones."""
    starts, ends = texts.starts[chosen], texts.ends[chosen]
    tokens = np.zeros((len(chosen), int((ends - starts).max())), np.int64)
    for row, start, end in zip(tokens, starts, ends, strict=True):
        row[: end - start] = texts.tokens[start:end]
    return tokens


def to_inputs(source: Tensor, targets: Tensor, about: dict) -> tuple[Tensor, Tensor]:
    """Tokens and targets, as read_batch gave them."""
    return source, targets


def given(targets: Tensor, about: dict) -> Tensor:
    """What the decoder reads where it is to answer `targets`: these, one step later."""
    start, pad = about["geometry"]["start"], about["geometry"]["pad"]
    first = torch.full_like(targets[:, :1], start)
    return torch.cat([first, targets[:, :-1].clamp_min(pad)], dim=1)


def outputs(params: Tensors, source: Tensor, targets: Tensor, about: dict) -> Tensor:
    """f(x; θ): logits (B, T, vocabulary) of every token of the target, given those before it."""
    return logits(params, source, given(targets, about), about["geometry"])


def outputs_linearized(params: Tensors, tau: Tensors, source: Tensor, targets: Tensor, about: dict):
    """f(x; θ0) and ∇f(x; θ0)·τ of the same logits."""
    return logits_linearized(params, tau, source, given(targets, about), about["geometry"])


def loss(scores: Tensor, targets: Tensor, head=None) -> Tensor:
    """Mean cross-entropy over the tokens of the targets, without padding."""
    return F.cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=NO_TARGET)


# --- Evaluation ----------------------------------------------------------------------------------


@torch.inference_mode()
def accuracies(
    theta0, about, tau: TaskVector, alphas, splits, linearized: bool, precision="float32"
) -> dict:
    """Exact match, or Spearman's ρ, of what θ0 + α·τ generates, for each α on each split.

    Args:
        theta0, about: from read_encoder. tau: the vector to scale, on θ0's device.
        alphas: the grid, any floats.
        splits: key → what read_examples gave.
        linearized: generate from f_lin(x; θ0 + ατ) = f(x; θ0) + α ∇f(x; θ0)·τ instead of f.
        precision: of the encoder: auto, bf16 or float32, see device.autocast.
    Returns:
        key → array (len(alphas),): share of exact matches, or ρ.
    """
    decode = decoder(about)
    found = {key: np.zeros(len(alphas)) for key in splits}
    for key, (texts, _) in splits.items():
        if linearized:
            answers = answered(theta0, about, texts, precision, tau.tensors, alphas)
            found[key][:] = [measured(each, texts, decode) for each in answers]
        else:
            for i, alpha in enumerate(alphas):
                (answers,) = answered(tau.apply(theta0, alpha), about, texts, precision)
                found[key][i] = measured(answers, texts, decode)
    return found


def answered(params, about, texts: Texts, precision="float32", tau=None, alphas=(0.0,)):
    """Greedily generated tokens, int64 (alphas, N, longest); texts of like length share a batch."""
    device = params["shared.weight"].device
    order = np.argsort(texts.ends - texts.starts, kind="stable")
    answers = np.zeros((len(alphas), len(order), texts.longest), np.int64)
    for at in range(0, len(order), BATCH):
        rows = order[at : at + BATCH]

        def some(source):
            made = generate(params, source, about["geometry"], texts.longest, tau, alphas)
            return (made.transpose(0, 1),)

        source = torch.from_numpy(padded(texts, rows)).to(device)
        (made,) = in_parts(some, source, precision)
        answers[:, rows] = made.transpose(0, 1).cpu().numpy()
    return answers


def decoder(about: dict):
    """The function: tokens (n,), a tuple → text up to the first end of text or padding."""
    tokenizer, geometry = read_tokenizer(about["folder"], about), about["geometry"]
    ends = geometry["eos"], geometry["pad"]
    return cache(
        lambda tokens: tokenizer.decode([*takewhile(lambda token: token not in ends, tokens)])
    )


def measured(answers: np.ndarray, texts: Texts, decode) -> float:
    """Exact match of answers (N, T) with the targets, both as decoded texts; or, of a task of
    scores, Spearman's ρ with the true ones, where no number counts as 0.

    Args:
        decode: tuple of tokens → text, see decoder.
    """
    said = [decode(tuple(row.tolist())) for row in answers]
    if texts.score is not None:
        return spearman(np.array([as_number(text) for text in said]), texts.score)
    words = [decode(tuple(row.tolist())) for row in texts.words]
    return float(np.mean([text == words[t] for text, t in zip(said, texts.target, strict=True)]))


def as_number(text: str) -> float:
    """The number that a text is; 0 if it is none."""
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if np.isfinite(value) else 0.0


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's ρ: the correlation of ranks, ties by their mean; 0 where one side is constant."""

    def ranks(values):
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2)[inverse]

    a, b = ranks(a), ranks(b)
    a, b = a - a.mean(), b - b.mean()
    length = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / length) if length > 0 else 0.0
