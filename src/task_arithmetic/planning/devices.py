"""Devices by name: what they compute by their makers' word, and what is estimated of it."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..config.experiment import Experiment
from ..config.geometries import Geometry
from ..errors import UserError, nearest
from ..files.paths import PathLike
from .work import Key, operations

LAUNCH = 2e-5  # seconds to start a matrix product and what goes with it on a GPU: assumed


class Device(NamedTuple):
    """A row of devices.csv: peaks in TFLOP/s, the share of them that is sustained, and where these
    numbers come from."""

    device: str
    label: str
    bf16_tflops: float
    float32_tflops: float
    float64_tflops: float
    share: float
    share_is: str
    source: str

    def rate(self, precision: str) -> float:
        """Sustained operations per second in bf16, float32 or float64."""
        peak: float = getattr(self, f"{precision}_tflops")
        return 1e12 * self.share * peak


def read_devices(basedir: PathLike) -> dict[str, Device]:
    """Name → device, of all in workflow/reference/devices.csv."""
    found = {}
    with open(Path(basedir) / "workflow/reference/devices.csv", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            numbers = "bf16_tflops float32_tflops float64_tflops share".split()
            bf16, float32, float64, share = (float(row[key]) for key in numbers)
            peaks, about = (bf16, float32, float64), (row["share_is"], row["source"])
            found[row["device"]] = Device(row["device"], row["label"], *peaks, share, *about)
    return found


def named_device(name: str | None, basedir: PathLike) -> Device | None:
    """A device of devices.csv; None for this machine's own. Raises UserError if it has no such."""
    if name in (None, "cpu"):
        return None
    known = read_devices(basedir)
    if name not in known:
        raise UserError(
            f"There is no device {name!r}{nearest(name, list(known))}; --device knows "
            f"{', '.join(known)}, and cpu for this machine's own."
        )
    return known[name]


def rated(
    keys: Iterable[Key],
    experiment: Experiment,
    geometries: dict[str, Geometry],
    device: Device,
) -> dict[Key, float]:
    """Seconds of each key by arithmetic: its operations over the device's sustained rate; of a
    training step at least what starting its work takes."""
    found = {}
    for key in keys:
        geometry = geometries[key.encoder]
        found[key] = operations(key, experiment, geometry) / device.rate(key.precision)
        if key.mode and key.kind == "step":
            matrices = sum(len(shape) == 2 for shape in geometry.shapes().values())
            products = (5 if experiment.linearized(key.mode) else 3) * matrices
            found[key] = max(found[key], LAUNCH * products)
    return found
