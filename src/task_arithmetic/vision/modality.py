"""Images: CLIP's image tower, frozen zero-shot heads, top-1 accuracy."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.encoder import Encoder
from ..core.inputs import LayerInputs, Visit
from ..core.outcomes import Outcomes
from ..core.precision import autocast, check_finite, in_parts
from ..core.schedule import Recipe, batch_indices
from ..core.vectors import TaskVector
from ..files.hashes import check_file, read_sealed
from ..files.manifest import read_manifest
from ..files.paths import PathLike
from ..files.tensors import check_tensors, read_tensors
from .clip import Tensors, classify, encode, encode_linearized
from .geometry import ViT
from .images import TrainImages, read_split
from .pixels import crop_boxes, to_pixels

IMAGE_TOWER, TEXT_TOWER, MERGES = "image_tower.safetensors", "text_tower.safetensors", "merges.gz"
BATCH = 256  # images of one forward pass
CHUNK_BYTES = 512 * 2**20  # normalised pixels kept while the grid of α is walked


class Images(NamedTuple):
    """Images of one task and split: TrainImages for train, else uint8 (N, S, S, 3); their labels,
    int64 (N,); the task's head, float32 (classes, embed_dim)."""

    images: TrainImages | np.ndarray
    labels: np.ndarray
    head: Tensor


class Batch(NamedTuple):
    """A batch of one of several splits: its rows there, pixels (B, 3, S, S), labels (B,), head."""

    split: Any
    rows: slice
    pixels: Tensor
    labels: Tensor
    head: Tensor


def read_encoder(encoder_dir: PathLike, device: torch.device | str = "cpu") -> Encoder:
    """θ0 of the image tower, float32 under open_clip's names, and what encoder.json says of it.

    Raises:
        UserError: a file is missing or damaged, is not safetensors, or does not fit the geometry.
    """
    path = Path(encoder_dir) / IMAGE_TOWER
    about = read_sealed(path.with_name("encoder.json"))
    check_file(path, about["theta0_sha256"])
    theta0, geometry = read_tensors(path, device), ViT(**about["geometry"])
    check_tensors(path, theta0, geometry.shapes())
    vision = Vision(geometry, tuple(about["mean"]), tuple(about["std"]))
    return Encoder(about["name"], theta0, vision, about["theta0_sha256"], about.get("seal", ""))


@dataclass(frozen=True)
class Vision:
    """What an image tower computes; see core.encoder.Modality and Classifier.

    Args:
        mean, std: of each RGB channel of its pixels, in 0–1.
    """

    name: ClassVar[str] = "vision"
    unit: ClassVar[str] = "image"
    may_fail: ClassVar[bool] = False  # an accuracy of 0 on a task is a mistake

    geometry: ViT
    mean: tuple[float, ...]
    std: tuple[float, ...]

    # --- Reading ---------------------------------------------------------------------------------

    def read_examples(
        self,
        head: PathLike,
        data_dir: PathLike,
        split: str,
        limit: Mapping[str, int] | None = None,
        device: torch.device | str = "cpu",
    ) -> Images:
        """A split's images, labels and head.

        Raises:
            UserError: the head is of another task's classes or of another encoder.
        """
        tensors = read_tensors(head, device)
        shape = (len(read_manifest(data_dir).classes), self.geometry.embed_dim)
        check_tensors(head, tensors, {"head": shape})
        return Images(*read_split(data_dir, split, limit), tensors["head"])

    def remarks(self, head: PathLike) -> list[dict[str, Any]]:
        """None: images are read as they are."""
        return []

    # --- Training --------------------------------------------------------------------------------

    def read_batch(
        self, examples: Images, step: int, seed: int, recipe: Recipe
    ) -> tuple[Tensor, ...]:
        """The random crops of one training step, each before zeros, their sizes as boxes, and their
        labels: on the CPU, a function of the step and the seed alone."""
        images, labels, _ = examples
        assert isinstance(images, TrainImages)
        chosen = batch_indices(step, len(images), recipe.batch_size, seed)
        generator = torch.Generator().manual_seed(
            int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
        )
        boxes = crop_boxes(torch.from_numpy(images.sizes[chosen]), recipe.crop_scale, generator)
        batch, sizes = images.take(chosen, boxes.numpy())
        boxes = torch.from_numpy(np.concatenate([np.zeros_like(sizes), sizes], axis=1))
        return torch.from_numpy(batch), boxes, torch.from_numpy(labels[chosen])

    def pixels(self, images: Tensor, boxes: Tensor | None = None) -> Tensor:
        """Images, uint8 (B, H, W, 3), or a box of each, as normalised pixels (B, 3, S, S)."""
        return to_pixels(images, self.geometry.image_size, self.mean, self.std, boxes)

    def to_inputs(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels, float (B, 3, S, S), and labels, int64 (B,), of what read_batch gave."""
        images, boxes, labels = batch
        return self.pixels(images, boxes), labels

    def outputs(self, params: Tensors, inputs: Tensor, targets: Tensor) -> Tensor:
        """f(x; θ): raw features (B, embed_dim)."""
        return encode(params, inputs, self.geometry)

    def outputs_linearized(
        self, params: Tensors, tau: Tensors, inputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """f(x; θ0) and ∇f(x; θ0)·τ, as encode_linearized gives them."""
        return encode_linearized(params, tau, inputs, self.geometry)

    def loss(self, outputs: Tensor, targets: Tensor, head: Tensor | None) -> Tensor:
        """Mean cross-entropy of features (B, embed_dim) under the task's head."""
        assert head is not None
        return F.cross_entropy(classify(outputs, head), targets)

    def candidates(
        self, examples: Images, step: int, size: int, seed: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Whole images of one step as pixels (B, 3, S, S), and no targets: (B, 0)."""
        images = examples.images
        assert isinstance(images, np.ndarray)
        chosen = batch_indices(step, len(images), size, seed)
        pixels = self.pixels(torch.from_numpy(np.array(images[chosen])).to(device))
        return pixels, torch.zeros(len(pixels), 0, dtype=torch.int64, device=device)

    def log_probabilities(self, outputs: Tensor, examples: Images) -> Tensor:
        """log softmax of the zero-shot logits of features (B, embed_dim)."""
        return classify(outputs, examples.head).log_softmax(-1)

    # --- Evaluation ------------------------------------------------------------------------------

    def accuracies(
        self,
        theta0: Tensors,
        tau: TaskVector,
        alphas: Sequence[float],
        splits: Mapping[Any, Images],
        linearized: bool,
        precision: str = "float32",
        offset: TaskVector | None = None,
    ) -> dict[Any, np.ndarray]:
        """Top-1 accuracy by what `outcomes` gives: key of a split → fractions (alphas,)."""
        found = self.outcomes(theta0, tau, alphas, splits, linearized, precision, offset)
        return {key: each.accuracy() for key, each in found.items()}

    @torch.inference_mode()
    def outcomes(
        self,
        theta0: Tensors,
        tau: TaskVector,
        alphas: Sequence[float],
        splits: Mapping[Any, Images],
        linearized: bool,
        precision: str = "float32",
        offset: TaskVector | None = None,
    ) -> dict[Any, Outcomes]:
        """Whether θ0 + A + α·τ gives each image its class the largest logit, for each α.

        f_lin is affine in τ and A, so a linearized grid costs one pass for each of them; otherwise
        each α is merged once per chunk of images that fits in memory.

        Args:
            theta0, tau, offset: on one device. alphas: the grid, any floats.
            linearized: evaluate f_lin(x; θ0 + A + ατ) = f(x; θ0) + ∇f(x; θ0)·A + α ∇f(x; θ0)·τ
                instead of f.
            precision: auto, bf16 or float32, see precision.autocast.
            offset: A; None: zero.
        Returns:
            key of a split → bool (alphas, N).
        Raises:
            UserError: features whose norm is not finite, as of a vector or an α that is far too
                large: divided by it, all of them would be of class 0.
        """
        device = theta0["proj"].device
        norms = torch.zeros(len(alphas), device=device)
        sizes = {key: (len(alphas), len(each.labels)) for key, each in splits.items()}
        hits = {k: torch.zeros(size, dtype=torch.bool, device=device) for k, size in sizes.items()}
        start = theta0 if offset is None else offset.apply(theta0)
        for chunk in self._chunks(splits):
            if linearized:
                for key, rows, pixels, labels, head in chunk:
                    value, tangent = self.features_linearized(theta0, tau, pixels, precision)
                    if offset is not None:
                        _, moved = self.features_linearized(theta0, offset, pixels, precision)
                        value = value + moved
                    for i, alpha in enumerate(alphas):
                        found = value + alpha * tangent
                        hits[key][i, rows] = _hits(found, head, labels)
                        norms[i] += found.norm(dim=-1).sum()
            else:
                for i, alpha in enumerate(alphas):
                    theta = tau.apply(start, alpha)
                    for key, rows, pixels, labels, head in chunk:
                        found = self.features(theta, pixels, precision)
                        hits[key][i, rows] = _hits(found, head, labels)
                        norms[i] += found.norm(dim=-1).sum()
        check_finite(norms, alphas)
        return {key: Outcomes(each.cpu().numpy()) for key, each in hits.items()}

    # --- What layers read ------------------------------------------------------------------------

    def count(self, examples: Images) -> int:
        """How many images these are."""
        return len(examples.labels)

    def visit_inputs(
        self,
        params: Tensors,
        tau: Tensors | None,
        examples: Images,
        chosen: np.ndarray,
        names: Collection[str],
        visit: Visit,
        precision: str = "float32",
    ) -> None:
        """visit(name, X), X (tokens, in), for what the layer of each named matrix reads of the
        centred squares of the chosen train images.

        X of in_proj are all tokens of all blocks, which keys and values read. Of the last block,
        out_proj, c_fc and c_proj are run on the class token alone, see clip.py, and proj always is:
        there X is one token of each image. f_lin's matrices act on inputs at θ0, so that of τ
        nothing is read.
        """
        images, device = examples.images, examples.head.device
        assert isinstance(images, TrainImages)
        sizes = images.sizes[chosen]
        squares = np.repeat(sizes.min(axis=1, keepdims=True), 2, axis=1)
        boxes = np.concatenate([(sizes - squares) // 2, squares], axis=1)
        batch, _ = images.take(chosen, boxes)
        boxes = np.concatenate([np.zeros_like(squares), squares], axis=1)
        pixels = self.pixels(torch.from_numpy(batch).to(device), torch.from_numpy(boxes))
        width = self.geometry.width
        weights = {
            name: params[name][width:] if name.endswith("in_proj_weight") else params[name]
            for name in names
        }

        def tell(name: str, x: Tensor) -> None:
            visit(name, x.flatten(0, -2))

        with autocast(precision, device), LayerInputs(weights, tell):
            encode(params, pixels, self.geometry)

    # --- Features --------------------------------------------------------------------------------

    def features(self, theta: Tensors, pixels: Tensor, precision: str = "float32") -> Tensor:
        """f(x; θ) as float32 (B, embed_dim), in as many passes as memory needs."""

        def encoded(part: Tensor) -> tuple[Tensor]:
            return (encode(theta, part, self.geometry).float(),)

        (found,) = in_parts(encoded, pixels, precision)
        return found

    def features_linearized(
        self, theta0: Tensors, tau: TaskVector, pixels: Tensor, precision: str = "float32"
    ) -> tuple[Tensor, Tensor]:
        """f(x; θ0) and ∇f(x; θ0)·τ as float32, in as many passes as memory needs."""

        def both(part: Tensor) -> tuple[Tensor, Tensor]:
            value, tangent = encode_linearized(theta0, tau.tensors, part, self.geometry)
            return value.float(), tangent.float()

        return in_parts(both, pixels, precision)

    def classify(self, features: Tensor, head: Tensor) -> Tensor:
        """Logits (B, classes), see clip.classify."""
        return classify(features, head)

    def batches(self, images: np.ndarray, device: torch.device) -> Iterator[list[Tensor]]:
        """Images (N, H, W, 3) as lists of batches of pixels, as many as CHUNK_BYTES hold."""
        nothing = torch.zeros(0, device=device)
        for chunk in self._chunks({"": Images(images, np.zeros(len(images)), nothing)}):
            yield [batch.pixels for batch in chunk]

    def _chunks(self, splits: Mapping[Any, Images]) -> Iterator[list[Batch]]:
        """Lists of batches, as many as CHUNK_BYTES hold."""
        chunk: list[Batch] = []
        size = 0
        for key, (images, labels, head) in splits.items():
            assert isinstance(images, np.ndarray)
            for i in range(0, len(images), BATCH):
                part = torch.from_numpy(np.array(images[i : i + BATCH])).to(head.device)
                truth = torch.from_numpy(np.array(labels[i : i + BATCH])).to(head.device)
                pixels = self.pixels(part)
                if chunk and size + pixels.nbytes > CHUNK_BYTES:
                    yield chunk
                    chunk, size = [], 0
                chunk.append(Batch(key, slice(i, i + len(truth)), pixels, truth, head))
                size += pixels.nbytes
        if chunk:
            yield chunk


def _hits(features: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    return classify(features, head).argmax(-1) == labels
