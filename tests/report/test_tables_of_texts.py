"""Table 3 and the other tables of a run on texts."""

import pandas as pd
import pytest
import views
from test_tables import OF_TEXTS, OTHERS, REFERENCE, make

from task_arithmetic.config import available
from task_arithmetic.config.view import view_of
from task_arithmetic.errors import UserError
from task_arithmetic.report import figures, tables
from task_arithmetic.report.captions import table_caption
from task_arithmetic.report.cells import load_metrics


def of_texts(seeds=1, **changes):
    """Settings with a part on texts, and metrics of both."""
    settings = views.make_settings(tasks=3, seeds=seeds, language=views.TEXTS | changes)
    return settings, views.make_rows(settings, points=3, alphas=11)


@pytest.mark.parametrize("seeds", [1, 3])
def test_table_3_is_the_unified_accuracy_of_each_task_on_test(tmp_path, seeds):
    settings, rows = of_texts(seeds)
    table = make("table3", settings, rows, tmp_path).set_index("mode")
    columns = ["cola", "mnli", "stsb", "average"]
    assert list(table.columns)[:8] == [*columns, *(f"paper_{c}" for c in columns)]
    frame = pd.DataFrame(rows)
    frame = frame[(frame.metric == "unified_accuracy") & (frame.split == "test")]
    for mode in views.MODES:
        own = frame[(frame.encoder == "t5") & (frame["mode"] == mode)]
        mean = 100 * own.groupby("task").value.mean()
        assert table.cola[mode] == pytest.approx(mean["acceptability"])
        assert table.stsb[mode] == pytest.approx(mean["similarity"])
        assert table.average[mode] == pytest.approx(mean.mean())
        if seeds > 1:
            by_seed = own.groupby("seed").value.mean()
            assert table.average_std[mode] == pytest.approx(100 * by_seed.std(ddof=1))
    assert table.paper_mnli["attention"] == 86.25 and table.paper_average.isna().all()


def test_table_3_of_all_seven_tasks_has_the_designs_columns_and_the_papers_average(tmp_path):
    names = ["cola", "mnli", "mrpc", "qqp", "rte", "sst2", "stsb"]
    own = {"tasks": names, "paper_tasks": {name: name for name in names}, "scores": ["stsb"]}
    settings, rows = of_texts(**own)
    table = make("table3", settings, rows, tmp_path)
    expected = [*names, "average"]
    assert list(table.columns) == ["mode", *expected, *(f"paper_{name}" for name in expected)]
    assert list(table.paper_average) == [73.25, 77.77, 85.30]
    assert "orientation" not in table_caption("table3", view_of(settings))


def test_a_task_of_texts_without_a_counterpart_has_a_column_of_its_own(tmp_path):
    settings, rows = of_texts(paper_tasks={"acceptability": None, "inference": "mnli",
                                           "similarity": None})  # fmt: skip
    table = make("table3", settings, rows, tmp_path)
    assert list(table.columns)[:5] == ["mode", "acceptability", "mnli", "similarity", "average"]
    assert table.paper_similarity.isna().all() and table.paper_mnli.notna().all()


@pytest.mark.parametrize("name", OF_TEXTS)
@pytest.mark.parametrize("seeds", [1, 2])
def test_tables_of_texts_are_written_and_read_back(tmp_path, name, seeds):
    settings, rows = of_texts(seeds)
    path = views.write_metrics(tmp_path / "metrics.csv", rows)
    tables.write(name, path, REFERENCE, settings, tmp_path)
    headings, printed, texts = views.read_markdown(tmp_path / f"{name}.md")
    assert all(len(row) == len(headings) for row in printed)
    assert ("±" in str(printed)) == (seeds > 1)
    latex = (tmp_path / f"{name}.tex").read_text()
    assert latex.count(r"\\") == len(printed) + 1
    if name == "table3":
        assert [row[:2] for row in printed[:2]] == [
            ["Non-linear fine-tuning", "this run"],
            ["Non-linear fine-tuning", "paper"],
        ]
        assert texts == 2 and headings[2:] == [*settings["language"]["tasks"], "average"]


def test_efficiency_is_that_of_images_and_texts_in_one_table(tmp_path):
    settings, rows = of_texts()
    table = make("table4", settings, rows, tmp_path)
    assert list(table.encoder.unique()) == ["small", "base", "t5"]
    assert table.set_index(["encoder", "mode"]).held_parameters["t5", "ntk"] == 680_000


def test_a_run_on_texts_alone_has_no_tables_or_figures_of_images():
    settings, _ = of_texts()
    alone = view_of(settings | {"encoders": {}})
    assert available.table_names(alone) == ["table3", "table4", "tasks_language"]
    assert available.figure_names(alone) == ["fig7_language", "fig9_language", "fig10_language"]
    assert {*OF_TEXTS, *OTHERS} == set(available.table_names(view_of(settings)))


def test_the_caption_of_table_3_says_how_alpha_was_chosen_and_whose_the_papers_rows_are():
    settings, _ = of_texts()
    caption = table_caption("table3", view_of(settings))
    assert "α is chosen on validation" in caption and "cola beside acceptability" in caption
    assert "of similarity, Spearman's ρ × 100" in caption
    settings, _ = of_texts(reference_selection=True)
    assert "on the test scores that are shown" in table_caption("table3", view_of(settings))


def test_a_task_of_texts_without_normalized_accuracy_shows_a_dash_and_the_rest_its_numbers(
    tmp_path,
):
    settings, rows = of_texts()
    failed = {"encoder": "t5", "mode": "ntk", "task": "similarity"}
    kept = []
    for row in rows:
        if failed.items() <= row.items():
            if row["metric"] == "normalized_accuracy":
                continue
            if row["metric"] == "single_task_accuracy":
                row = row | {"value": -0.1}
        kept.append(row)
    table = make("tasks_language", settings, kept, tmp_path).set_index(["mode", "task"])
    missing = table.normalized.isna()
    assert list(missing[missing].index) == [("ntk", "similarity")]
    assert (table.alpha == 0.25).all()
    metrics = load_metrics(tmp_path / "metrics.csv")
    assert figures.draw("fig9_language", metrics, view_of(settings))
    gone = [r for r in rows if not (failed.items() <= r.items() and r["metric"][:4] == "norm")]
    with pytest.raises(UserError, match="no normalized_accuracy for encoder t5, mode ntk"):
        make("tasks_language", settings, gone, tmp_path)  # its individual model has one


def test_tasks_and_modes_that_the_paper_has_not_get_no_row_of_it(tmp_path):
    settings, rows = of_texts(paper_tasks=dict.fromkeys(views.TEXTS["tasks"]), scores=[])
    path = views.write_metrics(tmp_path / "metrics.csv", rows)
    tables.write("table3", path, REFERENCE, settings, tmp_path)
    _, printed, _ = views.read_markdown(tmp_path / "table3.md")
    assert [row[1] for row in printed] == ["this run"] * 3
    caption = table_caption("table3", view_of(settings))
    assert "paper" not in caption and "Spearman" not in caption
