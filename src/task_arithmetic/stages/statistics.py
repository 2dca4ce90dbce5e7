"""Statistics of one task that merging by regmean needs: collecting them, and reading those of many.

They are the Gram matrices of what each layer of the task's individual model reads of some of its
train examples, see merging.grams.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.encoder import CPU
from ..core.vectors import TaskVector, check_base
from ..errors import UserError
from ..files.paths import PathLike
from ..files.tensors import open_tensors, read_made_by, write_tensors
from ..merging.grams import collect
from ..progress import SILENT, Progress
from . import modalities
from .evaluate import EvaluationSettings, vector_of


@dataclass(frozen=True, kw_only=True)
class StatisticsSettings(EvaluationSettings):
    """images: how many train examples, images or texts; all of them if there are fewer."""

    images: int = 256


def statistics(
    encoder_dir: PathLike,
    head: PathLike,
    data_dir: PathLike,
    *,
    encoder: str,
    mode: str,
    task: str,
    seed: int,
    vector: PathLike,
    settings: dict[str, Any],
    output: PathLike,
    device: torch.device = CPU,
    progress: Progress = SILENT,
) -> None:
    """Write Xᵀ X / tokens, float32 (in, in), of every weight matrix that τ moves.

    Args:
        seed: of the draw of examples. vector: τ, of the individual model θ0 + τ.
        settings: see StatisticsSettings; if they say linearized, X is that of θ0.
        output: safetensors; its header has the number of examples that were read, `images`.
    Raises:
        UserError: artifacts that do not fit each other, inputs that are not finite.
    """
    how = StatisticsSettings.of(settings)
    model = modalities.read_encoder(encoder_dir, how.modality, device)
    examples = model.modality.read_examples(head, data_dir, "train", how.limit, device)
    tau = vector_of(vector, model)
    check_base(TaskVector({}, base=model.base), tau)
    found = collect(model, tau, examples, how.images, seed, how.linearized, how.precision, progress)
    made_by = {
        "stage": "statistics",
        "encoder": encoder,
        "mode": mode,
        "task": task,
        "seed": seed,
        "images": found.examples,
        "theta0_sha256": model.base,
    }
    write_tensors(output, found.grams, made_by)


class GramFiles(Mapping[str, list[Tensor]]):
    """Matrix → of each task its Gram matrix, float32 (in, in), read from the stage's files when it
    is asked for: regmean's `state` with one matrix of each task in memory at a time.

    Args:
        paths: of each task its file, in the order of the vectors that are merged.
    Raises:
        UserError: a file that the stage has not made, or files of different encoders.
    """

    def __init__(self, paths: Sequence[PathLike], device: torch.device | str = "cpu") -> None:
        self.paths, self.device = list(paths), device
        self.headers = [read_made_by(path) for path in self.paths]
        self._held: list[set[str]] = []
        for path, header in zip(self.paths, self.headers, strict=True):
            if header.get("stage") != "statistics":
                raise UserError(
                    f"{path} holds no Gram matrices: give files made by `statistics`, one for each "
                    "task."
                )
            if header["theta0_sha256"] != self.headers[0]["theta0_sha256"]:
                raise UserError(
                    f"{path} and {self.paths[0]} are of different encoders: give statistics of one."
                )
            with open_tensors(path) as file:
                self._held.append(set(file.keys()))

    def __getitem__(self, name: str) -> list[Tensor]:
        grams = []
        for path, held in zip(self.paths, self._held, strict=True):
            if name in held:
                with open_tensors(path, "pt", self.device) as file:
                    grams.append(file.get_tensor(name))
        if not grams:
            raise KeyError(name)
        return grams

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(set().union(*self._held)))

    def __len__(self) -> int:
        return len(set().union(*self._held))
