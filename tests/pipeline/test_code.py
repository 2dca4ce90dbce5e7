"""What counts as a stage's code, and that nothing that a stage runs is missing from it."""

import ast
import shutil
import subprocess
import sys
import threading
from dataclasses import fields
from functools import partial
from itertools import count
from pathlib import Path

import answered
import pytest
import test_data
import test_report
import tiny
import tiny_texts
import views

from task_arithmetic.config.available import figure_names
from task_arithmetic.config.view import view_of
from task_arithmetic.errors import UserError
from task_arithmetic.files.metrics import write_rows
from task_arithmetic.files.outcomes import write_outcomes
from task_arithmetic.merging.methods import names
from task_arithmetic.pipeline import code
from task_arithmetic.pipeline.code import changes, code_hash, code_parts, package_versions
from task_arithmetic.pipeline.rerun import modules
from task_arithmetic.stages import (
    addition,
    disentanglement,
    efficiency,
    evaluate,
    finetune,
    merge,
    negation,
    number_of_tasks,
    sampled,
    statistics,
)
from task_arithmetic.stages.catalogue import STAGES
from task_arithmetic.stages.declaration import MODALITIES

B = "def g(): return h()\ndef h(): return LIMIT\nLIMIT = 1\n"


@pytest.fixture
def toy(tmp_path):
    """toy({"a": text of a.py, …}) → the folder of a new package `toy`, with B as its b.py."""
    numbers = count()

    def write(files):
        folder = tmp_path / str(next(numbers)) / "toy"
        for name, text in {"b": B, **files}.items():
            path = folder / (name if "." in name else f"{name}.py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.strip())
            for parent in path.relative_to(folder).parents:
                (folder / parent / "__init__.py").touch()
        return folder

    return write


def label(folder, *names):
    return code_hash(*names or ["a"], package_dir=folder)


# --- What is reached -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "a",
    [
        "from .b import g",
        "from . import b",
        "from .b import *",
        "import toy.b",
        "import toy.b as other\nother.g()",
        "from toy import b",
        "from toy.b import g as z",
        "def f():\n    from .b import g",
        "class A:\n    from .b import g",
        "if 1 > 2:\n    from .b import g",
        "try:\n    from .b import g\nexcept ImportError: pass",
        "from . import c",
        "from .c import g",
        "from .sub import d",
        "from .sub.d import g",
        "import toy.sub.d",
    ],
)
def test_whatever_is_imported_counts_however_it_is_written(toy, a):
    files = {"a": a, "c": "from .b import g", "sub/d": "from ..b import g", "other": "x = 1"}
    before = label(toy(files))
    assert label(toy({**files, "b": B.replace("LIMIT = 1", "LIMIT = 2")})) != before
    assert label(toy({**files, "other": "x = 2"})) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x=1", "x=2"),  # a default argument
        ("rate = 1", "rate = 2"),  # a class attribute
        ("@double", "@triple"),  # a decorator
        ('"g": 1', '"g": 2'),  # a registry
        ('getattr(b, "g")', 'getattr(b, "h")'),  # a name as a text
        ("TABLE.update(z=1)", "TABLE.update(z=2)"),
        ("    y: int = 1", "    y: int = 2"),
        ("if FLAG:", "if not FLAG:"),
        ('environ.get("A", "1")', 'environ.get("A", "2")'),
        ("lambda: 1", "lambda: 2"),
        ("for i in range(3)", "for i in range(4)"),
    ],
)
def test_whatever_changes_a_result_changes_the_label(toy, old, new):
    text = """
import os
from . import b
FLAG, TABLE = True, {"g": 1}
TABLE.update(z=1)
double = triple = lambda f: f
later = lambda: 1
class Model:
    rate = 1
    y: int = 1
@double
def f(x=1):
    if FLAG:
        return getattr(b, "g")(), os.environ.get("A", "1")
for i in range(3): FLAG = not FLAG
"""
    assert old in text
    assert label(toy({"a": text})) != label(toy({"a": text.replace(old, new)}))


def test_comments_docstrings_formatting_and_what_only_type_checkers_read_do_not_count(toy):
    plain = "def f(x, y):\n    return (x + y)\nclass A:\n    z = 1"
    told = '"""Of a."""\n# One.\ndef f(x,\n      y):\n    """Adds."""\n    return x + y  # so\n\n'
    told += 'class A:\n    """An A."""\n    z = 1\n'
    typed = "from typing import TYPE_CHECKING\n"
    both = typed + plain, typed + "if TYPE_CHECKING:\n    from .b import g\n" + told
    assert label(toy({"a": plain})) == label(toy({"a": told}))
    assert label(toy({"a": both[0]})) == label(toy({"a": both[1]}))
    assert "b.py" not in code_parts("a", package_dir=toy({"a": both[1]}))


def test_the_packages_that_a_module_lies_in_run_when_it_is_imported(toy):
    files = {"sub/a": "x = 1", "sub/__init__": "from ..b import g", "__init__": "from .c import y"}
    parts = code_parts("sub.a", package_dir=toy({**files, "c": "y = 1"}))
    assert [*parts] == ["__init__.py", "b.py", "c.py", "sub/__init__.py", "sub/a.py"]


def test_modules_that_import_each_other_are_followed_once(toy):
    parts = code_parts("a", package_dir=toy({"a": "from . import c", "c": "from . import a"}))
    assert [*parts] == ["__init__.py", "a.py", "c.py"]


def test_data_files_beside_a_module_count(toy):
    files = {"sub/a": "x = 1", "sub/rows.json": "[1]", "sub/deep/more.txt": "1", "far/b.csv": "1"}
    before = label(toy(files), "sub.a")
    plain = toy(files) / "sub/merges"  # without an ending
    plain.write_text("1")
    assert label(plain.parents[1], "sub.a") != before
    for name in ("sub/rows.json", "sub/deep/more.txt"):
        assert label(toy({**files, name: "[2]"}), "sub.a") != before
    assert label(toy({**files, "far/b.csv": "2"}), "sub.a") == before


@pytest.mark.parametrize(
    "name",
    [
        "sub/__pycache__/a.cpython-311.pyc.140213",  # as Python begins to write it
        "sub/__pycache__/a.f-1.py311.nbi",
        "sub/a.pyc",
        "sub/.rows.json.swp",
        "sub/.ipynb_checkpoints/rows.json",
        "sub/rows.json~",
        "sub/#rows.json#",
    ],
)
def test_what_compiling_and_editors_leave_does_not_count(toy, name):
    folder = toy({"sub/a": "x = 1", "sub/rows.json": "[1]"})
    before, files = label(folder, "sub.a"), {*code.written(folder)}
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("2")
    assert label(folder, "sub.a") == before and {*code.written(folder)} == files


def test_an_unknown_module_or_a_file_that_is_not_python_is_one_sentence(toy):
    with pytest.raises(UserError, match="There is no module none in"):
        label(toy({}), "none")
    with pytest.raises(UserError, match="a.py is not Python"):
        label(toy({"a": "def f("}))


# --- Packages and words --------------------------------------------------------------------------


def test_a_package_counts_for_what_uses_it(toy):
    uses = {"a": "import json\nfrom PIL import Image\ndef f():\n    import no_such_package.part"}
    uses["c"] = 'import numpy as np\nfind_spec("open_clip")'
    folder = toy(uses)
    assert [*package_versions("a", package_dir=folder)] == ["no_such_package", "pillow"]
    assert package_versions("a", package_dir=folder)["no_such_package"] == "none"
    assert [*package_versions("c", package_dir=folder)] == ["numpy", "open_clip_torch"]


def test_another_version_of_a_package_changes_the_second_half_of_the_hash(toy, monkeypatch):
    folder, hashes = toy({"a": "import fake"}), []
    for version in ("1.0", "2.0"):
        monkeypatch.setattr(code.metadata, "version", lambda _, version=version: version)
        code._version.cache_clear()
        hashes.append(label(folder).split("-"))
    code._version.cache_clear()
    assert hashes[0][0] == hashes[1][0] and hashes[0][1] != hashes[1][1]


def test_changes_are_told_in_a_few_words():
    old = {"core/a.py": "1", "core/b.py": "1", "core/c.py": "1"}
    assert changes(old, old) == ""
    assert changes(old, {**old, "core/a.py": "2"}) == "core/a.py changed"
    told = changes(old, {"core/a.py": "2", "core/b.py": "2", "core/d.py": "1"})
    assert told == "core/a.py and 1 more changed, core/d.py was added, core/c.py was removed"


# --- This package --------------------------------------------------------------------------------

STARTS = {
    (c, m): modules(c, None if s.by_method else m) for c, s in STAGES.items() for m in MODALITIES
}
TRAINING = {("finetune", m) for m in MODALITIES} | {("efficiency", m) for m in MODALITIES}
GENERATING = {(c, "language") for c in (*(c for c, s in STAGES.items() if s.modal), "encoder")}
GENERATING |= {("published", "language")}
# Whose label is of its method, and of both modalities.
GENERATING |= {("merge-on-data", "vision"), ("number-of-tasks", "vision")}


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("core/training", "beta1=0.9", "beta1=0.8", TRAINING),
        ("language/t5", "geometry: T5) -> Dual:", "geometry: T5, x=1) -> Dual:", GENERATING),
        ("core/addition", "np.argmax(", "np.argmin(",  # by which per_task searches too
         {(c, m) for c in ("addition", "merge", "merge-on-data", "number-of-tasks")
          for m in MODALITIES}),
        ("core/negation", "np.argmin(", "np.argmax(", {("negation", m) for m in MODALITIES}),
        ("report/figures", 'marker="*", markersize=11', 'marker="P", markersize=11',
         {("figure", m) for m in MODALITIES}),  # the report only embeds them
        ("vision/prepare", "BLOCK = 256", "BLOCK = 128", {("data", "vision")}),
    ],
)  # fmt: skip
def test_a_changed_line_concerns_the_stages_that_can_reach_it(tmp_path, file, old, new, changed):
    folder = tmp_path / "task_arithmetic"
    shutil.copytree(code.PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    text = (folder / f"{file}.py").read_text()
    assert old in text
    (folder / f"{file}.py").write_text(text.replace(old, new))
    before = {key: code_hash(*start) for key, start in STARTS.items()}
    after = {key: code_hash(*start, package_dir=folder) for key, start in STARTS.items()}
    assert {key for key in STARTS if before[key] != after[key]} == changed


def test_every_import_by_a_computed_name_is_declared():
    words = {"import_module", "__import__", "exec", "eval", "spec_from_file_location"}
    found = set()
    for path in code.PACKAGE.rglob("*.py"):
        tree = ast.walk(ast.parse(path.read_bytes()))
        calls = [x.func for x in tree if isinstance(x, ast.Call)]
        names = {x.id for x in calls if isinstance(x, ast.Name)}
        names |= {x.attr for x in calls if isinstance(x, ast.Attribute)} - {"eval"}  # torch's
        name = path.relative_to(code.PACKAGE).with_suffix("").as_posix().replace("/", ".")
        found |= {name.removesuffix("__init__")} if names & words else set()
    assert found == set(code.DYNAMIC)


def test_no_stage_can_reach_what_surrounds_it():
    """Else a line of it would make every result again."""
    for start in STARTS.values():
        rooms = {file.split("/")[0] for file in code_parts(*start)}
        assert not rooms & {"pipeline", "planning", "cli.py", "__main__.py"}


def test_reading_the_code_of_all_stages_imports_nothing_heavy():
    use = "import sys; from task_arithmetic.pipeline.rerun import STAGES, stage_code"
    use += "; [stage_code(name) for name in STAGES]"
    check = f"{use}; assert not {{'torch', 'numpy', 'pandas', 'open_clip'}} & {{*sys.modules}}"
    subprocess.run([sys.executable, "-c", check], check=True)


def run(call, *entries) -> None:
    """Call `call()`, and hold all modules of the package of which a function runs within it to what
    code_parts says of the entries."""
    start, found, running, package = call.func.__code__, {}, [0], f"{code.PACKAGE}/"

    def part(frame):
        return frame.f_code.co_filename.removeprefix(package)

    def note(frame, event, _):
        if frame.f_code is start:
            running[0] += {"call": 1, "return": -1}.get(event, 0)
        own = frame.f_code.co_filename.startswith(package) and frame.f_code not in found
        if running[0] and event == "call" and own:
            found[frame.f_code] = part(frame)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    assert found
    assert set(found.values()) <= set(code_parts(*entries))


RULES = Path(__file__).parents[2] / "workflow/rules"
SETTINGS = {
    "finetune": finetune.TrainingSettings,
    **dict.fromkeys(("pretrained", "single-task", "kernel"), evaluate.EvaluationSettings),
    "addition": addition.AdditionSettings,
    "negation": negation.NegationSettings,
    "number-of-tasks": number_of_tasks.SubsetSettings,
    "retention": evaluate.EvaluationSettings,
    "disentanglement": disentanglement.DisentanglementSettings,
    **dict.fromkeys(("interference", "pairs", "linearity"), sampled.SampledSettings),
    "efficiency": efficiency.EfficiencySettings,
    "merge": merge.MergeSettings,
    "merge-on-data": merge.MergeSettings,
    "statistics": statistics.StatisticsSettings,
}


def of_merging(command: str, arguments: dict, task: str) -> dict:
    """What a stage that merges is given instead of two tasks of one name: one."""
    settings = {"method": "sum", "layer_scaled": True}
    if command == "merge-on-data":
        settings = {"method": "adamerging", "options": {"steps": 1, "batch": 2}}
    many = ("vectors", "heads", "data_dirs", "single_task")
    cut = {key: arguments[key][:1] for key in many if key in arguments}
    if command == "number-of-tasks":
        own = {"sizes": [1], "draws": 1, "merging": settings}
        return {**arguments, **cut, "tasks": [task], "settings": {**arguments["settings"], **own}}
    modality = {k: v for k, v in arguments["settings"].items() if k == "modality"}
    return {**arguments, **cut, "tasks": [task], "settings": {**settings, **modality}}


def settings_of(command: str, every: dict) -> dict:
    """Those of all settings that a learning or measuring stage has; of another stage, all."""
    kind = SETTINGS.get(command)
    return {f.name: every[f.name] for f in fields(kind) if f.name in every} if kind else every


def test_rules_plan_with_the_label_that_their_jobs_have():
    """Of a stage that reads an encoder, or has a function for each modality, that of the modality:
    another one, and a job refuses to run, since the code seems to have changed."""
    rules = "".join(path.read_text("utf-8") for path in sorted(RULES.glob("*.smk")))
    for command, stage in STAGES.items():
        modal = (stage.modal and not stage.by_method) or isinstance(stage.code, dict)
        plain = not (modal or stage.by_method)
        assert (f'code=code_of("{command}")' in rules) == modal, command
        assert (f'code=stage_code("{command}")' in rules) == plain, command
        assert (f'code=code_of_method("{command}")' in rules) == stage.by_method, command


def test_a_merging_method_concerns_its_own_merges_alone(tmp_path):
    folder = tmp_path / "task_arithmetic"
    shutil.copytree(code.PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    text = (folder / "merging/ties.py").read_text()
    assert "LOW_BITS = 16" in text
    (folder / "merging/ties.py").write_text(text.replace("LOW_BITS = 16", "LOW_BITS = 8"))
    (folder / "merging/median.py").write_text("METHOD = None")
    starts = {name: modules("merge", name) for name in names()}
    starts |= {f"learnt {name}": modules("merge-on-data", name) for name in ("adamerging", "dare")}
    before = {name: code_hash(*start) for name, start in starts.items()}
    after = {name: code_hash(*start, package_dir=folder) for name, start in starts.items()}
    assert {name for name in starts if before[name] != after[name]} == {
        "ties",
        "dare",
        "learnt dare",
    }


@pytest.mark.parametrize("stage", ["finetune", "efficiency"])
def test_fine_tuning_is_far_from_evaluation(stage):
    """A line of an evaluation, of its settings or of a choice of α trains nothing again."""
    found = set(code_parts(*modules(stage, "vision")))
    far = {"stages/evaluate.py", "stages/addition.py", "stages/negation.py", "stages/vector.py"}
    assert not found & {*far, "core/addition.py", "core/negation.py", "merging/sum.py"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"linearised": True}, r"The settings have 'linearised' \(did you mean 'linearized'"),
        ({"keep": 0.9}, "The settings have no 'alphas': add it"),
    ],
)
def test_settings_that_are_not_a_stages_are_refused(given, said):
    with pytest.raises(UserError, match=said):
        negation.NegationSettings.of(given)
    mode = {"train": ["*"], "linearized": False}
    with pytest.raises(UserError, match="settings of `finetune` have no 'steps'"):
        finetune.TrainingSettings.of({"mode": mode, "finetune": {}})


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
    settings |= {"table": view, "published": {"mode": common["mode"]}}
    names = {"table": ["table1", "table4", "tasks"], "figure": figure_names(view_of(view))}
    names |= {"embedded": ["shapes", "signs", "landcover", "textures"], "download": []}
    names |= dict.fromkeys((*names, "report"), []) if mode == "ntk" else {}
    made = {command: tmp_path / command for command in STAGES}
    one = {"data_dir": made["data"], "head": made["head"], "finetuned": made["finetune"]}
    many = {"data_dirs": [made["data"]] * 2, "heads": [made["head"]] * 2, "tasks": ["a", "a"]}
    control = {"control": "b", "control_head": made["head"], "control_data_dir": made["data"]}
    given = {"encoder_dir": made["encoder"], "encoder": "tiny", "mode": mode, "seed": 0, **one}
    given |= {**many, **control, "vectors": [made["vector"]] * 2, "log": tmp_path / "log.csv"}
    given |= {"files": [made["finetune"]], "vector": made["vector"]}
    given |= {"single_task": [made["single-task"]] * 2, "addition": made["addition"]}
    given |= {"pretrained": tmp_path / "control.csv"}
    before = [{"task": "b", "split": "validation", "value": 0.5}]
    write_rows(given["pretrained"], before, metric="pretrained_accuracy")
    given |= {"addition": made["addition"]}
    given |= {"inputs": [made["pretrained"]], "metrics": folder / "metrics.csv"}
    given |= {"reference": test_report.REFERENCE, "output_dir": tmp_path}
    for command, stage in STAGES.items():
        for name in names.get(command, ["a"]):
            own = settings.get(command, settings_of(command, common))
            given |= {"settings": own, "output": made[command]}
            given |= {"name": name, "task": name}
            arguments = {option: given[option] for option in stage.options if option in given}
            if command.startswith("merge") or command == "number-of-tasks":
                arguments = of_merging(command, arguments, "a")
            if command == "intervals":
                arguments = of_intervals(tmp_path / "answers", view)
            if command == "embedded":
                arguments |= {"output": made[command] / name, "limit": 12}
            function = stage.function({"settings": {"modality": "vision"}})
            call = partial(function, **arguments)
            call = partial(test_report.write, folder, view) if command == "report" else call
            run(call, *modules(command, None if stage.by_method else "vision"))


def of_intervals(folder, view):
    """What the stage `intervals` is given: answers, and the metrics that are their means."""
    folder.mkdir()
    named, rows = answered.make_answers(views.make_rows(view, points=5, alphas=6))
    write_outcomes(folder / "0.safetensors", named)
    given = {"answers": [folder / "0.safetensors"], "settings": view}
    given["metrics"] = views.write_metrics(folder / "metrics.csv", rows)
    written = ("output", "comparisons", "draws")
    return given | {name: folder / f"{name}.x" for name in written}


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
    wanted = ["data", "encoder", "head", "vector", "cosine"]
    wanted += [command for command, stage in STAGES.items() if stage.modal]
    of_images = "kernel negation disentanglement interference pairs linearity".split()
    of_images += ["number-of-tasks", "retention"]
    wanted = [command for command in STAGES if command in wanted and command not in of_images]
    made = {command: tmp_path / command for command in wanted}
    one = {"data_dir": made["data"], "head": made["head"], "finetuned": made["finetune"]}
    many = {"data_dirs": [made["data"]] * 2, "heads": [made["head"]] * 2, "tasks": ["mood"] * 2}
    given = {"encoder_dir": made["encoder"], "encoder": "tiny", "mode": mode, "seed": 0, **one}
    given |= {**many, "vectors": [made["vector"]] * 2, "log": tmp_path / "log.csv"}
    given |= {"vector": made["vector"], "task": "mood"}
    given |= {"single_task": [made["single-task"]] * 2}
    for command in wanted:
        own = settings.get(command, settings_of(command, common))
        given |= {"settings": own, "output": made[command]}
        stage = STAGES[command]
        arguments = {option: given[option] for option in stage.options if option in given}
        if command.startswith("merge"):
            arguments = of_merging(command, arguments, "mood")
        function = stage.function({"settings": {"modality": "language"}})
        run(partial(function, **arguments), *STARTS[command, "language"])
