"""Random test images of many tasks, and their vectors, each read when it is asked for: what passes
them through models holds few of them at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ..core.encoder import Encoder, Examples
from ..core.vectors import TaskVector
from ..files.manifest import sample_indices
from ..files.paths import PathLike
from . import modalities
from .evaluate import EvaluationSettings, vector_of


@dataclass(frozen=True, kw_only=True)
class SampledSettings(EvaluationSettings):
    """samples: random test images of each task; all of them if there are fewer."""

    samples: int


class Sampled(NamedTuple):
    """An encoder, and of each task what reads its vector, and some of its test examples."""

    encoder: Encoder
    taus: list[Callable[[], TaskVector]]
    samples: list[Callable[[], Examples]]


def read_sampled(
    encoder_dir: PathLike,
    heads: list[PathLike],
    data_dirs: list[PathLike],
    vectors: list[PathLike],
    settings: SampledSettings,
    device: torch.device,
) -> Sampled:
    """Read an encoder, and prepare to read the rest, in the order of the tasks.

    Raises:
        UserError: files that are missing, damaged or do not fit each other; also when read.
    """
    model = modalities.read_encoder(encoder_dir, settings.modality, device)
    limit = settings.limit

    def of_task(head: PathLike, data_dir: PathLike) -> Callable[[], Examples]:
        every = model.modality.read_examples(head, data_dir, "test", limit, device)  # not in memory
        chosen = sample_indices(len(every.labels), settings.samples)

        def read() -> Examples:
            images, labels = np.array(every.images[chosen]), every.labels[chosen]
            return every._replace(images=images, labels=labels)

        return read

    def of_vector(path: PathLike) -> Callable[[], TaskVector]:
        return lambda: vector_of(path, model)

    samples = [of_task(*files) for files in zip(heads, data_dirs, strict=True)]
    return Sampled(model, [of_vector(path) for path in vectors], samples)
