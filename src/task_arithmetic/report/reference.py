"""Published numbers, as workflow/reference holds them: a DataFrame with a number a row."""

import pandas as pd

from ..config.published import MORE, MOST, TASKS
from ..errors import UserError
from ..files.paths import PathLike


def read_reference(path: PathLike) -> pd.DataFrame:
    """The paper's published numbers. Raises UserError if the file or a column is missing."""
    found = _read(path, ["table", "encoder", "mode", "column", "value"], "the paper's numbers")
    seconds = found["column"] == "training_seconds"
    found.loc[seconds, "column"] = "training_minutes"
    found.loc[seconds, "value"] /= 60
    return found


def read_targets(path: PathLike) -> pd.DataFrame:
    """Published accuracies of every task, each from one source, in the columns of read_reference.

    Raises:
        UserError: the file or a column is missing.
    """
    columns = ["encoder", "mode", "source", *TASKS, "average", *MORE, *MOST]
    wide = _read(path, columns, "the published accuracies")
    wide["mode"] = wide["mode"].replace("zeroshot", "pretrained")
    long = wide.melt(["encoder", "mode"], columns[3:], var_name="column").dropna(subset="value")
    return long.assign(table="targets")[["table", "encoder", "mode", "column", "value"]]


def read_merging(path: PathLike) -> pd.DataFrame:
    """Published numbers of merging methods: those of one set of checkpoints, the one that stands
    first in the file. Numbers of different sets do not belong into one table.

    Returns:
        table ("merging"), tasks (how many were merged), encoder, mode, method, absolute and
        normalized (percent; NaN where there is none), checkpoints.
    Raises:
        UserError: the file or a column is missing.
    """
    columns = ["checkpoints", "tasks", "method", "encoder", "mode", "absolute", "normalized"]
    columns += ["source"]
    found = _read(path, columns, "the published numbers of merging methods")
    first = found[found["checkpoints"] == found["checkpoints"].iloc[0]]
    kept = ["tasks", "encoder", "mode", "method", "absolute", "normalized", "checkpoints"]
    return first[kept].assign(table="merging")[["table", *kept]]


def _read(path: PathLike, columns: list[str], what: str) -> pd.DataFrame:
    try:
        found = pd.read_csv(path)
    except FileNotFoundError:
        raise UserError(f"{path}, {what}, does not exist: restore it.") from None
    if list(found.columns) != columns:
        raise UserError(f"{path} needs the columns {', '.join(columns)}: restore it.")
    return found
