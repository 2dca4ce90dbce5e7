"""What a run says of merging methods, and where: texts, sentences, captions, the page."""

import numpy as np
import pytest
import views
from test_merging_table import (
    MERGING,
    changed,
    make,
    measured,
    paper_run,
    values,
    with_methods,
    write,
)
from test_tables import REFERENCE, TARGETS, row_of

from task_arithmetic.config import available
from task_arithmetic.config.view import view_of
from task_arithmetic.errors import UserError
from task_arithmetic.report import figures, findings, merging, page, tables
from task_arithmetic.report.captions import figure_caption, table_caption
from task_arithmetic.report.cells import Measured


@pytest.fixture(scope="module")
def three():
    return with_methods(seeds=3)


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
        "linearization is ahead of Non-linear fine-tuning under 1 of 6 in absolute accuracy and "
        "under 1 of 6 in normalized accuracy (Task arithmetic is one of them)."
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
def test_where_alpha_is_an_end_of_its_grid_is_said(seeds, tmp_path):
    settings, rows = with_methods("ties", "tsv", "mean", seeds=seeds, encoders=["small"])
    for method in ("ties", "tsv"):
        rows = moved_alpha(rows, 0.5, method=method)
    view = view_of(settings)

    def said(rows):
        return merging.sentences(Measured(measured(rows, tmp_path), view))[-1]

    assert said(rows) == "No α chosen for the merging methods on images is an end of its grid."
    rows = moved_alpha(rows, 3.0, method="tsv", mode="ntk", seed=0)
    rows = moved_alpha(rows, 1.6, method="ties", mode="ntk")
    rows = moved_alpha(rows, 0.1, method="ties", mode="attention")
    several, all_of = " in 1 of 3 seeds" * (seeds > 1), " in 3 of 3 seeds" * (seeds > 1)
    assert said(rows) == (
        "The α chosen for the merging methods on images is an end of its grid, beyond which a "
        f"better one may lie, for small, TIES (NTK linearization: the largest{all_of}, "
        f"Attention modules only: the smallest{all_of}); "
        f"small, TSV-M (NTK linearization: the largest{several})."
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


def test_the_page_shows_table_figure_and_sentences(tmp_path):
    settings, rows = paper_run()
    view, metrics = view_of(settings), measured(rows, tmp_path)
    views.write_pictures(tmp_path, available.figure_names(view))
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
