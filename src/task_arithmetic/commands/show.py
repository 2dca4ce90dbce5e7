"""The tables of a run, in a terminal."""

import csv
import shutil
import textwrap
from collections.abc import Iterator
from itertools import takewhile
from math import nan
from pathlib import Path
from typing import NamedTuple

from ..answer import answer
from ..config.available import TABLES, title_of
from ..errors import UserError, nearest
from ..files.hashes import check_file
from ..pipeline.status import run_folder
from ..report.printing import COLUMNS, kind_of, number

WORDS = ("text", "flag")  # kinds of columns that hold no numbers


class Listed(NamedTuple):
    """A table that a run has."""

    name: str
    title: str
    rows: int


class Shown(NamedTuple):
    """A table: of each row column → text or number, None where there is none."""

    run: str
    name: str
    title: str
    caption: str
    rows: list[dict[str, str | float | None]]


def show(run: str, table: str | None, as_json: bool = False) -> None:
    """Print which tables a run has, or one of them.

    Args:
        run: its name, or its folder. table: such as table2.
    Raises:
        UserError: there is no such run or table, or the table's file is damaged.
    """
    folder = run_folder(run, Path("results")) / "tables"
    names = sorted((path.stem for path in folder.glob("*.csv")), key=_place)
    if not names:
        raise UserError(f"{folder} has no tables yet: `task-arithmetic status` says how far it is.")
    if table is None:
        listed = [_about(folder, name) for name in names]
        answer({"run": run, "tables": listed}, _listed(listed), as_json)
    elif table not in names:
        raise UserError(
            f"Run {run} has no table {table!r}{nearest(table, names)}: take one of "
            f"{', '.join(names)}."
        )
    else:
        shown = Shown(run, table, title_of(table), _caption(folder, table), _rows(folder, table))
        width = shutil.get_terminal_size((100, 50)).columns
        answer(shown, _lines(shown, width), as_json)


def _about(folder: Path, name: str) -> Listed:
    subject = _caption(folder, name).partition(". ")[0]
    title = f"{title_of(name)}: {subject}" if subject else title_of(name)
    return Listed(name, title, len(_rows(folder, name)))


def _place(name: str) -> tuple[int, str]:
    return (TABLES.index(name) if name in TABLES else len(TABLES)), name


def _rows(folder: Path, name: str) -> list[dict[str, str | float | None]]:
    path = folder / f"{name}.csv"
    check_file(path)
    try:
        with open(path, encoding="utf-8", newline="") as file:
            read = list(csv.DictReader(file, strict=True))
        rows = [{column: _value(name, column, row[column]) for column in row} for row in read]
        if not rows:
            raise ValueError
        return rows
    except (ValueError, KeyError, TypeError, csv.Error):
        raise UserError(
            f"{path} is no table of this version: make the run's tables again."
        ) from None


def _value(name: str, column: str, text: str) -> str | float | None:
    if kind_of(name, column) in WORDS:
        return text
    return float(text) if text else None


def _caption(folder: Path, name: str) -> str:
    path = folder / f"{name}.md"
    first = path.read_text("utf-8").partition("\n")[0] if path.is_file() else ""
    return first.partition("** ")[2]


# --- Text ----------------------------------------------------------------------------------------


def _listed(tables: list[Listed]) -> Iterator[str]:
    widest = max(len(each.name) for each in tables)
    for name, title, rows in tables:
        yield f"{name.ljust(widest)}  {title}, {rows:,} rows"


class Column(NamedTuple):
    """A column as text: its heading in words, its cells, and whether they are words too."""

    heading: list[str]
    cells: list[str]
    is_text: bool

    @property
    def width(self) -> int:
        return max(map(len, [*self.heading, *self.cells]))

    def lines(self, height: int) -> list[str]:
        """The heading over `height` lines, a rule, the cells."""
        head = textwrap.wrap(" ".join(self.heading), self.width)
        head = [""] * (height - len(head)) + head
        side = str.ljust if self.is_text else str.rjust
        return [*(side(x, self.width) for x in head), "─" * self.width,
                *(side(x, self.width) for x in self.cells)]  # fmt: skip

    @property
    def height(self) -> int:
        return len(textwrap.wrap(" ".join(self.heading), self.width))


def _lines(shown: Shown, width: int) -> Iterator[str]:
    """Caption and table; what is too wide goes on below, each time after the columns of words that
    the table begins with."""
    yield from textwrap.wrap(f"{shown.title}. {shown.caption}".strip(), width)
    columns = _columns(shown)
    keys = list(takewhile(lambda column: column.is_text, columns))
    block = list(keys)
    for column in columns[len(keys) :]:
        if len(block) > len(keys) and _width([*block, column]) > width:
            yield from _block(block)
            block = list(keys)
        block.append(column)
    yield from _block(block)


def _width(block: list[Column]) -> int:
    return sum(column.width + 2 for column in block) - 2


def _block(block: list[Column]) -> list[str]:
    height = max(column.height for column in block)
    lines = zip(*(column.lines(height) for column in block), strict=True)
    return ["", *("  ".join(line).rstrip() for line in lines)]


def _columns(shown: Shown) -> list[Column]:
    """The columns that have something, spreads as ±; modes by their names."""
    found = []
    for name in shown.rows[0]:
        values = [row[name] for row in shown.rows]
        if name.endswith("_std") or all(value in ("", None) for value in values):
            continue
        kind, own = kind_of(shown.name, name), name.removeprefix("paper_")
        heading = COLUMNS[own].heading if own in COLUMNS else own
        spreads = [row.get(f"{name}_std") for row in shown.rows]
        cells = [
            number(nan if value is None else value, kind, spread)  # type: ignore[arg-type]
            for value, spread in zip(values, spreads, strict=True)
        ]
        paper = ["Paper:"] if own != name else []
        found.append(Column([*paper, *heading.split()], cells, kind in WORDS))
    return found
