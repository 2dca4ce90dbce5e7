"""Fine-tuning modes crossed with merging methods: table, figure and sentences against few-line
recomputations from the rows."""

import csv

import matplotlib.colors
import numpy as np
import pandas as pd
import pytest
import views
from test_tables import OTHERS, REFERENCE, row_of

from task_arithmetic.config import available, published
from task_arithmetic.config.view import SUM, THE_SUM, view_of
from task_arithmetic.errors import UserError
from task_arithmetic.merging import methods
from task_arithmetic.report import drawing, figures, findings, merging, page, tables
from task_arithmetic.report.captions import figure_caption, table_caption
from task_arithmetic.report.cells import Measured, load_metrics

MERGING = REFERENCE.with_name("merging.csv")
TARGETS = REFERENCE.with_name("targets.csv")
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


# ---------------------------------------------------------------- the table


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
    assert findings.claims(with_all, view, table4) == findings.claims(without, view, table4)
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


@pytest.fixture(scope="module")
def of_paper():
    """A run of the paper's suite and all its eight tasks."""
    names = {"tasks": published.TASKS, "pairs": {}}
    merge = views.make_merging("tsv", "regmean", "wudi", "per_task", encoders=BOTH)
    settings = views.make_settings(suite="paper", merging=merge) | names
    return settings, views.make_rows(settings, points=3, alphas=3)


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
    assert found["base", "regmean"][::2] == (86.0, "FusionBench")  # not 83.7
    assert np.isnan(found["base", "regmean"][1])
    assert found["small", "wudi"][::2] == (84.5, "FusionBench")
    assert ("base", "wudi") not in found and ("small", "per_task") not in found


def test_published_numbers_in_the_files_and_the_caption(of_paper, tmp_path):
    text, markdown, latex = write(*of_paper, tmp_path)
    assert text.splitlines()[1].endswith(",70.80,76.50,TALL edition 1")
    assert text.splitlines()[-1].endswith(",,,")
    assert "| 70.80 | 76.50 | TALL edition 1 |" in markdown and "| – | – | – |" in markdown
    assert "are of other checkpoints" in markdown
    assert "not comparable digit by digit" in markdown
    assert "{lllrrrrlrrrrl}" in latex


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
    keys = [(row["checkpoints"], row["encoder"], row["method"]) for row in rows]
    assert len({*keys}) == len(keys) and len({row["checkpoints"] for row in rows}) == 3
    for row in rows:
        assert 60 < float(row["absolute"]) < 96
        whole = row["checkpoints"].startswith("TALL")  # means of ratios to accuracies below 100 %
        assert not whole or float(row["absolute"]) < float(row["normalized"]) < 100
        assert row["normalized"] or not whole
    of_tall = {row["method"] for row in rows if row["checkpoints"].startswith("TALL")}
    assert of_tall == {"mean", "sum", "ties", "consensus", "tsv", "iso_c", "iso_cts"}
    assert of_tall <= {*methods.names()}
    found = tables.read_merging(MERGING)
    assert not found.duplicated(["encoder", "mode", "method"]).any()


def test_a_file_of_published_numbers_that_is_another_is_an_error(one, tmp_path):
    with pytest.raises(UserError, match="published numbers of merging methods, does not exist"):
        tables.read_merging(tmp_path / "no.csv")
    with pytest.raises(UserError, match="needs the columns checkpoints, method, encoder"):
        tables.read_merging(REFERENCE)


# ---------------------------------------------------------------- the figure


@pytest.mark.parametrize("labels", [["ties"], list(views.METHODS)])
@pytest.mark.parametrize("seeds", [1, 3])
def test_marks_are_at_the_accuracies_and_keep_the_modes_colours(labels, seeds, tmp_path):
    settings, rows = with_methods(*labels, seeds=seeds)
    metrics, view = measured(rows, tmp_path), view_of(settings)
    table = make(settings, rows, tmp_path)
    figure = figures.draw("merging", metrics, view)
    assert len(figure.axes) == 6  # three for each encoder
    for panels, encoder in zip((figure.axes[:3], figure.axes[3:]), BOTH, strict=True):
        assert panels[0].get_title(loc="left") == encoder
        shown = [label.get_text().replace("\n", " ") for label in panels[0].get_yticklabels()]
        assert shown == [view.method_title(label) for label in ["sum", *labels]]
        assert panels[0].get_ylim() == (len(labels) + 0.5, -0.5)  # the sum at the top
        for panel, column in zip(panels, ("absolute", "normalized"), strict=False):
            marks = [each for each in panel.containers]
            assert len(marks) == 3 * (1 + len(labels))
            of_encoder = table[table["encoder"] == encoder]
            for mark, (_, row) in zip(marks, of_encoder.iterrows(), strict=True):
                line, _, bars = mark
                (x,), (y,) = line.get_data()
                assert x == pytest.approx(row[column])
                assert round(y) == ["sum", *labels].index(row["method"])
                style = drawing.style_of(row["mode"], view)
                assert matplotlib.colors.same_color(line.get_color(), style.color)
                assert line.get_marker() == style.marker
                assert len(bars) == (seeds > 1)
                if seeds > 1:
                    start, end = bars[0].get_segments()[0][:, 0]
                    assert end - start == pytest.approx(2 * row[f"{column}_std"])
            places = [(round(m[0].get_ydata()[0], 3)) for m in marks]
            assert len({*places}) == len(places)  # equal ones do not cover each other


def test_the_norms_of_every_task_and_their_mean_stand_at_the_right(three, tmp_path):
    settings, rows = three
    figure = figures.draw("merging", measured(rows, tmp_path), view_of(settings))
    panel = figure.axes[5]  # of base
    keys = {"metric": "vector_norm", "encoder": "base", "mode": "attention"}
    found = {}
    for row in rows:
        if keys.items() <= row.items():
            found.setdefault(row["task"], []).append(row["value"])
    each = [np.mean(norms) for norms in found.values()]
    assert len(each) == 3
    lines = [line for line in panel.lines if set(line.get_xdata()) == {2}]  # the third mode
    assert any(np.allclose(line.get_ydata(), each) for line in lines if len(line.get_ydata()) == 3)
    assert any(line.get_ydata() == pytest.approx([np.mean(each)]) for line in lines)
    assert panel.get_ylim()[0] == 0


def test_a_missing_norm_is_an_error(one, tmp_path):
    settings, rows = one
    gone = {"metric": "vector_norm", "encoder": "base", "mode": "ntk", "task": "mnist"}
    rest = [row for row in rows if not gone.items() <= row.items()]
    with pytest.raises(UserError, match="vector_norm for encoder base, mode ntk, .*task mnist"):
        figures.draw("merging", measured(rest, tmp_path), view_of(settings))


@pytest.mark.parametrize("labels", [["ties"], list(views.METHODS)])
def test_the_figures_texts_are_apart_and_inside_and_its_bytes_equal_twice(labels, tmp_path):
    settings, rows = with_methods(*labels, seeds=3)
    path = views.write_metrics(tmp_path / "metrics.csv", rows)
    for folder in ("first", "second"):
        figures.write("merging", path, settings, tmp_path / folder)
    first, second = (tmp_path / folder / "merging.pdf" for folder in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    figure = figures.draw("merging", load_metrics(path), view_of(settings))
    renderer = figure.canvas.get_renderer()
    width, height = figure.canvas.get_width_height()
    boxes = [figure.legends[0].get_window_extent(renderer)]
    for axes in figure.axes:
        ticks = [label for label in axes.get_yticklabels() if label.get_text()]
        places = [label.get_window_extent(renderer) for label in ticks]
        assert not any(a.overlaps(b) for a, b in zip(places, places[1:], strict=False))
        labels = [axis.label for axis in (axes.xaxis, axes.yaxis)]
        boxes += [*places, *(label.get_window_extent(renderer) for label in labels)]
    for box in boxes:
        assert box.x0 > -2 and box.y0 > -2 and box.x1 < width + 2 and box.y1 < height + 2


# ---------------------------------------------------------------- texts


def of_texts(*labels, seeds=1, **changes):
    merge = views.make_merging(*labels, encoders=["t5"])
    texts = views.TEXTS | {"merging": merge} | changes
    settings = views.make_settings(tasks=3, seeds=seeds, language=texts)
    return settings, views.make_rows(settings, points=3, alphas=6)


def test_texts_have_a_table_and_a_figure_of_their_own(tmp_path):
    settings, rows = of_texts("ties", "tsv", seeds=2)
    view = view_of(settings)
    assert view.methods == {} and view.merged_encoders == ()
    assert [n for n in available.table_names(view) if "merging" in n] == ["merging_language"]
    assert available.figure_names(view)[-1] == "merging_language"
    table = make(settings, rows, tmp_path, "merging_language")
    assert set(table["encoder"]) == {"t5"} and len(table) == 3 * 3
    found = [100 * values(rows, "unified_accuracy", "t5", "ntk", "tsv", s).mean() for s in (0, 1)]
    row = row_of(table, mode="ntk", method="tsv")
    assert row["absolute"] == pytest.approx(np.mean(found))
    write(settings, rows, tmp_path, "merging_language")
    _, printed, _ = views.read_markdown(tmp_path / "merging_language.md")
    assert printed[1][:3] == ["t5", "Non-linear fine-tuning", "TIES"]
    caption = table_caption("merging_language", view)
    assert "Of similarity: Spearman's ρ." in caption and "whose individual models have" in caption
    assert "embedded suite on short texts" in caption
    figure = figures.draw("merging_language", measured(rows, tmp_path), view)
    assert len(figure.axes) == 3
    said = [s for s in findings.sentences(measured(rows, tmp_path), view) if "erging" in s]
    assert said[0].startswith("Merging methods, t5: ") and "on texts" in said[1]


def test_the_methods_of_images_are_not_those_of_texts():
    settings, _ = with_methods("ties", language=views.TEXTS)
    view = view_of(settings)
    assert list(view.methods) == ["ties"] and view.language.methods == {}
    assert "merging_language" not in available.table_names(view)


def test_normalized_is_a_mean_over_the_tasks_that_have_one(tmp_path):
    settings, rows = of_texts("ties")
    keys = {"metric": "single_task_accuracy", "mode": "ntk", "task": "similarity"}
    rows = changed(rows, lambda row: -0.1, **keys)
    gone = {"metric": "normalized_accuracy", "mode": "ntk", "task": "similarity"}
    kept = [row for row in rows if not gone.items() <= row.items()]
    row = row_of(make(settings, kept, tmp_path, "merging_language"), mode="ntk", method="ties")
    found = values(kept, "normalized_accuracy", "t5", "ntk", "ties", 0)
    assert len(found) == 2 and row["normalized"] == pytest.approx(100 * found.mean())
    rows = changed(rows, lambda row: 0.0, metric="single_task_accuracy", mode="ntk")
    kept = [r for r in rows if (r["metric"], r["mode"]) != ("normalized_accuracy", "ntk")]
    table = make(settings, kept, tmp_path, "merging_language")
    assert table[table["mode"] == "ntk"]["normalized"].isna().all()
    metrics, view = measured(kept, tmp_path), view_of(settings)
    assert figures.draw("merging_language", metrics, view)
    said = merging.sentences(Measured(metrics, view.language))[0]
    assert said.split("NTK")[1].count("normalized") == 0 and "nan" not in said


# ---------------------------------------------------------------- sentences


def set_leads(rows, leads):
    """Test accuracies of a mode and method: nonlinear's 0.5 on every task, and so much more."""

    def value(row):
        return 0.5 + leads.get((row["mode"], row["method"] or "sum"), 0)

    metrics = "unified_accuracy", "normalized_accuracy"
    return changed(rows, value, metric=metrics, split="test", encoder="small")


def test_the_sentence_counts_methods_and_ties_are_not_ahead(three, tmp_path):
    settings, rows = three
    leads = {("attention", "sum"): 0.1, ("attention", "tsv"): 0.1, ("attention", "ties"): -0.1,
             ("ntk", "mean"): 0.01}  # fmt: skip
    rows = set_leads(rows, leads)
    rows = changed(rows, lambda row: 0.9, metric="normalized_accuracy", split="test",
                   encoder="small", mode="attention", method="regmean")  # fmt: skip
    said = merging.sentences(Measured(measured(rows, tmp_path), view_of(settings)))
    assert said[0] == (
        "Merging methods, small: Attention modules only is ahead of Non-linear fine-tuning under 2 "
        "of 6 methods in absolute accuracy and under 3 of 6 in normalized accuracy; NTK "
        "linearization is ahead of it under 1 of 6 in absolute accuracy and under 1 of 6 in "
        "normalized accuracy (Task arithmetic is one of them)."
    )
    assert said[1].startswith("Merging methods, base: ")
    assert {*said} <= {*findings.sentences(measured(rows, tmp_path), view_of(settings))}


def test_the_sentence_is_of_means_over_seeds(three, tmp_path):
    settings, rows = three
    rows = set_leads(rows, {})
    for seed, value in ((0, 0.4), (1, 0.4), (2, 0.71)):  # behind in two of three, ahead on average
        rows = changed(rows, lambda row, value=value: value, metric="unified_accuracy",
                       split="test", encoder="small", mode="attention", method="tsv",
                       seed=seed)  # fmt: skip
    said = merging.sentences(Measured(measured(rows, tmp_path), view_of(settings)))[0]
    assert "under 1 of 6 methods in absolute accuracy and under 0 of 6 in normalized" in said


@pytest.mark.parametrize(("modes", "clauses"), [(["nonlinear", "attention"], 1),
                                                (["ntk", "attention"], 0),
                                                (["nonlinear", "ntk"], 0)])  # fmt: skip
def test_without_the_modes_there_is_no_sentence_on_the_lead(modes, clauses, tmp_path):
    settings, rows = with_methods(
        "ties", encoders=["small"], modes={mode: views.MODES[mode] for mode in modes}, ablations={}
    )
    said = merging.sentences(Measured(measured(rows, tmp_path), view_of(settings)))
    assert sum("is ahead of" in sentence for sentence in said) == clauses


def moved_alpha(rows, alpha, **keys):
    """Test rows of a method with another chosen α."""
    keys = {**keys, "split": "test"}
    return [row | {"alpha": alpha} if keys.items() <= row.items() else row for row in rows]


@pytest.mark.parametrize("seeds", [1, 3])
def test_where_alpha_is_the_last_of_its_grid_is_said(seeds, tmp_path):
    settings, rows = with_methods("ties", "tsv", "mean", seeds=seeds, encoders=["small"])
    for method in ("ties", "tsv"):
        rows = moved_alpha(rows, 0.1, method=method)
    view = view_of(settings)

    def said(rows):
        return merging.sentences(Measured(measured(rows, tmp_path), view))[-1]

    assert said(rows) == "No α chosen for the merging methods on images is the last of its grid."
    rows = moved_alpha(rows, 3.0, method="tsv", mode="ntk", seed=0)
    rows = moved_alpha(rows, 1.6, method="ties", mode="ntk")
    rows = moved_alpha(rows, 1.6, method="ties", mode="attention")
    several, all_of = " in 1 of 3 seeds" * (seeds > 1), " in 3 of 3 seeds" * (seeds > 1)
    assert said(rows) == (
        "The α chosen for the merging methods on images is the last of its grid, which may be too "
        f"short, for small, TIES (NTK linearization{all_of}, Attention modules only{all_of}); "
        f"small, TSV-M (NTK linearization{several})."
    )


def test_a_grid_of_one_value_is_no_grid_that_may_be_too_short(tmp_path):
    settings, rows = with_methods("mean")
    said = merging.sentences(Measured(measured(rows, tmp_path), view_of(settings)))
    assert len(said) == 2 and not any("grid" in sentence for sentence in said)


# ---------------------------------------------------------------- where they are


def test_a_run_without_merging_has_neither_table_nor_figure_nor_sentence(tmp_path):
    settings = views.make_settings(tasks=3, language=views.TEXTS)
    for given in (settings, settings | {"merging": {"encoders": ["small"], "methods": {}}}):
        view = view_of(given)
        names = [*available.table_names(view), *available.figure_names(view)]
        assert not any("merging" in name for name in names)
        assert view.methods == view.language.methods == {}
    (line,) = [line for line in available.left_out(view) if "Merging" in line]
    assert line.startswith("Merging methods, Merging methods on texts: needs ")
    metrics = measured(views.make_rows(settings, points=3, alphas=3), tmp_path)
    assert not any("erging" in sentence for sentence in findings.sentences(metrics, view))


def test_one_task_is_not_merged():
    settings = views.make_settings(tasks=1, pairs={}, merging=views.make_merging("ties"))
    assert "merging" not in available.table_names(view_of(settings))


def test_the_page_shows_table_figure_and_sentences(of_paper, tmp_path):
    settings, rows = of_paper
    view, metrics = view_of(settings), measured(rows, tmp_path)
    for name in available.figure_names(view):
        (tmp_path / f"{name}.png").write_bytes(b"\x89PNG" + bytes(20))
    given = (metrics, tables.read_reference(REFERENCE), tables.read_targets(TARGETS), tmp_path,
             view, "", [])  # fmt: skip
    text = page.page(*given, tables.read_merging(MERGING))
    assert '<h3 id="merging">Merging methods</h3>' in text
    assert '<figure id="figure-merging">' in text and "<b>Merging methods.</b>" in text
    assert text.count('id="merging"') == 1
    for caption in (table_caption("merging", view), figure_caption("merging", view)):
        assert caption.split(".")[0] in text
    assert "Merging methods, small: Attention modules only is ahead" in text
    assert '<td class="paper">85.90</td>' in text and "TALL edition 1" in text
    about = page.about(view).facts["Merging methods"]
    assert about == "sum; TSV-M; RegMean; WUDI; per_task (encoder small, base)"
    with pytest.raises(UserError, match="give --merging"):
        page.page(*given)


def test_captions_name_what_is_merged_and_what_is_measured_here():
    settings, _ = with_methods("ties", seeds=3)
    view = view_of(settings)
    caption = table_caption("merging", view)
    for words in ("Each method merges the 3 task vectors of a mode", "chosen on validation, for ",
                  "each mode and method by itself", "measured on the machine", "Data: ",
                  "embedded suite", "over 3 seeds"):  # fmt: skip
        assert words in caption
    caption = figure_caption("merging", view)
    assert "for encoder small, base" in caption and "over 3 seeds" in caption
    texts = views.TEXTS | {"merging": views.make_merging("ties", encoders=["t5"]),
                           "reference_selection": True}  # fmt: skip
    view = view_of(views.make_settings(tasks=3, language=texts))
    assert "on the test scores that are shown" in table_caption("merging_language", view)
    assert "chosen on test" in figure_caption("merging_language", view)
