"""An encoder as a value: at its pretrained weights, or with a task vector added."""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import checks
from ..config.definitions import AnyEncoder, TextEncoder
from ..config.definitions import Encoder as ClipEncoder
from ..config.sentences import hold
from ..config.settings import encoder_settings
from ..core.vectors import TaskVector
from ..errors import UserError
from ..files.hashes import read_sealed
from ..files.paths import PathLike
from ..stages import modalities
from .cache import cached, defined, downloaded, is_path, run_stage

FILES = {"encoder.json": None, "open_clip_config.json": "vision", "config.json": "language"}


@dataclass(frozen=True, repr=False)
class Encoder:
    """An encoder at θ0 + τ. `encoder + vector` and `encoder - vector` are encoders again.

    Attributes:
        name: its name. folder: where its files lie. modality: vision or language.
        theta0: pretrained tensors by name, float32. about: what encoder.json says of it.
        tau: the task vector that was added; one of a linearized mode is used in f_lin.
        prompts: of texts: the prompt set of a task that it reads; "": a task's only one.
    """

    name: str
    folder: Path
    modality: str
    theta0: dict[str, Tensor]
    about: dict[str, Any]
    tau: TaskVector
    prompts: str = ""

    @property
    def base(self) -> str:
        """The SHA-256 of θ0, which a task vector carries."""
        return str(self.about["theta0_sha256"])

    @property
    def theta(self) -> dict[str, Tensor]:
        """θ0 + τ by name."""
        return self.tau.apply(self.theta0)

    @property
    def device(self) -> torch.device:
        return next(iter(self.theta0.values())).device

    def check(self, tau: TaskVector) -> None:
        """Raises UserError: a vector of another encoder, or one that is not finite."""
        if tau.base and tau.base != self.base:
            raise UserError(
                f"The task vector is of another encoder (base {tau.base[:8]}) than {self.name} "
                f"(base {self.base[:8]}): use the one that it was fine-tuned from."
            )
        for name, tensor in tau.tensors.items():
            own = self.theta0.get(name)
            if own is None or (tensor.shape, tensor.dtype) != (own.shape, own.dtype):
                raise UserError(
                    f"The task vector moves {name} of shape {tuple(tensor.shape)} and "
                    f"{tensor.dtype}, which {self.name} has not: it is of another encoder."
                )
            if not torch.isfinite(tensor).all():
                raise UserError(f"The task vector has numbers in {name} that are not finite.")

    def __add__(self, tau: TaskVector) -> "Encoder":
        if not isinstance(tau, TaskVector):
            return NotImplemented
        self.check(tau)
        return replace(self, tau=self.tau + tau.to(self.device))

    def __sub__(self, tau: TaskVector) -> "Encoder":
        return self + (-tau) if isinstance(tau, TaskVector) else NotImplemented

    def to(self, device: torch.device | str) -> "Encoder":
        """The same encoder on a device."""
        theta0 = {name: tensor.to(device) for name, tensor in self.theta0.items()}
        return replace(self, theta0=theta0, tau=self.tau.to(device))

    def __repr__(self) -> str:
        count = sum(tensor.numel() for tensor in self.theta0.values())
        moved = f" + {self.tau!r}" if self.tau.tensors else ""
        return f"Encoder({self.name}, {self.modality}, {count:,} numbers){moved}"


def load_encoder(name: PathLike, device: torch.device | str = "cpu") -> Encoder:
    """An encoder at θ0.

    Args:
        name: a name of config/encoders, of the working directory or those that come with the code;
            or a folder: an encoder's of a run, or a checkpoint of open_clip or of a T5. Only an
            encoder of a hub is downloaded.
    Raises:
        UserError: there is none of this name, or it is no plain CLIP ViT or T5.
    """
    local = is_path("encoders", name)
    found = [file for file in FILES if local and (Path(name) / file).is_file()]
    if found and found[0] == "encoder.json":
        return _read_encoder(Path(name), device)
    key = os.path.basename(os.path.normpath(name))
    if found:
        where, given = f"The checkpoint {name}", {"path": str(name)}
        definition: AnyEncoder
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
    encoder = _read_encoder(folder, device)
    return encoder if found else replace(encoder, prompts=definition.prompts or "")


def _read_encoder(folder: Path, device: torch.device | str) -> Encoder:
    modality = read_sealed(folder / "encoder.json").get("modality", "vision")
    theta0, about = modalities.form(modality).read_encoder(folder, device)
    none = TaskVector({}, base=about["theta0_sha256"])
    return Encoder(about["name"], folder, modality, theta0, about, none)


def _sizes(path: PathLike) -> list[tuple[str, int, int]]:
    """The files of a checkpoint: names, sizes, times."""
    some = sorted(file for file in Path(path).iterdir() if file.is_file())
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in some]
