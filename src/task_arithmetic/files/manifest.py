"""The manifest of a task's folder, its splits, and draws from them."""

from pathlib import Path

import numpy as np

from ..errors import UserError
from .hashes import read_sealed
from .paths import mend

FORMAT = 4  # of a task's folder
SPLITS = ("train", "validation", "test")
SAMPLE_SEED = 0


def sample_indices(count: int, samples: int) -> np.ndarray:
    """A random subset of indices without replacement, ascending, always the same; all of them if
    there are no more than `samples`."""
    if samples >= count:
        return np.arange(count)
    generator = np.random.Generator(np.random.PCG64(SAMPLE_SEED))
    return np.sort(generator.permutation(count)[:samples])


def read_manifest(data_dir) -> dict:
    """manifest.json of a task's folder. Raises UserError if it is damaged or of another version."""
    manifest = read_sealed(Path(data_dir) / "manifest.json")
    if manifest.get("format") != FORMAT:
        raise UserError(
            f"{data_dir} was made by another version (format {manifest.get('format', 1)}, not "
            f"{FORMAT}): {mend(Path(data_dir) / 'manifest.json')}."
        )
    return manifest
