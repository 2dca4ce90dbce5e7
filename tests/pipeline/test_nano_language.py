"""The whole pipeline on texts alone, at its smallest; a second run does nothing."""

import json

import pandas as pd
import pytest
from runs import Nano, copy_project

from task_arithmetic.files.tensors import read_made_by
from task_arithmetic.pipeline.verify import verify

pytestmark = pytest.mark.slow

TABLE3 = "mode,sst2,stsb,average,paper_sst2,paper_stsb,paper_average".split(",")
RANKS = ["stable_rank", "effective_rank", "top_energy"]
METRICS = {
    "pretrained_accuracy",
    "cut_inputs",
    "single_task_accuracy",
    "unified_accuracy",
    "normalized_accuracy",
    "cosine_similarity",
    "step_seconds",
    "peak_memory_bytes",
    "trained_parameters",
    "held_parameters",
    "training_seconds",
    "vector_norm",
    "merge_seconds",
    "merge_peak_memory_bytes",
    "step_seconds_low",
    "step_seconds_high",
    *(f"{name}_matrices" for name in ("layer", "spectrum", "alignment")),
    "relative_norm",
    *(f"{of}{name}" for of in ("", "merged_") for name in RANKS),
    "subspace_alignment",
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Nano:
    """A finished run of config/nano_language.yaml; who changes it puts it back."""
    folder = copy_project(tmp_path_factory.mktemp("texts") / "project")
    run = Nano(folder, "nano_language", "nano-language")
    done = run.run()
    assert done.returncode == 0, done.stdout[-6000:]
    return run


def test_every_metric_of_texts_is_measured_and_none_of_images(texts):
    metrics = pd.read_csv(texts.results / "metrics.csv")
    assert set(metrics.metric) == METRICS and metrics.value.notna().all()
    assert set(metrics.encoder) == {"embedded-t5"}
    assert set(metrics.task.dropna()) == {"sentiment", "similarity"}


def test_modes_are_crossed_with_methods_on_texts(texts):
    table = pd.read_csv(texts.results / "tables/merging_language.csv")
    methods = ["sum", "iso_c", "regmean", "per_task", "sum_lines"]
    assert list(table["method"]) == methods * 3
    assert set(table[table["method"] == "per_task"]["data"]) == {"labels"}


def test_table_3_has_a_row_for_each_mode_beside_the_papers(texts):
    table = pd.read_csv(texts.results / "tables/table3.csv")
    own = [column for column in table if not column.endswith(("_low", "_high"))]
    assert own == TABLE3 == list(table)[: len(own)]
    assert list(table["mode"]) == ["nonlinear", "ntk", "attention"]
    assert list(table["paper_stsb"]) == [70.55, 66.51, 87.67]
    assert table["paper_average"].isna().all()  # the published one is that of seven tasks
    metrics = pd.read_csv(texts.results / "metrics.csv")
    rows = metrics[(metrics.metric == "unified_accuracy") & (metrics.split == "test")]
    rows = rows[rows.method.isna()]
    for row in table.itertuples():
        own = rows[rows["mode"] == row.mode].set_index("task").value
        assert row.sst2 == pytest.approx(100 * own["sentiment"], abs=0.01)
        assert row.stsb == pytest.approx(100 * own["similarity"], abs=0.01)
        assert row.average == pytest.approx(100 * own.mean(), abs=0.01)


def test_the_tables_and_figures_are_those_of_texts(texts):
    tables = {path.stem for path in (texts.results / "tables").glob("*.csv")}
    assert tables == {"table3", "table4", "tasks_language", "merging_language"}
    figures = {path.stem for path in (texts.results / "figures").glob("*.png")}
    names = {"fig7_language", "fig9_language", "fig10_language", "merging_language"}
    names |= {f"{name}_language" for name in ("robustness", "layers", "spectra", "alignment")}
    assert figures == names | {"timeline"}
    page = (texts.results / "report.html").read_text()
    assert "Table 3" in page and "Figure 9 on texts" in page and 'id="table2"' not in page


def test_table_4_counts_what_is_trained_and_held(texts):
    table = pd.read_csv(texts.results / "tables/table4.csv").set_index("mode")
    vectors = texts.results / "vectors/embedded-t5"
    assert table.trained_parameters["nonlinear"] == table.held_parameters["nonlinear"]
    assert table.held_parameters["ntk"] == 2 * table.held_parameters["nonlinear"]
    size = (vectors / "attention/sentiment/0.safetensors").stat().st_size
    assert 4 * table.trained_parameters["attention"] == pytest.approx(size, rel=0.05)
    assert table.paper_size_mb["ntk"] == 1881.926


def test_weights_say_which_tokens_they_were_trained_on(texts):
    path = texts.results / "finetuned/embedded-t5/attention/similarity/0.safetensors"
    made_by = read_made_by(path)
    assert made_by["settings"]["modality"] == "language"
    assert made_by["settings"]["mode"]["train"] == ["*Attention.[qkv].weight"]
    head = "results/shared/encoders/embedded-t5/heads/similarity.safetensors"
    assert read_made_by(texts.folder / head)["metric"] == "spearman"


def test_a_second_run_has_nothing_to_do_and_every_file_is_as_it_was_made(texts, monkeypatch):
    assert texts.planned() == {}
    monkeypatch.chdir(texts.folder)
    verify("nano-language")


def test_only_what_a_prompt_concerns_is_made_again(texts):
    path = texts.folder / "config/tasks/sentiment.yaml"
    text = path.read_text()
    path.write_text(text.replace('input: "', 'input: "please, '))
    try:
        counts = texts.planned()
    finally:
        path.write_text(text)
    assert counts["head"] == 1 and counts["finetune"] == counts["vector"] == 3
    assert not {"text_data", "embedded", "text_encoder"} & set(counts)


def test_the_log_of_training_counts_texts(texts):
    log = texts.results / "finetuned/embedded-t5/ntk/sentiment/0.csv"
    assert log.read_text().startswith("step,loss,learning_rate,texts_per_second\n")
    record = json.loads(
        (texts.results / "logs/finetune/embedded-t5/ntk/sentiment/0.json").read_text()
    )
    assert record["attempts"][-1]["progress"]["texts_per_second"] > 0
