"""The answers behind accuracies: as they were, and of which examples."""

import itertools

import numpy as np
import pytest
import tiny

from task_arithmetic.core.outcomes import Outcomes
from task_arithmetic.errors import UserError
from task_arithmetic.files.metrics import read_rows
from task_arithmetic.files.outcomes import (
    Answered,
    Answers,
    read_outcomes,
    sample_of,
    write_outcomes,
)
from task_arithmetic.stages.single_task import single_task

CELL = Answered("test", "unified_accuracy", "one", (0.0, 0.5), 13, "ab", "small", "ntk", 0)


def test_bits_and_scores_come_back_as_they_were(tmp_path):
    bits = np.random.default_rng(0).random((2, 13)) < 0.5
    scores, truth = np.random.default_rng(1).random((1, 13)), np.arange(13.0)
    named = [
        (CELL, Outcomes(bits)),
        (CELL._replace(task="two", alphas=(None,), seed=None), Outcomes(scores, truth)),
    ]
    write_outcomes(tmp_path / "0.safetensors", named)
    for (cell, found), (as_read, read) in zip(
        named, read_outcomes(tmp_path / "0.safetensors"), strict=True
    ):
        assert as_read == cell
        assert (read.found == found.found).all()
        assert read.found.dtype == found.found.dtype
        assert read.accuracy() == pytest.approx(found.accuracy())
    write_outcomes(tmp_path / "again.safetensors", named)
    assert (tmp_path / "again.safetensors").read_bytes() == (
        tmp_path / "0.safetensors"
    ).read_bytes()


def test_bits_take_an_eighth_of_a_byte(tmp_path):
    write_outcomes(
        tmp_path / "x.safetensors",
        [(CELL._replace(examples=80_000), Outcomes(np.ones((1, 80_000), bool)))],
    )
    assert (tmp_path / "x.safetensors").stat().st_size < 11_000


def test_another_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no outcomes"):
        read_outcomes(tiny.common(("one",), "nonlinear")["vectors"][0])


def test_a_sample_tells_examples_apart():
    folders = [tiny.common((task,), "nonlinear")["data_dirs"][0] for task in ("one", "two")]
    hashes = [
        sample_of(folder, split, limit and {split: limit})
        for folder, split, limit in itertools.product(folders, ("validation", "test"), (None, 3))
    ]
    assert len(set(hashes)) == len(hashes)
    assert sample_of(folders[0], "test", {"train": 3}) == sample_of(folders[0], "test")


def test_a_stage_keeps_what_its_accuracies_are_means_of(tmp_path):
    arguments = tiny.common(("one",), "nonlinear")
    single_task(
        arguments["encoder_dir"], arguments["heads"][0], arguments["data_dirs"][0],
        encoder="tiny", mode="nonlinear", task="one", seed=0, vector=arguments["vectors"][0],
        settings={"limit": None, "precision": "float32"},
        output=tmp_path / "0.csv", outcomes=tmp_path / "0.safetensors",
    )  # fmt: skip
    rows = {row.split: row.value for row in read_rows(tmp_path / "0.csv")}
    named = read_outcomes(tmp_path / "0.safetensors")
    assert {cell.split: found.accuracy()[0] for cell, found in named} == rows
    assert all(cell[6:9] == ("tiny", "nonlinear", 0) for cell, _ in named)


def test_the_control_tasks_answers_are_of_its_own_examples(tmp_path):
    folders = tiny.common(("one", "two"), "nonlinear")["data_dirs"]
    answers = Answers(dict(zip(("one", "two"), folders, strict=True)), None)
    found = Outcomes(np.ones((1, 4), bool))
    answers.add(found, "control_accuracy", "test", "one", [0.5], "two", other_task="two")
    ((cell, _),) = answers.kept
    assert (cell.task, cell.other_task) == ("one", "two")
    assert cell.sample == sample_of(folders[1], "test")
