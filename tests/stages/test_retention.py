"""Accuracy of merged models on the control task."""

import pytest
import tiny
import torch

from task_arithmetic.errors import UserError
from task_arithmetic.files.metrics import write_rows
from task_arithmetic.stages.evaluate import read_merged, read_vector
from task_arithmetic.stages.merge import merge
from task_arithmetic.stages.retention import retention
from task_arithmetic.vision.modality import read_encoder

TASKS = ("one", "two")


def control():
    every = tiny.shared_suite()
    return {"head": every["heads"][2], "data_dir": every["data_dirs"][2], "control": "three"}


def arguments(mode):
    given = tiny.common(TASKS, mode)
    return {key: given[key] for key in ("encoder_dir", "encoder", "mode", "seed", "vectors")}


def chosen(folder, *alphas):
    """Addition's rows as far as they count: the chosen α."""
    rows = [{"task": t, "alpha": a, "value": 0.5} for t, a in zip(TASKS, alphas, strict=True)]
    rows = [{"split": "test", **row} for row in rows] + [{"split": "validation", "alpha": 0.0}]
    return write_rows(folder / "addition.csv", rows, metric="unified_accuracy")


def naive(mode, alpha, tau, offset=None):
    """The share of right answers, of all images at once."""
    encoder = read_encoder(tiny.shared_suite()["encoder_dir"])
    images = encoder.modality.read_examples(
        control()["head"], control()["data_dir"], "test", None, "cpu"
    )
    found = encoder.modality.accuracies(
        encoder.theta0, tau, [alpha], {"three": images}, mode == "ntk", "float32", offset
    )
    return found["three"][0]


@pytest.mark.parametrize("mode", tiny.MODES)
def test_the_sum_is_evaluated_at_the_alpha_of_addition(tmp_path, mode):
    chosen(tmp_path, 0.75, 0.75)
    output = tmp_path / "kept.csv"
    given = {**arguments(mode), **control(), "addition": tmp_path / "addition.csv"}
    retention(**given, settings={"linearized": mode == "ntk"}, output=output)
    (row,) = tiny.frame_of(output).to_dict("records")
    one, two = (read_vector(path) for path in given["vectors"])
    assert row["value"] == naive(mode, 0.75, one + two)
    assert row["value"] not in (0.0, naive(mode, 0.0, one + two))
    expected = {"task": "three", "split": "test", "metric": "retained_accuracy", "alpha": 0.75}
    assert {key: row[key] for key in expected} == expected and row["method"] == ""


def test_what_was_merged_keeps_its_offset(tmp_path):
    path, given = tmp_path / "lines.safetensors", arguments("attention")
    settings = {"method": "sum", "options": {}, "layer_scaled": True}
    of = {key: given[key] for key in ("encoder", "mode", "seed", "vectors")}
    geometry = given["encoder_dir"] / "encoder.json"
    merge(**of, tasks=[*TASKS], geometry=geometry, settings=settings, output=path)
    chosen(tmp_path, 1.5, 1.5)
    given |= {**control(), "addition": tmp_path / "addition.csv", "vectors": [path]}
    retention(**given, settings={}, output=tmp_path / "kept.csv", method="sum_lines")
    (row,) = tiny.frame_of(tmp_path / "kept.csv").to_dict("records")
    offset, direction = read_merged(path)
    assert any(torch.any(tensor != 0) for tensor in offset.tensors.values())
    assert row["value"] == naive("attention", 1.5, direction, offset)
    assert row["method"] == "sum_lines" and row["alpha"] == 1.5


def test_an_addition_with_two_alphas_is_refused(tmp_path):
    chosen(tmp_path, 0.5, 0.75)
    given = {**arguments("attention"), **control(), "addition": tmp_path / "addition.csv"}
    with pytest.raises(UserError, match="2 α on test where one is chosen"):
        retention(**given, settings={}, output=tmp_path / "kept.csv")
