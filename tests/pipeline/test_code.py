"""What counts as a stage's code, and that nothing that a stage runs is missing from it."""

import shutil
import subprocess
import sys
import threading
from functools import partial
from importlib import import_module
from itertools import count, product

import pytest
import test_data
import test_report
import tiny
import tiny_texts
import views

from task_arithmetic.cli import COMMANDS, STAGES
from task_arithmetic.config.available import figure_names
from task_arithmetic.errors import UserError
from task_arithmetic.files.metrics import write_rows
from task_arithmetic.pipeline import code
from task_arithmetic.pipeline.code import changes, code_hash, code_parts, package_versions
from task_arithmetic.pipeline.rerun import entries
from task_arithmetic.stages.modalities import FUNCTIONS, MODALITIES

TRAINING = ["finetune", "efficiency"]
EVALUATION = [stage for stage in FUNCTIONS if stage not in TRAINING]

# Cases are parted by " | ".
B = "def g(): return h()\ndef h(): return LIMIT\nLIMIT = 1\ndef other(): return OTHER\nOTHER = 2\n"


@pytest.fixture
def toy(tmp_path):
    """toy({"a": text of a.py, …}) → the folder of a new package `toy`, with B as its b.py."""
    numbers = count()

    def write(modules):
        folder = tmp_path / str(next(numbers)) / "toy"
        for name, text in {"b": B, **modules}.items():
            path = folder / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.strip())
            for parent in path.relative_to(folder).parents:
                (folder / parent / "__init__.py").touch()
        return folder

    return write


def reached(folder, *entries) -> set[str]:
    return set(code_parts(*entries or ["a.f"], package_dir=folder))


# --- What is reached -----------------------------------------------------------------------------


def test_what_a_definition_refers_to_is_reached_and_nothing_else(toy):
    cases = """from .b import g as z\ndef f(): return z()
 | from . import b\ndef f(): return b.g() | import toy.b\ndef f(): return toy.b.g()
 | from toy.b import g\ndef f(): return g() | def f():\n from .b import g\n return g()
 | def f():\n from . import b\n def inner(): return b.g()\n return inner()
 | from .b import g\ndef f(x=g): return x() | from .b import g\nA = (X := g)\ndef f(): return X()
 | from .b import g\nNAMES = {'x': g}\ndef f(): return NAMES['x']()
 | from .b import g\nclass A:\n def m(self): return g()\ndef f(): return A().m()
 | try:\n from .b import g\nexcept ImportError:\n g = None\ndef f(): return g()
 | if 1:\n from . import b\n def g(): return b.g()\ndef f(): return g()
 | import functools\nfrom .b import g\n@functools.wraps(g)\ndef f(): pass"""
    for text in cases.split(" | "):
        found = reached(toy({"a": text}))
        assert {"a.f", "b.g", "b.h", "b.LIMIT"} <= found, text
        assert not found & {"b.other", "b.OTHER"}, text


def test_relative_imports_and_names_imported_again_are_followed(toy):
    folder = toy({
        "a": "from .sub import g\ndef f(): return g()",
        "sub/__init__": "from .impl import g, unused",
        "sub/impl": "from ..b import h\nfrom . import side\ndef g(): return h() + side.x()",
        "sub/side": "def x(): pass\ndef y(): pass",
    })  # fmt: skip
    found = reached(folder)
    assert {"sub.g", "sub.impl.g", "sub.side.x", "b.h", "b.LIMIT"} <= found
    assert not found & {"sub.side.y", "b.g", "sub.unused"}


def test_a_module_that_is_a_value_counts_as_a_whole(toy):
    """With what it imports, which is among its names."""
    cases = """from . import b\ndef f(n): return getattr(b, n)()
 | from .b import *\ndef f(): return g() | from . import b\ndef f(): return b.unknown()
 | from importlib import import_module\ndef f(): return import_module('toy.b').g()"""
    modules = {"b": f"from .c import x\n{B}", "c": "def x(): pass\ndef y(): pass"}
    for text in cases.split(" | "):
        found = reached(toy({"a": text, **modules}))
        assert {"b.g", "b.other", "b.OTHER", "c.x"} <= found and "c.y" not in found, text


def test_names_looked_up_in_the_own_module_count_but_those_in_sys_modules(toy):
    text = "import {0}\ndef f(n): return {1}\ndef one(): pass\ndef two(): pass"
    for look in ("globals()[n]", "vars()[n]", "eval(n)", "importlib.x(n)"):
        assert {"a.one", "a.two"} <= reached(toy({"a": text.format("importlib", look)}))
    folder = toy({"a": text.format("sys", "getattr(sys.modules[__name__], n)")})
    assert reached(folder, "a.f", "a.one") == {"a.f", "a.one", "a.sys"}


def test_what_runs_when_a_module_is_imported_counts_for_all_that_import_it(toy):
    cases = """NAMES['x'] = g | NAMES.append(g) | NAMES += [g] | registry.add(g) | if True:\n g()
 | @add\ndef x(): return g() | @registry.add(1)\nclass X:\n y = g | class X(Base):\n y = g
 | class X(metaclass=Base):\n y = g | with open('x'):\n g()"""
    starts = """from .plugin import something\ndef f(): return something
 | from . import plugin\ndef f(): pass | from .between import y\ndef f(): pass
 | def f():\n from . import plugin"""
    modules = {"registry": "NAMES = []\ndef add(x): return x\nclass Base: pass"}
    modules["between"] = "from . import plugin\ny = 1"
    names = "from . import registry\nfrom .registry import NAMES, Base, add\nfrom .b import g\n"
    for text, start in product(cases.split(" | "), starts.split(" | ")):
        plugin = f"{names}{text.strip()}\nsomething = 1\nunused = 2"
        found = reached(toy({**modules, "plugin": plugin, "a": start}))
        assert {"plugin.<module-level code>", "b.g", "b.LIMIT"} <= found, text
        assert not found & {"plugin.unused", "b.other", "between.y"}, text


def test_code_of_a_package_counts_for_its_modules(toy):
    folder = toy({"sub/a": "def f(): pass", "sub/__init__": "from ..b import g\ng()"})
    assert {"sub.<module-level code>", "b.g"} <= reached(folder, "sub.a.f")
    assert reached(toy({"sub/a": "def f(): pass"}), "sub.a.f") == {"sub.a.f"}


def test_a_statement_that_changes_a_name_belongs_to_it(toy):
    for change in ("X['a'] = g", "X.update(a=g)", "X |= {'a': g}", "X, Y = g, 1"):
        folder = toy({"a": f"def f(): return X\ndef e(): pass\ndef g(): pass\nX = {{}}\n{change}"})
        assert reached(folder) >= {"a.X", "a.g"}
        assert reached(folder, "a.e") == {"a.e"}


# --- What changes a hash -------------------------------------------------------------------------

FUNCTION = """
import functools
import math as m
RATE = 1e-5
class Point:
    x: int
    def norm(self): return self.x
@functools.cache
def f(a, b=1):
    def inner(c): return c + 1
    text = "one" "two"
    return inner(a) * RATE + b + m.pi + Point().norm() + len(text)
"""


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("RATE = 1e-5", "\n\n# a comment\nRATE = (1.0e-5)  # another", ""),
        ("RATE = 1e-5", "RATE = 1e-5\n'about the rate'", ""),
        ("class Point:", "class Point:\n    'A point.'\n", ""),
        ("def norm(self): return", "def norm(self) -> int:\n        'Long.'\n        return", ""),
        ("def inner(c):", "def inner(c: float) -> list[int]:", ""),
        ('"one" "two"', "(\n        'onetwo'\n    )", ""),
        ("return inner(a)", "'a text alone'\n    return (inner((a)))", ""),
        ("import math as m", "import math as m, os\nimport json\ndef unused(): pass", ""),
        ("1e-5", "2e-5", "RATE"),
        ("RATE = 1e-5", "RATE = 1e-5\nRATE *= 2", "RATE"),
        ("b=1", "b=2", "f"),
        ("a, b", "a, *, b", "f"),
        ("functools.cache", "functools.lru_cache", "f"),
        ("c + 1", "c - 1", "f"),
        ('"two"', '"tow"', "f"),
        ("x: int", "x: float", "Point"),
        ("return self.x", "return -self.x", "Point"),
        ("import math as m", "import cmath as m", "m"),
        ("import math as m", "from math import floor as m", "m"),
    ],
)
def test_what_computes_counts_and_how_it_is_written_does_not(toy, old, new, changed):
    folders = toy({"a": FUNCTION}), toy({"a": FUNCTION.replace(old, new)})
    before, after = (code_parts("a.f", package_dir=folder) for folder in folders)
    assert old in FUNCTION and before.keys() == after.keys()
    assert [key for key in before if before[key] != after[key]] == [f"a.{changed}"] * bool(changed)
    first, second = (code_hash("a.f", package_dir=folder) for folder in folders)
    assert (first == second) == (not changed)


def test_imported_names_cannot_be_swapped_unseen(toy):
    text = "from .b import {} as x, {} as y\ndef f(): return x(y())"
    one, two = (toy({"a": text.format(*names)}) for names in (("g", "h"), ("h", "g")))
    assert reached(one) == reached(two)
    assert code_hash("a.f", package_dir=one) != code_hash("a.f", package_dir=two)


def test_data_files_count_with_the_module_that_reads_them(toy, monkeypatch):
    monkeypatch.setattr(code, "DATA_FILES", {"sub.a": ["sub/*.txt"]})
    folders = [toy({"sub/a": "def f(): pass"}) for _ in range(2)]
    for i, folder in enumerate(folders):
        (folder / "sub" / "merges.txt").write_text(f"{i}")
    before, after = (code_parts("sub.a.f", package_dir=folder) for folder in folders)
    assert changes(before, after) == "`<data files>` in sub/a.py changed"
    assert "sub.a.<data files>" not in reached(folders[0], "b.g")


# --- Packages and words --------------------------------------------------------------------------

USES = """
import json
import numpy as np
import yaml
from PIL import Image
from tqdm import tqdm
def f(): return np.zeros(json.loads("1"))
def g(): return Image, tqdm
def h():
    import no_such_package.part
def i(): return find_spec("open_clip")
"""


def test_a_package_counts_for_what_uses_it(toy):
    for entry, names in (("f", "numpy"), ("g", "pillow"), ("i", "open_clip_torch")):
        assert [*package_versions(f"a.{entry}", package_dir=toy({"a": USES}))] == [names]
    assert package_versions("a.h", package_dir=toy({"a": USES})) == {"no_such_package": "none"}
    loose = toy({"a": "import b_package\nb_package.setup()\ndef f(): pass"})
    assert package_versions("a.f", package_dir=loose) == {"b_package": "none"}


def test_another_version_of_a_package_changes_the_second_half_of_the_hash(toy, monkeypatch):
    folder, hashes = toy({"a": "import fake\ndef f(): return fake.x"}), []
    for version in ("1.0", "2.0"):
        about = folder / version / f"fake-{version}.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: fake\nVersion: {version}\n")
        monkeypatch.syspath_prepend(folder / version)
        assert package_versions("a.f", package_dir=folder) == {"fake": version}
        hashes.append(code_hash("a.f", package_dir=folder).split("-"))
    (code_1, packages_1), (code_2, packages_2) = hashes
    assert code_1 == code_2 and packages_1 != packages_2 and len(code_1) == len(packages_1) == 12


def test_changes_are_named():
    old = {"x.a": "1", "x.b": "1", "sub.y.c": "1"}
    assert changes(old, old) == ""
    assert changes(old, old | {"x.a": "2"}) == "`a` in x.py changed"
    assert changes(old, dict.fromkeys(old, "2")) == "`c` in sub/y.py and 2 more changed"
    assert changes(old, old | {"z.d": "1"}) == "`d` in z.py was added"
    removed = "`c` in sub/y.py and 1 more were removed"
    assert changes(old, {"x.a": "2"}) == f"`a` in x.py changed, {removed}"


def test_an_unknown_entry_and_a_file_that_is_not_python_are_named(toy):
    for entry in ("a.g", "c.f", "a", "f", "a.f.x"):
        with pytest.raises(UserError, match=f"There is no {entry} in"):
            code_hash(entry, package_dir=toy({"a": "def f(): pass"}))
    with pytest.raises(UserError, match=r"a\.py is not Python"):
        code_hash("a.f", package_dir=toy({"a": "def f(:"}))


# --- This package --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("finetune", "beta1=0.9", "beta1=0.8", {(c, m) for c in TRAINING for m in MODALITIES}),
        ("t5", "geometry: dict) -> Dual:", "geometry: dict, x=1) -> Dual:",
         {(c, "language") for c in [*TRAINING, *EVALUATION, "encoder"]}),
        ("vision", "BATCH = 256", "BATCH = 128",
         {*((c, "vision") for c in EVALUATION), ("disentanglement", None)}),
        ("figures", 'marker="*", markersize=11', 'marker="P", markersize=11',
         {("figure", "fig9"), ("figure", "fig9_language")}),
    ],
)  # fmt: skip
def test_a_changed_line_concerns_the_stages_that_can_reach_it(tmp_path, file, old, new, changed):
    variants = {command: [None] for command in STAGES}
    variants |= {"figure": [*figure_names(views.make_settings()), "fig9_language"]}
    modal = [c for c, (entry, *_) in STAGES.items() if isinstance(entry, dict)]
    variants |= dict.fromkeys([*modal, *FUNCTIONS], MODALITIES)
    starts = {(c, v): entries(c, v) for c, several in variants.items() for v in several}
    folder = tmp_path / "task_arithmetic"
    shutil.copytree(code.PACKAGE, folder, ignore=shutil.ignore_patterns("encoders", "__pycache__"))
    text = (folder / f"{file}.py").read_text()
    assert old in text
    (folder / f"{file}.py").write_text(text.replace(old, new))
    differ = {k for k, s in starts.items() if code_hash(*s) != code_hash(*s, package_dir=folder)}
    assert differ == changed


def test_reading_the_code_of_all_commands_imports_nothing_heavy():
    found = [entry for entry, *_ in COMMANDS.values()]
    found = [each for e in found for each in (e.values() if isinstance(e, dict) else [e])]
    assert code_hash(*found)
    use = "import sys; from task_arithmetic.pipeline.code import code_hash"
    use += "; code_hash('stages.finetune.finetune')"
    check = f"{use}; assert not {{'torch', 'numpy', 'pandas', 'open_clip'}} & {{*sys.modules}}"
    subprocess.run([sys.executable, "-c", check], check=True)


def run(call, *entries) -> None:
    """Call `call()`, and hold all functions of the package that run within the first entry's to
    what code_parts says of the entries."""
    start, found, running, package = function(entries[0]).__code__, {}, [0], f"{code.PACKAGE}/"
    harmless = tuple(f"{name[1:]}." for name in code.HARMLESS if name[0] == ".")

    def part(frame):
        module = frame.f_code.co_filename.removeprefix(package).removesuffix(".py")
        return f"{module.replace('/', '.')}.{frame.f_code.co_qualname.partition('.')[0]}"

    def note(frame, event, _):
        if frame.f_code is start:
            running[0] += {"call": 1, "return": -1}.get(event, 0)
        own = frame.f_code.co_filename.startswith(package) and frame.f_code not in found
        if running[0] and event == "call" and own:
            within, parts = frame, []
            while within:
                parts += [part(within)] * within.f_code.co_filename.startswith(package)
                within = within.f_back
            if not any(name.startswith(harmless) or "<module>" in name for name in parts):
                found[frame.f_code] = parts[0]

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    assert entries[0] in found.values()
    assert set(found.values()) <= set(code_parts(*entries))


def function(entry: str):
    module, _, name = entry.rpartition(".")
    return getattr(import_module(f"task_arithmetic.{module}"), name)


@pytest.mark.parametrize("mode", ["nonlinear", "ntk"])
def test_all_functions_that_a_stage_runs_count_as_its_code(tmp_path, mode):
    """But for `download`, which needs a hub; what no mode concerns once."""
    view = views.make_settings(tasks=3, seeds=2)
    folder = test_report.make_run(tmp_path, view, points=5, alphas=6)
    common = tiny.settings(mode) | {"linearized": mode == "ntk", "templates": ["{}"], "keep": 0.5}
    common |= {"alphas": {"start": 0.0, "stop": 1.0, "step": 0.5}, "efficiency": {"steps": 1}}
    common |= {"low": -1.0, "high": 1.0, "points": 3, "samples": 8}
    settings = {"encoder": {"path": str(tiny.checkpoint(tmp_path / "open_clip"))}, "figure": view}
    settings["data"] = {"path": test_data.source(tmp_path / "source"), "validation": 12}
    settings["table"] = view
    names = {"table": ["table1", "table4", "tasks"], "figure": figure_names(view)}
    names |= {"embedded": ["shapes", "signs", "landcover", "textures"], "download": []}
    names |= dict.fromkeys((*names, "report"), []) if mode == "ntk" else {}
    made = {command: tmp_path / command for command in STAGES}
    one = {"data_dir": made["data"], "head": made["head"], "finetuned": made["finetune"]}
    many = {"data_dirs": [made["data"]] * 2, "heads": [made["head"]] * 2, "tasks": ["a", "a"]}
    control = {"control": "b", "control_head": made["head"], "control_data_dir": made["data"]}
    given = {"encoder_dir": made["encoder"], "encoder": "tiny", "mode": mode, "seed": 0, **one}
    given |= {**many, **control, "vectors": [made["vector"]] * 2, "log": tmp_path / "log.csv"}
    given |= {"vector": made["vector"], "single_task": [made["single-task"]] * 2}
    given |= {"pretrained": tmp_path / "control.csv"}
    before = [{"task": "b", "split": "validation", "value": 0.5}]
    write_rows(given["pretrained"], before, metric="pretrained_accuracy")
    given |= {"inputs": [made["pretrained"]], "metrics": folder / "metrics.csv"}
    given |= {"reference": test_report.REFERENCE, "output_dir": tmp_path}
    for command, (_, options, _) in STAGES.items():
        for name in names.get(command, ["a"]):
            given |= {"settings": settings.get(command, common), "output": made[command]}
            given |= {"name": name, "task": name}
            arguments = {option: given[option] for option in options.split() if option in given}
            if command == "embedded":
                arguments |= {"output": made[command] / name, "limit": 12}
            starts = entries(command, name if command == "figure" else "vision")
            call = partial(function(starts[0]), **arguments)
            call = partial(test_report.write, folder, view) if command == "report" else call
            run(call, *starts)


@pytest.mark.parametrize("mode", ["nonlinear", "ntk"])
def test_all_functions_that_a_stage_runs_on_texts_count_as_its_code(tmp_path, mode):
    """But for `download`, and what is as on images."""
    source, definition = tmp_path / "source", tiny_texts.TASKS["mood"]
    recipe = {"steps": 40, "learning_rate": 1e-2}
    common = {**tiny_texts.settings(mode, **recipe), "linearized": mode == "ntk"}
    common |= {"alphas": {"start": 0.0, "stop": 1.0, "step": 0.5}, "efficiency": {"steps": 1}}
    settings = {"encoder": {"path": str(tiny_texts.checkpoint(tmp_path / "t5"))}}
    settings["data"] = {"path": str(tiny_texts.dataset(source, "mood", 0)), "validation": 20}
    settings["data"] |= {key: definition[key] for key in ("texts", "metric")}
    settings["head"] = {key: definition[key] for key in ("prompt", "metric")}
    wanted = ["data", "encoder", "head", *FUNCTIONS, "vector", "cosine"]
    wanted = [c for c in STAGES if c in wanted and c not in ("kernel", "negation")]
    made = {command: tmp_path / command for command in wanted}
    one = {"data_dir": made["data"], "head": made["head"], "finetuned": made["finetune"]}
    many = {"data_dirs": [made["data"]] * 2, "heads": [made["head"]] * 2, "tasks": ["mood"] * 2}
    given = {"encoder_dir": made["encoder"], "encoder": "tiny", "mode": mode, "seed": 0, **one}
    given |= {**many, "vectors": [made["vector"]] * 2, "log": tmp_path / "log.csv"}
    given |= {"vector": made["vector"], "task": "mood"}
    given |= {"single_task": [made["single-task"]] * 2}
    for command in wanted:
        given |= {"settings": settings.get(command, common), "output": made[command]}
        options = STAGES[command][1].split()
        arguments = {option: given[option] for option in options if option in given}
        starts = entries(command, "language")
        run(partial(function(starts[0]), **arguments), *starts)
