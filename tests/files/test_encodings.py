"""Text is UTF-8, whatever the locale."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import task_arithmetic
from task_arithmetic.files.paths import read_json, write_json

PACKAGE = Path(task_arithmetic.__file__).parent
PLAIN = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}  # no letter but ASCII's


def as_text(call: ast.Call) -> bool:
    """Whether a call reads or writes a file as text."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    values = [*call.args, *(each.value for each in call.keywords)]
    constants = [each.value for each in values if isinstance(each, ast.Constant)]
    if name == "open":  # os.open, Image.open and safe_open have no mode as a text
        modes = [x for x in constants if isinstance(x, str) and set(x) <= set("rwxab+t")]
        own = isinstance(call.func, ast.Name) or modes
        return bool(own) and not any("b" in mode for mode in modes)
    asked = {each.arg for each in call.keywords} & {"text", "universal_newlines"}
    process = name in ("run", "Popen", "call", "check_call", "check_output")
    return name in ("read_text", "write_text") or bool(process and asked)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_every_text_names_its_encoding(path):
    calls = [x for x in ast.walk(ast.parse(path.read_bytes())) if isinstance(x, ast.Call)]
    for call in filter(as_text, calls):
        given = {each.arg for each in call.keywords} | {getattr(x, "value", 0) for x in call.args}
        assert given & {"encoding", "utf-8"}, f"{path}:{call.lineno}"


def test_a_configuration_is_read_and_summarised_in_a_locale_without_its_letters(project):
    with open(project / "config/tasks/mnist.yaml", "a", encoding="utf-8") as file:
        file.write("# α\n")
    command = [sys.executable, "-m", "task_arithmetic", "check", "--config", "mine.yaml"]
    env = {**os.environ, **PLAIN, "PYTHONPATH": str(project / "src")}
    for run, status in (("mine", 0), ("größe", 1)):
        (project / "mine.yaml").write_text(f"# ä\nrun: {run}\n", encoding="utf-8")
        done = subprocess.run(command, cwd=project, env=env, capture_output=True)
        assert done.returncode == status, done.stderr
    assert b"in names of files in this locale (ascii): set LC_ALL=C.UTF-8." in done.stderr


def test_what_is_printed_has_a_sign_for_letters_that_the_locale_has_not():
    code = "from task_arithmetic.cli import main; main(['gc', '--keep-gb', '0']); print(chr(945))"
    env = {**os.environ, **PLAIN, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"?\n"), done.stderr


def test_json_keeps_letters_of_any_alphabet(tmp_path):
    write_json(tmp_path / "a.json", {"α": "Blätter"})
    assert read_json(tmp_path / "a.json") == {"α": "Blätter"}
