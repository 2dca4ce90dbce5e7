"""Fine-tuned image towers of other libraries, under our names.

Read are CLIPVisionModel, with or without its projection, and CLIPModel of transformers; whole
models of open_clip, and such with their image tower alone (`model.visual.…`, as published with TALL
masks); the tensors by number of tangent_task_arithmetic's linearized models; and our own files.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ..core.encoder import Encoder
from ..errors import first
from ..files import fine_tuned
from ..files.checkpoint import Checkpoint
from ..files.fine_tuned import FineTuned
from ..files.hashes import check_file, read_sealed
from ..files.paths import PathLike
from ..files.tensors import check_tensors, read_tensors
from .geometry import ViT, clip_geometry
from .modality import TEXT_TOWER, Tensors, Vision, read_encoder
from .names import PREFIX, from_transformers, text_from_transformers

FORMS = {  # whose names → how some of them begin
    "transformers": r"vision_model\.|embeddings\.|encoder\.layers\.|(pre|post)_lay|visual_pro",
    "open_clip": r"(model\.)?visual\.",
    "tangent_task_arithmetic": r"model\.params0?\.\d+$",
}
KEYS = {  # of transformers' configuration → ours, and its default
    "num_hidden_layers": ("layers", 12),
    "hidden_size": ("width", 768),
    "patch_size": ("patch_size", 32),
    "image_size": ("image_size", 224),
    "intermediate_size": ("mlp_width", 3072),
    "num_attention_heads": ("heads", 12),
    "hidden_act": ("activation", "quick_gelu"),
}
NO_WEIGHTS = r"(model\.)?attn_mask|(text_model\.)?embeddings\.position_ids|model\.buffers0?\.\d+"


def write_published(
    encoder_dir: PathLike,
    *,
    encoder: str,
    mode: str,
    task: str,
    settings: dict[str, Any],
    output: PathLike,
    files: Sequence[PathLike] | None = None,
    download: PathLike | None = None,
) -> None:
    """The published stage, of an image tower: see files.fine_tuned.write_published."""
    model = read_encoder(encoder_dir)
    found = fine_tuned.published(files, download, task)
    tensors = read_fine_tuned(found.checkpoint, model, Path(encoder_dir))
    fine_tuned.write_published(found, tensors, model, encoder, mode, task, settings, output)


def read_fine_tuned(checkpoint: Checkpoint, encoder: Encoder, encoder_dir: Path) -> FineTuned:
    """θ_t of the image tower; what a checkpoint has of the text tower must be the encoder's own.

    Args:
        encoder: θ0. encoder_dir: its folder, which has the text tower.
    Raises:
        UserError: names of two libraries or of none, another geometry or activation, a tensor that
            lacks, another text tower.
    """
    assert isinstance(encoder.modality, Vision)
    tensors = {n: t for n, t in checkpoint.tensors.items() if not re.fullmatch(NO_WEIGHTS, n)}
    bare = [name.removeprefix(PREFIX) for name in tensors]
    if twice := sorted(name for name in set(bare) if bare.count(name) > 1):
        raise checkpoint.error(
            f"has {first(twice, 3)} with and without {PREFIX!r}: which of them count cannot be "
            "told; remove the others."
        )
    forms = [form for form, start in FORMS.items() if any(re.match(start, n) for n in tensors)]
    if len(forms) > 1:
        raise checkpoint.error(
            f"has names of {' and of '.join(forms)}: which tensors count cannot be told; give one "
            "of them alone."
        )
    form = forms[0] if forms else "ours"
    _check_config(checkpoint, encoder.name, encoder.modality.geometry)
    image, words = tensors, Tensors()
    if form == "tangent_task_arithmetic":
        image = _by_number(checkpoint, encoder, encoder_dir, tensors)
    elif form == "transformers":
        words = {n: t for n, t in tensors.items() if n.startswith("text_") or n == "logit_scale"}
        image = from_transformers({n: t for n, t in tensors.items() if n not in words})
        words = text_from_transformers(words)
    elif form == "open_clip":
        plain = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
        image = {n.removeprefix("visual."): t for n, t in plain.items() if n.startswith("visual.")}
        words = {n: t for n, t in plain.items() if not n.startswith("visual.")}
    _check_text(checkpoint, encoder.name, words, encoder_dir)
    needed = set() if checkpoint.made_by else set(encoder.theta0) - {"proj"}
    shapes = {n: tuple(t.shape) for n, t in encoder.theta0.items() if n in image or n in needed}
    check_tensors(checkpoint.place, image, shapes)
    return fine_tuned.fine_tuned(checkpoint, image, form == "tangent_task_arithmetic")


def _check_config(checkpoint: Checkpoint, name: str, geometry: ViT) -> None:
    """The architecture that a folder's configuration describes is the encoder's."""
    config, ours = checkpoint.config, asdict(replace(geometry, text=None))
    if "model_cfg" in config:
        theirs = asdict(replace(clip_geometry(name, {"path": str(checkpoint.folder)}), text=None))
    elif config:
        if config.get("model_type") not in ("clip", "clip_vision_model"):
            raise checkpoint.error(
                f"is a {config.get('model_type')!r} by its config.json, not a clip or "
                f"clip_vision_model as {name} is: give another checkpoint."
            )
        config = config.get("vision_config", config)
        theirs = {own: config.get(key, default) for key, (own, default) in KEYS.items()}
    else:
        return
    if differs := [f"{k} {v}, not {ours[k]}" for k, v in theirs.items() if v != ours[k]]:
        raise checkpoint.error(
            f"has by its configuration {'; '.join(differs)} as {name} has: it belongs to another "
            "encoder."
        )


def _text_tower(encoder_dir: Path) -> Tensors:
    """The encoder's own text tower, with the scale of its logits."""
    about: dict[str, Any] = read_sealed(encoder_dir / "encoder.json")
    check_file(encoder_dir / TEXT_TOWER, about["text_tower_sha256"])
    scale = torch.tensor(about["logit_scale"], dtype=torch.float32)
    return {**read_tensors(encoder_dir / TEXT_TOWER), "logit_scale": scale}


def _check_text(checkpoint: Checkpoint, name: str, words: Tensors, encoder_dir: Path) -> None:
    """Tensors of a text tower are the encoder's own, bit for bit."""
    own = _text_tower(encoder_dir) if words else Tensors()
    for key, tensor in words.items():
        if key not in own:
            raise checkpoint.error(
                f"has {key}, which is no tensor of {name}: it belongs to another encoder."
            )
        if not _equal(tensor, own[key]):
            raise checkpoint.error(
                f"has another {key} in its text tower than {name}: heads are made with that of "
                f"{name}; take a checkpoint whose image tower alone was fine-tuned."
            )


def _equal(tensor: torch.Tensor, own: torch.Tensor) -> bool:
    """Whether a stored tensor is ours, rounded as it is stored."""
    return tensor.shape == own.shape and torch.equal(tensor, own.to(tensor.dtype))


def _by_number(
    checkpoint: Checkpoint, encoder: Encoder, encoder_dir: Path, tensors: Tensors
) -> Tensors:
    """θ_t of a linearized model whose tensors have numbers: params0.i is θ0's tensor of the same
    shape and numbers, and params.i what was trained of it."""
    of = {"params": Tensors(), "params0": Tensors()}
    for name, tensor in tensors.items():
        _, kind, number = [*name.split("."), "", ""][:3]
        if kind not in of:
            raise checkpoint.error(f"has {name} beside model.params and model.params0: remove it.")
        of[kind][number] = tensor
    if of["params"].keys() != of["params0"].keys():
        raise checkpoint.error("has not as many model.params as model.params0: give a whole one.")
    words = {f"text tower: {n}": t for n, t in _text_tower(encoder_dir).items()}
    known, found = {**encoder.theta0, **words}, Tensors()
    for number, start in of["params0"].items():
        alike = [name for name, own in known.items() if _equal(start, own)]
        if not alike:
            raise checkpoint.error(
                f"has model.params0.{number} {tuple(start.shape)}, which is no tensor of "
                f"{encoder.name}: it was fine-tuned from another base; name that encoder."
            )
        if len(alike) > 1 or alike[0] in found:
            raise checkpoint.error(
                f"has model.params0.{number}, which may be {' or '.join(alike)} of "
                f"{encoder.name}: tensors without names cannot be told apart here."
            )
        found[alike[0]] = of["params"][number]
    for name in words.keys() & found.keys():
        if not torch.equal(found.pop(name), known[name]):
            raise checkpoint.error(
                f"moved {name}: heads are made with {encoder.name}'s own; take a checkpoint whose "
                "image tower alone was fine-tuned."
            )
    return found
