"""Figures of the analyses that pass images through models."""

import numpy as np
import pytest
import views

from task_arithmetic.config.available import figure_names
from task_arithmetic.config.view import view_of
from task_arithmetic.report import figures
from task_arithmetic.report.captions import figure_caption
from task_arithmetic.report.cells import load_metrics

ANALYSES = ["loss_plane", "interference", "pairs", "linearity"]
NAMES = ["plane_fig6", "plane_fig8", "pairs", "interference", "linearity"]


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Settings, rows, and the metrics of three seeds."""
    samples = dict.fromkeys(ANALYSES, 77)
    settings = views.make_settings(tasks=10, seeds=3, analyses=ANALYSES, samples=samples)
    rows = views.make_rows(settings, points=5, alphas=6)
    path = views.write_metrics(tmp_path_factory.mktemp("three") / "metrics.csv", rows)
    return settings, rows, load_metrics(path)


def drawn(name, three):
    figure = figures.draw(name, three[2], view_of(three[0]))
    figure.canvas.draw()
    return figure


def mean(rows, **keys):
    """The mean over seeds of the rows with these keys."""
    found = [row["value"] for row in rows if all(row[key] == keys[key] for key in keys)]
    assert len(found) == 3
    return np.mean(found)


def test_an_analysis_that_is_off_is_not_shown():
    settings = views.make_settings()
    assert not {*NAMES} & {*figure_names(view_of(settings))}
    for analysis in ANALYSES:
        shown = {*figure_names(view_of(settings | {"analyses": [analysis]}))} & {*NAMES}
        of_plane = {"plane_fig6", "plane_fig8"}
        assert shown == (of_plane if analysis == "loss_plane" else {analysis})


@pytest.mark.parametrize("name", NAMES)
def test_texts_stay_inside_and_apart(name, three):
    figure = drawn(name, three)
    renderer = figure.canvas.get_renderer()
    width, height = figure.canvas.get_width_height()
    texts = [t for a in figure.axes for t in (a.title, a.xaxis.label, a.yaxis.label, *a.texts)]
    boxes = [text.get_window_extent(renderer) for text in texts if text.get_text()]
    boxes += [legend.get_window_extent(renderer) for legend in figure.legends]
    for box in boxes:
        assert box.x0 > -2 and box.y0 > -2 and box.x1 < width + 2 and box.y1 < height + 2
    titles = [axes.title.get_window_extent(renderer) for axes in figure.axes if axes.get_title()]
    for one, two in zip(titles, titles[1:], strict=False):
        assert not one.overlaps(two)


@pytest.mark.parametrize("name", NAMES)
def test_captions_say_images_seeds_and_where_alpha_comes_from(name, three):
    caption = figure_caption(name, view_of(three[0]))
    assert "77 random test images of each task, or all it has" in caption
    assert "Task vectors of this run, seeds 0, 1, 2." in caption
    assert name == "linearity" or "chosen on validation" in caption
    scaled = figure_caption("plane_fig6", view_of(three[0] | {"reference_scaling": True}))
    assert "the first 2,048 test images" in scaled


def test_rows_are_vectors_and_columns_are_what_they_are_evaluated_on(three):
    settings, rows, _ = three
    panels = [axes for axes in drawn("interference", three).axes if axes.images]
    keys = {"metric": "interference", "mode": "ntk", "encoder": settings["focus"]}
    tasks = settings["tasks"]
    expected = 100 * mean(rows, **keys, task=tasks[4], other_task=tasks[2])
    assert panels[1].images[0].get_array()[2, 4] == pytest.approx(expected)
    assert panels[1].get_ylabel() == "" and panels[0].get_ylabel() == "Task vector of"


def test_the_scale_of_interference_is_set_off_the_diagonal_with_zero_in_its_middle(three):
    scales = set()
    for axes in drawn("interference", three).axes:
        if axes.images:
            values = axes.images[0].get_array()
            low, high = axes.images[0].get_clim()
            scales.add((low, high))
            off = ~np.eye(len(values), dtype=bool)
            assert low == -high and np.abs(values[off]).max() <= high < values.diagonal().min()
    assert len(scales) == 1


def test_pairs_are_symmetric_and_one_scale_is_shared_by_all_modes(three):
    settings, rows, _ = three
    panels = [axes for axes in drawn("pairs", three).axes if axes.images]
    assert len(panels) == 6
    for row in (panels[:3], panels[3:]):
        assert len({axes.images[0].get_clim() for axes in row}) == 1
        for axes in row:
            values = axes.images[0].get_array()
            assert values.mask.diagonal().all() and (values == values.T).all()
    keys = {"metric": "classification_pair_error", "mode": "attention"}
    one, two = settings["tasks"][1], settings["tasks"][6]
    expected = mean(rows, **keys, encoder=settings["focus"], task=one, other_task=two)
    values = panels[5].images[0].get_array()
    assert values[6, 1] == values[1, 6] == pytest.approx(expected)
    assert panels[5].get_title() == f"mean {values.mean():.3g}"


def test_an_alpha_of_0_is_said(three):
    settings, _, metrics = three
    moved = metrics.copy()
    test = (moved["metric"] == "unified_accuracy") & (moved["split"] == "test")
    moved.loc[test & (moved["mode"] == "ntk"), "alpha"] = 0.0
    panels = figures.draw("pairs", moved, view_of(settings)).axes
    assert ["ξ is 0" in axes.get_title() for axes in panels[:3]] == [False, True, False]


def test_the_plane_marks_the_pretrained_the_individual_and_the_unified_model(three):
    settings, rows, _ = three
    panels = [axes for axes in drawn("plane_fig6", three).axes if axes.get_xlabel() or axes.title]
    chosen = {
        row["alpha"]
        for row in rows
        if (row["encoder"], row["mode"], row["split"], row["metric"])
        == (settings["focus"], "nonlinear", "test", "unified_accuracy")
    }
    marks = {line.get_marker(): set(zip(*line.get_data(), strict=True)) for line in panels[0].lines}
    assert marks == {"o": {(0, 0)}, "s": {(0, 1), (1, 0)}, "*": {(a, a) for a in chosen}}


def test_a_mode_without_an_mlp_has_no_line_there(three):
    axes = drawn("linearity", three).axes
    titles = [each.get_title() for each in axes]
    assert titles[:3] == ["Attention of a block", "MLP of a block", "Whole block"]
    assert [len(each.containers) for each in axes] == [3, 2, 2, 3]
    settings, rows, _ = three
    of_layer = [
        mean(rows, metric="linearity_error", mode="ntk", layer="7.mlp", task=task)
        for task in settings["tasks"]
    ]
    line = axes[1].containers[1].lines[0]
    assert line.get_ydata()[7] == pytest.approx(np.mean(of_layer))
