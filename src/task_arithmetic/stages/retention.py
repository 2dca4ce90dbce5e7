"""Accuracy of a merged model on the control task: what the merged tasks cost the others."""

from typing import Any

import torch

from ..core.encoder import CPU
from ..errors import UserError
from ..files.metrics import read_rows, write_rows
from ..files.paths import PathLike, mend
from ..merging.sum import total
from ..progress import SILENT, Progress
from . import modalities
from .evaluate import EvaluationSettings, accuracies, merged_of, vector_of


def retention(
    encoder_dir: PathLike,
    head: PathLike,
    data_dir: PathLike,
    *,
    encoder: str,
    mode: str,
    seed: int,
    control: str,
    vectors: list[PathLike],
    addition: PathLike,
    settings: dict[str, Any],
    output: PathLike,
    method: str | None = None,
    device: torch.device = CPU,
    progress: Progress = SILENT,
) -> None:
    """Test accuracy of θ0 + α Σ τ_t, or of θ0 + A + α B, on the control task at the α that addition
    chose: `retained_accuracy`.

    Args:
        head, data_dir: of the control task.
        vectors: of each task its vector; or the merged one alone.
        addition: metrics of task addition of the same vectors.
        method: what merged them, in the rows' column `method`; None: they are summed.
    """
    how = EvaluationSettings.of(settings)
    chosen = {row.alpha for row in read_rows(addition) if row.split == "test"}
    if len(chosen) != 1:
        raise UserError(
            f"{addition} has {len(chosen)} α on test where one is chosen: {mend(addition)}."
        )
    (alpha,) = chosen
    model = modalities.read_encoder(encoder_dir, how.modality, device)
    if method:
        offset, tau = merged_of(vectors[0], model)
    else:
        offset, tau = None, total(vector_of(path, model) for path in vectors)
    examples = model.modality.read_examples(head, data_dir, "test", how.limit, device)
    found = accuracies(model, tau, [alpha], {control: examples}, how, offset)
    row = {"task": control, "split": "test", "alpha": alpha, "metric": "retained_accuracy"}
    shared = {"encoder": encoder, "mode": mode, "seed": seed, "method": method}
    write_rows(output, [{**row, "value": found[control][0]}], **shared)
