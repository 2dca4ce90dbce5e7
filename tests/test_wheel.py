"""The wheel works without the repository: in a new environment, from an empty folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def ran(*command, cwd: Path, **env: str) -> str:
    """What a command printed; it must end well."""
    words = [str(word) for word in command]
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(words, cwd=cwd, env=kept | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory) -> Path:
    """A wheel built as `uv build` does, from the source distribution."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("built")
    env = {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    ran(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=root, **env)
    shutil.unpack_archive(next(folder.glob("*.tar.gz")), folder)
    source = next(path for path in folder.iterdir() if path.is_dir())
    ran(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=source, **env)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """The wheel in an environment of its own, beside the packages that run these tests: they are on
    its path, where Python reads no .pth file, so that no editable install is found."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, system_site_packages=True, symlinks=True, with_pip=False)
    command = [sys.executable, "-m", "uv", "pip", "install", "--offline", "--no-deps"]
    ran(*command, "--python", folder / "bin/python", wheel, cwd=folder)
    return folder


@pytest.mark.parametrize(
    "command, said",
    [
        ("--help", "validate a configuration"),
        ("check", "results/paper/"),
        ("check --config mini.yaml", "results/mini/"),
        ("check --config config/nano.yaml", "results/nano/"),
        ("plan --device h100", "GPU"),
    ],
)
def test_commands_work_in_an_empty_folder(environment, tmp_path, command, said):
    program = environment / "bin/task-arithmetic"
    packages = sysconfig.get_paths()["purelib"]
    assert said in ran(program, *command.split(), cwd=tmp_path, PYTHONPATH=packages)
    assert not list(tmp_path.iterdir())


def test_the_installed_package_is_the_wheels_and_draws_texts(environment, tmp_path):
    program = (
        "import task_arithmetic as t, task_arithmetic.embedded.texts as x; "
        "print(t.__file__, len(x.read_rows('sentiment')['train'].texts))"
    )
    packages = sysconfig.get_paths()["purelib"]
    python = environment / "bin/python"
    place, count = ran(python, "-c", program, cwd=tmp_path, PYTHONPATH=packages).split()
    assert place.startswith(str(environment)) and count == "2400"


def test_the_wheel_holds_what_a_run_draws_and_no_more(wheel, root):
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {
        name.removeprefix("task_arithmetic/shipped/") for name in names if "/shipped/" in name
    }
    files = {str(path.relative_to(root)) for path in (root / "config").rglob("*.yaml")}
    assert files | {"config.yaml", "workflow/reference/devices.csv"} <= shipped
    assert {"task_arithmetic/py.typed", "task_arithmetic/embedded/texts.json.bz2"} <= {*names}
    assert {"task_arithmetic/report/page.html", "task_arithmetic/library/card.md"} <= {*names}
    assert "task_arithmetic/embedded/encoders/embedded-t5/model.safetensors" in names
    assert not [name for name in names if "tools" in name or "tests" in name]


def test_the_library_works_in_an_empty_folder(environment, tmp_path):
    code = (
        "import task_arithmetic as ta; clip = ta.load_encoder('embedded-small');"
        "print(ta.evaluate(clip, [ta.load_task('shapes', clip)]))"
    )
    packages = sysconfig.get_paths()["purelib"]
    env = {"TASK_ARITHMETIC_CACHE": str(tmp_path / "cache"), "PYTHONPATH": packages}
    said = ran(environment / "bin/python", "-c", code, cwd=tmp_path, **env)
    assert "shapes" in said and list(tmp_path.iterdir()) == [tmp_path / "cache"]
