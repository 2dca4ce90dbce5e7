"""How the house stands: rooms on floors, and no import that runs upward."""

import ast
from pathlib import Path

import pytest

import task_arithmetic

PACKAGE = Path(task_arithmetic.__file__).parent
# From the ground up; a room may import those before it.
FLOORS = [
    "errors", "answer", "progress", "core", "merging", "analysis", "files", "vision", "language",
    "embedded", "config", "report", "stages", "pipeline", "planning", "library", "commands", "cli",
    "__init__", "__main__",
]  # fmt: skip
MODULES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The rooms that a module imports, within functions too."""
    found, depth = set(), len(path.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            found |= {node.module.split(".")[0]} if node.module else {x.name for x in node.names}
    return found & set(FLOORS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_import_runs_upward(path):
    own = FLOORS.index(room(path))
    upward = {name for name in imported(path) - {room(path)} if FLOORS.index(name) >= own}
    assert not upward


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_is_longer_than_four_hundred_lines(path):
    assert len(path.read_text("utf-8").splitlines()) <= 400


def test_every_room_says_what_belongs_there():
    for folder in (each for each in PACKAGE.iterdir() if (each / "__init__.py").is_file()):
        text = (folder / "__init__.py").read_text("utf-8")
        assert ast.get_docstring(ast.parse(text)), folder.name


def test_the_paper_stands_in_torch_alone():
    """core and merging know no file, no configuration and no job."""
    for path in MODULES:
        if room(path) in ("core", "merging", "analysis"):
            assert imported(path) <= {"errors", "progress", "core", "merging", "analysis"}, path
