"""The model of work, held to what a finished run of config/nano.yaml did."""

import json
import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
from runs import Nano

from task_arithmetic.config.reading import ROOT, read_config
from task_arithmetic.planning.disk import bytes_at
from task_arithmetic.planning.work import (
    REFERENCE_SAMPLES,
    WARM_UP,
    Job,
    by_stage,
    jobs,
)
from task_arithmetic.stages import disentanglement, efficiency


@pytest.fixture
def planned(nano: Nano, monkeypatch, tmp_path) -> dict[str, list[Job]]:
    """The jobs of config/nano.yaml by stage, as they are planned where nothing was made yet."""
    monkeypatch.chdir(tmp_path)
    found = by_stage(jobs(read_config(ROOT / nano.config), "float32"))
    monkeypatch.chdir(nano.folder)
    return found


@pytest.mark.slow
def test_a_run_has_the_jobs_that_the_model_names(nano, planned):
    run = json.loads((nano.results / "run.json").read_text())
    ran = Counter(job["stage"] for job in run["jobs"])
    counts = Counter({stage: len(own) for stage, own in planned.items()})
    counts["addition"] += counts.pop("posthoc") + counts.pop("merged")  # one command
    counts["merge"] += counts.pop("merge_on_data")  # by their logs
    assert +counts == ran
    assert all(Path(job.output).is_file() for own in planned.values() for job in own)


@pytest.mark.slow
def test_a_run_writes_the_bytes_that_the_model_names(planned):
    for stage, own in planned.items():
        for job in own:
            size = bytes_at(job.output)
            if not job.size:
                assert size < (4e6 if stage == "report" else 1e6), job
            elif stage in ("finetune", "vector", "data"):  # and headers, hashes, a log of training
                assert job.size <= size < job.size + 20_000, job
        if any(job.size for job in own) and stage not in ("embedded", "head"):
            total = sum(bytes_at(job.output) for job in own)
            assert total == pytest.approx(sum(job.size for job in own), rel=0.1), stage


@pytest.mark.slow
def test_a_run_passes_the_examples_that_the_model_names(nano, planned):
    trace = pd.read_csv(nano.results / "trace.csv")
    steps = trace[trace.stage == "finetune"].steps_done
    assert sum(work.amount for job in planned["finetune"] for work in job.work) == steps.sum()
    counts = {
        task: {k: min(n, 64) for k, n in json.loads(path.read_text())["counts"].items()}
        for path in Path("results/shared/data").glob("*/manifest.json")
        for task in [path.parent.name]
    }
    for stage in "pretrained single_task kernel addition posthoc negation retention".split():
        for job in planned[stage]:
            rows = pd.read_csv(job.output)
            if stage == "negation":  # two accuracies for each α: of its task, and of the control
                control = rows.metric == "control_accuracy"
                rows.loc[control, "task"] = rows.loc[control, "other_task"]
            rows = rows[rows.metric != "normalized_accuracy"]
            amounts = {work.key.kind: work.amount for work in job.work}
            models = sum(counts[row.task][row.split] for row in rows.itertuples())
            read = rows.drop_duplicates(["task", "split"])
            read = sum(counts[row.task][row.split] for row in read.itertuples())
            if "linearized" in amounts:  # one pass for all α
                assert amounts == {"linearized": read}, job
            else:
                assert amounts == {"image": models, "read": read}, job


def test_what_is_scaled_by_depth_has_one_pass_more_of_f_lin_on_validation(tmp_path):
    (tmp_path / "lines.yaml").write_text("merging: {layer_scale: [sum]}")
    config = read_config(ROOT / "config/nano.yaml", tmp_path / "lines.yaml", basedir=ROOT)
    merged = by_stage(jobs(config, "float32"))["merged"]
    found = {
        (job.mode, job.method): {work.key.kind: work.amount for work in job.work} for job in merged
    }
    examples = 2 * 64  # of two tasks, on each split
    points = len(config.parts["vision"].merger("sum_lines").grid)
    assert found["ntk", "sum_lines"] == {"linearized": (2 + 1) * examples}
    assert found["ntk", "ties"] == {"linearized": (1 + 1) * examples}
    assert found["nonlinear", "sum_lines"]["image"] == (points + 1) * examples


@pytest.mark.parametrize("off", [None, {"layers": None}, {"spectra": None, "alignment": None}])
def test_an_analysis_that_is_off_has_no_job_and_no_figure(tmp_path, off):
    (tmp_path / "off.yaml").write_text(json.dumps({"analyses": off}))
    found = by_stage(jobs(read_config(ROOT / "config/mini.yaml", tmp_path / "off.yaml"), "float32"))
    figures = {Path(job.output).stem for job in found["figures"]}
    for name in ("layers", "spectra", "alignment"):
        there = off is not None and name not in off
        modes = [(job.encoder, job.mode) for job in found[name]]
        models = product(("embedded-small", "embedded-t5"), ("nonlinear", "ntk", "attention"))
        assert modes == [*models] * there
        assert len({name, f"{name}_language"} & figures) == 2 * there


def test_the_stages_numbers_are_the_models():
    assert efficiency.WARM_UP == WARM_UP
    batches = disentanglement.REFERENCE_BATCHES * disentanglement.REFERENCE_BATCH
    assert batches == REFERENCE_SAMPLES


def test_neither_configuration_nor_planning_imports_torch():
    names = [
        f"task_arithmetic.{room}.{path.stem}"
        for room in ("config", "planning")
        for path in (ROOT / "src/task_arithmetic" / room).glob("[a-z]*.py")
        if path.stem != "probe"  # which measures this machine
    ]
    code = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
