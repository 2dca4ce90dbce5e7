"""The vision modality: images, CLIP's image tower, frozen zero-shot heads, top-1 accuracy.

See modality.py for what these functions are to training and evaluation.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.precision import in_parts
from ..core.schedule import Recipe, batch_indices
from ..core.vectors import TaskVector
from ..files.hashes import check_file, read_sealed
from ..files.manifest import Manifest, read_manifest
from ..files.tensors import check_tensors, read_tensors
from .clip import Tensors, classify, encode, encode_linearized
from .geometry import image_tower_shapes
from .images import read_split
from .pixels import crop_boxes, to_pixels

IMAGE_TOWER, TEXT_TOWER, MERGES = "image_tower.safetensors", "text_tower.safetensors", "merges.gz"


def read_encoder(encoder_dir, device="cpu") -> tuple[Tensors, dict]:
    """θ0 of the image tower and what encoder.json says of it.

    Returns:
        tensors (float32) under open_clip's names; the description: name, geometry, mean, std
        (per RGB channel, for pixels in 0–1), logit_scale, theta0_sha256 …
    Raises:
        UserError: a file is missing or damaged, is not safetensors, or does not fit the geometry.
    """
    encoder_dir = Path(encoder_dir)
    about = read_sealed(encoder_dir / "encoder.json")
    check_file(encoder_dir / IMAGE_TOWER, about["theta0_sha256"])
    params = read_tensors(encoder_dir / IMAGE_TOWER, device)
    check_tensors(encoder_dir / IMAGE_TOWER, params, image_tower_shapes(about["geometry"]))
    return params, about


__all__ = ["read_encoder"]  # part of the modality as it is
UNIT = "image"
MAY_FAIL = False  # an accuracy of 0 on a task is a mistake
BATCH = 256  # images of one forward pass
CHUNK_BYTES = 512 * 2**20  # normalised pixels kept while the grid of α is walked


# --- Reading -------------------------------------------------------------------------------------


def read_head(path, manifest: Manifest, about: dict, device) -> Tensor:
    """A head (classes, embed_dim), held to its task's classes and its encoder's features.

    Raises:
        UserError: the head is of another task's classes or of another encoder.
    """
    tensors = read_tensors(path, device)
    shape = (len(manifest.classes), about["geometry"]["embed_dim"])
    check_tensors(path, tensors, {"head": shape})
    return tensors["head"]


def read_examples(head, data_dir, split: str, limit: dict | None, about: dict, device) -> tuple:
    """A split's images (uint8), labels (int64, N) and head (classes, embed_dim)."""
    tensor = read_head(head, read_manifest(data_dir), about, device)
    return *read_split(data_dir, split, limit), tensor


# --- Training ------------------------------------------------------------------------------------


def read_batch(examples: tuple, step: int, seed: int, recipe: Recipe) -> tuple[Tensor, ...]:
    """The random crops of one training step, each before zeros, their sizes as boxes, and their
    labels: on the CPU, a function of the step and the seed alone."""
    images, labels, _ = examples
    chosen = batch_indices(step, len(images), recipe.batch_size, seed)
    generator = torch.Generator().manual_seed(
        int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
    )
    boxes = crop_boxes(torch.from_numpy(images.sizes[chosen]), recipe.crop_scale, generator)
    batch, sizes = images.take(chosen, boxes.numpy())
    boxes = torch.from_numpy(np.concatenate([np.zeros_like(sizes), sizes], axis=1))
    return torch.from_numpy(batch), boxes, torch.from_numpy(labels[chosen])


def to_inputs(batch: Tensor, boxes: Tensor, labels: Tensor, about: dict) -> tuple[Tensor, Tensor]:
    """Pixels, float (B, 3, S, S), and labels, int64 (B,), of what read_batch gave."""
    return to_pixels(batch, about, boxes), labels


def outputs(params: Tensors, pixels: Tensor, labels: Tensor, about: dict) -> Tensor:
    """f(x; θ): raw features (B, embed_dim)."""
    return encode(params, pixels, about["geometry"])


def outputs_linearized(params: Tensors, tau: Tensors, pixels: Tensor, labels: Tensor, about: dict):
    """f(x; θ0) and ∇f(x; θ0)·τ, as encode_linearized gives them."""
    return encode_linearized(params, tau, pixels, about["geometry"])


def loss(features: Tensor, labels: Tensor, head: Tensor) -> Tensor:
    """Mean cross-entropy of features (B, embed_dim) under the task's head."""
    return F.cross_entropy(classify(features, head), labels)


def remarks(head) -> list[dict]:
    """Rows of metrics on how examples are read: images as they are."""
    return []


# --- Evaluation ----------------------------------------------------------------------------------


@torch.inference_mode()
def accuracies(
    theta0, about, tau: TaskVector, alphas, splits, linearized: bool, precision="float32"
) -> dict:
    """Top-1 accuracy of θ0 + α·τ for each α on each split.

    f_lin is affine in τ, so a linearized grid costs one pass; otherwise each α is merged once per
    chunk of images that fits in memory.

    Args:
        theta0, about: from read_encoder. tau: the vector to scale, on θ0's device.
        alphas: the grid, any floats.
        splits: key → (images uint8 (N, H, W, 3), labels (N,), head (classes, embed_dim)).
        linearized: evaluate f_lin(x; θ0 + ατ) = f(x; θ0) + α ∇f(x; θ0)·τ instead of f.
        precision: of the encoder: auto, bf16 or float32, see device.autocast.
    Returns:
        key → array of accuracies (fractions), one for each α.
    """
    device = theta0["proj"].device
    hits = {key: torch.zeros(len(alphas), dtype=torch.int64, device=device) for key in splits}
    for chunk in chunks(splits, about):
        if linearized:
            for key, pixels, labels, head in chunk:
                value, tangent = features_linearized(theta0, tau, pixels, about, precision)
                for i, alpha in enumerate(alphas):
                    hits[key][i] += _hits(value + alpha * tangent, head, labels)
        else:
            for i, alpha in enumerate(alphas):
                theta = tau.apply(theta0, alpha)
                for key, pixels, labels, head in chunk:
                    hits[key][i] += _hits(features(theta, pixels, about, precision), head, labels)
    return {key: hits[key].cpu().numpy() / len(splits[key][1]) for key in splits}


def _hits(features, head, labels):
    return (classify(features, head).argmax(-1) == labels).sum()


def features(theta, pixels: Tensor, about: dict, precision="float32") -> Tensor:
    """f(x; θ) as float32 (B, embed_dim), in as many passes as memory needs."""
    geometry = about["geometry"]
    (found,) = in_parts(lambda part: (encode(theta, part, geometry).float(),), pixels, precision)
    return found


def features_linearized(theta0, tau: TaskVector, pixels: Tensor, about: dict, precision="float32"):
    """f(x; θ0) and ∇f(x; θ0)·τ as float32, in as many passes as memory needs."""

    def both(part):
        found = encode_linearized(theta0, tau.tensors, part, about["geometry"])
        return tuple(each.float() for each in found)

    return in_parts(both, pixels, precision)


def chunks(splits, about):
    """Lists of batches (key, pixels, labels, head), as many as CHUNK_BYTES hold."""
    chunk, size = [], 0
    for key, (images, labels, head) in splits.items():
        for i in range(0, len(images), BATCH):
            part = torch.from_numpy(np.array(images[i : i + BATCH])).to(head.device)
            truth = torch.from_numpy(np.array(labels[i : i + BATCH])).to(head.device)
            pixels = to_pixels(part, about)
            if chunk and size + pixels.nbytes > CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
            chunk.append((key, pixels, truth, head))
            size += pixels.nbytes
    if chunk:
        yield chunk
