"""Which code a stage can reach, as hashes: where they change, the stage has to run again.

The package is parsed, never imported, and followed from name to name: a function, class or constant
with all that changes it in its module, or what an import binds. Comments, docstrings, formatting,
annotations of functions do not count. What cannot be told does: all of a module that is used as a
value or in whose names another is looked up, and what runs when a module is imported. Not seen:
what is looked up in sys.modules or imported by a computed name (to be named as an entry), constants
changed under a second name, what third-party packages need in turn.
"""

import ast
import hashlib
import sys
from functools import cache, partial
from importlib import metadata
from pathlib import Path

from ..errors import UserError

PACKAGE = Path(__file__).parents[1]
HARMLESS = {
    "tqdm",
    ".pipeline.jobs",
}  # imports that change no result; ".module": of the package itself
DATA_FILES: dict[str, list[str]] = {}  # module → globs in the package: what it reads when it runs
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn"}  # import → name
DISTRIBUTIONS |= {"skimage": "scikit-image", "open_clip": "open_clip_torch"}
DYNAMIC = {"globals", "vars", "eval", "exec", "importlib", "import_module", "__import__"}
LOOSE, FILES = "<module-level code>", "<data files>"  # parts without a name
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def code_parts(*entries: str, package_dir=PACKAGE) -> dict[str, str]:
    """What entries such as "finetune.finetune" can reach: "module.name" → hash, sorted. Raises
    UserError: an unknown entry, a file that is not Python."""
    return _reach(entries, Path(package_dir))[0]


def package_versions(*entries: str, package_dir=PACKAGE) -> dict[str, str]:
    """The third-party distributions that they use → installed version, or "none"."""
    return _reach(entries, Path(package_dir))[1]


def code_hash(*entries: str, package_dir=PACKAGE) -> str:
    """`<hash of the parts>-<hash of the versions>`, 12 hexadecimal digits each."""
    return "-".join(_hash(repr(x).encode())[:12] for x in _reach(entries, Path(package_dir)))


def changes(old_parts: dict[str, str], new_parts: dict[str, str]) -> str:
    """How parts differ, in a few words; empty if they do not."""
    old, new, phrases = set(old_parts), set(new_parts), []
    changed = {key for key in old & new if old_parts[key] != new_parts[key]}
    for verb, keys in (("changed", changed), ("added", new - old), ("removed", old - new)):
        if keys:
            module, _, name = min(keys).rpartition(".")
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            was = "" if verb == "changed" else "were " if more else "was "
            phrases.append(f"`{name}` in {module.replace('.', '/')}.py{more} {was}{verb}")
    return ", ".join(phrases)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _reach(entries, package_dir: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The parts that the entries reach, and versions. A reference is a dotted absolute name; with
    "import " before it, it stands for what runs when its module is imported."""
    package, names = package_dir.name, partial(_names, package_dir)
    waiting, seen, parts, versions = [f"{package}.{x}" for x in entries], set(), {}, {}

    def split(target):
        """The module, the name in it ("*": none that is known) and the attributes after it."""
        module, rest = package, target.split(".")[1:]
        while rest and rest[0] not in names(module) and names(f"{module}.{rest[0]}"):
            module = f"{module}.{rest.pop(0)}"
        return module, rest[0] if {*rest[:1]} & {*names(module)} else "*", rest[1:]

    for entry in entries:
        if split(f"{package}.{entry}")[1:] != (entry.split(".")[-1], []):
            raise UserError(f"There is no {entry} in {package_dir}: correct the stage's entries.")
    while waiting:
        reference = waiting.pop()
        target = reference.removeprefix("import ")
        top = target.split(".")[0]
        if reference in seen or top in sys.stdlib_module_names or top in HARMLESS:
            continue
        seen.add(reference)
        if top != package:
            name = DISTRIBUTIONS.get(top, top)
            versions[name] = _version(name, tuple(sys.path))
            continue
        module, name, rest = split(target)
        if module.removeprefix(package) in HARMLESS:
            continue
        if target != reference:
            waiting.append(f"{module}.{LOOSE}")
        elif name == "*":
            waiting += [f"{module}.{each}" for each in names(module)]
        else:
            digest, aliases, references = _part(package_dir, module, name)
            waiting += [*references, *(".".join([x, *rest]) for x in aliases), f"{module}.{LOOSE}"]
            label = module[len(package) + 1 :] or "__init__"
            parts |= {f"{label}.{name}": digest} if digest else {}
            if digest and label in DATA_FILES:
                files = sorted({f for glob in DATA_FILES[label] for f in package_dir.glob(glob)})
                found = [(f.relative_to(package_dir).parts, _hash(f.read_bytes())) for f in files]
                parts[f"{label}.{FILES}"] = _hash(repr(found).encode())
    return dict(sorted(parts.items())), dict(sorted(versions.items()))


@cache
def _version(distribution: str, _path: tuple[str, ...]) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "none"


@cache
def _names(package_dir: Path, module: str) -> dict[str, list]:
    """Of a module: name → the statements that bind or change it; of an import, what it names.
    Empty if there is no such module."""
    base = package_dir.joinpath(*module.split(".")[1:])
    files = [x for x in (base / "__init__.py", base.with_name(f"{base.name}.py")) if x.is_file()]
    if not files:
        return {}
    try:
        statements = ast.parse(files[0].read_bytes()).body
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{files[0]} is not Python ({error}): correct it.") from None
    package = module.split(".")[0]
    names: dict[str, list] = {LOOSE: [f"import {module.rpartition('.')[0] or package}"]}
    for statement in statements:
        owners = _owners(statement, names, package)
        for node in [statement] if isinstance(statement, DEFINITIONS) else ast.walk(statement):
            for name, target, source in _imported(node, package_dir, module):
                names.setdefault(name, []).append(target)
                names[LOOSE] += [f"import {source}"] if source.split(".")[0] == package else []
            if isinstance(node, DEFINITIONS):
                owners.add(node.name)
            elif isinstance(node, ast.NamedExpr):
                owners.add(node.target.id)
            elif LOOSE in owners and isinstance(getattr(node, "ctx", None), ast.Store):
                owners |= {getattr(node, "id", LOOSE)}
        for name in owners:
            names.setdefault(name, []).append(statement)
    return names


def _imported(node, package_dir: Path, module: str) -> list[tuple[str, str, str]]:
    """Of an import: each name that it binds, what that names, and what is imported for it."""
    if isinstance(node, ast.Import):
        tops = [a.name if a.asname else a.name.split(".")[0] for a in node.names]
        return [(a.asname or top, top, a.name) for a, top in zip(node.names, tops, strict=True)]
    if isinstance(node, ast.ImportFrom):
        levels = module.split(".")
        levels += ["*"] * package_dir.joinpath(*levels[1:], "__init__.py").is_file()
        source = [*(levels[: -node.level] if node.level else []), *filter(None, [node.module])]
        full = [".".join([*source, a.name]) for a in node.names]
        return [(a.asname or a.name, x, x) for a, x in zip(node.names, full, strict=True)]
    return []


def _owners(statement, names: dict[str, list], package: str) -> set[str]:
    """The names that a module's statement changes; LOOSE if it may do more than that."""
    kind, value = type(statement), getattr(statement, "value", None)
    if kind in (ast.Import, ast.ImportFrom) or kind is ast.Expr and isinstance(value, ast.Constant):
        return {LOOSE} if "*" in [x.name for x in getattr(statement, "names", [])] else set()
    if kind in DEFINITIONS:
        targets = [*getattr(statement, "bases", []), *getattr(statement, "keywords", [])]
        targets += [getattr(node, "func", node) for node in statement.decorator_list]
    elif kind is ast.Expr and isinstance(getattr(value, "func", None), ast.Attribute):
        targets = [value.func]  # X.update(…)
    elif kind in (ast.Assign, ast.AnnAssign, ast.AugAssign):
        targets = getattr(statement, "targets", None) or [statement.target]
    else:
        return {LOOSE}
    nodes = [node for target in targets for node in ast.walk(target)]
    roots = {node.id for node in nodes if isinstance(node, ast.Name)}
    origins = [x for root in roots for x in names.get(root, ["?"])]
    if kind in DEFINITIONS:  # a decorator or base class of the package may register it
        return {LOOSE} if any(f"{x}.".startswith((f"{package}.", "<")) for x in origins) else set()
    depth = {type(node) for node in nodes} & {ast.Attribute, ast.Subscript, ast.Call}
    if (depth or kind is ast.AugAssign) and any(isinstance(x, str) for x in origins):
        return {LOOSE}  # it changes what is not the module's own
    return {LOOSE} if ast.Call in depth or not roots else roots


@cache
def _part(package_dir: Path, module: str, name: str) -> tuple:
    """A hash of a name's statements, what it is an alias of, and what they refer to."""
    names, package = _names(package_dir, module), package_dir.name
    aliases = [x for x in names[name] if isinstance(x, str)]
    statements = [x for x in names[name] if not isinstance(x, str)]
    nodes, chains, references, local = [*statements], set(), set(), {}
    for node in nodes:  # which grow
        for bound, target, source in _imported(node, package_dir, module):
            local.setdefault(bound, []).append(target)
            references.add(f"import {source}")
        if isinstance(getattr(node, "body", None), list):
            texts = [x for x in node.body if isinstance(getattr(x, "value", None), ast.Constant)]
            texts = [x for x in texts if isinstance(x, ast.Expr)]
            node.body = [x for x in node.body if x not in texts] or [ast.Pass()]
        if isinstance(node, DEFINITIONS[:2]) and not node.decorator_list:
            node.returns = None
            for each in (x for x in ast.walk(node.args) if isinstance(x, ast.arg)):
                each.annotation = None
        rest, root = [], node
        while isinstance(root, ast.Attribute):
            rest, root = [root.attr, *rest], root.value
        if isinstance(root, ast.Name):
            chains.add(".".join([root.id, *rest]))
        else:
            nodes.extend(ast.iter_child_nodes(node))
        text = node.value if isinstance(node, ast.Constant) else None
        if text in DISTRIBUTIONS or (isinstance(text, str) and text.startswith(f"{package}.")):
            references.add(f"{text}.*")  # to be imported, perhaps
    references.update(local.get("*", []))
    for chain in chains:
        root, _, rest = chain.partition(".")
        if root in DYNAMIC:
            references.add(f"{module}.*")
        for target in [*local.get(root, []), *[f"{module}.{root}"] * (root in names)]:
            references.add(f"{target}.{rest}".rstrip("."))
    dumps = [ast.dump(statement) for statement in statements]
    digest = _hash(repr([*dumps, *(aliases if name != LOOSE else [])]).encode())
    return digest if dumps or name != LOOSE else None, aliases, references
