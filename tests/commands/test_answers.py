"""Every command that tells something tells it to machines as well."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import task_arithmetic
from task_arithmetic.answer import answer, plain
from task_arithmetic.commands.catalogue import FOR_PEOPLE
from task_arithmetic.config.kinds import Section
from task_arithmetic.files.records import Attempt

NANO = ["--config", "config/nano.yaml"]
TELLING = (
    "check plan doctor audit status why verify gc merge evaluate export vector compare show".split()
)
QUICK = "check plan doctor audit status why verify gc show compare".split()  # without torch


class Pair(NamedTuple):
    one: float
    two: object


class Held(Section):
    steps: int = 3
    rate: float = 0.1


def test_values_become_what_json_can_hold():
    found = Pair(float("nan"), {1: (Path("a/b"), None), "x": Attempt(exit=0), "h": Held(steps=5)})
    made = plain(found)
    assert made["one"] is None and made["two"]["1"] == ["a/b", None]
    assert made["two"]["x"]["exit"] == 0 and made["two"]["h"] == {"steps": 5}


def test_json_is_of_the_value_and_text_of_the_lines(capsys):
    answer(Pair(0.1, "α"), ["0.1 α"], as_json=False)
    answer(Pair(0.1, "α"), ["0.1 α"], as_json=True)
    text, *rest = capsys.readouterr().out.splitlines()
    assert text == "0.1 α" and json.loads("\n".join(rest)) == {"one": 0.1, "two": "α"}


def test_all_commands_that_tell_something_have_json():
    assert {name for name, known in FOR_PEOPLE.items() if "json" in known.options} == set(TELLING)


def test_check_tells_what_it_prints(says):
    found, text = (says("check", *NANO, *more)[1] for more in (["--json"], []))
    found = json.loads(found)
    (part,) = found["parts"]
    assert f"results/{found['run']}/" in text and f"{part['finetunings']} runs" in text
    assert f"tasks      {', '.join(part['tasks'])}" in text
    assert part["recipes"][0]["recipe"]["steps"] and len(found["alphas"]) > 1
    assert all(sentence in text for sentence in found["left_out"])


def test_plan_tells_what_it_prints(says, tmp_path, monkeypatch):
    words = ["plan", *NANO, "--device", "h100"]
    found, text = (says(*words, *more)[1] for more in (["--json"], []))
    found = json.loads(found)
    *stages, total = found["stages"]
    assert total["stage"] == "total"
    assert total["jobs"] == sum(each["jobs"] for each in stages)
    assert total["files"] == sum(each["files"] for each in stages)
    known = [each["disk_bytes"]["known"] or 0 for each in stages]
    assert total["disk_bytes"] == {"known": sum(known), "complete": True}
    finetune = next(each for each in stages if each["stage"] == "finetune")
    seconds = finetune["seconds"]["known"] / (60 if found["unit"] == "GPU-minutes" else 3600)
    row = next(line for line in text.splitlines() if line.startswith("finetune"))
    assert float(row.split()[-1]) == pytest.approx(seconds, abs=0.006)
    assert all(each["examples_per_second"] > 0 for each in found["speeds"])


def test_doctor_tells_what_is_missing(says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = Path(task_arithmetic.__file__).parents[2] / "config/nano.yaml"
    status, out, _ = says("doctor", "--config", config, "--json")
    found = json.loads(out)
    assert status == 0 and found["missing"] == [each["task"] for each in found["tasks"]]
    assert found["make"].startswith("snakemake --cores all --configfile") and not found["problems"]


def test_status_counts_the_jobs_of_each_stage(says, make_run):
    make_run("mine")
    found = json.loads(says("status", "--json")[1])
    assert (found["run"], found["done"], found["total"], found["ended"]) == ("mine", 0, 1, False)
    (stage,) = found["stages"]
    assert stage["stage"] == "finetune" and sum(stage["jobs"].values()) == 1
    assert stage["median_seconds"] is None


def test_verify_tells_problems_and_still_fails(says, make_run):
    make_run("mine")
    status, out, error = says("verify", "--json")
    found = json.loads(out)
    assert status == 1 and error.startswith("task-arithmetic verify: ") and error.count("\n") == 1
    assert found["jobs"] == 1 and found["problems"] and not found["files"]


def test_gc_tells_bytes(says, tmp_path, monkeypatch):
    (tmp_path / "results/shared/store").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert json.loads(says("gc", "--keep-gb", 1, "--json")[1]) == {"entries": 0, "freed_bytes": 0}


def test_json_cannot_be_watched(fails, make_run):
    make_run("mine")
    assert "leave out --watch" in fails("status", "--json", "--watch")


@pytest.mark.parametrize("command", TELLING)
def test_mistakes_are_said_on_stderr_in_json_too(fails, make_run, tmp_path, command):
    make_run("mine")
    words = {
        "check": ["--config", "none.yaml"],
        "plan": ["--config", "none.yaml"],
        "doctor": ["--config", "none.yaml"],
        "audit": ["--config", "none.yaml"],
        "export": ["x", "--base", "embedded-small", "--alpha", 1, "--to", "vector", "--out", "y"],
        "status": ["--run", "none"],
        "why": ["a", "--config", "none.yaml"],
        "verify": ["--run", "none"],
        "gc": ["--keep-gb", 1],
        "merge": ["--out", "x"],
        "evaluate": ["./none", "--tasks", "x"],
        "vector": ["--from", "none", "--base", "embedded-small", "--task", "a", "--out", "y"],
        "compare": ["mine", "none"],
        "show": ["none"],
    }[command]
    fails(command, *words, "--json")


def test_what_reads_runs_starts_without_torch(make_run):
    """Nor does anything that only a command with models needs."""
    for command in QUICK:
        module = FOR_PEOPLE[command].code.rpartition(".")[0]
        code = f"import sys, task_arithmetic.{module}; sys.exit('torch' in sys.modules)"
        src = str(Path(task_arithmetic.__file__).parents[1])
        environment = {**os.environ, "PYTHONPATH": src}
        assert not subprocess.run([sys.executable, "-c", code], env=environment).returncode, command
