"""Disentanglement error of all pairs of tasks at one α."""

import numpy as np
import pytest
import tiny
from test_disentanglement import disagreement, kl
from test_evaluate import images_of, naive_features, summed

from task_arithmetic.core import pairs as module
from task_arithmetic.errors import UserError
from task_arithmetic.files.metrics import write_rows
from task_arithmetic.files.tensors import read_tensors
from task_arithmetic.stages.disentanglement import disentanglement
from task_arithmetic.stages.pairs import pairs

TASKS = ("one", "two", "three")
ALPHA = 0.6


def measure(folder, mode, alpha=ALPHA, tasks=TASKS, samples=2048):
    """The stage's rows, with α from addition's metrics, whose validation rows have others."""
    at = [("validation", 0.9, ""), ("test", alpha, ""), ("test", 0.1, "ties")]
    rows = [{"split": s, "alpha": a, "method": m, "value": 0.5} for s, a, m in at]
    write_rows(folder / "addition.csv", rows, metric="unified_accuracy", task="one")
    how = {"linearized": tiny.MODES[mode]["linearized"], "samples": samples}
    arguments = tiny.common(tasks, mode) | {"addition": folder / "addition.csv", "settings": how}
    pairs(**arguments, output=folder / "pairs.csv")
    frame = tiny.frame_of(folder / "pairs.csv")
    assert (frame.alpha == alpha).all() and (frame.other_alpha == alpha).all()
    return frame.set_index(["metric", "task", "other_task"])["value"]


@pytest.mark.parametrize("mode", tiny.MODES)
def test_errors_are_those_of_naive_models(mode, tmp_path):
    found, linearized = measure(tmp_path, mode), tiny.MODES[mode]["linearized"]
    assert len(found) == 2 * 3
    for metric, i, j in found.index:
        directions = []
        for task in (i, j):
            pixels, _ = images_of(task, "test")
            path = tiny.workspace() / "suite" / "heads" / f"{task}.safetensors"
            taus = summed(mode, [task]), summed(mode, [i, j])
            alone, both = (
                naive_features(tau, ALPHA, pixels, linearized).double().numpy() for tau in taus
            )
            if metric == "representation_pair_error":
                directions.append(kl(alone, both))
            else:
                head = read_tensors(path)["head"].double().numpy()
                directions.append(disagreement(alone, both, head))
        assert found[metric, i, j] == pytest.approx(np.mean(directions), rel=2e-4, abs=1e-9)
    assert found["representation_pair_error"].min() > 0


@pytest.mark.parametrize("mode", ["nonlinear", "ntk"])
def test_a_pair_has_half_the_error_of_its_heatmap_at_the_same_alpha(mode, tmp_path):
    found = measure(tmp_path, mode, tasks=TASKS[:2])
    grid = {"low": 0.0, "high": ALPHA, "points": 2, "samples": 2048}
    grid |= {"linearized": tiny.MODES[mode]["linearized"]}
    disentanglement(**tiny.common(mode=mode), settings=grid, output=tmp_path / "grid.csv")
    heat = tiny.frame_of(tmp_path / "grid.csv").set_index(["metric", "alpha", "other_alpha"])
    for name in ("representation", "classification"):
        of_cell = heat["value"][f"{name}_disentanglement", ALPHA, ALPHA]
        assert found[f"{name}_pair_error", "one", "two"] == pytest.approx(of_cell / 2, rel=1e-4)


def test_at_alpha_0_nothing_is_passed_and_all_is_0(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "divergence", None)
    assert (measure(tmp_path, "attention", alpha=0.0) == 0).all()


def test_no_more_images_are_read_than_asked_for(tmp_path):
    assert not measure(tmp_path, "attention", samples=5).equals(measure(tmp_path, "attention"))


def test_an_addition_without_one_alpha_is_an_error(tmp_path):
    rows = [{"split": "test", "alpha": a, "value": 0.5, "task": "one"} for a in (0.1, 0.2)]
    write_rows(tmp_path / "two.csv", rows, metric="unified_accuracy")
    arguments = tiny.common(mode="attention") | {"settings": {"samples": 5}}
    with pytest.raises(UserError, match=r"two\.csv does not have one α on test"):
        pairs(**arguments, addition=tmp_path / "two.csv", output=tmp_path / "pairs.csv")
