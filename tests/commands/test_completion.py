"""completion: what the printed scripts let a real shell complete."""

import shutil
import subprocess

import pytest

from task_arithmetic.commands.catalogue import FOR_PEOPLE
from task_arithmetic.stages.catalogue import STAGES

COMPLETE = """
source {script}
complete -p task-arithmetic
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_shtab_task_arithmetic
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def complete(says, tmp_path):
    """What bash offers at the end of words; "''": a word that has not begun."""
    status, script, _ = says("completion", "bash")
    assert status == 0
    (tmp_path / "script").write_text(script)
    (tmp_path / "vectors.safetensors").write_text("")

    def offered(words):
        command = COMPLETE.format(script=tmp_path / "script", words=words)
        done = subprocess.run(
            ["bash", "--norc", "-c", command], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.stderr == ""
        registered, *found = done.stdout.splitlines()
        assert registered.startswith("complete ") and registered.endswith(" task-arithmetic")
        return {word.strip() for word in found if word.strip()}

    return offered


def test_bash_completes_commands_options_choices_and_files(complete):
    assert {*FOR_PEOPLE, "stage"} <= complete("task-arithmetic ''")
    assert complete("task-arithmetic comp") == {"compare", "completion"}
    assert complete("task-arithmetic merge --we") == {"--weights"}
    assert complete("task-arithmetic evaluate x --split t") == {"test"}
    assert complete("task-arithmetic merge vec") == {"vectors.safetensors"}
    assert complete("task-arithmetic merge --out vec") == {"vectors.safetensors"}
    assert set(STAGES) <= complete("task-arithmetic stage ''")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script_that_they_can_read(says, tmp_path, shell):
    status, script, _ = says("completion", shell)
    assert status == 0 and "task-arithmetic" in script and "--layer-scale" in script
    (tmp_path / "script").write_text(script)
    if found := shutil.which(shell):
        assert not subprocess.run([found, "-n", tmp_path / "script"]).returncode
