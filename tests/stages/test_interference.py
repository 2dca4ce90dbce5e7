"""What each task vector does to the accuracies of all tasks."""

import numpy as np
import pytest
import tiny
from test_evaluate import images_of, naive_features, summed

from task_arithmetic.files.manifest import sample_indices
from task_arithmetic.files.tensors import read_tensors
from task_arithmetic.stages.interference import interference

TASKS = ("one", "two")


@pytest.mark.parametrize("mode", tiny.MODES)
def test_interference_is_a_difference_of_accuracies_on_the_same_images(mode, tmp_path):
    linearized = tiny.MODES[mode]["linearized"]
    arguments = tiny.common(TASKS, mode) | {"settings": {"linearized": linearized, "samples": 17}}
    interference(**arguments, output=tmp_path / "a.csv")
    frame = tiny.frame_of(tmp_path / "a.csv")
    found = frame.set_index(["other_task", "task"])["value"]
    assert len(found) == 4 and set(frame.metric) == {"interference"}
    for t in TASKS:
        pixels, labels = (of[sample_indices(40, 17)] for of in images_of(t, "test"))
        head = read_tensors(tiny.workspace() / "suite" / "heads" / f"{t}.safetensors")["head"]

        def accuracy(tau, pixels=pixels, labels=labels, head=head):
            features = naive_features(tau, 1.0, pixels, linearized)
            return np.mean((features @ head.T).argmax(1).numpy() == labels)

        for s in TASKS:
            expected = accuracy(summed(mode, [s])) - accuracy({})
            assert found[s, t] == pytest.approx(expected, abs=1e-6)
    assert (found != 0).any()
