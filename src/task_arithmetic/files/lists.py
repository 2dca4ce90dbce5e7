"""Lists of rows: CSV, TSV and JSON lines."""

import csv
import json
import re
from typing import Any

from ..errors import UserError

LISTS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")


def read_list(path: str, label: str | None = None) -> dict[str, list[Any]]:
    """Column → values of a CSV, TSV or JSON lines file. In CSV all are texts, an empty one is None,
    and the column `label` holds numbers if all of it are.

    Raises:
        UserError: it is no such file, or a row has other columns than the first.
    """
    table = path.endswith((".csv", ".tsv"))
    lines: list[Any]
    found: dict[str, list[Any]]
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            if table:
                mark = "\t" if path.endswith(".tsv") else ","
                header, *lines = [x for x in csv.reader(file, delimiter=mark, strict=True) if x]
                rows = [dict(zip(header, line, strict=True)) for line in lines]
            else:
                text = file.read()
                lines = [line for line in text.split("\n") if line.strip()]
                rows = json.loads(text) if text[:1] == "[" else [json.loads(x) for x in lines]
        columns = list(rows[0])
        if any(list(row) != columns and set(row) != set(columns) for row in rows):
            raise ValueError("not all rows have the same columns")
    except (ValueError, IndexError, TypeError, csv.Error) as error:
        raise UserError(
            f"{path} cannot be read as a list of rows ({error}); it needs a line of column names "
            "and a line for each row, or a JSON object on each line."
        ) from None
    found = {column: [row[column] for row in rows] for column in columns}
    if table:
        found = {column: [value or None for value in values] for column, values in found.items()}
    if table and label in found:
        found[label] = _numbers(found[label])
    return found


def _numbers(values: list[Any]) -> list[Any]:
    """Texts as whole numbers or numbers, if all are; 01 is a name."""
    whole = r"-?(0|[1-9]\d*)"
    for kind, form in ((int, whole), (float, whole + r"(\.\d*)?([eE][+-]?\d+)?")):
        if all(re.fullmatch(form, value) for value in values if value):
            return [kind(value) if value else None for value in values]
    return list(values)
