"""The whole pipeline at its smallest: every rule, table and figure; a second run does nothing."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml

from task_arithmetic.cli import main
from task_arithmetic.config.reading import ROOT, read_config
from task_arithmetic.planning.work import jobs

pytestmark = pytest.mark.slow

TABLES = {
    "table1": None,
    "table2": "encoder,mode,absolute,normalized,alpha,paper_absolute,paper_normalized",
    "table4": None,
    "table5": None,
    "negation": None,
    "tasks": None,
    "merging": None,
}
MODES = ["nonlinear", "ntk", "attention"]
FIGURES = ["fig3", "fig5", "fig6", "fig7", "fig8", "fig9", "fig10", "merging"]
FIGURES += "plane_fig6 plane_fig8 robustness layers spectra alignment pairs interference".split()
FIGURES += ["linearity", "number_of_tasks", "retention"]
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
    "vector_norm",
    "merge_seconds",
    "merge_peak_memory_bytes",
    "relative_norm",
    "stable_rank",
    "merged_effective_rank",
    "subspace_alignment",
    "subset_accuracy",
    "subset_normalized_accuracy",
    "retained_accuracy",
    "plane_accuracy",
    "plane_loss",
    "interference",
    "representation_pair_error",
    "classification_pair_error",
    "linearity_error",
}


SUBSETS = {  # of a subset → of its tasks
    "subset_accuracy": "unified_accuracy",
    "subset_normalized_accuracy": "normalized_accuracy",
}


def test_every_metric_is_measured(nano):
    metrics = pd.read_csv(nano.results / "metrics.csv")
    columns = "encoder,mode,seed,task,split,metric,alpha,value,other_task,other_alpha,method,layer"
    assert list(metrics.columns) == columns.split(",")
    assert METRICS <= set(metrics.metric)
    assert metrics.value.notna().all()
    assert set(metrics.method.dropna()) == {"ties", "regmean", "adamerging"}


def test_modes_are_crossed_with_methods(nano):
    """Each by its own α, and beside the sum, whose rows are those of Table 2."""
    table = pd.read_csv(nano.results / "tables/merging.csv")
    cells = [(m, n) for m in MODES for n in ("sum", "ties", "regmean", "adamerging")]
    assert list(zip(table["mode"], table["method"], strict=True)) == cells
    of_sum = table[table["method"] == "sum"].set_index("mode")
    table2 = pd.read_csv(nano.results / "tables/table2.csv").set_index("mode")
    for column in ("absolute", "normalized", "alpha"):
        assert (of_sum[column] == table2.loc[MODES, column]).all()
    lead = table["absolute"] - table["mode"].map(of_sum["absolute"])
    assert np.allclose(table["delta"], lead, atol=0.011)  # both are rounded
    assert (table["method"] == "sum").equals(table["seconds"].isna())


def test_all_tasks_as_a_subset_have_the_accuracies_of_task_addition(nano):
    """Of the sum, which has the run's grid, and of a method with its own."""
    metrics = pd.read_csv(nano.results / "metrics.csv", keep_default_na=False)
    metrics = metrics[(metrics.split == "test") & (metrics.encoder == "embedded-small")]
    for kind, of_tasks in SUBSETS.items():
        added = metrics[metrics.metric == of_tasks]
        added = added[added.method.isin(["", "ties"])].groupby(["mode", "method"])
        subsets = metrics[metrics.metric == kind]
        assert set(subsets.task) == {"textures+landcover"}
        for row in subsets.itertuples():
            own = added.get_group((row.mode, row.method))
            assert float(row.value) == own.value.astype(float).mean()
            assert {row.alpha} == set(own.alpha)


def test_every_table_is_there_in_three_forms(nano):
    for name, columns in TABLES.items():
        for form in ("csv", "md", "tex"):
            assert (nano.results / f"tables/{name}.{form}").stat().st_size > 0
        table = pd.read_csv(nano.results / f"tables/{name}.csv")
        own = [c for c in table if not c.endswith(("_low", "_high"))]
        assert len(table) and (columns is None or own == columns.split(","))
        assert list(table)[: len(own)] == own, "intervals come after"
    table2 = pd.read_csv(nano.results / "tables/table2.csv")
    rows = {"pretrained", "nonlinear", "ntk", "attention", "posthoc"}
    assert set(table2["mode"]) == rows and len(table2) == len(rows)


def test_commands_read_what_it_made(nano, capsys):
    run = str(nano.results)
    for name in TABLES:
        assert main(["show", run, name]) == 0
        assert max(map(len, capsys.readouterr().out.splitlines())) <= 120
    assert main(["compare", run, run, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = pd.read_csv(nano.results / "metrics.csv")
    assert found["equal"] == (rows["split"] == "test").sum()  # of one seed
    assert not any(found[key] for key in ("unknown", "keys", "differing", "only_one", "only_other"))


def test_every_figure_is_there_in_all_forms(nano):
    metrics = pd.read_csv(nano.results / "metrics.csv")
    for name in FIGURES:
        assert (nano.results / f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (nano.results / f"figures/{name}.pdf").read_bytes().startswith(b"%PDF")
        assert "<text" in (nano.results / f"figures/{name}.svg").read_text()
        shown = pd.read_csv(nano.results / f"figures/{name}.csv")
        assert len(shown) and list(shown) == list(metrics)


def test_the_report_holds_tables_figures_configuration_and_timings(nano):
    page = (nano.results / "report.html").read_text()
    for name in ("Table 2", "Table 4", "Figure 3", "Figure 10"):
        assert name in page
    assert page.count("<svg ") == len(FIGURES) + 2  # the timeline, and one in the summary
    assert "http:" not in page.split("</style>")[1] and "@import" not in page
    assert yaml.safe_load((nano.results / "config.yaml").read_text())["run"] == "nano"


def test_the_commands_of_the_report_are_those_of_its_run(nano):
    page = (nano.results / "report.html").read_text()
    commands = re.findall(r"<code>snakemake (results/nano/(?:\S+)) ([^<]+)</code>", page)
    assert len(commands) > len(FIGURES)
    targets, (options,) = [target for target, _ in commands], {other for _, other in commands}
    command = [sys.executable, "-m", "snakemake", *targets, "--dry-run", *options.split()]
    env = os.environ | {"PYTHONPATH": str(nano.folder / "src")}
    done = subprocess.run(command, cwd=nano.folder, env=env, capture_output=True, text=True)
    assert "Nothing to be done" in done.stdout + done.stderr


def test_a_run_has_about_as_many_files_as_planned(nano):
    planned = sum(job.files for job in jobs(read_config(ROOT / nano.config)))
    made = [*nano.folder.glob("results/**/*"), *nano.folder.glob(".snakemake/metadata/**/*")]
    assert len({path.stat().st_ino for path in made}) == pytest.approx(planned, rel=0.25)


def test_the_trace_has_every_job(nano):
    trace = pd.read_csv(nano.results / "trace.csv")
    jobs = trace.stage.value_counts()
    assert jobs["finetune"] == jobs["vector"] == 8  # 2 tasks x (3 modes + 1)
    assert jobs["data"] == jobs["embedded"] == jobs["head"] == 3
    assert (trace.seconds > 0).all() and (trace.exit == 0).all()
    trained = trace[trace.stage == "finetune"]
    assert (trained.steps_first == 0).all() and (trained.steps_done == 4).all()
    assert (nano.results / "figures/timeline.png").stat().st_size > 10_000


def test_snakemakes_own_report_is_made_with_captions(nano, tmp_path):
    for name in ("report.html", "report.zip"):
        done = nano.run("--report", tmp_path / name)
        assert done.returncode == 0, done.stdout[-3000:]
        assert (tmp_path / name).stat().st_size > 10_000


def test_a_failing_job_says_why_in_the_terminal(nano):
    vector = nano.results / "vectors/embedded-small/ntk/textures/0.safetensors"
    kept = vector.read_bytes()
    vector.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    try:
        done = nano.run("--forcerun", "cosine", "--until", "cosine")
    finally:
        vector.write_bytes(kept)
        cosine = "results/nano/metrics/cosine/embedded-small/ntk/0.csv"
        put_back = nano.run("--", cosine)
    assert done.returncode != 0
    assert "is damaged" in done.stdout and "Traceback" not in done.stdout
    assert put_back.returncode == 0 and nano.planned() == {}
