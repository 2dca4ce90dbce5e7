"""The table of modes crossed with merging methods, against few-line computations."""

import csv
from itertools import product

import numpy as np
import pandas as pd
import pytest
import views
from test_tables import OTHERS, REFERENCE, row_of

from task_arithmetic.config import published
from task_arithmetic.config.view import SUM, THE_SUM, view_of
from task_arithmetic.errors import UserError
from task_arithmetic.merging import methods
from task_arithmetic.report import findings, tables
from task_arithmetic.report.captions import table_caption
from task_arithmetic.report.cells import Measured, load_metrics
from task_arithmetic.report.claims import claims

MERGING = REFERENCE.with_name("merging.csv")
LABELS = ["ties", "tsv", "regmean", "adamerging_test", "mean"]
COLUMNS = "encoder mode method absolute normalized alpha delta data seconds peak_memory_mb".split()
BOTH = ["small", "base"]


def with_methods(*labels, seeds=1, encoders=BOTH, **changes):
    """Settings of a run that merges with these methods, and its rows."""
    changes = {"tasks": 3, "encoders": 2} | changes
    merge = views.make_merging(*(labels or LABELS), encoders=encoders)
    settings = views.make_settings(seeds=seeds, merging=merge, **changes)
    return settings, views.make_rows(settings, points=3, alphas=6)


@pytest.fixture(scope="module")
def one():
    return with_methods()


@pytest.fixture(scope="module")
def three():
    return with_methods(seeds=3)


def measured(rows, tmp_path):
    return load_metrics(views.write_metrics(tmp_path / "metrics.csv", rows))


def make(settings, rows, tmp_path, name="merging"):
    reference = tables.read_merging(MERGING)
    return tables.make_table(name, measured(rows, tmp_path), reference, view_of(settings))


def write(settings, rows, tmp_path, name="merging"):
    """The three files' texts."""
    path = views.write_metrics(tmp_path / "metrics.csv", rows)
    tables.write(name, path, MERGING, settings, tmp_path)
    return [(tmp_path / f"{name}.{kind}").read_text() for kind in ("csv", "md", "tex")]


def values(rows, metric, encoder, mode, method, seed, split="test"):
    keys = {"metric": metric, "encoder": encoder, "mode": mode, "seed": seed, "split": split}
    keys["method"] = "" if method == "sum" else method
    return np.array([row["value"] for row in rows if keys.items() <= row.items()])


def changed(rows, change, **keys):
    """Rows of which those with these keys have another value: change(row)."""
    keys = {key: {each} if isinstance(each, str | int) else {*each} for key, each in keys.items()}
    found = [all(row[key] in keys[key] for key in keys) for row in rows]
    assert any(found)
    return [
        row | {"value": change(row)} if is_found else row
        for row, is_found in zip(rows, found, strict=True)
    ]


def test_every_mode_of_every_merged_encoder_meets_every_method_the_sum_first(one, tmp_path):
    settings, rows = one
    table = make(settings, rows, tmp_path)
    assert list(table) == COLUMNS
    wanted = [(e, m, label) for e in BOTH for m in views.MODES for label in ["sum", *LABELS]]
    assert list(table[["encoder", "mode", "method"]].itertuples(False, None)) == wanted
    settings, rows = with_methods("tsv", encoders=["base"])
    assert set(make(settings, rows, tmp_path)["encoder"]) == {"base"}


def test_the_numbers_are_those_of_the_method(three, tmp_path):
    settings, rows = three
    table = make(settings, rows, tmp_path)
    assert list(table)[10:] == [
        f"{c}_std" for c in COLUMNS if c not in ("encoder", "mode", "method", "data")
    ]
    for method in ("sum", "tsv"):
        row = row_of(table, encoder="base", mode="ntk", method=method)
        for metric, column in (("unified", "absolute"), ("normalized", "normalized")):
            found = [
                100 * values(rows, f"{metric}_accuracy", "base", "ntk", method, s).mean()
                for s in range(3)
            ]
            assert row[column] == pytest.approx(np.mean(found))
            assert row[f"{column}_std"] == pytest.approx(np.std(found, ddof=1))
    seconds = [values(rows, "merge_seconds", "base", "ntk", "tsv", s, "")[0] for s in range(3)]
    assert row["seconds"] == pytest.approx(np.mean(seconds))
    memory = [
        values(rows, "merge_peak_memory_bytes", "base", "ntk", "tsv", s, "")[0] for s in range(3)
    ]
    assert row["peak_memory_mb"] == pytest.approx(np.mean(memory) / 1e6)
    of_sum = table[table["method"] == "sum"]
    assert of_sum[["seconds", "peak_memory_mb"]].isna().all(None)
    table2 = tables.make_table("table2", measured(rows, tmp_path),
                               tables.read_reference(REFERENCE), view_of(settings))  # fmt: skip
    for column in ("absolute", "normalized", "alpha", "absolute_std"):
        same = table2[table2["mode"].isin(views.MODES)][column]
        assert list(of_sum[column]) == list(same)


def test_alpha_is_that_of_the_methods_own_test_rows(one, tmp_path):
    settings, rows = one
    row = row_of(make(settings, rows, tmp_path), encoder="small", mode="attention", method="tsv")
    keys = {"metric": "unified_accuracy", "encoder": "small", "mode": "attention", "split": "test"}
    keys["method"] = "tsv"
    assert {r["alpha"] for r in rows if keys.items() <= r.items()} == {row["alpha"]}


def test_the_distance_to_the_sum_is_taken_within_each_seed(three, tmp_path):
    settings, rows = three
    table = make(settings, rows, tmp_path)
    row = row_of(table, encoder="small", mode="attention", method="ties")
    where = "unified_accuracy", "small", "attention"
    gaps = [
        100 * (values(rows, *where, "ties", s).mean() - values(rows, *where, "sum", s).mean())
        for s in range(3)
    ]
    assert row["delta"] == pytest.approx(np.mean(gaps))
    assert row["delta_std"] == pytest.approx(np.std(gaps, ddof=1))
    assert (
        row["delta_std"]
        < row["absolute_std"]
        + row_of(table, encoder="small", mode="attention", method="sum")["absolute_std"]
    )
    of_sum = table[table["method"] == "sum"]
    assert (of_sum["delta"] == 0).all() and (of_sum["delta_std"] == 0).all()


def test_what_a_method_sees_is_in_words(one, tmp_path):
    table = make(*one, tmp_path)
    seen = dict(table[["method", "data"]].itertuples(False, None))
    assert seen == {
        "sum": "none", "ties": "none", "tsv": "none", "mean": "none", "regmean": "inputs",
        "adamerging_test": "test inputs (transductive)",
    }  # fmt: skip
    settings, rows = with_methods("per_task")
    table = make(settings, rows, tmp_path)
    assert set(table[table["method"] == "per_task"]["data"]) == {"labels"}


@pytest.mark.parametrize(
    "gone",
    [
        {"metric": "unified_accuracy", "mode": "ntk", "method": "tsv", "task": "svhn", "seed": 1},
        {"metric": "normalized_accuracy", "encoder": "base", "mode": "ntk", "method": "mean"},
        {"metric": "merge_seconds", "mode": "attention", "method": "regmean", "seed": 2},
        {"metric": "merge_peak_memory_bytes", "encoder": "base", "method": "ties"},
    ],
)
def test_a_missing_cell_is_an_error_that_names_it(gone, three, tmp_path):
    settings, rows = three
    rest = [row for row in rows if not gone.items() <= row.items()]
    assert len(rest) < len(rows)
    with pytest.raises(UserError) as error:
        make(settings, rest, tmp_path)
    for key in {*gone, "encoder", "mode", "method"}:
        assert f"{key} {gone.get(key, '')}" in str(error.value).replace("no ", "metric ")


def test_two_chosen_alphas_of_a_method_are_an_error(one, tmp_path):
    settings, rows = one
    keys = {"metric": "unified_accuracy", "method": "tsv", "split": "test", "task": "svhn"}
    moved = [row | {"alpha": 7.0} if keys.items() <= row.items() else row for row in rows]
    with pytest.raises(UserError, match="encoder small, mode nonlinear, method tsv, seed 0 has an"):
        make(settings, moved, tmp_path)


def test_other_tables_figures_and_sentences_are_those_of_the_sum(one, tmp_path):
    settings, rows = one
    own = [row for row in rows if row["method"] == ""]
    assert len(own) < len(rows)
    with_all, without = measured(rows, tmp_path), measured(own, tmp_path)
    view, paper = view_of(settings), tables.read_reference(REFERENCE)
    for name in OTHERS:
        found = [tables.make_table(name, each, paper, view) for each in (with_all, without)]
        pd.testing.assert_frame_equal(*found)
    plain = view_of(settings | {"merging": {}})
    assert findings.sentences(with_all, plain) == findings.sentences(without, plain)
    table4 = tables.make_table("table4", with_all, paper, view)
    assert claims(with_all, view, table4) == claims(without, view, table4)
    run, same = Measured(with_all, view), Measured(without, view)
    found = run.curve("unified_accuracy", "small", "ntk")
    assert (found.alphas == same.curve("unified_accuracy", "small", "ntk").alphas).all()
    assert found.alphas.max() == 1  # not 3, the last of other methods


def test_the_files_name_methods_by_label_and_by_title(three, tmp_path):
    settings, rows = three
    text, markdown, latex = write(settings, rows, tmp_path)
    assert text.splitlines()[0].startswith(",".join(COLUMNS) + ",absolute_std")
    assert text.splitlines()[1].startswith("small,nonlinear,sum,")
    assert ",none,,," in text.splitlines()[1]  # no time, no memory
    headings, printed, texts = views.read_markdown(tmp_path / "merging.md")
    assert headings == [
        "Encoder", "Mode", "Method", "Absolute (%)", "Normalized (%)", "α", "To the sum (points)",
        "Data", "Merging (s)", "Peak memory (MB)",
    ]  # fmt: skip
    assert texts == 4 and len(printed) == 36
    titles = ["Task arithmetic", "TIES", "TSV-M", "RegMean", "AdaMerging on test",
              "Weight averaging"]  # fmt: skip
    assert [row[2] for row in printed[:6]] == titles
    assert printed[0][6:] == ["+0.0 ± 0.0", "none", "–", "–"]
    assert all(row[6][0] in "+−" for row in printed)
    row = pd.read_csv(tmp_path / "merging.csv").iloc[1]
    assert printed[1][8] == f"{row['seconds']:.3f} ± {row['seconds_std']:.3f}"
    assert printed[1][9] == f"{row['peak_memory_mb']:,.0f} ± {row['peak_memory_mb_std']:,.0f}"
    assert r"\begin{tabular}{lllrrrrlrr}" in latex and latex.isascii()
    assert latex.count(r"\midrule") == 2  # under the headings, and between encoders
    assert "Mean ± sample standard deviation over 3 seeds" in markdown


def test_methods_that_share_a_title_are_called_by_their_labels(tmp_path):
    settings, rows = with_methods("per_task", "ties")
    write(settings, rows, tmp_path)
    _, printed, _ = views.read_markdown(tmp_path / "merging.md")
    assert [row[2] for row in printed[:3]] == ["sum", "per_task", "TIES"]


def test_the_sum_is_called_as_its_module_calls_it():
    assert methods.find(SUM).title == THE_SUM.title and methods.find(SUM).needs == THE_SUM.needs


# ---------------------------------------------------------------- published numbers


def paper_run():
    """A run of the paper's suite and all its eight tasks."""
    names = {"tasks": published.TASKS, "pairs": {}}
    merge = views.make_merging("tsv", "regmean", "wudi", "per_task", encoders=BOTH)
    settings = views.make_settings(suite="paper", merging=merge) | names
    return settings, views.make_rows(settings, points=3, alphas=3)


@pytest.fixture(scope="module")
def of_paper():
    return paper_run()


def test_published_numbers_are_of_one_set_of_checkpoints_each_and_of_nonlinear_alone(
    of_paper, tmp_path
):
    table = make(*of_paper, tmp_path)
    assert list(table) == [*COLUMNS, "published", "published_normalized", "checkpoints"]
    shown = table.dropna(subset="checkpoints").set_index(["encoder", "method"])
    assert set(shown["mode"]) == {"nonlinear"}
    found = {key: tuple(row) for key, row in shown[table.columns[-3:]].T.items()}
    assert found["small", "sum"] == (70.8, 76.5, "TALL edition 1")
    assert found["small", "tsv"] == (85.9, 92.3, "TALL edition 1")  # not FusionBench's 83.07
    assert set(shown["checkpoints"]) == {"TALL edition 1"}
    for method in ("regmean", "wudi", "per_task"):  # FusionBench has numbers of two of them
        assert ("small", method) not in found and ("base", method) not in found


def test_published_numbers_in_the_files_and_the_caption(of_paper, tmp_path):
    text, markdown, latex = write(*of_paper, tmp_path)
    assert text.splitlines()[1].endswith(",70.80,76.50,TALL edition 1")
    assert text.splitlines()[-1].endswith(",,,")
    assert "| 70.80 | 76.50 | TALL edition 1 |" in markdown and "| – | – | – |" in markdown
    assert "are of other checkpoints" in markdown
    assert "not comparable digit by digit" in markdown
    assert "{lllrrrrlrrrrl}" in latex


@pytest.mark.parametrize("suite, found", [("clip14", (80.1, 87.9)), ("clip20", (77.1, 84.3))])
def test_a_suites_published_numbers_are_means_over_its_own_tasks(suite, found, tmp_path):
    tasks = published.SUITES[suite]
    settings = paper_run()[0] | {"suite": suite, "tasks": tasks}
    table = make(settings, views.make_rows(settings, points=3, alphas=3), tmp_path)
    row = row_of(table, encoder="small", mode="nonlinear", method="tsv")
    assert (row["published"], row["published_normalized"]) == found
    caption = table_caption("merging", view_of(settings))
    assert f"means over the same {len(tasks)} tasks" in caption
    for changes in ({"tasks": tasks[:-1]}, {"suite": "paper"}, {"tasks": published.TASKS}):
        own = settings | changes
        assert not published.has_published_merging(view_of(own))


@pytest.mark.parametrize(
    "changes",
    [
        {"suite": "embedded"},
        {"suite": "mine"},
        {"tasks": published.TASKS[:7]},
        {"encoders": {"small": None, "base": None}},
        {"modes": {"ntk": "NTK", "attention": "Ours"}, "kernel_modes": ["attention"]},
    ],
)
def test_published_numbers_stand_nowhere_else(changes, of_paper, tmp_path):
    settings = of_paper[0] | changes
    table = make(settings, of_paper[1], tmp_path)
    assert list(table) == COLUMNS
    assert "other checkpoints" not in table_caption("merging", view_of(settings))


def test_the_published_numbers_are_whole_and_of_the_papers_encoders():
    with open(MERGING, newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["encoder"] for row in rows} == {*published.ENCODERS}
    assert {row["mode"] for row in rows} == {"nonlinear"}
    keys = [(row["checkpoints"], row["tasks"], row["encoder"], row["method"]) for row in rows]
    assert len({*keys}) == len(keys) and len({row["checkpoints"] for row in rows}) == 3
    for row in rows:
        assert 60 < float(row["absolute"]) < 96
        whole = row["checkpoints"].startswith("TALL")  # means of ratios to accuracies below 100 %
        assert not whole or float(row["absolute"]) < float(row["normalized"]) < 100
        assert row["normalized"] or not whole
    of_tall = {row["method"] for row in rows if row["checkpoints"].startswith("TALL")}
    assert of_tall == {"mean", "sum", "ties", "consensus", "tsv", "iso_c", "iso_cts"}
    assert {row["tasks"] for row in rows} == {"8", "14", "20"}
    assert {row["checkpoints"] for row in rows if row["tasks"] != "8"} == {"TALL edition 1"}
    by_size = {(row["method"], row["encoder"], row["tasks"]): float(row["absolute"])
               for row in rows if row["checkpoints"].startswith("TALL")}  # fmt: skip
    for method, encoder in product(of_tall, published.ENCODERS):  # more tasks are harder to merge
        eight, fourteen, twenty = (by_size[method, encoder, n] for n in ("8", "14", "20"))
        assert eight > fourteen > twenty
    assert of_tall <= {*methods.names()}
    found = tables.read_merging(MERGING)
    assert not found.duplicated(["tasks", "encoder", "mode", "method"]).any()


def test_a_file_of_published_numbers_that_is_another_is_an_error(one, tmp_path):
    with pytest.raises(UserError, match="published numbers of merging methods, does not exist"):
        tables.read_merging(tmp_path / "no.csv")
    with pytest.raises(UserError, match="needs the columns checkpoints, tasks, method"):
        tables.read_merging(REFERENCE)
