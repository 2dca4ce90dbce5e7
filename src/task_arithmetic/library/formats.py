"""The formats that a model is exported in: its weights under another library's names, and what that
library reads beside them. Each function fills a folder that is not there yet under its own name."""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..files.download import Download, HubFile
from ..files.hashes import check_file, read_sealed
from ..files.paths import write_json
from ..files.streamed import write_one_by_one
from ..files.tensors import read_made_by, read_tensors
from ..language.exports import COPIED, t5_config, tokenizer_config
from ..language.modality import TOKENIZER, Language
from ..vision.exports import base_of, open_clip_config, preprocessor_config, transformers_config
from ..vision.geometry import OWN_MERGES, TextTower
from ..vision.modality import MERGES, TEXT_TOWER, Vision
from ..vision.names import to_transformers
from .encoders import Encoder
from .tasks import Task

SHARD_BYTES = 5 * 10**9  # the most that a file's tensors have
VECTOR_FILE = "task_vector.safetensors"
HEADS = "heads.safetensors"
Tensors = dict[str, Tensor]
Piece = tuple[dict[str, tuple[int, ...]], Callable[[], Tensors]]  # shapes, and what makes them
Hashes = dict[str, str]  # file → SHA-256


def write_transformers(
    encoder: Encoder, folder: Path, tasks: Sequence[Task], shard_bytes: int
) -> Hashes:
    """A folder for from_pretrained: CLIPVisionModelWithProjection and CLIPVisionModel of
    transformers 4 and 5, or T5ForConditionalGeneration."""
    modality = encoder.modality
    if isinstance(modality, Language):
        write_json(folder / "config.json", t5_config(modality.geometry))
        _copy_tokenizer(encoder, folder, modality)
        pieces = _pieces(encoder, lambda tensors: tensors)
    else:
        vision = _vision(encoder)
        size, mean, std = vision.geometry.image_size, vision.mean, vision.std
        write_json(folder / "config.json", transformers_config(vision.geometry))
        write_json(folder / "preprocessor_config.json", preprocessor_config(size, mean, std))
        pieces = _pieces(encoder, to_transformers)
    return _write_weights(folder, "model", pieces, shard_bytes)


def write_fusion_bench(
    encoder: Encoder, folder: Path, tasks: Sequence[Task], shard_bytes: int
) -> Hashes:
    """write_transformers, and modelpool.yaml: the model among those of fusion_bench."""
    found = write_transformers(encoder, folder, tasks, shard_bytes)
    base = repository(encoder) or "BASE"
    lines = ["_target_: fusion_bench.modelpool.CLIPVisionModelPool", "_recursive_: false"]
    lines += [f"processor: {base}", "models:", f"  _pretrained_: {base}", "  merged: ."]
    (folder / "modelpool.yaml").write_text("\n".join([*lines, ""]), "utf-8")
    return found


def write_open_clip(
    encoder: Encoder, folder: Path, tasks: Sequence[Task], shard_bytes: int
) -> Hashes:
    """A folder for open_clip's `local-dir:` or `hf-hub:`: the whole model, its text tower θ0's, and
    the tasks' heads, whose names, classes and templates the header has."""
    vision, about = _vision(encoder), read_sealed(encoder.folder / "encoder.json")
    tower = encoder.folder / TEXT_TOWER
    check_file(tower, about["text_tower_sha256"])
    config = open_clip_config(vision.geometry, TextTower(**about["text"]), vision.mean, vision.std)
    write_json(folder / "open_clip_config.json", config)
    if about["own_merges"]:
        shutil.copyfile(encoder.folder / MERGES, folder / OWN_MERGES)
    words = read_tensors(tower) | {"logit_scale": torch.tensor(about["logit_scale"])}
    pieces = _pieces(encoder, lambda named: {f"visual.{k}": v for k, v in named.items()})
    pieces += [({k: tuple(v.shape)}, lambda k=k, v=v: {k: v}) for k, v in words.items()]  # type: ignore[misc]
    found = _write_weights(folder, "open_clip_model", pieces, None)
    if tasks:
        heads = {task.name: read_tensors(task.head)["head"] for task in tasks}
        headers = {task.name: read_made_by(task.head) for task in tasks}
        kept = {
            name: {key: of[key] for key in ("classes", "templates")} for name, of in headers.items()
        }
        shapes = {name: tuple(head.shape) for name, head in heads.items()}
        metadata = {"tasks": json.dumps(kept)}
        found[HEADS] = write_one_by_one(folder / HEADS, shapes, heads.items(), metadata)
    return found


def write_vector(encoder: Encoder, folder: Path, tasks: Sequence[Task], shard_bytes: int) -> Hashes:
    """What was added to θ0, as one file of TaskVector.save."""
    encoder.tau.save(folder / VECTOR_FILE)
    return {}


FORMATS = {
    "transformers": write_transformers,
    "open_clip": write_open_clip,
    "fusion_bench": write_fusion_bench,
    "vector": write_vector,
}


def check_format(encoder: Encoder, to: str) -> None:
    """Raises UserError: an encoder that this format has no place for."""
    if to == "open_clip" and encoder.modality.name != "vision":
        raise UserError(
            f"{encoder.name} reads texts and has no text tower of a CLIP, which open_clip needs: "
            "export it to transformers."
        )
    if to == "open_clip" and not (encoder.folder / TEXT_TOWER).is_file():
        raise UserError(
            f"{encoder.name} has no text tower ({encoder.folder / TEXT_TOWER} is not there), which "
            "open_clip needs: load the encoder from a whole CLIP, or export it to transformers."
        )
    if to == "fusion_bench" and encoder.modality.name != "vision":
        raise UserError(
            f"{encoder.name} reads texts, and the pool of fusion_bench that is written is of "
            "CLIPs: export it to transformers, a folder that its pool of T5s loads."
        )


def repository(encoder: Encoder, to: str = "transformers") -> str:
    """The hub's repository of the pretrained model, as the library of a format loads it; "": none,
    or it is not known."""
    about = read_sealed(encoder.folder / "encoder.json")
    named = base_of(about["definition"]) if encoder.modality.name == "vision" else ""
    return named or str((about.get("source") or {}).get("repo", ""))


def _vision(encoder: Encoder) -> Vision:
    assert isinstance(encoder.modality, Vision)
    return encoder.modality


def _copy_tokenizer(encoder: Encoder, folder: Path, language: Language) -> None:
    """The tokenizer, and what the pretrained model's own folder has beside it."""
    shutil.copyfile(encoder.folder / TOKENIZER, folder / TOKENIZER)
    about = read_sealed(encoder.folder / "encoder.json")
    own, source = about["definition"].get("path"), about.get("source")
    if source:
        files = {key: [HubFile(**file) for file in of] for key, of in source["files"].items()}
        record = Download("encoder", encoder.name, source["repo"], None, source["commit"], files)
        own = record.folder()
    for name in COPIED if own else ():
        if (Path(own) / name).is_file():
            shutil.copyfile(Path(own) / name, folder / name)
    if not (folder / "tokenizer_config.json").is_file():
        config = tokenizer_config(encoder.folder, language.geometry)
        write_json(folder / "tokenizer_config.json", config)


def _pieces(encoder: Encoder, rename: Callable[[Tensors], Tensors]) -> list[Piece]:
    """The tensors θ0 + τ under other names, each of which may become several."""

    def piece(name: str, theta0: Tensor) -> Piece:
        def made() -> Tensors:
            moved = encoder.tau.tensors.get(name)
            return rename({name: theta0 if moved is None else theta0 + moved})

        renamed = rename({name: theta0.to("meta")})
        return {key: tuple(tensor.shape) for key, tensor in renamed.items()}, made

    return [piece(name, theta0) for name, theta0 in encoder.theta0.items()]


def _write_weights(
    folder: Path, stem: str, pieces: Sequence[Piece], shard_bytes: int | None
) -> Hashes:
    """A file of weights, or shards of at most `shard_bytes` and their index."""

    def size(shapes: Mapping[str, tuple[int, ...]]) -> int:
        return 4 * sum(math.prod(shape) for shape in shapes.values())

    shards: list[list[Piece]] = [[]]
    filled = 0
    for piece in pieces:
        if shards[-1] and shard_bytes and filled + size(piece[0]) > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(piece)
        filled += size(piece[0])
    found: Hashes = {}
    places: dict[str, str] = {}
    for i, shard in enumerate(shards, 1):
        part = f"-{i:05}-of-{len(shards):05}" * (len(shards) > 1)
        file = f"{stem}{part}.safetensors"
        shapes = {name: shape for some, _ in shard for name, shape in some.items()}
        found[file] = write_one_by_one(folder / file, shapes, _made(shard), {"format": "pt"})
        places |= dict.fromkeys(shapes, file)
    if len(shards) > 1:
        total = {"total_size": sum(size(shapes) for shapes, _ in pieces)}
        index: dict[str, Any] = {"metadata": total, "weight_map": places}
        write_json(folder / f"{stem}.safetensors.index.json", index)
    return found


def _made(shard: Sequence[Piece]) -> Iterator[tuple[str, Tensor]]:
    for _, make in shard:
        yield from make().items()
