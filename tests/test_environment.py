"""The environment: one set of pins everywhere, no registry's address, clean linters."""

import os
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def tracked(root, *patterns) -> list:
    """The repository's files, as paths; all files where there is no git."""
    found = subprocess.run(
        ["git", "ls-files", *patterns], cwd=root, capture_output=True, text=True, check=False
    )
    return [root / name for name in found.stdout.splitlines() if (root / name).is_file()]


def pins(root) -> list[str]:
    return (root / "envs/requirements.txt").read_text().splitlines()


def test_the_requirements_are_names_and_versions_only(root):
    for line in pins(root):
        assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*==[0-9][A-Za-z0-9.!]*", line), line


def test_conda_installs_the_same_pins_one_by_one(root):
    environment = yaml.safe_load((root / "envs/torch.yaml").read_text())
    *conda, pip = environment["dependencies"]
    assert "python=3.11" in conda and "pip" in conda
    assert pip == {"pip": pins(root)}


def test_every_direct_dependency_is_pinned_to_a_version_that_it_allows(root):
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    pinned = dict(line.split("==") for line in pins(root))
    for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        requirement = Requirement(line)
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, line


def test_no_tracked_file_holds_a_registrys_address(root):
    address = re.compile(r"https?://\S*(\.whl|/simple\b)|--(extra-)?index-url|--find-links")
    for path in tracked(root):
        if path == root / "tests/test_environment.py" or path.suffix in {".safetensors", ".gz"}:
            continue
        text = path.read_text(errors="ignore")
        assert not address.search(text), path


def test_setup_trusts_the_certificates_of_the_system(root, tmp_path):
    """As pip does by itself: of uv, make asks it."""
    (tmp_path / "python").write_text(
        '#!/bin/sh\necho "uv would see $UV_SYSTEM_CERTS" >&2\nexit 1\n'
    )
    (tmp_path / "python").chmod(0o755)
    command = ["make", "-C", root, "-B", "setup", f"PYTHON={tmp_path}/python"]
    env = {key: value for key, value in os.environ.items() if key != "UV_SYSTEM_CERTS"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert "uv would see 1" in done.stderr


def test_results_are_never_committed(root):
    assert not tracked(root, "results", ".snakemake", ".venv")


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["snakefmt", "--check", "Snakefile", "workflow"],
        ["snakemake", "--lint"],
    ],
    ids=" ".join,
)
def test_linters_are_clean(root, command):
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
