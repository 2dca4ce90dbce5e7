"""Fine-tuned weights as any library writes them: which files they are, and their tensors."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError, root_cause
from .hashes import sha256_of_file
from .paths import PathLike, read_json
from .tensors import read_made_by, read_tensors

INDEX = ".index.json"  # ends the name of a list of shards
FORMS = {  # a folder's configuration → its weights, of which it has one
    "config.json": ["model.safetensors", f"model.safetensors{INDEX}", "pytorch_model.bin"],
    "open_clip_config.json": ["open_clip_model.safetensors"],
}
PICKLED_OPEN_CLIP = "open_clip_pytorch_model.bin"


class Checkpoint(NamedTuple):
    """Fine-tuned weights, as they are stored.

    Attributes:
        place: where people find them. folder: where they lie.
        config: the folder's; of a file alone {}.
        tensors: name → tensor, of any precision. made_by: of our own files, see tensors.header.
        hashes: name of a file → SHA-256.
    """

    place: str
    folder: Path
    config: dict[str, Any]
    tensors: dict[str, Any]
    made_by: dict[str, Any]
    hashes: dict[str, str]

    def error(self, sentence: str) -> UserError:
        """What is wrong with them."""
        return UserError(f"{self.place} {sentence}")


def checkpoint_files(path: PathLike) -> list[Path]:
    """The files of fine-tuned weights: a file itself; of a folder in the form of transformers or
    open_clip its configuration and weights.

    Raises:
        UserError: nothing is there, the configuration or the weights lack, or they are pickled by
            open_clip.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"There is no {path}: give a folder or a file of fine-tuned weights.")
    for config, weights in FORMS.items():
        if not (path / config).is_file():
            continue
        found = next((path / name for name in weights if (path / name).is_file()), None)
        if found is None:
            pickled = (path / PICKLED_OPEN_CLIP).is_file()
            also = f" ({PICKLED_OPEN_CLIP} is pickled, and is not read)" if pickled else ""
            wanted = " or ".join(weights)
            raise UserError(f"{path} has {config} but no {wanted}{also}: put it there.")
        listed = [path / name for name in shards(found)]
        if lacking := [file.name for file in listed if not file.is_file()]:
            raise UserError(f"{path} has no {lacking[0]}, which {found.name} lists: put it there.")
        return [path / config, found, *listed]
    raise UserError(
        f"{path} has neither of {' and '.join(FORMS)}: give the whole folder, as it was saved, or "
        "the file of the weights."
    )


def shards(index: Path) -> list[str]:
    """The names of the files that a list of shards names; none if it is no such list. Raises
    UserError if it is damaged."""
    if not index.name.endswith(INDEX):
        return []
    listed = read_json(index)
    names = listed.get("weight_map") if isinstance(listed, dict) else None
    if not isinstance(names, dict) or not names:
        raise UserError(f"{index} lists no shards (weight_map): put a whole one in its place.")
    return sorted(set(names.values()))


def read_checkpoint(files: Sequence[PathLike], place: str | None = None) -> Checkpoint:
    """Read fine-tuned weights.

    Args:
        files: as checkpoint_files gives them.
        place: where people find them; default the file, or its folder.
    Raises:
        UserError: a file is missing or damaged, or holds anything else than named tensors.
    """
    paths = [Path(file) for file in files]
    configs = [path for path in paths if path.name in FORMS]
    weights = [path for path in paths if path.suffix != ".json"]
    place = place or str(configs[0].parent if configs else weights[0])
    config = read_json(configs[0]) if configs else {}
    if not isinstance(config, dict):
        raise UserError(f"{configs[0]} must be a JSON object; correct it.")
    tensors: dict[str, Any] = {}
    made_by: dict[str, Any] = {}
    for path in weights:
        if _is_safetensors(path):
            tensors |= read_tensors(path)
            made_by |= read_made_by(path)
        else:
            tensors |= _unpickled(path)
    hashes = {path.name: sha256_of_file(path) for path in weights}
    return Checkpoint(place, paths[0].parent, config, tensors, made_by, hashes)


def _is_safetensors(path: Path) -> bool:
    """By its name, or by how it begins: 8 bytes of length, then a JSON object."""
    if path.suffix == ".safetensors" or not path.is_file():
        return path.suffix == ".safetensors"
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def _unpickled(path: Path) -> dict[str, Any]:
    """The tensors of a state dict that torch saved; nothing but tensors is ever unpickled."""
    import torch

    if not path.is_file():
        raise UserError(f"There is no {path}: put the whole checkpoint there.")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError) and "global" in str(error).lower():
            raise UserError(
                f"{path} holds a pickled module, which can run any code when it is opened, and is "
                "not read: where you trust it and its libraries are, convert it by these lines, "
                "and give the file that they write.\n"
                f"  import torch; module = torch.load({path.name!r}, weights_only=False)\n"
                f"  torch.save(module.state_dict(), {path.stem + '_state.pt'!r})"
            ) from None
        raise UserError(
            f"{path} is not a readable file of torch ({root_cause(error)}): put a whole one in "
            "its place, or give a safetensors file."
        ) from None
    named = isinstance(found, dict) and all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in found.items()
    )
    if not named or not found:
        raise UserError(
            f"{path} holds {type(found).__name__} instead of a state dict (names and tensors): "
            "save the model's state_dict(), or give a safetensors file."
        )
    return dict(found)
