"""A job that is forked from a warm process is the command that was asked for."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

import task_arithmetic
from task_arithmetic.files.hashes import sha256_of_file
from task_arithmetic.pipeline import warm

SOURCE = str(Path(task_arithmetic.__file__).parents[1])


def wait(until, seconds=60.0):
    end = time.time() + seconds
    while not (found := until()):
        assert time.time() < end, "nothing happened"
        time.sleep(0.02)
    return found


def answers(address):
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(address) == 0


@pytest.fixture
def process(monkeypatch):
    """A warm process, at an address that the environment names."""
    monkeypatch.setenv(warm.ADDRESS, "")
    monkeypatch.setenv("PYTHONPATH", SOURCE)
    warm.start()
    process = warm._started.pop()
    wait(lambda: answers(os.environ[warm.ADDRESS]))
    yield process
    process.stdin.close()
    assert process.wait(30) == 0
    assert not os.path.exists(os.path.dirname(os.environ[warm.ADDRESS]))


def words(folder, name="0", **recipe):
    """`task-arithmetic stage finetune …` of the shared suite's task `one`, as a rule calls it."""
    suite = tiny.shared_suite()
    settings = {**tiny.settings("attention", **{"steps": 12, **recipe}), "micro_batch": None}
    results = Path(folder) / "results/run"
    given = [
        "stage", "finetune", "--encoder-dir", suite["encoder_dir"], "--head", suite["heads"][0],
        "--data-dir", suite["data_dirs"][0], "--encoder", "tiny", "--mode", "attention",
        "--task", "one", "--seed", 0, "--settings", json.dumps(settings),
        "--output", results / f"finetuned/{name}.safetensors",
        "--log", results / f"finetuned/{name}.csv", "--job", results / f"logs/finetune/{name}.log",
    ]  # fmt: skip
    return [str(word) for word in given]


def begin(*given, **options):
    command = [sys.executable, "-m", "task_arithmetic", *given]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **streams, **options)


def ended(job, seconds=60):
    out, err = job.communicate(timeout=seconds)
    return job.returncode, out, err


def children(process):
    task = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in task.read_text().split()]


def record(folder):
    return json.loads((Path(folder) / "results/run/logs/finetune/0.json").read_text())


def test_a_job_is_the_same_bit_for_bit_and_in_another_process(process, tmp_path):
    assert ended(begin(*words(tmp_path / "warm")))[0] == 0
    cold = {name: value for name, value in os.environ.items() if name != warm.ADDRESS}
    assert ended(begin(*words(tmp_path / "cold"), env=cold))[0] == 0
    file = "results/run/finetuned/0.safetensors"
    assert sha256_of_file(tmp_path / "warm" / file) == sha256_of_file(tmp_path / "cold" / file)
    attempt = record(tmp_path / "warm")["attempts"][-1]
    assert attempt["command"].startswith("task-arithmetic stage finetune --encoder-dir")


def test_a_job_has_the_folder_streams_environment_and_status_that_it_would_have(process, tmp_path):
    status, out, err = ended(
        begin("stage", "metrics", "--inputs", "a", "--output", "b", cwd=tmp_path)
    )
    assert status == 1 and err.startswith("task-arithmetic metrics: a") and out == ""
    status, out, err = ended(begin("stage", "metrics", "--help", cwd=tmp_path))
    assert status == 0 and "--inputs" in out and err == ""
    status, out, err = ended(begin("stage", "metrics", cwd=tmp_path))
    assert status == 2 and "--inputs" in err
    large = {**os.environ, "TASK_ARITHMETIC_DEVICE": "cuda", "OTHER": "x" * 100_000}  # two packets
    status, out, err = ended(begin(*words(tmp_path), env=large))
    assert status == 1 and "cuda" in err


def test_it_hands_on_one_thread_and_no_cuda(process):
    status = Path(f"/proc/{process.pid}/status").read_text()
    assert status.split("Threads:")[1].split()[0] == "1"
    assert "libcuda.so" not in Path(f"/proc/{process.pid}/maps").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_job_which_saves_and_ends(process, tmp_path, number):
    job = begin(*words(tmp_path, steps=100_000))
    pid = wait(lambda: children(process))[0]
    wait(lambda: (tmp_path / "results/run/logs/finetune/0.json").exists())
    time.sleep(0.5)
    job.send_signal(number)
    status, _, err = ended(job, 30)
    assert status == 128 + number and f"Stopped by {signal.Signals(number).name}" in err
    assert pid not in children(process) and record(tmp_path)["attempts"][-1]["exit"] == status


def test_a_job_ends_with_who_asked_for_it(process, tmp_path):
    job = begin(*words(tmp_path, steps=100_000))
    wait(lambda: children(process))
    wait(lambda: (tmp_path / "results/run/logs/finetune/0.json").exists())
    job.kill()
    wait(lambda: not children(process), 30)
    assert process.poll() is None


def test_who_asked_learns_that_its_job_was_killed(process, tmp_path):
    job = begin(*words(tmp_path, steps=100_000))
    os.kill(wait(lambda: children(process))[0], signal.SIGKILL)
    assert ended(job)[0] == 128 + signal.SIGKILL


def test_jobs_run_side_by_side(process, tmp_path):
    jobs = [begin(*words(tmp_path / str(i), steps=100_000)) for i in range(3)]
    wait(lambda: len(children(process)) == 3)
    for job in jobs:
        job.terminate()
        assert ended(job)[0] == 128 + signal.SIGTERM


def test_its_jobs_go_on_when_snakemake_is_gone(monkeypatch, tmp_path):
    monkeypatch.setenv(warm.ADDRESS, "")
    monkeypatch.setenv("PYTHONPATH", SOURCE)
    warm.start()
    process = warm._started.pop()
    wait(lambda: answers(os.environ[warm.ADDRESS]))
    job = begin(*words(tmp_path, steps=100_000))
    wait(lambda: children(process))
    process.stdin.close()
    wait(lambda: not os.path.exists(os.environ[warm.ADDRESS]))
    assert job.poll() is None and process.poll() is None
    job.terminate()
    assert ended(job)[0] == 128 + signal.SIGTERM
    assert process.wait(30) == 0


def test_where_nobody_answers_a_job_starts_by_itself(monkeypatch, tmp_path):
    monkeypatch.setenv(warm.ADDRESS, str(tmp_path / "nobody"))
    monkeypatch.setenv("PYTHONPATH", SOURCE)
    assert warm.ask(["stage"]) is None
    status, out, _ = ended(begin("stage", "metrics", "--help"))
    assert status == 0 and "--inputs" in out
