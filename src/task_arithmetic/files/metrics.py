"""Long-form metrics: rows of (encoder, mode, seed, task, split, metric, alpha, value, …)."""

import csv
import math
from pathlib import Path

from ..errors import UserError
from .hashes import check_file
from .paths import atomic_path, mend

COLUMNS = [
    "encoder",
    "mode",
    "seed",
    "task",
    "split",
    "metric",
    "alpha",
    "value",
    "other_task",
    "other_alpha",
]
NUMBERS = ("alpha", "value", "other_alpha")


def write_rows(path, rows: list[dict], **shared) -> None:
    """Write rows as CSV; `shared` columns are the same in each; absent ones stay empty."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            row = {**shared, **row}
            row |= {key: float(row[key]) for key in NUMBERS if row.get(key) is not None}
            writer.writerow([row.get(column) for column in COLUMNS])


def read_rows(path) -> list[dict]:
    """Read metric rows: seed is a whole number or None, alpha, value and other_alpha are floats
    (NaN where there is none), the other columns texts.

    Raises:
        UserError: the file is missing, damaged or no metrics file.
    """
    try:
        check_file(path)
        with open(path, encoding="utf-8", newline="") as file:
            header, *lines = csv.reader(file, strict=True)
        if header != COLUMNS:
            raise ValueError
        rows: list[dict] = [dict(zip(COLUMNS, line, strict=True)) for line in lines]
        for row in rows:
            row["seed"] = int(row["seed"]) if row["seed"] else None
            row |= {key: float(row[key]) if row[key] else math.nan for key in NUMBERS}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run the stage that makes it first.") from None
    except (ValueError, csv.Error):
        raise UserError(f"{path} is not a metrics file: {mend(path)}.") from None
    return rows


def gather(inputs, output) -> None:
    """Concatenate metric files into one, and refuse values that are missing."""
    every = [read_rows(path) for path in inputs]
    for path, rows in zip(inputs, every, strict=True):
        if not rows or any(math.isnan(row["value"]) for row in rows):
            raise UserError(f"{Path(path)} lacks values: {mend(path)}.")
    for row in (row for rows in every for row in rows):
        row |= {key: None for key in NUMBERS if math.isnan(row[key])}
    write_rows(output, [row for rows in every for row in rows])
