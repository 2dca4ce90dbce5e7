"""Pretrained CLIPs through open_clip: import as named tensors, and frozen zero-shot heads.

The only module that needs open_clip, whose import takes ten seconds.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..files.download import Download
from ..files.hashes import check_file, read_sealed, sealed, sha256_of_file
from ..files.manifest import Manifest, read_manifest
from ..files.paths import PathLike, atomic_path, write_json
from ..files.tensors import check_tensors, read_tensors, write_tensors
from .clip import Tensors, encode, encode_text, make_head
from .geometry import (
    OWN_MERGES,
    TextTower,
    ViT,
    check_preprocessing,
    clip_geometry,
    part_of_open_clip,
)
from .modality import IMAGE_TOWER, MERGES, TEXT_TOWER

# --- Heads ---------------------------------------------------------------------------------------


def write_head(
    encoder_dir: PathLike,
    data_dir: PathLike,
    settings: dict[str, Any],
    output: PathLike,
    device: torch.device | str = "cpu",
) -> None:
    """Make the head of one task for one encoder and write it to `output`.

    Args:
        encoder_dir: the encoder stage's folder.
        data_dir: the task's folder: its class names.
        settings: `templates`: prompts with one `{}` for the class name, or "open_clip" for the 80
            of ImageNet.
    """
    manifest, templates = read_manifest(data_dir), settings["templates"]
    if templates == "open_clip":
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        templates = [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]
    encoder_dir = Path(encoder_dir)
    about = read_sealed(encoder_dir / "encoder.json")
    check_file(encoder_dir / TEXT_TOWER, about["text_tower_sha256"])
    params = read_tensors(encoder_dir / TEXT_TOWER, device)
    merges = encoder_dir / MERGES if about["own_merges"] else None
    if merges:
        check_file(merges, about["merges_sha256"])
    text = TextTower(**about["text"])
    tokenize = clip_tokenizer(text.context_length, merges)
    if tokenize.vocab_size != text.vocab_size:
        raise UserError(
            f"Encoder {about['name']}: its tokenizer has {tokenize.vocab_size} tokens, its text "
            f"tower {text.vocab_size}: put the tokenizer's own merges beside the "
            "checkpoint as bpe_merges.txt.gz."
        )
    prompts = [
        tokenize([template.replace("{}", name) for template in templates])
        for name in manifest.classes
    ]
    if manifest.definition.get("alike_classes", "error") == "error":
        _check_told_apart(manifest, prompts)
    features = []
    with torch.inference_mode():
        for tokens in prompts:
            features.append(encode_text(params, tokens.to(device), text))
        head = make_head(torch.stack(features), about["logit_scale"])
    made_by = {
        "encoder": about["name"],
        "text_tower_sha256": about["text_tower_sha256"],
        "task": manifest.task,
        "classes": manifest.classes,
        "templates": templates,
    }
    write_tensors(output, {"head": head}, made_by)


def _check_told_apart(manifest: Manifest, prompts: list[Tensor]) -> None:
    """No two classes are the same tokens, whose heads would be the same to the last bit."""
    seen: dict[bytes, int] = {}
    for i, tokens in enumerate(prompts):
        other = seen.setdefault(tokens.numpy().tobytes(), i)
        if other != i:
            one, two = (manifest.classes[j] for j in (other, i))
            raise UserError(
                f"Task {manifest.task}: the text tower reads its classes {one!r} and {two!r} as "
                "the same tokens, so that one of them would never be right; name one otherwise in "
                "`classes`, or set `alike_classes: allow` in its definition."
            )


def clip_tokenizer(context_length: int, merges: Path | None = None) -> Any:
    """open_clip's tokenizer: texts → int64 (n, context_length).

    Its module is loaded by itself: the whole of open_clip takes ten seconds to import.
    """
    module = part_of_open_clip("tokenizer")
    extra = {} if merges is None else {"bpe_path": str(merges)}
    return module.SimpleTokenizer(context_length=context_length, **extra)


# --- Import --------------------------------------------------------------------------------------


def import_encoder(
    encoder: str, settings: dict[str, Any], output: PathLike, download: PathLike | None = None
) -> None:
    """Take a pretrained CLIP through open_clip and write its towers as named tensors.

    Args:
        encoder: its name in the configuration.
        settings: `model` and `pretrained` (open_clip's names), or `path`: a folder with
            open_clip_config.json, open_clip_model.safetensors and, if the tokenizer has its own
            merges, bpe_merges.txt.gz.
        download: of open_clip's names: the record of their Download.
        output: the folder that gets image_tower.safetensors, text_tower.safetensors and
            encoder.json.
    Raises:
        UserError: unknown names, missing or wrong weights, a tower that is no plain CLIP ViT, or
            whose images are to be prepared otherwise than ours.
    """
    name, definition = encoder, settings
    record = None if download is None else Download.read(download)
    if "path" in definition:
        _check_files(name, Path(definition["path"]))
    geometry = clip_geometry(name, definition)
    model, preprocess, merges = _open_clip_model(name, definition, record)
    check_preprocessing(name, preprocess, geometry.image_size)
    state = {k: v.float() for k, v in model.state_dict().items()}
    image = {k.removeprefix("visual."): v for k, v in state.items() if k.startswith("visual.")}
    words = {
        k: v
        for k, v in state.items()
        if not k.startswith("visual.") and k not in ("logit_scale", "logit_bias", "attn_mask")
    }
    _check_plain(name, model, image, words, geometry)
    sizes = asdict(geometry)
    with atomic_path(output) as folder:
        folder.mkdir()
        # Their hashes say which θ0 it is, wherever it came from: what made it is in encoder.json.
        write_tensors(folder / IMAGE_TOWER, image, {})
        write_tensors(folder / TEXT_TOWER, words, {})
        if merges is not None:
            (folder / MERGES).write_bytes(merges.read_bytes())
        about = {
            "name": name,
            "definition": definition,
            "geometry": {k: v for k, v in sizes.items() if k != "text"},
            "text": sizes["text"],
            "mean": list(preprocess["mean"]),
            "std": list(preprocess["std"]),
            "own_merges": merges is not None,
            "merges_sha256": merges and sha256_of_file(merges),
            "source": record and record.source("repo", "commit", "files"),
            "logit_scale": float(model.logit_scale.detach()),
            "modality": "vision",
            "theta0": IMAGE_TOWER,
            "theta0_sha256": sha256_of_file(folder / IMAGE_TOWER),
            "text_tower_sha256": sha256_of_file(folder / TEXT_TOWER),
        }
        write_json(folder / "encoder.json", sealed(about))


def _open_clip_model(
    name: str, definition: dict[str, Any], record: Download | None
) -> tuple[Any, dict[str, Any], Path | None]:
    """The open_clip model (float32, CPU), its mean and std, and the path of its own tokenizer
    merges, if any.

    open_clip builds the model, we read its weights: open_clip takes random ones if a download
    fails.
    """
    import open_clip

    merges = None
    if "path" in definition:
        folder = Path(definition["path"])
        weights = folder / "open_clip_model.safetensors"
        model = _create(name, open_clip.create_model, f"local-dir:{folder}", load_weights=False)
        preprocess = model.visual.preprocess_cfg
        if (folder / OWN_MERGES).is_file():
            merges = folder / OWN_MERGES
    else:
        architecture, tag = definition["model"], definition["pretrained"]
        if record is None:
            raise UserError(f"Encoder {name} is a hub's: give the record of its download.")
        (weights,) = record.paths()["weights"]
        model = _create(name, open_clip.create_model, architecture, load_weights=False)
        preprocess = open_clip.pretrained.get_pretrained_cfg(architecture, tag)
    tensors = read_tensors(weights)
    check_tensors(weights, tensors, {k: tuple(v.shape) for k, v in model.state_dict().items()})
    model.load_state_dict(tensors)
    return model.eval(), preprocess, merges


def _check_files(name: str, folder: Path) -> None:
    files = ("open_clip_config.json", "open_clip_model.safetensors")
    if not all((folder / file).is_file() for file in files):
        raise UserError(
            f"Encoder {name}: {folder} must hold {' and '.join(files)}; correct `path` in its "
            "definition."
        )


def _create(name: str, create: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """create(*args, **options), with open_clip's own errors as one sentence, and without its
    warning that the model has no weights: they are read afterwards."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        return create(*args, **options)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UserError(
            f"Encoder {name}: open_clip cannot give {args[0]} ({reason}); check `model`, "
            "`pretrained` or `path` in its definition, and the connection if it is downloaded."
        ) from error
    finally:
        logging.disable(before)


@torch.no_grad()
def _check_plain(name: str, model: Any, image: Tensors, words: Tensors, geometry: ViT) -> None:
    """Hold our functions to open_clip's own outputs, on random images and tokens."""
    generator = torch.Generator().manual_seed(0)
    size, text = geometry.image_size, geometry.text
    assert text is not None  # clip_geometry reads both
    pixels = torch.randn(2, 3, size, size, generator=generator)
    tokens = torch.randint(1, text.vocab_size, (2, text.context_length), generator=generator)
    expected = geometry.shapes()
    whole = size % geometry.patch_size == 0  # else open_clip drops the rest of the pixels
    if whole and {k: tuple(v.shape) for k, v in image.items()} == expected:
        ours = encode(image, pixels, geometry), encode_text(words, tokens, text)
        theirs = model.encode_image(pixels), model.encode_text(tokens)
        if all(_close(a, b) for a, b in zip(ours, theirs, strict=True)):
            return
    raise UserError(
        f"Encoder {name} is no plain CLIP ViT: its tensors or outputs differ from those of a "
        "vision transformer with class-token pooling; choose another model."
    )


def _close(ours: Tensor, theirs: Tensor) -> bool:
    return bool((ours - theirs).abs().max() <= 1e-4 * theirs.abs().max())
