"""The rank of task vectors, and of what they were merged into, in each layer."""

from collections import defaultdict

import numpy as np
import torch

from ..analysis.layers import layers_of
from ..analysis.spectra import Spectrum, singular_values, spectrum
from ..core.encoder import CPU
from ..files.metrics import write_rows
from ..files.paths import PathLike
from ..progress import SILENT, Progress
from .layers import names_in, weights_of
from .updates import Updates


def spectra(
    encoder_dir: PathLike,
    *,
    encoder: str,
    mode: str,
    seed: int,
    tasks: list[str],
    vectors: list[PathLike],
    methods: list[str] | None = None,
    merged: list[PathLike] | None = None,
    unified: list[PathLike] | None = None,
    output: PathLike,
    device: torch.device = CPU,
    progress: Progress = SILENT,
) -> None:
    """`stable_rank`, `effective_rank` and `top_energy` (see analysis.spectra.Spectrum) in each
    layer, means over the tasks and the layer's matrices; and with `merged_` before their names
    those of what the vectors were merged into, by the sum and by each other method.

    A matrix that is zero has none and does not count. Of the whole `spectrum_matrices`: how many
    there are.

    Args:
        methods, merged, unified: see Updates.
    """
    known = layers_of(names_in(weights_of(encoder_dir)))
    files = Updates(vectors, methods or (), merged or (), unified or (), device)
    found: dict[tuple[str, str, str], list[Spectrum]] = defaultdict(list)
    wanted = [name for name in files.names if name in known]

    def add(prefix: str, method: str, layer: str, matrix: torch.Tensor) -> None:
        if own := spectrum(singular_values(matrix), len(tasks)):
            found[prefix, method, layer].append(own)

    for done, matrix in enumerate(files.of(wanted), 1):
        layer = known[matrix.name]
        for delta in matrix.deltas:
            add("", "", layer, delta)
        for method, each in matrix.merged:
            add("merged_", method, layer, each)
        progress.at(done, len(wanted), "matrix")
    rows = [
        {"metric": prefix + metric, "method": method, "layer": layer, "value": value}
        for (prefix, method, layer), own in found.items()
        for metric, value in zip(Spectrum._fields, np.mean(own, axis=0), strict=True)
    ]
    rows.append({"metric": "spectrum_matrices", "value": len(wanted)})
    write_rows(output, rows, encoder=encoder, mode=mode, seed=seed)
