"""The figure of modes crossed with merging methods: every mark is where its number is."""

import matplotlib.colors
import numpy as np
import pytest
import views
from test_merging_table import (
    BOTH,
    make,
    measured,
    with_methods,
)

from task_arithmetic.config.view import view_of
from task_arithmetic.errors import UserError
from task_arithmetic.report import drawing, figures
from task_arithmetic.report.cells import load_metrics


@pytest.fixture(scope="module")
def one():
    return with_methods()


@pytest.fixture(scope="module")
def three():
    return with_methods(seeds=3)


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


def test_without_merging_methods_there_is_nothing_to_draw(one, tmp_path):
    settings, rows = one
    with pytest.raises(UserError, match="name some in `merging.methods`"):
        figures.draw("merging", measured(rows, tmp_path), view_of(settings | {"merging": {}}))


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
        ticks = axes.get_yticklabels() if axes.get_ylim()[0] > 0 else []  # names of methods
        places = [label.get_window_extent(renderer) for label in ticks]
        assert not any(a.overlaps(b) for a, b in zip(places, places[1:], strict=False))
        labels = [axis.label for axis in (axes.xaxis, axes.yaxis)]
        boxes += [*places, *(label.get_window_extent(renderer) for label in labels)]
    for box in boxes:
        assert box.x0 > -2 and box.y0 > -2 and box.x1 < width + 2 and box.y1 < height + 2
