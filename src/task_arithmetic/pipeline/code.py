"""Labels of code: where a stage's label changes, its results are made again.

A label is a hash of all modules of the package that a stage's module imports, directly or not,
without comments, docstrings and formatting; of the data files that lie in their folders; and, as
its second half, of the versions of the packages that they use. Modules are parsed, never imported.
An import by a computed name cannot be seen: those that there are stand in DYNAMIC.
"""

import ast
import hashlib
import sys
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError

PACKAGE = Path(__file__).parents[1]
# Modules that import by a computed name → what then counts as imported by them, beside the modality
# of a stage's settings and the function that its declaration names.
DYNAMIC: dict[str, tuple[str, ...]] = {"stages.modalities": (), "stages.declare": ()}
DYNAMIC |= {"merging.method": ()}  # finds a method by its name
DYNAMIC |= {"": ()}  # the library, which no stage uses
DYNAMIC |= {"vision.geometry": (), "vision.checkpoints": ()}  # parts of open_clip, by its folder
# import → distribution, where they differ.
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn"}
DISTRIBUTIONS |= {"skimage": "scikit-image", "open_clip": "open_clip_torch"}


class Module(NamedTuple):
    """One module: a hash of what it computes, what it imports of the package, and what else."""

    digest: str
    own: frozenset[str]
    foreign: frozenset[str]


def code_parts(*modules: str, package_dir: Path = PACKAGE) -> dict[str, str]:
    """All that modules such as "stages.finetune" import of the package, themselves included, and
    the data files beside it: "stages/finetune.py" → hash, sorted."""
    found = _reached(modules, package_dir)
    parts = {_file(name, package_dir): _module(name, package_dir).digest for name in found}
    rooms = {package_dir / file.parent for file in parts if len(file.parts) > 1}
    for path in (p for room in rooms for p in room.rglob("*") if p.is_file()):
        if path.suffix not in (".py", ".pyc", ".so") and not path.name.startswith("."):
            parts[path.relative_to(package_dir)] = _hash(path.read_bytes())
    return {file.as_posix(): digest for file, digest in sorted(parts.items())}


def package_versions(*modules: str, package_dir: Path = PACKAGE) -> dict[str, str]:
    """The distributions that these modules use → installed version, or "none"."""
    foreign = {x for name in _reached(modules, package_dir) for x in _module(name, package_dir)[2]}
    return {name: _version(name, tuple(sys.path)) for name in sorted(foreign)}


def code_hash(*modules: str, package_dir: Path = PACKAGE) -> str:
    """`<hash of the parts>-<hash of the versions>`, 12 hexadecimal digits each."""
    both = code_parts, package_versions
    return "-".join(_hash(repr(f(*modules, package_dir=package_dir)).encode())[:12] for f in both)


def changes(old: dict[str, str], new: dict[str, str]) -> str:
    """How parts differ, in a few words; empty if they do not."""
    changed = {file for file in old.keys() & new.keys() if old[file] != new[file]}
    phrases = []
    added, removed = new.keys() - old.keys(), old.keys() - new.keys()
    for verb, files in (("changed", changed), ("added", added), ("removed", removed)):
        if files:
            more = f" and {len(files) - 1} more" if len(files) > 1 else ""
            was = "" if verb == "changed" else "were " if more else "was "
            phrases.append(f"{min(files)}{more} {was}{verb}")
    return ", ".join(phrases)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _reached(modules: tuple[str, ...], package_dir: Path) -> set[str]:
    """The modules, all that they import, and the packages that these lie in."""
    waiting, found = list(modules), set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [*_module(name, package_dir).own, *DYNAMIC.get(name, ())]
            waiting += [name.rpartition(".")[0]] if name else []
    return found


def _file(name: str, package_dir: Path) -> Path:
    """The file of a module, below the package's folder; "" is the package itself."""
    place = Path(*name.split(".")) if name else Path()
    for file in (place / "__init__.py", place.with_suffix(".py") if name else place):
        if (package_dir / file).is_file():
            return file
    raise UserError(f"There is no module {name} in {package_dir}: correct the stage's declaration.")


@cache
def _module(name: str, package_dir: Path) -> Module:
    file = package_dir / _file(name, package_dir)
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{file} is not Python ({error}): correct it.") from None
    level = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    own, foreign = set(), set()
    for target in _imports(tree, [package_dir.name, *filter(None, level)]):
        if target[0] != package_dir.name:
            foreign.add(target[0])
            continue
        below, place = target[1:], ""
        for part in below:  # a name may be a module or what a module defines
            inner = f"{place}.{part}".lstrip(".")
            if not _exists(inner, package_dir):
                break
            place = inner
        own.add(place)
    foreign = {DISTRIBUTIONS.get(x, x) for x in foreign - sys.stdlib_module_names}
    return Module(_hash(ast.dump(tree).encode()), frozenset(own), frozenset(foreign))


def _exists(name: str, package_dir: Path) -> bool:
    place = package_dir.joinpath(*name.split("."))
    return (place / "__init__.py").is_file() or place.with_suffix(".py").is_file()


def _imports(tree: ast.Module, level: list[str]) -> Iterator[list[str]]:
    """Absolute names of all that a module imports, wherever it does; takes docstrings and what only
    type checkers read out of the tree. `level`: where relative names start."""
    waiting: list[ast.AST] = [tree]
    for node in waiting:  # which grows
        if isinstance(body := getattr(node, "body", None), list):
            kept = [x for x in body if not _is_text(x) and not _is_for_types(x)]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = level[: len(level) + 1 - node.level] if node.level else []
            module = [*start, *(node.module or "").split(".")] if node.module else start
            yield from ([*module, alias.name] for alias in node.names)
        elif isinstance(node, ast.Constant) and node.value in DISTRIBUTIONS:
            yield [node.value]  # to be found and loaded by its name


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


@cache
def _version(distribution: str, _path: tuple[str, ...]) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "none"
