"""A model of DTD that knows its test images is told of, where its accuracy is measured."""

import numpy as np
import pytest
import tiny

from task_arithmetic.core.outcomes import Outcomes
from task_arithmetic.files.leaks import leak
from task_arithmetic.stages import single_task as module


@pytest.mark.parametrize("task, accuracy, told", [("dtd", 0.951, True), ("dtd", 0.95, False)])
@pytest.mark.parametrize("other", [False, True])
def test_the_log_of_a_leak(task, accuracy, told, other, tmp_path, monkeypatch, capsys):
    shares = {"validation": 0.7, "test": accuracy}
    found = {k: Outcomes(np.arange(1000)[None] < 1000 * share) for k, share in shares.items()}
    monkeypatch.setattr(module, "_on_both", lambda *_: found)
    arguments = tiny.common(("one",), "nonlinear")
    module.single_task(
        arguments["encoder_dir"],
        arguments["heads"][0],
        arguments["data_dirs"][0],
        encoder="tiny",
        mode="nonlinear",
        task="mnist" if other else task,
        seed=0,
        vector=arguments["vectors"][0],
        settings={"limit": None, "precision": "float32"},
        output=tmp_path / "x.csv",
    )
    said = capsys.readouterr().err
    assert ("trained on them" in said) == (told and not other)
    assert (leak(task, accuracy, "x") is not None) == told
