"""Figures: all are drawn, for few and many tasks; nothing is clipped; bytes are reproducible."""

import itertools

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import views
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from task_arithmetic.config.available import ANALYSES, figure_names
from task_arithmetic.config.view import view_of
from task_arithmetic.errors import UserError
from task_arithmetic.report import drawing, figures
from task_arithmetic.report.cells import Measured, load_metrics

WEIGHTS = [0.2126, 0.7152, 0.0722]  # of red, green and blue in relative luminance
NAMES = ["fig3", "fig5", "fig6", "fig7", "fig8", "fig9", "fig10"]


def metrics_of(folder, settings, **sizes):
    return views.write_metrics(folder / "metrics.csv", views.make_rows(settings, **sizes))


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    subsets = {"sizes": [2, 5, 10], "draws": 2, "methods": {"sum": "Task arithmetic"}}
    merging = views.make_merging(*views.METHODS)
    more = {"analyses": ANALYSES, "merging": merging, "subsets": subsets}
    settings = views.make_settings(tasks=10, encoders=3, seeds=3, **more)
    return settings, metrics_of(tmp_path_factory.mktemp("three"), settings, points=5, alphas=6)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    settings = views.make_settings(tasks=2, encoders=1)
    return settings, metrics_of(tmp_path_factory.mktemp("small"), settings, points=2, alphas=3)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "fig8"])  # drawn as fig6
def test_every_figure_has_equal_bytes_twice_and_no_date(name, small, tmp_path):
    settings, path = small
    assert NAMES == figure_names(view_of(settings))
    for folder in ("first", "second"):
        figures.write(name, path, settings, tmp_path / folder)
    for suffix in ("png", "pdf", "svg", "csv"):
        first, second = (tmp_path / f / f"{name}.{suffix}" for f in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()
        assert b"Date" not in first.read_bytes() and b"dc:date" not in first.read_bytes()
    assert (tmp_path / "first" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert b"<text" in (tmp_path / "first" / f"{name}.svg").read_bytes()


@pytest.mark.parametrize(
    ("name", "metrics", "encoders"),
    [
        ("fig9", {"unified_accuracy", "normalized_accuracy"}, {"small"}),
        ("fig10", {"cosine_similarity"}, {"small"}),
        ("fig5", {"single_task_accuracy"}, {"small", "base", "large"}),
    ],
)
def test_the_data_of_a_figure_are_the_rows_that_it_shows(name, metrics, encoders, three, tmp_path):
    settings, path = three
    figures.write(name, path, settings, tmp_path)
    shown, every = load_metrics(tmp_path / f"{name}.csv"), load_metrics(path)
    assert {*shown["metric"]} == metrics and {*shown["encoder"]} == encoders
    where = every["metric"].isin(metrics) & every["encoder"].isin(encoders)
    where &= every["mode"].isin([*settings["modes"], *["posthoc"] * (name == "fig9")])
    where &= (every["method"] == "") & (every["layer"] == "")
    if name == "fig5":
        where &= every["split"] == "test"
    pd.testing.assert_frame_equal(shown, every[where].reset_index(drop=True))


@pytest.mark.parametrize("name", [*NAMES, *ANALYSES])
def test_every_figure_of_ten_tasks_keeps_its_texts_apart_and_inside(name, three):
    settings, path = three
    figure = figures.draw(name, load_metrics(path), view_of(settings))
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    width, height = figure.canvas.get_width_height()
    boxes = [legend.get_window_extent(renderer) for legend in figure.legends]
    for axes in figure.axes:
        assert axes.has_data()
        labels = [axes.title, axes.xaxis.label, axes.yaxis.label]
        texts = [text for text in [*labels, *axes.texts] if text.get_text()]
        boxes += [text.get_window_extent(renderer) for text in texts]
        for axis in (axes.xaxis, axes.yaxis):  # tick labels do not run into each other
            ticks = [label for label in axis.get_ticklabels() if label.get_text()]
            if all(label.get_rotation() == 0 for label in ticks):
                places = [label.get_window_extent(renderer) for label in ticks]
                for one, two in zip(places, places[1:], strict=False):
                    assert not one.overlaps(two), name
    for box in boxes:
        assert box.x0 > -2 and box.y0 > -2 and box.x1 < width + 2 and box.y1 < height + 2, name


def test_a_mode_looks_the_same_in_all_figures_and_differs_in_grey():
    view = view_of(views.make_settings())
    modes = ["nonlinear", "ntk", "attention", "posthoc"]
    styles = [drawing.style_of(mode, view) for mode in modes]
    for part in zip(*styles, strict=True):
        assert len(set(part)) == 4
    rgb = [[int(style[0][i : i + 2], 16) for i in (1, 3, 5)] for style in styles[:3]]
    grey = sorted(np.array(rgb) @ [0.299, 0.587, 0.114])
    assert min(np.diff(grey)) > 40  # of 255


def test_heatmaps_share_one_scale_per_row_and_show_alpha1_along_x(three):
    settings, path = three
    rows = views.make_rows(settings, points=5, alphas=6)
    figure = figures.draw("fig6", load_metrics(path), view_of(settings))
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 6
    for row in (panels[:3], panels[3:]):
        assert len({axes.images[0].get_clim() for axes in row}) == 1
    first, second = settings["pairs"]["fig6"]
    wanted = {"metric": "representation_disentanglement", "mode": "ntk", "task": first}
    wanted |= {"alpha": 2.0, "other_alpha": -1.0, "other_task": second}
    found = [row["value"] for row in rows if all(row[key] == wanted[key] for key in wanted)]
    assert len(found) == 3  # seeds
    image = panels[1].images[0].get_array()  # rows: α₂, columns: α₁, of -2, -1, 0, 1, 2
    assert image[1, 4] == pytest.approx(np.mean(found))
    assert first in panels[3].get_xlabel() and second in panels[3].get_ylabel()


def test_cosine_scale_ignores_the_diagonal(three):
    settings, path = three
    figure = figures.draw("fig10", load_metrics(path), view_of(settings))
    panels = [axes for axes in figure.axes if axes.images]
    (clim,) = {axes.images[0].get_clim() for axes in panels}
    assert clim[1] < 0.5
    assert all(len(axes.texts) == 100 for axes in panels)


def test_the_data_of_layers_are_cosines_and_norms(tmp_path):
    settings = views.make_settings(tasks=3, encoders=1, analyses=["layers"])
    path = metrics_of(tmp_path, settings, points=2, alphas=3)
    figures.write("layers", path, settings, tmp_path)
    shown, every = load_metrics(tmp_path / "layers.csv"), load_metrics(path)
    expected = every[every["layer"] != ""].reset_index(drop=True)
    assert {*expected["metric"]} == {"cosine_similarity", "relative_norm"}
    pd.testing.assert_frame_equal(shown, expected)


def test_the_numbers_on_a_map_have_contrast(three):
    settings, path = three
    figure = figures.draw("fig10", load_metrics(path), view_of(settings))

    def luminance(color):
        rgb = np.array(to_rgb(color))
        return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ WEIGHTS

    for axes in figure.axes:
        for text in axes.texts:
            column, row = text.get_position()
            value = axes.images[0].get_array()[row, column]
            behind = axes.get_facecolor() if row == column else axes.images[0].to_rgba(value)
            low, high = sorted([luminance(text.get_color()), luminance(behind[:3])])
            assert (high + 0.05) / (low + 0.05) >= 4.5


def test_a_cosine_of_zero_is_in_the_middle_of_its_scale(three):
    settings, path = three
    metrics = load_metrics(path)
    off = (metrics.metric == "cosine_similarity") & (metrics.task != metrics.other_task)
    for shift, sign in ((0.02, 1), (-0.4, -1)):
        shifted = metrics.assign(value=metrics.value.where(~off, metrics.value + shift))
        image = figures.draw("fig10", shifted, view_of(settings)).axes[0].images[0]
        low, high = image.get_clim()
        assert low == -high and high > 0
        largest = image.get_array().compressed()
        assert sign * largest[np.argmax(abs(largest))] > 0 and abs(largest).max() <= high
        assert min(image.cmap(0.5)[:3]) > 0.9  # and light


@pytest.mark.parametrize("name", ["fig3", "fig5"])
def test_the_task_of_every_mark_can_be_told(name, three):
    settings, path = three
    figure = figures.draw(name, load_metrics(path), view_of(settings))
    figure.canvas.draw()
    key = figure.legends[-1]
    tasks = settings["tasks"]
    numbered = [f"{i}  {task}" for i, task in enumerate(tasks, 1)]
    assert [text.get_text() for text in key.get_texts()] == numbered
    run = Measured(load_metrics(path), view_of(settings))
    for panel, encoder in zip(figure.axes, settings["encoders"], strict=False):
        assert panel.get_title() == encoder
        at = {}
        for label in panel.texts:
            at.setdefault(tasks[int(label.get_text()) - 1], []).append(label.xy)
        for task in tasks:
            where = encoder, "attention", [task]
            if name == "fig5":  # x is nonlinear's, of all modes
                where = encoder, "nonlinear", [task]
            expected = 100 * run.individual(*where).mean()
            assert len(at[task]) == (2 if name == "fig3" else 1)
            assert any(x == pytest.approx(expected) for x, _ in at[task])
        boxes = [Text.get_window_extent(label) for label in panel.texts]  # without its arrow
        middles = [
            72 / figure.dpi * np.array([box.x0 + box.x1, box.y0 + box.y1]) / 2 for box in boxes
        ]
        for one, two in itertools.combinations(middles, 2):
            assert np.hypot(*(one - two)) > 3  # points: no number stands on another


def test_the_zero_shot_line_hides_no_bar(three):
    settings, path = three
    for panel in figures.draw("fig7", load_metrics(path), view_of(settings)).axes:
        bars = panel.patches
        for lines in panel.collections:
            for (left, _), (right, _) in lines.get_segments():
                for bar in bars:
                    start, end = bar.get_x() + 1e-9, bar.get_x() + bar.get_width() - 1e-9
                    crosses = start < right and left < end and left < right  # no error bar
                    assert not crosses or lines.get_zorder() < bar.get_zorder()


def test_alpha_curves_are_means_over_tasks_with_a_band(three):
    settings, path = three
    rows = views.make_rows(settings, points=5, alphas=6)
    left = figures.draw("fig9", load_metrics(path), view_of(settings)).axes[0]
    assert len(left.collections) >= 4  # bands
    keys = {"metric": "unified_accuracy", "encoder": "small", "mode": "ntk", "alpha": 0.4}
    keys |= {"split": "validation"}
    found = [row["value"] for row in rows if all(row[key] == keys[key] for key in keys)]
    assert len(found) == 30
    line = next(line for line in left.lines if line.get_label() == settings["modes"]["ntk"])
    assert dict(zip(*line.get_data(), strict=True))[0.4] == pytest.approx(100 * np.mean(found))


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("fig3", {"metric": "posthoc_accuracy", "mode": "attention", "task": "svhn", "seed": 1}),
        ("fig5", {"metric": "single_task_accuracy", "mode": "ntk", "encoder": "large"}),
        ("fig6", {"metric": "classification_disentanglement", "alpha": 1.0, "other_alpha": 2.0}),
        ("fig7", {"metric": "pretrained_accuracy", "task": "gtsrb"}),
        ("fig9", {"metric": "unified_accuracy", "mode": "posthoc", "alpha": 0.2, "seed": 2}),
        ("fig9", {"metric": "unified_accuracy", "split": "validation"}),
        ("fig8", {"metric": "classification_disentanglement"}),
        ("fig10", {"metric": "cosine_similarity", "task": "mnist", "other_task": "svhn"}),
    ],
)
def test_a_missing_cell_is_an_error_that_names_it(name, gone, three, tmp_path):
    settings, _ = three
    rows = views.make_rows(settings, points=5, alphas=6)
    rest = [row for row in rows if any(row[key] != gone[key] for key in gone)]
    assert len(rest) < len(rows)
    metrics = load_metrics(views.write_metrics(tmp_path / "metrics.csv", rest))
    with pytest.raises(UserError) as error:
        figures.draw(name, metrics, view_of(settings))
    for value in gone.values():
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        assert shown in str(error.value)


def test_unknown_figures_and_no_nonlinear_are_user_errors(small):
    settings, path = small
    metrics = load_metrics(path)
    with pytest.raises(UserError, match="no figure fig4"):
        figures.draw("fig4", metrics, view_of(settings))
    with pytest.raises(UserError, match="nonlinear"):
        figures.draw("fig5", metrics, view_of(settings | {"modes": {"attention": "Ours"}}))


def test_png_is_not_blank(small, tmp_path):
    settings, path = small
    figures.write("fig7", path, settings, tmp_path)
    image = matplotlib.image.imread(tmp_path / "fig7.png")
    assert image.shape[1] > 800 and image[..., :3].std() > 0.05


@pytest.mark.parametrize("name", ["fig7_language", "fig9_language", "fig10_language"])
def test_figures_of_texts_are_those_of_images_with_the_settings_of_texts(tmp_path, name):
    settings = views.make_settings(tasks=3, language=views.TEXTS)
    metrics = load_metrics(metrics_of(tmp_path, settings, points=3, alphas=11))
    base = name.removesuffix("_language")
    view = view_of(settings)
    drawn = (name, view), (base, view.language), (base, view)
    of_texts, same, of_images = (
        sorted(text.get_text() for text in figures.draw(n, metrics, v).findobj(Text))
        for n, v in drawn
    )
    assert of_texts == same != of_images
