"""What surrounds a stage's function: record, lock, store, hashes, signals."""

import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from task_arithmetic.cli import main
from task_arithmetic.core.training import Training
from task_arithmetic.files.hashes import check_file, read_sha256, sha256_of, sha256_of_file
from task_arithmetic.files.paths import read_json
from task_arithmetic.files.tensors import read_tensors, write_tensors
from task_arithmetic.pipeline import jobs, rerun
from task_arithmetic.pipeline.identity import identity
from task_arithmetic.stages import declaration
from task_arithmetic.stages.catalogue import STAGES

SOURCE = Path(jobs.__file__).parents[2]
LIMIT = 10.0  # seconds from SIGTERM to the end of the process


def finetune(folder, name="0", mode="attention", **recipe):
    """`task-arithmetic finetune …` of the shared suite's task `one`, as a rule calls it."""
    suite = tiny.shared_suite()
    settings = {**tiny.settings(mode, **{"steps": 12, **recipe}), "micro_batch": None}
    results = Path(folder) / "results/run"
    words = [
        "stage", "finetune", "--encoder-dir", suite["encoder_dir"], "--head", suite["heads"][0],
        "--data-dir", suite["data_dirs"][0], "--encoder", "tiny", "--mode", mode, "--task", "one",
        "--seed", 0, "--settings", json.dumps(settings),
        "--output", results / f"finetuned/{name}.safetensors",
        "--log", results / f"finetuned/{name}.csv", "--job", results / f"logs/finetune/{name}.log",
    ]  # fmt: skip
    return [str(word) for word in words]


def record(folder, name="0"):
    return json.loads((Path(folder) / f"results/run/logs/finetune/{name}.json").read_text())


def output(folder, name="0"):
    return Path(folder) / f"results/run/finetuned/{name}.safetensors"


def begin(words, code="", store=1.0, **environment):
    """The command in a process of its own; `code` is run in it before."""
    program = f"import sys\nfrom task_arithmetic.cli import main\n{code}\nsys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", program, *words],
        env={
            **os.environ,
            "PYTHONPATH": f"{SOURCE}:{Path(__file__).parents[1]}",
            "CUDA_VISIBLE_DEVICES": "",
            "TASK_ARITHMETIC_STORE_GB": str(store),
            **environment,
        },
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process, status=0):
    said = process.communicate(timeout=120)[1]
    assert process.returncode == status, said
    assert "Traceback" not in said
    return said


@pytest.fixture
def stored(monkeypatch):
    monkeypatch.setenv("TASK_ARITHMETIC_STORE_GB", "1")


# --- Records and hashes --------------------------------------------------------------------------


def test_a_finished_job_records_what_it_made_of_what(tmp_path):
    assert main(finetune(tmp_path)) == 0
    found, moved = record(tmp_path), output(tmp_path)
    (attempt,) = found["attempts"]
    assert (found["stage"], found["job"]) == ("finetune", "finetune/0")
    assert (attempt["exit"], attempt["error"], attempt["from_store"]) == (0, None, False)
    assert attempt["device"] == "cpu" and attempt["pid"] == os.getpid()
    assert attempt["progress"]["done"] == attempt["progress"]["total"] == 12
    assert attempt["progress"]["loss"] > 0 and attempt["progress"]["images_per_second"] > 0
    assert 0 < attempt["seconds"] < 60 and attempt["peak_memory_bytes"] > 2**20
    made = found["made"]
    assert made["outputs"] == {
        str(path): sha256_of_file(path) for path in (moved, moved.with_suffix(".csv"))
    }
    suite = tiny.shared_suite()
    manifest = read_json(suite["data_dirs"][0] / "manifest.json")
    identity = sha256_of([manifest["task"], manifest["classes"], manifest["files"]])
    assert made["inputs"][str(suite["data_dirs"][0])] == identity
    about = read_json(suite["encoder_dir"] / "encoder.json")
    assert made["inputs"][str(suite["encoder_dir"])] == about["seal"]
    assert made["inputs"][str(suite["heads"][0])] == sha256_of_file(suite["heads"][0])
    assert made["arguments"]["settings"]["finetune"]["steps"] == 12
    assert "output" not in made["arguments"] and "torch" in made["versions"]


def test_hashes_are_those_of_sha256sum(tmp_path):
    assert main(finetune(tmp_path)) == 0
    moved = output(tmp_path)
    checked = subprocess.run(
        ["sha256sum", "-c", "0.sha256"], cwd=moved.parent, capture_output=True, text=True
    )
    assert checked.stdout == "0.safetensors: OK\n0.csv: OK\n"
    assert read_sha256(moved).keys() == {"0.safetensors", "0.csv"}
    check_file(moved)


def test_a_failed_job_records_its_sentence_and_keeps_its_history(tmp_path, capsys):
    words = finetune(tmp_path)
    wrong = [word.replace("attn", "other") for word in words]
    assert main(wrong) == 1
    (attempt,) = record(tmp_path)["attempts"]
    assert attempt["exit"] == 1 and "matches no tensor" in attempt["error"]
    assert attempt["error"] in capsys.readouterr().err
    assert "made" not in record(tmp_path)
    assert main(words) == 0
    assert [attempt["exit"] for attempt in record(tmp_path)["attempts"]] == [1, 0]


def test_what_a_killed_job_left_half_written_is_removed(tmp_path):
    folder = output(tmp_path).parent
    folder.mkdir(parents=True)
    left = [".0.safetensors.77.partial", "..0.abc.state.77.partial", ".0.csv.77.partial"]
    for name in [*left, ".10.csv.77.partial"]:
        (folder / name).write_text("half")
    assert main(finetune(tmp_path)) == 0
    names = {path.name for path in folder.iterdir()}
    assert names == {"0.safetensors", "0.csv", "0.sha256", ".10.csv.77.partial"}


def test_code_that_changed_since_the_plan_is_refused(tmp_path, monkeypatch, capsys):
    label = "0123456789ab-cdef01234567"
    words = [*finetune(tmp_path), "--code", label]
    plan = {"sources": "of then", "labels": {"finetune vision": label}, "config": ""}
    monkeypatch.setenv(rerun.PLAN, json.dumps(plan))
    assert main(words) == 1
    assert "The code of `finetune` changed since this run was planned" in capsys.readouterr().err
    monkeypatch.setenv(rerun.PLAN, json.dumps({**plan, "sources": rerun.sources()}))
    assert main(words) == 0  # files that nobody touched are not read
    assert record(tmp_path)["made"]["code"] == label


def test_an_input_that_changes_while_the_job_runs_is_named(tmp_path, monkeypatch, capsys):
    """Another run may share it: what comes out would belong to neither."""
    head = tmp_path / "head.safetensors"
    words = finetune(tmp_path)
    at = words.index("--head") + 1
    shutil.copy(words[at], head)
    words[at] = str(head)
    original = Training.gradient

    def disturbed(*arguments):
        write_tensors(head, {"head": torch.zeros(3, 16)}, {})
        return original(*arguments)

    monkeypatch.setattr(Training, "gradient", disturbed)
    assert main(words) == 1
    assert f"{head} changed while this job waited or ran" in capsys.readouterr().err
    assert "made" not in record(tmp_path)


@pytest.mark.parametrize("key", ["mean", "geometry", "logit_scale", "own_merges"])
def test_an_encoder_is_identified_by_all_that_is_said_of_it(key, tmp_path):
    """Not by its towers alone: another mean gives other features."""
    folder = shutil.copytree(tiny.shared_suite()["encoder_dir"], tmp_path / "encoder")
    before = identity(folder)
    tiny.reseal(folder, **{key: "another"})
    assert identity(folder) != before


def test_data_are_identified_by_the_arrays_that_are_stored(tmp_path):
    """Not by what they were decoded from: images can be resized otherwise."""
    folder = shutil.copytree(tiny.shared_suite()["data_dirs"][0], tmp_path / "data")
    before = identity(folder)
    images = np.load(folder / "train_images.npy")
    np.save(folder / "train_images.npy", images ^ 1)
    tiny.reseal(folder)
    assert identity(folder) != before


# --- The store -----------------------------------------------------------------------------------


def test_going_back_to_earlier_settings_computes_nothing(tmp_path, stored, capsys):
    hashes = []
    for rate in (1e-3, 2e-3, 1e-3):
        output(tmp_path).unlink(missing_ok=True)
        assert main(finetune(tmp_path, learning_rate=rate)) == 0
        hashes.append(sha256_of_file(output(tmp_path)))
    assert hashes[0] == hashes[2] != hashes[1]
    attempts = record(tmp_path)["attempts"]
    assert [attempt["from_store"] for attempt in attempts] == [False, False, True]
    assert attempts[2]["progress"] is None
    assert "Taken from the store" in capsys.readouterr().err


def test_two_jobs_for_the_same_output_train_once(tmp_path):
    first, second = (begin(finetune(tmp_path, steps=300)) for _ in range(2))
    said = ended(first) + ended(second)
    assert "is being made by " in said  # which process, once it has said so in the lock's file
    attempts = record(tmp_path)["attempts"]
    assert sorted(attempt["from_store"] for attempt in attempts) == [False, True]
    assert [a["progress"] for a in attempts if a["from_store"]] == [None]


# --- Signals -------------------------------------------------------------------------------------


def stop(process, number=signal.SIGTERM):
    """Seconds from the signal to the end, and what the process said."""
    process.send_signal(number)
    began = time.monotonic()
    said = ended(process, 128 + number)
    return time.monotonic() - began, said


def until(condition, process, patience=120):
    deadline = time.monotonic() + patience
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def started(folder):
    return (Path(folder) / "results/run/logs/finetune/0.json").is_file


STUCK = """
import time
from importlib import import_module
owner, _, inner = "task_arithmetic.{module}".partition(".Training")
module = import_module(owner)
module = module.Training if "Training" in "{module}" else module
original, count = module.{name}, [0]
def stuck(*arguments, **options):
    count[0] += 1
    if count[0] == {at}:
        open({mark!r}, "w").close()
        time.sleep(600)
    return original(*arguments, **options)
module.{name} = stuck
"""
MOMENTS = {
    "reading": ("vision.modality", "read_encoder", 1, None),
    "in the first step": ("core.training.Training", "gradient", 1, 0),
    "in a later step": ("core.training.Training", "gradient", 8, 7),
    "writing the outputs": ("stages.finetune", "write_tensors", 1, 12),
    "hashing them": ("pipeline.jobs", "write_sha256", 1, None),
}


@pytest.mark.parametrize(
    "moment, number",
    [*((moment, signal.SIGTERM) for moment in MOMENTS), ("in a later step", signal.SIGINT)],
)
def test_a_stopped_training_saves_and_ends_within_seconds_whatever_it_is_doing(
    moment, number, tmp_path, capsys
):
    """Also in a call that does not come back: here a sleep of ten minutes."""
    module, name, at, saved = MOMENTS[moment]
    code = STUCK.format(module=module, name=name, at=at, mark=str(tmp_path / "stuck"))
    process = begin(finetune(tmp_path), code)
    until((tmp_path / "stuck").exists, process)
    seconds, said = stop(process, number)
    assert seconds < LIMIT
    name = signal.Signals(number).name
    assert said.splitlines()[-1].startswith(f"task-arithmetic finetune: Stopped by {name}. ")
    (attempt,) = record(tmp_path)["attempts"]
    assert attempt["exit"] == 128 + number and attempt["error"] in said
    if saved is not None and moment != "writing the outputs":
        assert f"{saved} of 12 steps are saved" in said
    folder = output(tmp_path).parent
    assert not list(folder.glob("*.partial")) and not list(folder.glob(".*.partial"))
    assert main(finetune(tmp_path)) == 0
    if saved and moment != "writing the outputs":
        assert f"Going on after step {saved}" in capsys.readouterr().err
    assert main(finetune(tmp_path / "whole")) == 0
    assert sha256_of_file(output(tmp_path)) == sha256_of_file(output(tmp_path / "whole"))
    # Locks are removed by who holds them next.
    assert {p.name for p in folder.iterdir()} == {"0.safetensors", "0.csv", "0.sha256"}


def test_a_stopped_evaluation_leaves_nothing(tmp_path):
    suite = tiny.shared_suite()
    words = [
        "stage", "single-task", "--encoder-dir", suite["encoder_dir"], "--encoder", "tiny",
        "--mode", "attention", "--seed", 0, "--task", "one", "--head", suite["heads"][0],
        "--data-dir", suite["data_dirs"][0], "--vector", tiny.shared_vector("attention", "one"),
        "--settings", json.dumps({"linearized": False, "limit": None}),
        "--output", tmp_path / "own.csv",
    ]  # fmt: skip
    code = STUCK.format(module="vision.modality", name="_hits", at=2, mark=str(tmp_path / "stuck"))
    process = begin([str(word) for word in words], code)
    until((tmp_path / "stuck").exists, process)
    seconds, said = stop(process)
    assert seconds < LIMIT and "Stopped by SIGTERM. Run the same command again." in said
    (tmp_path / ".own.csv.lock").unlink(missing_ok=True)
    assert [path.name for path in tmp_path.iterdir()] == ["stuck"]


def test_a_job_that_waits_for_another_one_can_be_stopped(tmp_path):
    code = STUCK.format(
        module="vision.modality", name="read_encoder", at=1, mark=str(tmp_path / "stuck")
    )
    first = begin(finetune(tmp_path), code)
    until((tmp_path / "stuck").exists, first)
    second = begin(finetune(tmp_path))
    assert "is being made by" in second.stderr.readline()
    assert stop(second)[0] < LIMIT
    assert record(tmp_path)["attempts"][0]["pid"] == first.pid
    stop(first)


def test_signals_are_the_programs_own_again_after_a_job(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert main(finetune(tmp_path)) == 0
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_stage_cannot_read_a_file_whose_content_does_not_count(tmp_path, capsys):
    """What the store keeps would be taken for the result of other inputs."""
    for kind in (str, Path, list[str], dict):
        with pytest.raises(TypeError, match="The stage Odd has notes: .*: declare it as one of"):
            declaration.stage("files.metrics.gather")(
                type("Odd", (), {"__annotations__": {"notes": kind}})
            )
    assert "odd" not in declaration.STAGES
    words = finetune(tmp_path)
    words[words.index("--task") + 1] = str(tmp_path / "notes.txt")
    assert main(words) == 1
    assert "--task of finetune is a name, but" in capsys.readouterr().err


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_a_stages_function_takes_what_is_declared_and_what_every_job_gives(stage):
    for code in stage.code.values() if isinstance(stage.code, dict) else [stage.code]:
        taken = inspect.signature(declaration.named(code)).parameters
        assert set(stage.options) <= set(taken) or "arguments" in taken
        others = {"device", "progress", "metric", "arguments", "limit", "seed"}
        assert set(taken) - set(stage.options) <= others


# --- Unfinished runs -----------------------------------------------------------------------------


def test_an_unfinished_run_of_another_recipe_is_named_and_not_used(tmp_path, capsys):
    code = STUCK.format(
        module="core.training.Training", name="gradient", at=6, mark=str(tmp_path / "stuck")
    )
    process = begin(finetune(tmp_path), code)
    until((tmp_path / "stuck").exists, process)
    stop(process)
    assert main(finetune(tmp_path, learning_rate=7e-4)) == 0
    said = capsys.readouterr().err
    assert "Starting afresh: 5 steps were saved with other settings." in said
    assert not list(output(tmp_path).parent.glob(".*.state"))


def test_states_can_lie_in_a_folder_of_the_machine(tmp_path, monkeypatch, capsys):
    scratch = tmp_path / "a scratch; $(touch x)"
    code = STUCK.format(
        module="core.training.Training", name="gradient", at=6, mark=str(tmp_path / "stuck")
    )
    process = begin(finetune(tmp_path), code, TASK_ARITHMETIC_SCRATCH=str(scratch))
    until((tmp_path / "stuck").exists, process)
    stop(process)
    (state,) = scratch.iterdir()
    assert not list(output(tmp_path).parent.glob(".*.state"))
    assert any(name.startswith("exp_avg.") for name in read_tensors(state))
    # Variables are those of the machine that computes, and nothing else is special.
    monkeypatch.setenv("TASK_ARITHMETIC_SCRATCH", "${PLACE}/$REST")
    assert main(finetune(tmp_path)) == 1
    assert "${PLACE} is not set on" in capsys.readouterr().err
    monkeypatch.setenv("PLACE", str(tmp_path))
    monkeypatch.setenv("REST", scratch.name)
    assert main(finetune(tmp_path)) == 0
    assert "Going on after step 5" in capsys.readouterr().err and list(scratch.iterdir()) == []
