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
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError

PACKAGE = Path(__file__).parents[1]
# Modules that import by a computed name → what then counts as imported by them, beside the modality
# of a stage's settings and the function that its declaration names.
DYNAMIC: dict[str, tuple[str, ...]] = {"stages.modalities": (), "stages.declaration": ()}
DYNAMIC |= {"merging.methods": ()}  # the method of a stage's settings, see rerun.modules
DYNAMIC |= {"": ()}  # the library, which no stage uses
DYNAMIC |= {"vision.geometry": ()}  # parts of open_clip, by its folder
# import → distribution, where they differ.
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn"}
DISTRIBUTIONS |= {"skimage": "scikit-image", "open_clip": "open_clip_torch"}


class Module(NamedTuple):
    """A module: its file below the package's folder, a hash of what it computes, what it imports of
    the package, and what else."""

    file: Path
    digest: str
    own: frozenset[str]
    foreign: frozenset[str]


def code_parts(*modules: str, package_dir: Path = PACKAGE) -> dict[str, str]:
    """All that modules such as "stages.finetune" import of the package, themselves included, and
    the data files beside it: "stages/finetune.py" → hash, sorted."""
    parts = {module.file: module.digest for module in _reached(modules, package_dir)}
    rooms = {package_dir / file.parent for file in parts if len(file.parts) > 1}
    for path in (p for room in rooms for p in written(room) if p.suffix not in (".py", ".so")):
        parts[path.relative_to(package_dir)] = _hash(path.read_bytes())
    return {file.as_posix(): digest for file, digest in sorted(parts.items())}


def written(folder: Path) -> Iterator[Path]:
    """The files in a folder that someone wrote: not what compiling makes, which comes and goes
    while others run, nor what editors and notebooks keep beside a file."""
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        beside = any(x == "__pycache__" or x[0] in ".#" or x[-1] == "~" for x in parts)
        if not beside and path.suffix != ".pyc" and path.is_file():
            yield path


def package_versions(*modules: str, package_dir: Path = PACKAGE) -> dict[str, str]:
    """The distributions that these modules use → installed version, or "none"."""
    foreign = {name for module in _reached(modules, package_dir) for name in module.foreign}
    return {name: _version(name, tuple(sys.path)) for name in sorted(foreign)}


def code_hash(*modules: str, package_dir: Path = PACKAGE) -> str:
    """`<hash of the parts>-<hash of the versions>`, 12 hexadecimal digits each."""
    both = code_parts, package_versions
    return "-".join(_hash(repr(f(*modules, package_dir=package_dir)).encode())[:12] for f in both)


def changes(old: dict[str, str], new: dict[str, str]) -> str:
    """How parts differ, in a few words; empty if they do not."""
    changed = {file for file in old.keys() & new.keys() if old[file] != new[file]}
    found = {"changed": changed, "was added": new.keys() - old.keys()}
    found["was removed"] = old.keys() - new.keys()
    return ", ".join(
        f"{min(files)}{f' and {len(files) - 1} more' * (len(files) > 1)} {how}"
        for how, files in found.items()
        if files
    )


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _reached(modules: tuple[str, ...], package_dir: Path) -> list[Module]:
    """The modules, all that they import, and the packages that these lie in."""
    waiting, found = list(modules), {}
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = module = _module(name, package_dir)
            waiting += [*module.own, *DYNAMIC.get(name, ())]
            waiting += [name.rpartition(".")[0]] if name else []
    return list(found.values())


def _file(name: str, package_dir: Path) -> Path | None:
    """The file of a module, below the package's folder; "" is the package itself."""
    place = Path(*name.split(".")) if name else Path()
    both = place / "__init__.py", place.with_suffix(".py") if name else place
    return next((file for file in both if (package_dir / file).is_file()), None)


@cache
def _module(name: str, package_dir: Path) -> Module:
    if (file := _file(name, package_dir)) is None:
        wrong = f"There is no module {name} in {package_dir}"
        raise UserError(f"{wrong}: correct the stage's declaration.")
    try:
        tree = ast.parse((package_dir / file).read_bytes())
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{package_dir / file} is not Python ({error}): correct it.") from None
    level = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    own, foreign = set(), set()
    for target in _imports(tree, [package_dir.name, *filter(None, level)]):
        if target[0] != package_dir.name:
            foreign.add(target[0])
            continue
        names = [".".join(target[1:end]) for end in range(1, len(target) + 1)]
        # A name may be a module or what a module defines.
        own.add([*takewhile(lambda name: _file(name, package_dir), names)][-1])
    foreign = {DISTRIBUTIONS.get(x, x) for x in foreign - sys.stdlib_module_names}
    return Module(file, _hash(ast.dump(tree).encode()), frozenset(own), frozenset(foreign))


def _imports(tree: ast.Module, level: list[str]) -> Iterator[list[str]]:
    """Absolute names of all that a module imports, wherever it does; takes docstrings and what only
    type checkers read out of the tree. `level`: where relative names start."""
    waiting: list[ast.AST] = [tree]
    for node in waiting:  # which grows
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [*filter(_counts, body)] or [ast.Pass()]  # type: ignore[attr-defined]
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = level[: len(level) + 1 - node.level] if node.level else []
            module = [*start, *(node.module or "").split(".")] if node.module else start
            yield from ([*module, alias.name] for alias in node.names)
        elif isinstance(node, ast.Constant) and node.value in DISTRIBUTIONS:
            yield [node.value]  # to be found and loaded by its name


def _counts(node: ast.AST) -> bool:
    """Whether a statement is neither a docstring nor for type checkers alone."""
    if isinstance(node, ast.Expr):
        return not isinstance(node.value, ast.Constant)
    return not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))


@cache
def _version(distribution: str, _path: tuple[str, ...]) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "none"
