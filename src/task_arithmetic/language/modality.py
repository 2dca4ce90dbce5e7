"""Texts: T5, greedy generation, exact match or Spearman's ρ.

"Accuracy" is what the paper's Table 3 calls so: the share of generated answers that are the label's
words, or, of a task of scores, Spearman's rank correlation of the generated number with the true
one.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.encoder import Encoder
from ..core.inputs import LayerInputs, Visit
from ..core.outcomes import Outcomes
from ..core.precision import autocast, in_parts
from ..core.schedule import Recipe, batch_indices
from ..core.vectors import TaskVector
from ..files.hashes import check_file, read_sealed
from ..files.manifest import SPLITS, read_manifest
from ..files.paths import PathLike
from ..files.tensors import check_tensors, read_made_by, read_tensors
from .geometry import T5
from .t5 import Tensors, generate, logits, logits_linearized
from .tokens import Texts, read_tokenizer, read_tokens

WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"
BATCH = 64  # texts of one forward pass
NO_TARGET = -100  # where a target is padded
OF_MEMORY = ("EncDecAttention.k.weight", "EncDecAttention.v.weight")  # read the encoder's output


class Examples(NamedTuple):
    """Texts of one task and split, as tokens; nothing of a task is a tensor that the loss needs."""

    texts: Texts
    head: None = None


def read_encoder(encoder_dir: PathLike, device: torch.device | str = "cpu") -> Encoder:
    """θ0, float32 under transformers' names, a tied embedding once, and what encoder.json says.

    Raises:
        UserError: a file is missing or damaged, is not safetensors, or does not fit the geometry.
    """
    folder = Path(encoder_dir)
    about = read_sealed(folder / "encoder.json")
    path = folder / about["theta0"]
    check_file(path, about["theta0_sha256"])
    theta0, geometry = read_tensors(path, device), T5(**about["geometry"])
    check_tensors(path, theta0, geometry.shapes())
    language = Language(geometry, folder, about["name"], about["tokenizer_sha256"])
    return Encoder(about["name"], theta0, language, about["theta0_sha256"], about.get("seal", ""))


@dataclass(frozen=True)
class Language:
    """What a T5 computes; see core.encoder.Modality.

    Args:
        folder: where its tokenizer lies. encoder: its name.
    """

    name: ClassVar[str] = "language"
    unit: ClassVar[str] = "text"
    may_fail: ClassVar[bool] = True  # an answer may never be right, and ρ may be negative

    geometry: T5
    folder: Path = Path()
    encoder: str = ""
    tokenizer_sha256: str = ""

    # --- Reading ---------------------------------------------------------------------------------

    def read_examples(
        self,
        head: PathLike,
        data_dir: PathLike,
        split: str,
        limit: Mapping[str, int] | None = None,
        device: torch.device | str = "cpu",
    ) -> Examples:
        """A split's texts as tokens, from the head. Raises UserError as read_tokens."""
        manifest, wanted = read_manifest(data_dir), (self.encoder, self.tokenizer_sha256)
        return Examples(read_tokens(head, manifest, *wanted, split, limit))

    def remarks(self, head: PathLike) -> list[dict[str, Any]]:
        """Rows of metrics on how examples are read: `cut_inputs`, the number of texts of each split
        that were longer than the task's max_tokens."""
        cut = read_made_by(head)["cut"]
        return [{"split": k, "metric": "cut_inputs", "value": cut[k]} for k in SPLITS]

    # --- Training --------------------------------------------------------------------------------

    def read_batch(
        self, examples: Examples, step: int, seed: int, recipe: Recipe
    ) -> tuple[Tensor, ...]:
        """The tokens of one training step, int64 (B, S), and their targets, int64 (B, T), each
        padded to the longest of the batch: a function of the step and the seed alone."""
        texts = examples.texts
        chosen = batch_indices(step, len(texts.target), recipe.batch_size, seed)
        words = texts.words[texts.target[chosen]].astype(np.int64)
        words = words[:, : (words != 0).sum(axis=1).max()]
        targets = np.where(words == 0, NO_TARGET, words)
        return torch.from_numpy(padded(texts, chosen)), torch.from_numpy(targets)

    def to_inputs(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and targets, as read_batch gave them."""
        source, targets = batch
        return source, targets

    def outputs(self, params: Tensors, inputs: Tensor, targets: Tensor) -> Tensor:
        """f(x; θ): logits (B, T, vocabulary) of every token of the target, given those before."""
        return logits(params, inputs, self._given(targets), self.geometry)

    def outputs_linearized(
        self, params: Tensors, tau: Tensors, inputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """f(x; θ0) and ∇f(x; θ0)·τ of the same logits."""
        return logits_linearized(params, tau, inputs, self._given(targets), self.geometry)

    def _given(self, targets: Tensor) -> Tensor:
        """What the decoder reads where it is to answer `targets`: these, one step later."""
        first = torch.full_like(targets[:, :1], self.geometry.start)
        return torch.cat([first, targets[:, :-1].clamp_min(self.geometry.pad)], dim=1)

    def loss(self, outputs: Tensor, targets: Tensor, head: Tensor | None = None) -> Tensor:
        """Mean cross-entropy over the tokens of the targets, without padding."""
        return F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=NO_TARGET)

    def candidates(
        self, examples: Examples, step: int, size: int, seed: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """The tokens of one step, int64 (B, S), and for each of them all texts that the task's
        examples are answered with, int64 (B · texts, T)."""
        texts = examples.texts
        chosen = batch_indices(step, len(texts.ends), size, seed)
        words = texts.words.astype(np.int64)
        targets = torch.from_numpy(np.where(words == 0, NO_TARGET, words)).repeat(size, 1)
        return torch.from_numpy(padded(texts, chosen)).to(device), targets.to(device)

    def log_probabilities(self, outputs: Tensor, examples: Examples) -> Tensor:
        """log softmax over the texts (B, texts) of their scores, each the Σ log p of its tokens
        given those before, from logits (B · texts, T, vocabulary)."""
        words = torch.from_numpy(examples.texts.words.astype(np.int64)).to(outputs.device)
        each = outputs.log_softmax(-1).unflatten(0, (-1, len(words)))
        chosen = each.gather(-1, words.expand(len(each), -1, -1)[..., None]).squeeze(-1)
        return (chosen * (words != 0)).sum(-1).log_softmax(-1)

    # --- Evaluation ------------------------------------------------------------------------------

    def accuracies(
        self,
        theta0: Tensors,
        tau: TaskVector,
        alphas: Sequence[float],
        splits: Mapping[Any, Examples],
        linearized: bool,
        precision: str = "float32",
        offset: TaskVector | None = None,
    ) -> dict[Any, np.ndarray]:
        """Exact match, or Spearman's ρ, of what `outcomes` gives: key of a split → (alphas,)."""
        found = self.outcomes(theta0, tau, alphas, splits, linearized, precision, offset)
        return {key: each.accuracy() for key, each in found.items()}

    @torch.inference_mode()
    def outcomes(
        self,
        theta0: Tensors,
        tau: TaskVector,
        alphas: Sequence[float],
        splits: Mapping[Any, Examples],
        linearized: bool,
        precision: str = "float32",
        offset: TaskVector | None = None,
    ) -> dict[Any, Outcomes]:
        """What θ0 + A + α·τ generates for each text, for each α on each split.

        Args:
            theta0, tau, offset: on one device. alphas: the grid, any floats.
            linearized: generate from f_lin(x; θ0 + A + ατ) = f(x; θ0) + ∇f(x; θ0)·A +
                α ∇f(x; θ0)·τ instead of f.
            precision: auto, bf16 or float32, see precision.autocast.
            offset: A; None: zero.
        Returns:
            key of a split → exact matches, or the numbers of a task of scores: (alphas, N).
        Raises:
            UserError: logits that are not finite, as of a vector or an α that is far too large.
        """
        decode = self.decoder()
        found = {}
        start = theta0 if offset is None else offset.apply(theta0)
        moved = None if offset is None else offset.tensors
        for key, (texts, _) in splits.items():
            if linearized:
                answers = self.answered(theta0, texts, precision, tau.tensors, alphas, moved)
            else:
                models = (tau.apply(start, alpha) for alpha in alphas)
                answers = np.concatenate([self.answered(m, texts, precision) for m in models])
            said = np.stack([measured(each, texts, decode) for each in answers])
            found[key] = Outcomes(said, texts.score)
        return found

    def answered(
        self,
        params: Tensors,
        texts: Texts,
        precision: str = "float32",
        tau: Tensors | None = None,
        alphas: Sequence[float] = (0.0,),
        offset: Tensors | None = None,
    ) -> np.ndarray:
        """Greedily generated tokens, int64 (alphas, N, longest), as `generate` has them; texts of
        like length share a batch."""
        device = params["shared.weight"].device
        order = np.argsort(texts.ends - texts.starts, kind="stable")
        answers = np.zeros((len(alphas), len(order), texts.longest), np.int64)

        def some(source: Tensor) -> tuple[Tensor]:
            made = generate(params, source, self.geometry, texts.longest, tau, alphas, offset)
            return (made.transpose(0, 1),)

        for at in range(0, len(order), BATCH):
            rows = order[at : at + BATCH]
            source = torch.from_numpy(padded(texts, rows)).to(device)
            (made,) = in_parts(some, source, precision)
            answers[:, rows] = made.transpose(0, 1).cpu().numpy()
        return answers

    # --- What layers read ------------------------------------------------------------------------

    def count(self, examples: Examples) -> int:
        """How many texts these are."""
        return len(examples.texts.target)

    def visit_inputs(
        self,
        params: Tensors,
        tau: Tensors | None,
        examples: Examples,
        chosen: np.ndarray,
        names: Collection[str],
        visit: Visit,
        precision: str = "float32",
    ) -> None:
        """visit(name, X), X (tokens, in), for what the layer of each named matrix reads of the
        chosen texts.

        The decoder reads no true answer but the model's own greedy one, by f_lin if there is a τ,
        as far as generation does: the start token and all that was chosen, up to the token before
        the end of text. Padding of texts and of answers does not count. f_lin's matrices act on
        inputs at θ0, which X is taken at.
        """
        texts, device = examples.texts, params["shared.weight"].device
        some = texts._replace(starts=texts.starts[chosen], ends=texts.ends[chosen])
        made = self.answered(params, some, precision, tau, [1.0])[0]
        source, answers = (torch.from_numpy(t).to(device) for t in (padded(texts, chosen), made))
        last = answers == self.geometry.eos
        written, read = last.cumsum(1) - last.long() == 0, source != self.geometry.pad

        def tell(name: str, x: Tensor) -> None:
            of_source = name.startswith("encoder.") or name.endswith(OF_MEMORY)
            visit(name, x[read if of_source else written])

        weights = {name: params[name] for name in names}
        with autocast(precision, device), LayerInputs(weights, tell):
            logits(params, source, self._given(answers), self.geometry)

    def decoder(self) -> Callable[[tuple[int, ...]], str]:
        """The function: tokens (n,), a tuple → text up to the first end of text or padding."""
        tokenizer = read_tokenizer(self.folder, self.tokenizer_sha256)
        ends = self.geometry.eos, self.geometry.pad

        @cache
        def decoded(tokens: tuple[int, ...]) -> str:
            text: str = tokenizer.decode([*takewhile(lambda token: token not in ends, tokens)])
            return text

        return decoded


def padded(texts: Texts, chosen: np.ndarray) -> np.ndarray:
    """The chosen texts' tokens, int64 (B, S), with zeros after the shorter ones."""
    starts, ends = texts.starts[chosen], texts.ends[chosen]
    tokens = np.zeros((len(chosen), int((ends - starts).max())), np.int64)
    for row, start, end in zip(tokens, starts, ends, strict=True):
        row[: end - start] = texts.tokens[start:end]
    return tokens


def measured(
    answers: np.ndarray, texts: Texts, decode: Callable[[tuple[int, ...]], str]
) -> np.ndarray:
    """Whether answers (N, T) match the targets, both as decoded texts: bool (N,); or, of a task of
    scores, the numbers that they are, where what is no number counts as 0: float64 (N,).

    Args:
        decode: tuple of tokens → text, see Language.decoder.
    """
    said = [decode(tuple(row.tolist())) for row in answers]
    if texts.score is not None:
        return np.array([as_number(text) for text in said])
    words = [decode(tuple(row.tolist())) for row in texts.words]
    return np.array([text == words[t] for text, t in zip(said, texts.target, strict=True)])


def as_number(text: str) -> float:
    """The number that a text is; 0 if it is none."""
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if np.isfinite(value) else 0.0
