"""Long-form metrics: rows of (encoder, mode, seed, task, split, metric, alpha, value, …)."""

from pathlib import Path

import pandas as pd

from .artifacts import UserError, atomic_path

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


def write_rows(path, rows: list[dict], **shared) -> None:
    """Write rows as CSV; `shared` columns are the same in each; absent ones stay empty."""
    frame = pd.DataFrame([{**shared, **row} for row in rows], columns=COLUMNS)
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False)


def read_rows(path) -> pd.DataFrame:
    """Read metric rows. Raises UserError if the file is missing or no metrics file."""
    numbers = ["seed", "alpha", "value", "other_alpha"]
    text = {column: str for column in COLUMNS if column not in numbers}
    try:
        frame = pd.read_csv(
            path, dtype=text, keep_default_na=False, na_values={column: [""] for column in numbers}
        )
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run the stage that makes it first.") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError):
        frame = pd.DataFrame()
    if list(frame.columns) != COLUMNS:
        raise UserError(f"{path} is not a metrics file: delete it and run again.")
    return frame


def gather(inputs, output) -> None:
    """Concatenate metric files into one, and refuse values that are missing."""
    frames = [read_rows(path) for path in inputs]
    for path, frame in zip(inputs, frames, strict=True):
        if frame.empty or frame["value"].isna().any():
            raise UserError(f"{Path(path)} lacks values: delete it and run again.")
    for frame in frames:
        frame["seed"] = frame["seed"].astype("Int64")  # whole, though some rows have none
    with atomic_path(output) as temporary:
        pd.concat(frames, ignore_index=True).to_csv(temporary, index=False)
