"""Pretrained T5s through transformers: import as named tensors, with their tokenizer.

The only module that needs transformers, whose import takes five seconds.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import UserError
from ..files.download import Download
from ..files.hashes import sealed, sha256_of_file
from ..files.paths import PathLike, atomic_path, read_json, write_json
from ..files.tensors import write_tensors
from .geometry import T5, t5_geometry
from .modality import TOKENIZER, WEIGHTS
from .t5 import Tensors, logits

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def import_t5(
    encoder: str, settings: dict[str, Any], output: PathLike, download: PathLike | None = None
) -> None:
    """Take a pretrained T5 through transformers and write it as named tensors.

    Args:
        encoder: its name in the configuration.
        settings: `path`: a folder in transformers' form, with config.json, model.safetensors (or
            its shards and their index) and tokenizer.json; or `hub` and `architecture`: keys of
            config.json and the values that they must have.
        download: of a hub's: the record of its Download.
        output: the folder that gets model.safetensors, tokenizer.json and encoder.json.
    Raises:
        UserError: a model that is not text-to-text or no plain T5, another architecture than the
            definition's, missing or unexpected weights, no tokenizer.
    """
    record = None if download is None else Download.read(download)
    folder = _folder(encoder, settings, record)
    config = read_json(folder / "config.json")
    geometry = t5_geometry(encoder, config)
    _check_architecture(encoder, settings.get("architecture", {}), config)
    tensors = _tensors(encoder, folder, geometry)
    tokenizer = _tokenizer(encoder, folder, geometry)
    with atomic_path(output) as written:
        written.mkdir()
        write_tensors(written / WEIGHTS, tensors, {})  # its hash is θ0's, wherever it came from
        tokenizer.save(str(written / TOKENIZER))
        about = {
            "name": encoder,
            "definition": settings,
            "modality": "language",
            "geometry": asdict(geometry),
            "theta0": WEIGHTS,
            "theta0_sha256": sha256_of_file(written / WEIGHTS),
            "tokenizer_sha256": sha256_of_file(written / TOKENIZER),
            "source": record and record.source("repo", "commit", "files"),
        }
        write_json(written / "encoder.json", sealed(about))


def _folder(name: str, settings: dict[str, Any], record: Download | None) -> Path:
    """Where the checkpoint lies: its own folder, or its commit's in the hub's cache."""
    if "path" not in settings:
        if record is None:
            raise UserError(f"Encoder {name} is a hub's: give the record of its download.")
        return record.folder()
    folder = Path(settings["path"])
    weights = folder / WEIGHTS, folder / f"{WEIGHTS}.index.json"
    if not (folder / "config.json").is_file() or not any(path.is_file() for path in weights):
        raise UserError(
            f"Encoder {name}: {folder} must hold config.json and model.safetensors (or its shards "
            "and their index), as transformers saves them; correct `path` in its definition."
        )
    return folder


def _check_architecture(name: str, architecture: dict[str, Any], config: dict[str, Any]) -> None:
    """What the definition says of the architecture must be what the checkpoint's config.json says,
    its defaults included."""
    found = t5_geometry(name, config)
    tied = {"scale_decoder_outputs": architecture.get("tie_word_embeddings", found.tied)}
    theirs = asdict(found)
    ours = asdict(t5_geometry(name, {**config, **architecture, **tied}))
    differs = [f"{key} {theirs[key]}, not {ours[key]}" for key in ours if ours[key] != theirs[key]]
    if differs:
        raise UserError(
            f"Encoder {name}: the checkpoint has {'; '.join(differs)}: correct `architecture` in "
            "its definition, or choose the checkpoint that it describes."
        )


def _tensors(name: str, folder: Path, geometry: T5) -> Tensors:
    """The checkpoint's tensors (float32), a tied embedding once; transformers' own model reads
    them, and ours is held to it."""
    from transformers import AutoModelForSeq2SeqLM, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, info = AutoModelForSeq2SeqLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", use_safetensors=True,
            local_files_only=True, output_loading_info=True,
        )  # fmt: skip
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UserError(
            f"Encoder {name}: transformers cannot load {folder} ({reason}); check the checkpoint."
        ) from error
    missing = set(info["missing_keys"])
    if not geometry.tied and model.lm_head.weight is model.shared.weight:
        missing.add("lm_head.weight")  # transformers takes the embedding in its place
    for problem, names in (("misses", missing), ("has unexpected", info["unexpected_keys"])):
        if names:  # transformers would take random weights, or none
            some = ", ".join(sorted(names)[:3]) + (" …" if len(names) > 3 else "")
            raise UserError(
                f"Encoder {name}: the checkpoint in {folder} {problem} {some}; choose a whole T5."
            )
    state = model.eval().state_dict()
    if not set(geometry.shapes()) <= set(state) or not _is_plain(model, geometry):
        raise UserError(
            f"Encoder {name} is no plain T5: its tensors or outputs differ from those of a T5 "
            "v1.0, v1.1 or Flan-T5; choose another checkpoint."
        )
    return {key: state[key] for key in geometry.shapes()}


@torch.no_grad()
def _is_plain(model: Any, geometry: T5) -> bool:
    """Whether our function gives transformers' own outputs, on random tokens with padding."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(geometry.vocab_size, (2, 160), generator=generator)
    source, given = tokens[:, :148], tokens[:, 148:]
    source = source.masked_fill(source == geometry.pad, geometry.eos)
    source[1, 20:] = geometry.pad
    ours = logits(dict(model.named_parameters()), source, given, geometry)
    mask = (source != geometry.pad).long()
    theirs = model(input_ids=source, attention_mask=mask, decoder_input_ids=given).logits
    return bool((ours - theirs).abs().max() <= 1e-4 * theirs.abs().max())


def _tokenizer(name: str, folder: Path, geometry: T5) -> "Tokenizer":
    """The checkpoint's tokenizer without any cutting or padding of its own."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # tokenizers raises no class of its own
        raise UserError(
            f"Encoder {name}: {folder} has no readable tokenizer.json; put the tokenizer that the "
            "model was trained with beside its weights, as save_pretrained of transformers' "
            "AutoTokenizer writes it."
        ) from error
    size = max(tokenizer.get_vocab().values(), default=0) + 1
    if size > geometry.vocab_size or tokenizer.id_to_token(geometry.eos) is None:
        raise UserError(
            f"Encoder {name}: its tokenizer has {size} tokens, its model {geometry.vocab_size}, "
            f"of which {geometry.eos} ends a text: put the model's own tokenizer.json beside it."
        )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
