"""Merging subsets of the tasks: what task addition of these tasks alone gives."""

import numpy as np
import pytest
import tiny

from task_arithmetic.errors import UserError
from task_arithmetic.stages.addition import addition
from task_arithmetic.stages.merge import merge
from task_arithmetic.stages.number_of_tasks import number_of_tasks
from task_arithmetic.stages.single_task import single_task

TASKS = ("one", "two", "three")
ALPHAS = {"start": 0.0, "stop": 1.0, "step": 0.25}


def own(folder, mode, tasks=TASKS):
    """The individual models' accuracies."""
    settings = {"limit": None, "linearized": mode == "ntk"}
    return tiny.each(single_task, tiny.common(tasks, mode), folder / "own.csv", settings=settings)


SUM = {"method": "sum", "options": {}}


def subsets(folder, mode, sizes, draws=5, method=None, merging=SUM):
    settings = {"limit": None, "linearized": mode == "ntk", "alphas": ALPHAS}
    settings |= {"sizes": sizes, "draws": draws, "merging": merging}
    given = tiny.common(TASKS, mode) | {"single_task": own(folder, mode), "settings": settings}
    number_of_tasks(**given, method=method, output=folder / "out.csv")
    return tiny.frame_of(folder / "out.csv")


def added(folder, mode, tasks, **changes):
    """Task addition's rows on test, of some tasks."""
    settings = {"limit": None, "linearized": mode == "ntk", "alphas": ALPHAS}
    given = tiny.common(tasks, mode) | {"single_task": own(folder, mode, tasks)} | changes
    addition(**given, settings=settings, output=folder / "added.csv")
    rows = tiny.frame_of(folder / "added.csv")
    return rows[rows.split == "test"]


def values_of(rows, metric):
    return rows[rows.metric == metric].value.to_numpy()


@pytest.mark.parametrize("mode", tiny.MODES)
def test_all_tasks_are_task_addition_bit_for_bit(tmp_path, mode):
    rows = subsets(tmp_path, mode, [3])
    expected = added(tmp_path, mode, TASKS)
    assert set(rows.task) == {"one+two+three"} and set(rows.split) == {"test"}
    assert set(rows.alpha) == set(expected.alpha)
    assert list(rows.metric) == ["subset_accuracy", "subset_normalized_accuracy"]
    assert rows.value[0] == np.mean(values_of(expected, "unified_accuracy"))
    assert rows.value[1] == np.mean(values_of(expected, "normalized_accuracy"))
    assert set(rows.method) == {""}


@pytest.mark.parametrize("mode", ["ntk", "attention"])
def test_a_subset_is_merged_as_if_there_were_no_other_tasks(tmp_path, mode):
    rows = subsets(tmp_path, mode, [2]).set_index(["task", "metric"])
    assert len(rows) == 2 * 3  # of all pairs
    for pair in (("one", "two"), ("one", "three"), ("two", "three")):
        expected = added(tmp_path, mode, pair)
        found = rows.loc["+".join(pair)]
        assert found.value["subset_accuracy"] == values_of(expected, "unified_accuracy").mean()
        normalized = values_of(expected, "normalized_accuracy").mean()
        assert found.value["subset_normalized_accuracy"] == normalized
        assert set(found.alpha) == set(expected.alpha)


@pytest.mark.parametrize("method", ["tsv", "dare"])
@pytest.mark.parametrize("layer_scaled", [False, True])
def test_other_methods_merge_what_their_stage_writes(tmp_path, method, layer_scaled):
    options = {"drop": 0.5} if method == "dare" else {}
    merging = {"method": method, "options": options, "layer_scaled": layer_scaled}
    rows = subsets(tmp_path, "attention", [3], method="mine", merging=merging)
    path, given = tmp_path / "merged.safetensors", tiny.common(TASKS, "attention")
    geometry = given.pop("encoder_dir") / "encoder.json"
    of = {key: given[key] for key in ("encoder", "mode", "seed", "tasks", "vectors")}
    merge(**of, settings=merging, output=path, geometry=geometry)
    expected = added(tmp_path, "attention", TASKS, vectors=[path], method="mine")
    assert rows.value[0] == np.mean(values_of(expected, "unified_accuracy"))
    assert set(rows.alpha) == set(expected.alpha) and set(rows.method) == {"mine"}


def test_nothing_but_the_rows_is_written(tmp_path):
    subsets(tmp_path, "attention", [2], draws=1)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_task_without_right_answers_is_an_error(tmp_path):
    files = own(tmp_path, "attention")
    text = files[1].read_text().splitlines()
    files[1].write_text("\n".join([text[0], *(line for line in text[1:] if "test" not in line)]))
    settings = {"limit": None, "linearized": False, "alphas": ALPHAS, "sizes": [2], "draws": 1}
    settings |= {"merging": SUM}
    given = tiny.common(TASKS, "attention") | {"single_task": files, "settings": settings}
    with pytest.raises(UserError, match="no test accuracy above 0 for two"):
        number_of_tasks(**given, output=tmp_path / "out.csv")
