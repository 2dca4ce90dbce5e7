"""The benchmarks run: what they time is a step, a grid, a heatmap and a generation as they are."""

import importlib.util
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"
CPU = torch.device("cpu")


def load(name):
    spec = importlib.util.spec_from_file_location("bench", FOLDER / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bench():
    return load("run.py")


@pytest.mark.parametrize("name", ["embedded-base", "embedded-t5"])
def test_a_step_of_every_mode_is_timed(bench, name):
    found = bench.train_step_ratio(name, 2, 1, CPU)
    assert found.keys() == {"ntk", "attention"} and all(ratio > 0 for ratio in found.values())


def test_grids_and_heatmaps_are_timed(bench):
    for found in (
        bench.alpha_grid_ratio("embedded-base", 2, 3, 1, CPU),
        bench.heatmap_ratio("embedded-base", 2, 3, 1, CPU),
    ):
        assert found.keys() == {"nonlinear", "ntk"} and all(ratio > 0 for ratio in found.values())
    assert bench.generation_ratio("embedded-t5", 3, 1, CPU).keys() == {"alike", "apart"}


def test_the_start_of_a_real_fine_tuning_is_timed(bench):
    assert 0 < bench.startup_seconds("embedded-base", 1) < 120


def test_exporting_is_timed_and_its_memory_measured(monkeypatch, capsys):
    monkeypatch.syspath_prepend(FOLDER)
    found = load("exporting.py").measured(1, layers=1, width=48)
    ratios = [*found["export_ratio"].values(), found["peak_models"]["export"]]
    assert all(ratio > 0 for ratio in ratios) and len(ratios) == 4
    assert "is its card" in capsys.readouterr().out


def test_merging_is_timed_and_its_memory_measured():
    merging = load("merging.py")
    found = merging.measured(1, layers=1, width=48, measured_in_memory=("mean", "regmean"))
    assert found["entry_ratio"].keys() == {*merging.ENTRIES, "drawing"}
    assert found["decomposition_ratio"].keys() == {"iso_c", "tsv", "iso_cts"}
    assert found["product_ratio"].keys() == {"wudi", "regmean"}
    assert found["peak_models"].keys() == {"mean", "regmean"}
    ratios = [
        each for value in found.values() if isinstance(value, dict) for each in value.values()
    ]
    assert all(ratio > 0 for ratio in [*ratios, found["all_to_attention"]])
