"""What training costs, measured on real steps."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import tiny
import torch

from task_arithmetic.core.training import Training
from task_arithmetic.files.metrics import read_rows
from task_arithmetic.files.tensors import read_tensors
from task_arithmetic.stages import efficiency as module
from task_arithmetic.stages.efficiency import efficiency, median_interval
from task_arithmetic.stages.finetune import finetune


def measure(tmp_path, mode="attention", steps=3, **recipe):
    arguments = tiny.common(("one",), mode, vectors=False)
    efficiency(
        arguments["encoder_dir"],
        encoder="tiny",
        mode=mode,
        head=arguments["heads"][0],
        data_dir=arguments["data_dirs"][0],
        settings={**tiny.settings(mode, **recipe), "efficiency": {"steps": steps}},
        output=tmp_path / "a.csv",
    )
    frame = pd.DataFrame(read_rows(tmp_path / "a.csv"))
    assert set(frame["mode"]) == {mode} and set(frame["encoder"]) == {"tiny"}
    assert frame["seed"].isna().all() and set(frame["task"]) == {""}
    return dict(zip(frame["metric"], frame["value"], strict=True))


@pytest.mark.parametrize("mode", tiny.MODES)
def test_parameters_are_counted_as_trained_and_as_held(mode, tmp_path):
    tower = read_tensors(tiny.shared_suite()["encoder_dir"] / "image_tower.safetensors")
    whole = sum(tensor.numel() for tensor in tower.values())
    attention = 2 * 4 * 32**2  # layers · 4 d²
    found = measure(tmp_path, mode)
    assert found["trained_parameters"] == (attention if mode == "attention" else whole)
    assert found["held_parameters"] == (2 * whole if mode == "ntk" else whole)


def test_the_costs_of_a_step_are_the_median_of_the_timed_ones(tmp_path, monkeypatch):
    """Steps before the clock starts do not count, nor does one slow step; reading a batch counts
    for the whole training, not for the step."""
    seconds = iter([50.0, 50.0, 50.0, 1.0, 2.0, 3.0, 90.0, 4.0])
    clock, taken = [0.0], []

    def step(*arguments):
        taken.append(1)
        clock[0] += next(seconds)

    def batches(form, examples, numbers, *arguments):
        for _ in numbers:
            clock[0] += 0.25
            yield None, None

    monkeypatch.setattr(Training, "step", step)
    monkeypatch.setattr(module, "batches", batches)
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    found = measure(tmp_path, steps=5)
    assert len(taken) == module.WARM_UP + 5 == 8
    assert found["step_seconds"] == 3.0
    assert found["training_seconds"] == 3.25 * tiny.RECIPE["steps"]


def test_measured_steps_are_real_training_steps(tmp_path, monkeypatch):
    runs, original = [], Training.step
    monkeypatch.setattr(Training, "step", lambda run, *a: (runs.append(run), original(run, *a))[1])
    found = measure(tmp_path, "nonlinear")
    theta0 = read_tensors(tiny.shared_suite()["encoder_dir"] / "image_tower.safetensors")
    assert all(not torch.equal(t.cpu(), theta0[n]) for n, t in runs[0].theta.items())
    assert 0 < found["step_seconds"] < 60
    assert 6 * found["step_seconds"] < found["training_seconds"] < 6 * 60


@pytest.mark.skipif(torch.cuda.is_available(), reason="measures the CPU's memory")
def test_peak_memory_grows_with_what_a_step_holds(tmp_path):
    """In processes of their own, as jobs are: here, memory that is already there would be used."""

    def peak(batch_size):
        arguments = tiny.common(("one",), "attention", vectors=False)
        settings = {**tiny.settings("attention", batch_size=batch_size), "efficiency": {"steps": 1}}
        command = [
            sys.executable,
            "-m",
            "task_arithmetic",
            "stage",
            "efficiency",
            "--encoder",
            "tiny",
        ]
        command += ["--mode", "attention", "--encoder-dir", arguments["encoder_dir"]]
        command += ["--head", arguments["heads"][0], "--data-dir", arguments["data_dirs"][0]]
        command += ["--settings", json.dumps(settings), "--output", tmp_path / "a.csv"]
        subprocess.run(command, check=True)
        frame = pd.DataFrame(read_rows(tmp_path / "a.csv")).set_index("metric")
        return frame.loc["peak_memory_bytes", "value"]

    small, large = peak(2), peak(2048)
    assert 0 <= small < large
    assert large > 2048 * 16 * 16 * 3 * 4  # at least its own pixels


def test_measuring_does_not_change_what_training_gives(tmp_path):
    suite = tiny.shared_suite()

    def train(name):
        output = tmp_path / name
        finetune(
            suite["encoder_dir"], suite["heads"][0], suite["data_dirs"][0], encoder="tiny",
            mode="attention", task="one", seed=0, settings=tiny.settings("attention"),
            output=output, log=tmp_path / "log",
        )  # fmt: skip
        return read_tensors(output, framework="np")

    before = train("before")
    measure(tmp_path)
    after = train("after")
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("n", [1, 2, 5, 6, 20, 61])
def test_an_interval_of_the_median_is_between_two_of_the_values(n):
    values = np.random.default_rng(n).permutation(n).astype(float)
    low, high = median_interval(values)
    below = int(low)  # so many values are below it
    assert high == n - 1 - low
    chance = 1 - 2 * scipy.stats.binom.cdf(below, n, 0.5)
    assert chance >= 0.95 or below == 0
    if n >= 6:
        assert 1 - 2 * scipy.stats.binom.cdf(below + 1, n, 0.5) < 0.95, "a narrower one would do"
