"""Long-form metrics: rows of (encoder, mode, seed, task, split, metric, alpha, value, …)."""

import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError
from .hashes import check_file
from .paths import PathLike, atomic_path, mend, missing


class Row(NamedTuple):
    """One number: `value` is NaN where it is missing, the alphas where there is none; texts that do
    not apply are empty."""

    encoder: str
    mode: str
    seed: int | None
    task: str
    split: str
    metric: str
    alpha: float
    value: float
    other_task: str
    other_alpha: float
    method: str = ""  # of merging; empty: the sum, or nothing is merged
    layer: str = ""  # block and kind of its matrices ("3.qkv"); empty: the whole


COLUMNS = list(Row._fields)
NUMBERS = ("alpha", "value", "other_alpha")


def write_rows(path: PathLike, rows: Iterable[dict[str, Any]], **shared: Any) -> None:
    """Write rows as CSV; `shared` columns are the same in each; absent ones stay empty."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            row = {**shared, **row}
            row |= {key: float(row[key]) for key in NUMBERS if row.get(key) is not None}
            writer.writerow([row.get(column) for column in COLUMNS])


def read_rows(path: PathLike) -> list[Row]:
    """Read metric rows.

    Raises:
        UserError: the file is missing, damaged or no metrics file.
    """
    try:
        check_file(path)
        with open(path, encoding="utf-8", newline="") as file:
            header, *lines = csv.reader(file, strict=True)
        if header != COLUMNS:
            raise ValueError
        return [_row(line) for line in lines]
    except FileNotFoundError:
        raise missing(path) from None
    except (ValueError, TypeError, csv.Error):
        raise UserError(f"{path} is not a metrics file: {mend(path)}.") from None


def gather(inputs: Iterable[PathLike], output: PathLike) -> None:
    """Concatenate metric files into one, and refuse values that are missing."""
    every: list[Row] = []
    for path in inputs:
        rows = read_rows(path)
        if not rows or any(math.isnan(row.value) for row in rows):
            raise UserError(f"{Path(path)} lacks values: {mend(path)}.")
        every += rows
    there = [{k: v for k, v in row._asdict().items() if v == v} for row in every]  # no NaN
    write_rows(output, there)


def _row(line: list[str]) -> Row:
    encoder, mode, seed, task, split, metric, alpha, value, other, other_alpha, method, layer = line
    number, first, second = (float(x) if x else math.nan for x in (value, alpha, other_alpha))
    where = encoder, mode, int(seed) if seed else None, task, split, metric
    return Row(*where, first, number, other, second, method, layer)
