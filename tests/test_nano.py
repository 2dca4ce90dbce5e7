"""The whole pipeline at its smallest: every rule, table and figure; a second run does nothing."""

import subprocess
import sys

import pandas as pd
import pytest
import yaml

pytestmark = pytest.mark.slow

TABLES = {
    "table1": None,
    "table2": "encoder,mode,absolute,normalized,alpha,paper_absolute,paper_normalized",
    "table4": None,
    "table5": None,
    "negation": None,
    "tasks": None,
}
FIGURES = ["fig3", "fig5", "fig6", "fig7", "fig8", "fig9", "fig10"]
METRICS = {
    "pretrained_accuracy",
    "single_task_accuracy",
    "posthoc_accuracy",
    "unified_accuracy",
    "normalized_accuracy",
    "negated_accuracy",
    "control_accuracy",
    "representation_disentanglement",
    "classification_disentanglement",
    "cosine_similarity",
    "step_seconds",
    "peak_memory_bytes",
    "trained_parameters",
    "held_parameters",
    "training_seconds",
}


@pytest.fixture(scope="module")
def nano(root, tmp_path_factory):
    """A finished run of config/nano.yaml: (results/nano, what a command is made of)."""
    directory = tmp_path_factory.mktemp("nano")

    def run(*options):
        command = [sys.executable, "-m", "snakemake", "-s", root / "Snakefile", "-d", directory]
        command += ["--cores", "2", "--configfile", root / "config/nano.yaml", *options]
        return subprocess.run(
            [str(word) for word in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    done = run()
    assert done.returncode == 0, done.stdout[-6000:]
    return directory / "results/nano", run


def test_every_metric_is_measured(nano):
    metrics = pd.read_csv(nano[0] / "metrics.csv")
    columns = "encoder,mode,seed,task,split,metric,alpha,value,other_task,other_alpha"
    assert list(metrics.columns) == columns.split(",")
    assert METRICS <= set(metrics.metric)
    assert metrics.value.notna().all()


def test_every_table_is_there_in_three_forms(nano):
    for name, columns in TABLES.items():
        for form in ("csv", "md", "tex"):
            assert (nano[0] / f"tables/{name}.{form}").stat().st_size > 0
        table = pd.read_csv(nano[0] / f"tables/{name}.csv")
        assert len(table) and (columns is None or list(table.columns) == columns.split(","))
    table2 = pd.read_csv(nano[0] / "tables/table2.csv")
    rows = {"pretrained", "nonlinear", "ntk", "attention", "posthoc"}
    assert set(table2["mode"]) == rows and len(table2) == len(rows)


def test_every_figure_is_there_in_two_forms(nano):
    for name in FIGURES:
        assert (nano[0] / f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (nano[0] / f"figures/{name}.pdf").read_bytes().startswith(b"%PDF")


def test_the_report_holds_tables_figures_configuration_and_timings(nano):
    page = (nano[0] / "report.html").read_text()
    for name in ("Table 2", "Table 4", "Figure 3", "Figure 10"):
        assert name in page
    assert page.count("data:image/png;base64,") == len(FIGURES)
    assert 'src="http' not in page and 'href="http' not in page.split("</style>")[0]
    assert yaml.safe_load((nano[0] / "config.yaml").read_text())["run"] == "nano"


def test_the_timings_count_every_job(nano):
    timings = pd.read_csv(nano[0] / "timings.csv").set_index("stage")
    assert timings.jobs["finetune"] == timings.jobs["vector"] == 8  # 2 tasks x (3 modes + 1)
    assert timings.jobs["data"] == timings.jobs["embedded"] == timings.jobs["head"] == 3
    assert (timings.seconds > 0).all()


def test_a_second_run_does_nothing(nano):
    again = nano[1]()
    assert again.returncode == 0 and "Nothing to be done" in again.stdout


def test_only_what_changed_runs_again(nano):
    # alphas: the grid changes addition and negation, and what is made of them
    planned = nano[1]("--dry-run", "--config", "alphas={step: 0.5}").stdout
    table = planned.split("Job stats:")[1].split("\n\n")[0]
    assert "addition" in table and "negation" in table and "report" in table
    for rule in ("data", "head", "finetune", "vector", "single_task", "cosine", "efficiency"):
        assert f"\n{rule} " not in table


def test_snakemakes_own_report_is_made_with_captions(nano, tmp_path):
    for name in ("report.html", "report.zip"):
        done = nano[1]("--report", tmp_path / name)
        assert done.returncode == 0, done.stdout[-3000:]
        assert (tmp_path / name).stat().st_size > 10_000


def test_a_failing_job_says_why_in_the_terminal(nano):
    results, run = nano
    vector = results / "vectors/embedded-small/ntk/textures/0.safetensors"
    kept = vector.read_bytes()
    vector.write_bytes(b"\x80\x05 a pickle, not tensors")
    try:
        done = run("--forcerun", "cosine", "--until", "cosine")
    finally:
        vector.write_bytes(kept)
    assert done.returncode != 0
    assert "is a pickled PyTorch file" in done.stdout and "Traceback" not in done.stdout
