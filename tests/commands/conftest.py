"""Small runs, as they lie on disk, for commands that read them."""

from pathlib import Path

import pytest

from task_arithmetic.cli import main
from task_arithmetic.files.metrics import write_rows
from task_arithmetic.files.paths import write_json
from task_arithmetic.files.records import Made, Planned, Record, Run, as_json

CONFIG = "run: {run}\nseeds: [0]\nfinetune: {{steps: {steps}, learning_rate: 0.001}}\n"


@pytest.fixture
def says(capsys):
    """Run a command; its exit status, and what it printed on stdout and stderr."""

    def run(*words):
        capsys.readouterr()
        status = main([str(word) for word in words])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def fails(says):
    """Run a command that ends in one sentence; the sentence."""

    def run(*words):
        status, out, error = says(*words)
        assert (status, out) == (1, "") and "Traceback" not in error
        assert error.startswith(f"task-arithmetic {words[0]}: ") and error.endswith(".\n")
        assert error.count("\n") == 1
        return error

    return run


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """Make a run in results/ of a working directory: make_run(name, rows of test, …) → its folder;
    no rows: it has not measured anything yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")  # however wide the terminal of the tests is

    def make(name, rows=(), steps=10, train="*", config=None, whole=True) -> Path:
        folder = Path("results") / name
        job = Planned("finetune", f"results/{name}/logs/finetune/a.log", True, ["a"])
        text = CONFIG.format(run=name, steps=steps) if config is None else config
        write_json(folder / "run.json", as_json(Run([job], 1.0, 1, "node", {}, "", text)))
        told = {"settings": {"mode": {"train": [train]}, "finetune": {"steps": steps}}}
        record = Record("finetune", "a", [], Made(code="c", arguments=told))
        write_json(job.record(folder), as_json(record))
        if rows:
            path = folder / ("metrics.csv" if whole else "metrics/addition/a.csv")
            write_rows(path, rows, encoder="tiny", split="test")
        return folder

    return make
