"""The figures of merging more tasks, of what is kept of the control task, and of α's robustness:
every mark is where its number is."""

import itertools

import numpy as np
import pandas as pd
import pytest
import views
from matplotlib.colors import same_color

from task_arithmetic.config.view import view_of
from task_arithmetic.errors import UserError
from task_arithmetic.report import drawing, figures
from task_arithmetic.report.captions import figure_caption
from task_arithmetic.report.cells import Measured, load_metrics
from task_arithmetic.report.robustness_figure import curve_of

NAMES = ["robustness", "number_of_tasks", "retention"]
SUBSETS = {"sizes": [2, 4, 8], "draws": 3, "methods": {"sum": "Task arithmetic", "tsv": "TSV-M"}}


def made(folder, change=lambda row: row, **options):
    """View and metrics of a run with all three analyses; change: of each row, None: it lacks."""
    merging = views.make_merging(*list(views.METHODS)[:-1])
    settings = views.make_settings(
        **{"analyses": NAMES, "subsets": SUBSETS, "merging": merging} | options,
        language=views.TEXTS | {"analyses": ["robustness"]},
    )
    rows = [row for row in map(change, views.make_rows(settings, 2)) if row]
    path = views.write_metrics(folder / "metrics.csv", rows)
    return view_of(settings), load_metrics(path)


@pytest.mark.parametrize("seeds", [1, 3])
def test_points_are_means_over_draws_and_bars_their_deviation(seeds, tmp_path):
    view, metrics = made(tmp_path, seeds=seeds)
    (panel,) = figures.draw("number_of_tasks", metrics, view).axes
    found = metrics[metrics.metric == "subset_normalized_accuracy"].copy()
    found["size"] = found.task.str.count(r"\+") + 1
    found = found.groupby(["method", "mode", "size", "task"]).value.mean().mul(100)
    pairs = itertools.product(["", "tsv"], view.modes)
    for (method, mode), (line, _, (bars,)) in zip(pairs, panel.containers, strict=True):
        of_size = found[method, mode].groupby("size")
        assert np.allclose(line.get_ydata(), of_size.mean())
        assert np.allclose(line.get_xdata(), [2, 4, 8], atol=0.2)
        heights = [np.ptp(segment[:, 1]) for segment in bars.get_segments()]
        assert np.allclose(heights, 2 * of_size.std().fillna(0))
        assert same_color(line.get_color(), drawing.style_of(mode, view).color)
        assert (line.get_linestyle() == "-") == (method == "")


def test_a_draw_that_lacks_is_an_error(tmp_path):
    lost = "+".join(views.TASKS[:8])
    view, metrics = made(tmp_path, lambda row: row if row["task"] != lost else None)
    with pytest.raises(
        UserError, match=r"no subset_normalized_accuracy for .*seed 0, task mnist\+"
    ):
        figures.draw("number_of_tasks", metrics, view)


@pytest.mark.parametrize("seeds", [1, 3])
def test_retention_is_relative_to_the_pretrained_encoder(seeds, tmp_path):
    view, metrics = made(tmp_path, seeds=seeds)
    figure = figures.draw("retention", metrics, view)
    (panel,) = figure.axes
    test = metrics[(metrics.split == "test") & (metrics.encoder == view.focus)]
    means = test.groupby(["metric", "task", "mode", "method"]).value.mean()
    before = means["pretrained_accuracy", "scenes", "pretrained", ""]
    methods = ["", *view.methods]
    marks, rings = panel.containers[::2], panel.containers[1::2]
    for mode, (line, *_), (ring, *_) in zip(view.modes, marks, rings, strict=True):
        kept = means["retained_accuracy", "scenes", mode][methods]
        assert np.allclose(line.get_ydata(), 100 * kept / before)
        normalized = test[(test.metric == "normalized_accuracy") & (test["mode"] == mode)]
        normalized = normalized.groupby("method").value.mean()[methods]
        assert np.allclose(line.get_xdata(), 100 * normalized)
        assert same_color(line.get_color(), drawing.style_of(mode, view).color)
        assert ring.get_xydata() == pytest.approx(line.get_xydata()[:1])  # around the sum's
    numbers = [text for text in panel.texts if text.get_text().isdigit()]
    assert len(numbers) == len(methods) * len(view.modes)
    boxes = [text.get_window_extent() for text in numbers]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_retention_without_merging_is_of_the_sum(tmp_path):
    view, metrics = made(tmp_path, merging=None)
    (panel,) = figures.draw("retention", metrics, view).axes
    assert all(len(line.get_xdata()) == 1 for line, *_ in panel.containers)
    assert len(figures.draw("robustness", metrics, view).axes) == 1
    assert "merging method for" not in figure_caption("robustness", view)


@pytest.mark.parametrize("name", ["robustness", "robustness_language"])
def test_curves_are_validation_accuracies_around_the_chosen_alpha(name, tmp_path):
    view, metrics = made(tmp_path)
    part = view.language if name.endswith("language") else view
    figure = figures.draw(name, metrics, view)
    assert len(figure.axes) == (1 if part.of_texts else 2)
    of_sum = metrics[(metrics.encoder == part.focus) & (metrics.method == "")]
    of_sum = of_sum[of_sum.metric == "normalized_accuracy"]
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    for mode, line, text in zip(part.modes, figure.axes[0].lines[::2], legend, strict=False):
        own = of_sum[of_sum["mode"] == mode]
        (chosen,) = own[own.split == "test"].alpha.unique()
        means = own[own.split == "validation"].groupby("alpha").value.mean() * 100
        shown = means[means.index <= 4 * chosen + 1e-9]
        assert np.allclose(line.get_xdata(), shown.index / chosen)
        assert np.allclose(line.get_ydata(), shown)
        fine = np.linspace(0, 1, 100_001)
        high = fine[np.interp(fine, means.index, means) >= 0.95 * means.max()]
        width, at_edge = high.max() - high.min(), "≥ " if high.max() == 1 else ""
        assert text == f"{part.label(mode)}: {at_edge}{width:.2f} ({width / chosen:.1f} α*)"


def test_methods_with_one_alpha_have_no_curve(tmp_path):
    view, metrics = made(tmp_path)
    run = Measured(metrics, view)
    assert curve_of(run, "attention", "mean") is None
    shown = figures.draw("robustness", metrics, view).axes[1].get_legend().get_texts()
    fixed = ("mean", "adamerging")
    assert len(shown) == 1 + len(view.methods) - len(fixed)


@pytest.mark.parametrize("seeds, at_zero", [(1, ["0"]), (3, ["1"])])
def test_an_alpha_of_zero_has_no_ratio(seeds, at_zero, tmp_path):
    """Its plateau has a width all the same."""

    def change(row):
        chosen = row["split"] == "test" and row["metric"] in ("unified_accuracy", METRIC)
        here = (row["encoder"], row["mode"], row["method"]) == ("small", "ntk", "")
        move = chosen and here and str(row["seed"]) in at_zero
        return row | {"alpha": 0.0} if move else row

    METRIC = "normalized_accuracy"
    view, metrics = made(tmp_path, change, seeds=seeds)
    curve = curve_of(Measured(metrics, view), "ntk")
    assert len(curve.values) == seeds - 1 and pd.notna(curve.ratios).all()
    says = "α* = 0: no ratio" if seeds == 1 else "α* = 0 in 1 of 3 seeds: no ratio"
    figure = figures.draw("robustness", metrics, view)
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert [text.endswith(says) for text in texts] == [False, True, False]
