"""Long-form metrics: rows go in, the same rows come out."""

import random

import pandas as pd
import pytest

from task_arithmetic.errors import UserError
from task_arithmetic.files.metrics import COLUMNS, gather, read_rows, write_rows


def rows(count, seed=0):
    generator = random.Random(seed)
    return [
        {"task": f"t{i}", "split": "test", "alpha": i / 20, "value": generator.random()}
        for i in range(count)
    ]


def test_rows_come_back_exactly(tmp_path):
    path, written = tmp_path / "a.csv", rows(200)
    write_rows(path, written, encoder="e", mode="m", seed=2, metric="unified_accuracy")
    frame = pd.DataFrame(read_rows(path))
    assert list(frame.columns) == COLUMNS
    assert frame["value"].tolist() == [row["value"] for row in written]  # to the last bit
    assert frame["alpha"].tolist() == [row["alpha"] for row in written]
    assert set(frame["seed"]) == {2} and set(frame["metric"]) == {"unified_accuracy"}
    assert set(frame["other_task"]) == {""} and frame["other_alpha"].isna().all()


@pytest.mark.parametrize("name", ["nan", "NA", "null", "None", "01", "true"])
def test_names_that_look_like_something_else_stay_names(tmp_path, name):
    write_rows(tmp_path / "a.csv", [{"task": name, "value": 1.0}], encoder=name, mode=name)
    row = pd.DataFrame(read_rows(tmp_path / "a.csv")).iloc[0]
    assert (row.task, row.encoder, row["mode"]) == (name, name, name)


def test_metrics_are_their_inputs_one_after_the_other(tmp_path):
    """Line for line: no number is rewritten, no seed 0 becomes 0.0, no row is lost or merged."""
    write_rows(tmp_path / "a.csv", rows(30), encoder="e", mode="pretrained", metric="x")
    write_rows(tmp_path / "b.csv", rows(30, 1), encoder="e", mode="ntk", seed=0, metric="y")
    write_rows(tmp_path / "c.csv", rows(30), encoder="e", mode="pretrained", metric="x")
    inputs = [tmp_path / f"{name}.csv" for name in "abc"]
    gather(inputs, tmp_path / "metrics.csv")
    expected = [line for path in inputs for line in path.read_text().splitlines()[1:]]
    header, *found = (tmp_path / "metrics.csv").read_text().splitlines()
    assert header == ",".join(COLUMNS)
    assert found == expected


@pytest.mark.parametrize(
    "content",
    ["", "a,b\n1,2\n", "encoder,mode\n", "\x00\x01", '"', ",".join(COLUMNS[:-1]) + "\n", "{}"],
)
def test_what_is_no_metrics_file_is_refused(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=r"a\.csv (is not a metrics file|lacks values)"):
        gather([path], tmp_path / "metrics.csv")
    assert not (tmp_path / "metrics.csv").exists()


def test_a_missing_metrics_file_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv does not exist: run the stage"):
        gather([tmp_path / "none.csv"], tmp_path / "metrics.csv")


@pytest.mark.parametrize("missing", ["one value", "all rows"])
def test_a_missing_value_is_an_error_and_never_a_blank(tmp_path, missing):
    written = rows(3) if missing == "one value" else []
    for row in written[1:2]:
        row["value"] = None
    write_rows(tmp_path / "a.csv", rows(3), encoder="e")
    write_rows(tmp_path / "b.csv", written, encoder="e")
    with pytest.raises(UserError, match=r"b\.csv lacks values"):
        gather([tmp_path / "a.csv", tmp_path / "b.csv"], tmp_path / "metrics.csv")
    assert not (tmp_path / "metrics.csv").exists()
