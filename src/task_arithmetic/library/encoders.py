"""An encoder as a value: at its pretrained weights, or with a task vector added."""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..config import checks
from ..config.definitions import AnyEncoder, TextEncoder
from ..config.definitions import Encoder as ClipEncoder
from ..config.sentences import hold
from ..config.settings import encoder_settings
from ..core import encoder
from ..errors import UserError
from ..files.hashes import read_sealed
from ..files.paths import PathLike, read_json
from ..stages import modalities
from .cache import cached, defined, downloaded, is_path, run_stage
from .vectors import MergedVector, TaskVector, torch_device

FILES = {"encoder.json": None, "open_clip_config.json": "vision", "config.json": "language"}


@dataclass(frozen=True, repr=False, eq=False)
class Encoder(encoder.Encoder):
    """An encoder at θ0 + τ. `encoder + vector` and `encoder - vector` are encoders again.

    Attributes:
        name: its name. theta0: pretrained tensors by name, float32. base: their SHA-256, which a
            task vector carries. modality: what it reads and computes, see core.encoder.
        folder: where its files lie.
        tau: the task vector that was added; one of a linearized mode is used in f_lin.
        prompts: of texts: the prompt set of a task that it reads; "": a task's only one.
    """

    folder: Path
    tau: TaskVector
    prompts: str = ""

    @property
    def theta(self) -> dict[str, Tensor]:
        """θ0 + τ by name."""
        return self.tau.apply(self.theta0)

    def check(self, tau: TaskVector) -> None:
        """Raises UserError: a vector of another encoder, or one that is not finite."""
        if tau.base and tau.base != self.base:
            raise UserError(
                f"The task vector is of another encoder (base {tau.base[:8]}) than {self.name} "
                f"(base {self.base[:8]}): use the one that it was fine-tuned from."
            )
        for name, tensor in tau.tensors.items():
            own = self.theta0.get(name)
            if own is None or tensor.shape != own.shape:
                raise UserError(
                    f"The task vector moves {name} of shape {tuple(tensor.shape)}, which "
                    f"{self.name} has not: it is of another encoder."
                )
            if tensor.dtype != own.dtype:
                raise UserError(
                    f"The task vector has {name} in {tensor.dtype}, and {self.name} in "
                    f"{own.dtype}: convert the vector's tensors to that."
                )
            if not torch.isfinite(tensor).all():
                raise UserError(f"The task vector has numbers in {name} that are not finite.")

    def __add__(self, tau: TaskVector | MergedVector) -> "Encoder":
        if isinstance(tau, MergedVector):
            tau = 1.0 * tau
        if not isinstance(tau, TaskVector):
            return NotImplemented
        self.check(tau)
        return replace(self, tau=self.tau + tau.to(self.device))

    def __sub__(self, tau: TaskVector) -> "Encoder":
        return self + (-tau) if isinstance(tau, TaskVector) else NotImplemented

    def to(self, device: torch.device | str) -> "Encoder":
        """The same encoder on a device."""
        place = torch_device(device)
        theta0 = {name: tensor.to(place) for name, tensor in self.theta0.items()}
        return replace(self, theta0=theta0, tau=self.tau.to(place))

    def __repr__(self) -> str:
        count = sum(tensor.numel() for tensor in self.theta0.values())
        moved = f" + {self.tau!r}" if self.tau.tensors else ""
        return f"Encoder({self.name}, {self.modality.name}, {count:,} numbers){moved}"


def load_encoder(name: PathLike, device: torch.device | str = "cpu") -> Encoder:
    """An encoder at θ0.

    Args:
        name: a name of config/encoders, of the working directory or those that come with the code;
            or a folder: an encoder's of a run, or a checkpoint of open_clip or of a T5. Only an
            encoder of a hub is downloaded.
    Raises:
        UserError: there is none of this name, or it is no plain CLIP ViT or T5.
    """
    if not isinstance(name, str | os.PathLike):
        raise UserError(f"An encoder is a name or a folder; found {name!r}.")
    local = is_path("encoders", name)
    found = [file for file in FILES if local and (Path(name) / file).is_file()]
    if found and found[0] == "encoder.json":
        return _read_encoder(Path(name), device)
    key = os.path.basename(os.path.normpath(name))
    if found:
        where, given = f"The checkpoint {name}", {"path": str(name)}
        definition: AnyEncoder
        kind = str(read_json(Path(name) / found[0]).get("model_type", ""))
        if kind.startswith("clip"):
            raise UserError(
                f"{name} is a CLIP in the form of transformers, which has no text tower for heads: "
                "give it in open_clip's form, or take its task vector by `task-arithmetic vector`."
            )
        if FILES[found[0]] == "language":
            definition = hold(TextEncoder, {**given, "prompts": "any"}, where)
        else:
            definition = hold(ClipEncoder, given, where)
        checks.check_definition(definition, where)
    else:
        if local:
            raise UserError(
                f"{name} is no folder of an encoder: it has none of {', '.join(FILES)}; give such "
                "a folder, or a name of config/encoders."
            )
        definition = defined("encoders", str(name))
    settings = json.loads(encoder_settings(definition))
    files = _sizes(definition.path) if definition.path else []
    folder = cached("encoder", definition.modality, key, settings, files)
    if not folder.exists():
        record = downloaded(key, definition, folder)
        own = {"encoder": key, "settings": settings, "output": str(folder)}
        run_stage("encoder", {**own, "download": record})
    loaded = _read_encoder(folder, device)
    return loaded if found else replace(loaded, prompts=definition.prompts or "")


def _read_encoder(folder: Path, device: torch.device | str) -> Encoder:
    modality = read_sealed(folder / "encoder.json").get("modality", "vision")
    at = modalities.read_encoder(folder, modality, torch_device(device))
    none = TaskVector({}, base=at.base)
    return Encoder(at.name, at.theta0, at.modality, at.base, at.seal, folder, none)


def _sizes(path: PathLike) -> list[tuple[str, int, int]]:
    """The files of a checkpoint: names, sizes, times."""
    some = sorted(file for file in Path(path).iterdir() if file.is_file())
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in some]
