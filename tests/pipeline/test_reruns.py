"""After a change, what it touches is planned again, and nothing else."""

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest
import yaml

from task_arithmetic.files.hashes import sha256_of_file

pytestmark = pytest.mark.slow

TRAINED = {"finetune", "vector", "single_task", "kernel", "addition", "posthoc", "negation"}
TRAINED |= {"disentanglement", "cosine"}  # what fine-tuned weights go into
TABLES = {"table1", "table2", "table4", "table5", "table_negation", "table_tasks"}
TABLES |= {"table_merging"}
FIGURES = {"fig3", "fig5", "fig6", "fig7", "fig8", "fig9", "fig10"}
FIGURES |= {"figure_merging", "figure_plane_fig6", "figure_plane_fig8"}
OF_VECTORS = {"layers", "interference", "linearity"}  # analyses of vectors alone,
AT_ALPHA = {"pairs", "retention"}  # at what addition chose,
OF_METHODS = {"spectra", "alignment", "retention"}  # of what methods merged
ANALYSES = OF_VECTORS | AT_ALPHA | OF_METHODS | {"number_of_tasks"}
FIGURES |= {f"figure_{name}" for name in (*ANALYSES, "robustness")}
MERGES = {"merge", "merge_on_data", "merged"}
AFTER = {"metrics", "intervals", "report"} | TABLES | FIGURES  # what metrics go into


@contextmanager
def changed(path, old, new):
    """A file with `old` replaced by `new`, for the length of the block."""
    text = path.read_text()
    assert text.count(old) == 1, (path, old, text.count(old))
    path.write_text(text.replace(old, new))
    try:
        yield
    finally:
        path.write_text(text)


def code(nano, module):
    return nano.folder / "src/task_arithmetic" / f"{module}.py"


def test_nothing_changed_nothing_planned(nano):
    assert nano.planned() == {}


def test_touching_every_file_plans_nothing(nano):
    for folder in ("results", "src", "config", "workflow"):
        for path in (nano.folder / folder).rglob("*"):
            path.touch()
    assert nano.planned() == {}


def test_comments_docstrings_and_formatting_plan_nothing(nano):
    module = code(nano, "core/training")
    with (
        changed(module, "            eps=1e-8,\n", "            eps=1e-8,  # as everybody\n\n"),
        changed(module, '"""Update theta by AdamW', '"""Change theta by AdamW'),
        changed(module, "beta1=0.9,\n", "beta1=(0.90),\n"),
    ):
        assert nano.planned() == {}


def test_a_line_of_the_training_code_plans_training_and_all_after_it(nano):
    with changed(code(nano, "core/training"), "eps=1e-8", "eps=1e-7"):
        planned = nano.planned()
    assert set(planned) == TRAINED | ANALYSES | MERGES | AFTER | {"efficiency", "statistics"}
    assert planned["finetune"] == 8


def test_a_line_of_the_evaluation_plans_no_training(nano):
    with changed(code(nano, "core/addition"), "np.argmax(np.mean", "np.argmax(np.median"):
        own = {"addition", "posthoc", "merged", "number_of_tasks"} | AT_ALPHA | OF_METHODS
        assert set(nano.planned()) == own | AFTER


def test_a_colour_in_a_figure_plans_the_figures_and_the_report(nano):
    with changed(
        code(nano, "report/figures"),
        'star = Line2D([], [], color="0.7"',
        'star = Line2D([], [], color="0.6"',
    ):
        assert set(nano.planned()) == FIGURES | {"report"}


def test_swapped_values_of_two_settings_are_noticed(nano):
    overlay = yaml.safe_load((nano.folder / "config.yaml").read_text())["finetune"]
    rate, decay = 3.0e-4, overlay["weight_decay"]
    swapped = f"finetune={{learning_rate: {decay}, weight_decay: {rate}}}"
    assert nano.planned("--config", swapped)["finetune"] == 8


def test_another_task_plans_its_own_jobs_and_the_aggregates(nano):
    planned = nano.planned("--config", "tasks=[textures, landcover, shapes]")
    own = {"embedded": 1, "data": 1, "head": 1, "finetune": 4, "vector": 4, "pretrained": 1}
    own |= {"single_task": 4, "kernel": 2, "negation": 3, "statistics": 3}  # no other task's again
    assert planned == {**planned, **own}
    # The pairs of the heatmaps and the first task's training steps are what they were.
    assert set(planned) == set(own) | {"addition", "posthoc", "cosine"} | ANALYSES | MERGES | AFTER


def test_a_method_plans_its_own_merges(nano):
    """Another one, other options, another grid; and a line of its code, which is no other's."""
    after = AFTER | OF_METHODS
    for said, jobs in (
        ("{tsv: {}}", {"merge": 3, "merged": 3}),
        ("{ties: {keep: 0.5}}", {"merge": 3, "merged": 3, "number_of_tasks": 3}),
        ("{regmean: {alphas: {start: 1.0, stop: 1.0, step: 1.0}}}", {"merged": 3}),
    ):
        planned = nano.planned("--config", f"merging={{methods: {said}}}")
        assert planned == {**planned, **jobs} and set(planned) == set(jobs) | after
    with changed(code(nano, "merging/ties"), "LOW_BITS = 16", "LOW_BITS = 8"):
        planned = nano.planned()
    assert planned == {**planned, "merge": 3, "number_of_tasks": 3}
    assert set(planned) == MERGES - {"merge_on_data"} | {"number_of_tasks"} | after


def test_another_grid_of_alphas_plans_no_training(nano):
    planned = nano.planned("--config", "alphas={step: 0.5}")
    own = {"addition", "posthoc", "negation", "number_of_tasks"} | AT_ALPHA
    assert set(planned) == own | AFTER


@pytest.fixture
def other_version(tmp_path):
    """other_version(package) → the environment in which it is another version."""

    def make(package):
        folder = tmp_path / f"{package}-99.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 99.0\n")
        return {"PYTHONPATH": str(tmp_path)}

    return make


def test_another_version_of_a_package_plans_what_depends_on_it(nano, other_version):
    assert set(nano.planned(env=other_version("pandas"))) == AFTER - {"metrics"}


def test_another_version_of_torch_plans_neither_data_nor_cosines_for_themselves(
    nano, other_version
):
    planned = set(nano.planned(env=other_version("torch")))
    assert {"encoder", "head", "finetune", "pretrained"} <= planned
    assert not planned & {"embedded", "data"}


def test_switching_a_setting_and_back_computes_nothing_again(nano):
    """The finished fine-tuning comes from the store, and its vector is what it was."""
    name = "embedded-small/attention/textures/0"
    vector = nano.results / f"vectors/{name}.safetensors"
    target, before = vector.relative_to(nano.folder), sha256_of_file(vector)
    other = nano.run("--config", "finetune={learning_rate: 1.0e-4}", "--", target)
    assert other.returncode == 0, other.stdout[-3000:]
    assert sha256_of_file(vector) != before
    back = nano.run("--", target)
    assert back.returncode == 0, back.stdout[-3000:]
    assert sha256_of_file(vector) == before
    log = (nano.results / f"logs/finetune/{name}.log").read_text()
    assert "Taken from the store" in log and "step" not in log
    assert nano.planned() == {}


def test_a_job_of_an_older_plan_is_refused(nano):
    """A cluster's jobs read the configuration again when they start."""
    done = nano.run("--dry-run", env={"TASK_ARITHMETIC_PLAN": '{"config": "another"}'})
    assert done.returncode == 1
    assert "configuration changed since this run was planned" in done.stdout.splitlines()[-1]


def test_a_run_that_shares_data_of_another_definition_waits_for_the_other(nano):
    from task_arithmetic.pipeline.locks import try_lock

    other = nano.folder / "results/other"
    other.mkdir()
    shared = {"results/shared/data/textures/manifest.json": "of other images"}
    (other / "run.json").write_text(json.dumps({"shared": shared, "jobs": []}))
    fd = try_lock(other / ".lock")
    try:
        refused = nano.run("--forcerun", "report")
    finally:
        os.close(fd)
    assert refused.returncode != 0 and "Traceback" not in refused.stdout
    said = "The run in results/other is going on, and makes results/shared/data/textures/manifest"
    assert said in refused.stdout
    shutil.rmtree(other)
    assert nano.planned() == {}


def test_two_controllers_do_not_work_on_one_run(nano):
    from task_arithmetic.pipeline.locks import try_lock

    fd = try_lock(nano.results / ".lock")
    try:
        done = nano.run("--forcerun", "report")
    finally:
        os.close(fd)
    assert done.returncode != 0 and "Traceback" not in done.stdout
    assert re.search(r"Another snakemake works on results/nano \(process \d+ on ", done.stdout)
    assert nano.planned() == {}


def test_a_file_by_name_leaves_the_runs_status_whole(nano):
    target = "results/nano/metrics/cosine/embedded-small/attention/0.csv"
    done = nano.run("--forcerun", "cosine", "--", target)
    assert done.returncode == 0
    jobs = json.loads((nano.results / "run.json").read_text())["jobs"]
    assert len(jobs) == sum(path.suffix == ".log" for path in logs(nano))
    assert [job["outputs"] for job in jobs if job["needed"]] == [[target]]
    assert nano.planned() == {}


def logs(nano):
    return (nano.folder / "results").glob("*/logs/**/*")


@pytest.mark.parametrize("damage", ["an array", "a vector", "metrics"])
def test_a_damaged_file_is_named_with_what_makes_it_again(nano, damage):
    """The words of `verify`, done as they say."""
    path = {
        "an array": "results/shared/data/textures/test_images.npy",
        "a vector": "results/nano/vectors/embedded-small/ntk/textures/0.safetensors",
        "metrics": "results/nano/metrics/kernel/embedded-small/attention/textures/0.csv",
    }[damage]
    file = nano.folder / path
    before = file.read_bytes()
    file.write_bytes(before[:-1])
    command = [sys.executable, "-m", "task_arithmetic", "verify", "--run", "nano"]
    env = {**os.environ, "PYTHONPATH": str(nano.folder / "src")}
    found = subprocess.run(command, cwd=nano.folder, env=env, capture_output=True, text=True)
    assert found.returncode == 1
    assert f"{path} is damaged" in found.stdout and f"`rm {path}`" in found.stdout
    assert f"`snakemake {path}`" in found.stdout
    file.unlink()
    done = nano.run("--", path)
    assert done.returncode == 0, done.stdout[-3000:]
    assert file.read_bytes() == before
    found = subprocess.run(command, cwd=nano.folder, env=env, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
