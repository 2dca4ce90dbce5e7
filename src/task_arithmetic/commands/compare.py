"""In what two runs differ: what they were configured as, and what they measured on test."""

import json
import math
import os
import shutil
import statistics
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import yaml

from ..answer import answer
from ..errors import UserError
from ..files.metrics import read_rows
from ..files.records import Run, read_record, read_run
from ..pipeline.status import run_folder, table

MOST = 40  # keys and rows that are printed; JSON has all
VIEWS = ("tables", "figures", "report")  # stages that are told what was configured for others
LONG = 60  # characters of a value


class Key(NamedTuple):
    """A key that differs; None: it is not there, or null. where: the stage that is told it; "": the
    configuration."""

    where: str
    key: str
    one: Any
    other: Any


class Cell(NamedTuple):
    """What was measured, over seeds; the alphas are those of a heatmap."""

    metric: str
    encoder: str
    mode: str
    task: str
    method: str
    other_task: str
    layer: str
    alpha: float | None
    other_alpha: float | None

    def __str__(self) -> str:
        alphas = [f"α {x:g}" for x in (self.alpha, self.other_alpha) if x is not None]
        return " ".join([*filter(None, self[:7]), *alphas])


class Spread(NamedTuple):
    """Mean and sample standard deviation over seeds; of one seed there is none."""

    mean: float
    sd: float | None
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + (f" ± {self.sd:.4f}" if self.sd is not None else "")


class Difference(NamedTuple):
    """A cell of both runs whose values are not the same; difference: of means, other − one."""

    cell: Cell
    one: Spread
    other: Spread
    difference: float


class Compared(NamedTuple):
    """Two runs beside each other.

    Attributes:
        unknown: the runs that recorded no configuration. keys: those that differ.
        equal: how many cells have the same values, bit for bit, of the same seeds.
        differing: the largest difference first.
    """

    one: str
    other: str
    unknown: list[str]
    keys: list[Key]
    equal: int
    differing: list[Difference]
    only_one: list[Cell]
    only_other: list[Cell]


def compare(one: str, other: str, as_json: bool = False) -> None:
    """Print in what two runs differ: keys of their configurations, and of what their jobs were told
    beside these; and of each number on test its mean over seeds in both.

    Args:
        one, other: names of runs in results/, or their folders; they need not be finished.
    Raises:
        UserError: no such run, or files of it that are damaged.
    """
    folders = [run_folder(run, Path("results")) for run in (one, other)]
    runs = [read_run(folder) for folder in folders]
    configs = [_config(*each) for each in zip(folders, runs, strict=True)]
    keys = _keys("", *[config or {} for config in configs]) if all(configs) else []
    keys = [key for key in keys if key.key != "run"]
    told = [_settings(*each) for each in zip(folders, runs, strict=True)]
    keys += _beside(keys, *told)
    a, b = (_cells(folder) for folder in folders)
    both = [cell for cell in a if cell in b]
    differing = [
        Difference(cell, x, y, y.mean - x.mean)
        for cell in both
        if a[cell] != b[cell]
        for x, y in [(_spread(a[cell]), _spread(b[cell]))]
    ]
    compared = Compared(
        one,
        other,
        [run for run, config in zip((one, other), configs, strict=True) if not config],
        keys,
        len(both) - len(differing),
        sorted(differing, key=lambda each: -abs(each.difference)),
        [cell for cell in a if cell not in b],
        [cell for cell in b if cell not in a],
    )
    answer(compared, _lines(compared), as_json)


# --- Reading -------------------------------------------------------------------------------------


def _config(folder: Path, run: Run) -> dict[str, Any] | None:
    """The resolved configuration that a run recorded when it was last started, or its report."""
    text, path = run.config, folder / "config.yaml"
    if not text and path.is_file():
        text = path.read_text("utf-8")
    try:
        found = yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        raise UserError(
            f"The configuration that {folder} recorded is damaged: start the run again."
        ) from None
    return found if isinstance(found, dict) else None


def _settings(folder: Path, run: Run) -> dict[tuple[str, str], dict[str, Any]]:
    """(stage, job) → what the job was told when it made its results."""
    found = {}
    for job in (job for job in run.jobs if job.stage not in VIEWS):
        with suppress(UserError, OSError):
            if made := read_record(job.record(folder)).made:
                found[job.stage, job.name] = dict(made.arguments.get("settings") or {})
    return found


def _beside(known: list[Key], one: Mapping[Any, Any], other: Mapping[Any, Any]) -> list[Key]:
    """What jobs of both runs were told that the keys which are known do not show: of each stage and
    key the first job's."""
    shown = [f".{key.key}" for key in known]
    found: dict[tuple[str, str], Key] = {}
    for stage, job in one:
        for key in _keys(stage, one[stage, job], other.get((stage, job), one[stage, job])):
            if not any(each.endswith(f".{key.key}") for each in shown):
                found.setdefault((stage, key.key), key)
    return list(found.values())


def _keys(where: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Key]:
    a, b = dict(_flat(one)), dict(_flat(other))
    names = [name for name in {**a, **b} if a.get(name) != b.get(name)]
    return [Key(where, name, a.get(name), b.get(name)) for name in names]


def _flat(content: Mapping[str, Any], start: str = "") -> Iterator[tuple[str, Any]]:
    """Keys with dots, and their values."""
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{start}{key}.")
        else:
            yield f"{start}{key}", value


def _cells(folder: Path) -> dict[Cell, dict[int | None, float]]:
    """What a run measured on test, seed → value; while it is unfinished, as far as it is."""
    whole = folder / "metrics.csv"
    paths = [whole] if whole.is_file() else sorted((folder / "metrics").rglob("*.csv"))
    found: dict[Cell, dict[int | None, float]] = {}
    for row in (row for path in paths for row in read_rows(path) if row.split == "test"):
        grid = not math.isnan(row.other_alpha) and not row.metric.endswith("_pair_error")
        alphas = (row.alpha, row.other_alpha) if grid else (None, None)
        names = row.metric, row.encoder, row.mode, row.task, row.method, row.other_task, row.layer
        cell = Cell(*names, *alphas)
        found.setdefault(cell, {})[row.seed] = row.value
    return found


def _spread(values: Mapping[int | None, float]) -> Spread:
    numbers = list(values.values())
    sd = statistics.stdev(numbers) if len(numbers) > 1 else None
    return Spread(statistics.fmean(numbers), sd, len(numbers))


# --- Text ----------------------------------------------------------------------------------------


def _lines(found: Compared) -> Iterator[str]:
    width = shutil.get_terminal_size((100, 50)).columns
    for run in found.unknown:
        yield f"Run {run} recorded no configuration: nothing is said of it."
    if not found.unknown:
        count = len(found.keys) or "no"
        yield f"Configuration: {count} key{'s differ' if count != 1 else ' differs'}."
    for key in found.keys[:MOST]:
        where = f" (as told to {key.where})" if key.where else ""
        yield f"  {key.key}{where}: {_told(key.one)} → {_told(key.other)}"
    yield from _more(len(found.keys))
    yield ""
    cells = found.equal + len(found.differing)
    yield f"Numbers on test: {cells:,} in both, {found.equal:,} of them equal to the bit."
    if found.differing:
        first = found.differing[0]
        yield f"The largest difference is {first.difference:+.4f}: {first.cell}."
    for run, only in ((found.one, found.only_one), (found.other, found.only_other)):
        if only:
            metrics = dict.fromkeys(cell.metric for cell in only)
            yield f"Only in {run}: {len(only):,} ({', '.join(metrics)})."
    if found.differing:
        head = ["(mean ± sd over seeds)", _name(found.one), _name(found.other), "difference"]
        rows = [
            [str(cell), str(one), str(other), f"{difference:+.4f}"]
            for cell, one, other, difference in found.differing[:MOST]
        ]
        yield ""
        yield from table(head, rows, width)
    yield from _more(len(found.differing))


def _more(count: int) -> list[str]:
    return [f"and {count - MOST:,} more, which --json tells"] if count > MOST else []


def _name(run: str) -> str:
    return os.path.basename(os.path.normpath(run))


def _told(value: Any) -> str:
    return "–" if value is None else shorten(json.dumps(value, ensure_ascii=False), LONG)
