"""The whole pipeline on a cluster that does to it what clusters do: the same results."""

import json
import shutil
import time
from itertools import pairwise

import cluster
import pandas as pd
import pytest
from runs import WITHOUT_ADDITIONS, Nano, copy_project, same_files

MODEL = "embedded-small"
# Put first in the path of every process: slows single trainings down, or lets them grow.
FAULTS = """
import importlib.util, json, os, sys, time

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "task_arithmetic.stages.finetune":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (execute(module), disturb(module))
        return spec

def disturb(module):
    if sys.argv[1:3] != ["stage", "finetune"]:
        return
    given = dict(zip(sys.argv[3::2], sys.argv[4::2]))
    fault = json.loads(os.environ["FAULTS"]).get(given["--mode"] + "/" + given["--task"], {})
    original, held = module.Training.gradient, []

    def disturbed(*arguments):
        if not held:
            held.append(b"x" * fault.get("bytes", 0))
            time.sleep(5 * ("bytes" in fault))  # SLURM looks once a second
        time.sleep(fault.get("seconds", 0))
        return original(*arguments)

    module.Training.gradient = disturbed

sys.meta_path.insert(0, Finder())
"""


@pytest.fixture
def run(submit, tmp_path):
    """run(nano, faults, *options) starts snakemake on the cluster in a folder of nano's; `faults`:
    mode/task → seconds for each step, bytes to take."""
    (tmp_path / "faults").mkdir()
    (tmp_path / "faults/sitecustomize.py").write_text(FAULTS)

    def start(nano, faults, *options):
        env = {"PYTHONPATH": str(tmp_path / "faults"), "FAULTS": json.dumps(faults)}
        options = ["--configfile", nano.folder / "config/nano.yaml", *options]
        return submit(*options, snakefile=nano.folder / "Snakefile", directory=nano.folder, env=env)

    return start


def attempts(nano, name) -> list[dict]:
    """The attempts of a fine-tuning mode/task, as its record has them."""
    path = nano.results / f"logs/finetune/{MODEL}/{name}/0.json"
    return json.loads(path.read_text())["attempts"] if path.exists() else []


def until_step(nano, name, step, process, patience=150):
    """Wait until a fine-tuning's newest attempt has come to a step; returns the attempt."""
    end = time.monotonic() + patience
    while True:
        newest = (attempts(nano, name) or [{}])[-1]
        if newest.get("exit", 0) is None and (newest["progress"] or {"done": 0})["done"] >= step:
            return newest
        assert process.poll() is None, process.log.read_text()[-3000:]
        assert time.monotonic() < end, f"{name} does not come to step {step}"
        time.sleep(0.2)


def done(process, seconds=600):
    status = process.wait(seconds)
    assert status == 0, process.log.read_text()[-5000:]


def repeated(nano, name) -> int:
    """Steps of a fine-tuning that were done more than once."""
    runs = [attempt["progress"] for attempt in attempts(nano, name) if attempt["progress"]]
    return sum(run["done"] - run["first"] for run in runs) - runs[-1]["total"]


def unfinished(nano, folder, name) -> Nano:
    """A copy of a finished run in which one vector is missing, with all that could replace it."""
    copy = Nano(folder / "project")
    shutil.copytree(nano.folder, copy.folder, symlinks=True)
    shutil.rmtree(copy.folder / "results/shared/store")
    for stage in ("finetuned", "vectors"):
        for path in (copy.results / stage / MODEL / name).iterdir():
            path.unlink()
    (copy.results / f"logs/finetune/{MODEL}/{name}/0.json").unlink()
    return copy


def test_a_run_with_a_cancelled_job_one_out_of_memory_and_one_out_of_time_equals_the_local_one(
    nano, run, slurm, tmp_path
):
    ours = Nano(copy_project(tmp_path / "project"))
    slow, cancelled, large = "ntk/textures", "attention/textures", "nonlinear/textures"
    faults = {slow: {"seconds": 25}, cancelled: {"seconds": 5}, large: {"bytes": 2_300_000_000}}
    memory = "finetune:mem_mb=attempt*2500"
    requests = ["--set-resources", "finetune:runtime=attempt", memory]
    process = run(ours, faults, *requests, *WITHOUT_ADDITIONS)
    job = until_step(ours, cancelled, 1, process)["slurm_job"]
    cluster.ask(slurm, "scancel", job)
    done(process)
    assert same_files(nano.results, ours.results, additions=False) == []
    assert ours.planned(*WITHOUT_ADDITIONS) == {}
    ends = {name: [a["exit"] for a in attempts(ours, name)] for name in faults}
    assert ends[slow][:1] == [143] and ends[slow][-1] == 0, "stopped at its limit, then finished"
    assert ends[cancelled] == [143, 0]
    assert ends[large][0] is None and ends[large][-1] == 0, "killed, then given more memory"
    assert [repeated(ours, name) for name in faults] == [0, 0, 0]
    trace = pd.read_csv(ours.results / "trace.csv", dtype={"gpu": str})
    on_gpus = trace[trace.gpu.notna()]
    assert set(on_gpus.node) == {"n1", "n2"} and set(on_gpus.gpu) == {"0", "1"}
    starts = pd.to_datetime(on_gpus.started).map(pd.Timestamp.timestamp)
    for place, rows in on_gpus.assign(at=starts).sort_values("at").groupby(["node", "gpu"]):
        for before, after in pairwise(rows.itertuples()):
            assert before.at + before.seconds <= after.at, f"two jobs at once on {place}"
    local = set(trace[trace.slurm_job.isna()].stage)
    assert local == {"metrics", "intervals", "tables", "figures"}


def test_a_controller_that_is_killed_and_started_again_trains_nothing_twice(nano, run, tmp_path):
    name = "ntk/landcover"
    ours = unfinished(nano, tmp_path, name)
    target = f"results/nano/vectors/{MODEL}/{name}/0.safetensors"
    first = run(ours, {name: {"seconds": 5}}, "--", target)
    until_step(ours, name, 1, first)
    first.kill()
    done(run(ours, {}, "--", target))
    first_job, *others = attempts(ours, name)
    assert first_job["exit"] == 0 and all(attempt["from_store"] for attempt in others)
    assert repeated(ours, name) == 0
    assert same_files(nano.results, ours.results) == [] and ours.planned() == {}


def test_a_node_that_dies_costs_at_most_a_checkpoint_interval(nano, run, slurm, tmp_path):
    name = "attention/landcover"
    ours = unfinished(nano, tmp_path, name)
    target = f"results/nano/vectors/{MODEL}/{name}/0.safetensors"
    process = run(ours, {name: {"seconds": 6}}, "--", target)
    node = until_step(ours, name, 3, process)["node"]
    cluster.kill(slurm, node)
    try:
        done(process)
    finally:
        cluster.start_node(slurm, node)
    first, *others = attempts(ours, name)
    assert first["exit"] is None and others[-1]["exit"] == 0
    assert others[-1]["node"] != node
    assert 1 <= repeated(ours, name) <= 2  # checkpoint_steps
    assert same_files(nano.results, ours.results) == [] and ours.planned() == {}
