"""Figures of layers, spectra and alignment: every mark is where its number is."""

import itertools

import matplotlib.colors
import numpy as np
import pytest
import views

from task_arithmetic.config.available import figure_names, left_out
from task_arithmetic.config.view import view_of
from task_arithmetic.errors import UserError
from task_arithmetic.report import drawing, figures
from task_arithmetic.report.alignment_figure import points_of
from task_arithmetic.report.captions import figure_caption
from task_arithmetic.report.cells import Measured, load_metrics

NAMES = ["layers", "spectra", "alignment"]
METHODS = ["ties", "iso_c"]


def made(folder, seeds=1, change=None, **more):
    """A view, and metrics whose rows `change` may leave out or change."""
    merging = views.make_merging(*METHODS)
    given = {"tasks": 4, "encoders": 1, "seeds": seeds, "analyses": NAMES, "merging": merging}
    settings = views.make_settings(**given | more)
    rows = [
        new for row in views.make_rows(settings, 3, 3) if (new := change(row) if change else row)
    ]
    return view_of(settings), load_metrics(views.write_metrics(folder / "metrics.csv", rows))


def line(panel, mode, view, fill="full"):
    """The one line of a mode in a panel."""
    color = drawing.style_of(mode, view).color
    found = [
        each
        for each in panel.lines
        if matplotlib.colors.same_color(each.get_color(), color) and each.get_fillstyle() == fill
    ]
    assert len(found) <= 1
    return found[0] if found else None


def of(metrics, **keys):
    rows = metrics
    for key, value in keys.items():
        rows = rows[rows[key] == value]
    return rows


@pytest.mark.parametrize("seeds", [1, 3])
def test_lines_over_depth_are_means_over_pairs_and_tasks(seeds, tmp_path):
    view, metrics = made(tmp_path, seeds)
    panels = np.reshape(figures.draw("layers", metrics, view).axes, (2, 3))
    for mode, (column, kind) in itertools.product(view.modes, enumerate(("qkv", "out", "mlp"))):
        assert (line(panels[0, column], mode, view) is None) == (
            mode == "attention" and kind == "mlp"
        )
        if (mode, kind) == ("attention", "mlp"):
            continue
        for panel, metric in zip(
            panels[:, column], ("cosine_similarity", "relative_norm"), strict=True
        ):
            x, y = line(panel, mode, view).get_data()
            band = panel.collections[list(view.modes).index(mode)].get_paths()[0].vertices
            for block in range(4):
                rows = of(metrics, metric=metric, mode=mode, layer=f"{block}.{kind}")
                each = rows.groupby(["task", "other_task"]).value.mean()
                assert x[block] == block and y[block] == pytest.approx(each.mean())
                ends = band[band[:, 0] == block][:, 1]
                assert np.ptp(ends) == pytest.approx(2 * each.std(ddof=1))


def test_a_layer_where_a_vector_is_zero_has_a_gap_and_says_so(tmp_path):
    task = views.TASKS[0]

    def zero(row):
        if row["mode"] != "ntk" or row["layer"] != "1.out":
            return row
        if row["metric"] == "cosine_similarity":
            return None
        return {**row, "value": 0.0 if row["metric"] == "relative_norm" else row["value"]}

    view, metrics = made(tmp_path, change=zero)
    figure = figures.draw("layers", metrics, view)
    _, y = line(figure.axes[1], "ntk", view).get_data()
    assert np.isnan(y).tolist() == [False, True, False, False]
    said = [text.get_text() for text in figure.legends[0].get_texts()][-1]
    assert said.startswith("6 of 192 without cosine")
    gone = metrics[
        ~(
            (metrics.metric == "cosine_similarity")
            & (metrics.layer == "1.out")
            & (metrics.task == task)
        )
    ]
    with pytest.raises(UserError, match="no cosine similarity of small, nonlinear, for 0, 1.out"):
        figures.draw("layers", gone, view)


def test_spectra_are_of_the_individual_vectors_their_sum_and_all_methods(tmp_path):
    view, metrics = made(tmp_path)
    panels = np.reshape(figures.draw("spectra", metrics, view).axes, (3, 4))
    for row, metric in zip(panels, ("stable_rank", "effective_rank", "top_energy"), strict=True):
        for name, fill in ((metric, "full"), (f"merged_{metric}", "none")):
            rows = of(metrics, metric=name, mode="ntk", method="").set_index("layer").value
            _, y = line(row[2], "ntk", view, fill).get_data()
            assert y == pytest.approx([rows[f"{block}.mlp"] for block in range(4)])
        own = [of(metrics, metric=metric, mode="attention").value.mean()]
        for method in ("", *METHODS):
            rows = of(metrics, metric=f"merged_{metric}", mode="attention", method=method)
            own.append(rows.value.mean())
        assert line(row[3], "attention", view).get_ydata() == pytest.approx(own)
    names = [label.get_text() for label in panels[2, 3].get_xticklabels()]
    assert names == ["Individual", "Task arithmetic", "TIES", "Iso-C"]


def test_alignment_and_improvement_are_those_of_each_method_and_task(tmp_path):
    view, metrics = made(tmp_path, seeds=2)
    figure = figures.draw("alignment", metrics, view)
    for panel, mode in zip(figure.axes, view.modes, strict=True):
        x, y = [], []
        for method, task in itertools.product(["", *METHODS], view.tasks):
            keys = {"task": task, "mode": mode, "split": "test"}
            own = of(metrics, metric="single_task_accuracy", **keys).value.to_numpy()
            merged = of(metrics, metric="unified_accuracy", method=method, **keys).value.to_numpy()
            (zero,) = of(
                metrics, metric="pretrained_accuracy", **keys | {"mode": "pretrained"}
            ).value
            y.append(100 * np.mean((merged - zero) / (own - zero)))
            keys = {"metric": "subspace_alignment", "mode": mode, "method": method, "task": task}
            x.append(of(metrics, **keys).value.mean())
        small, means = panel.lines[:2]
        assert np.allclose(small.get_data(), [x, y])
        assert np.allclose(means.get_data(), np.reshape([x, y], (2, 3, 4)).mean(axis=2))
        r = f"{np.corrcoef(x, y)[0, 1]:.2f}".replace("-", "−")
        assert panel.get_title().endswith(f"r = {r} (n = 12)")


@pytest.mark.parametrize("own", [0.5, 0.4])
def test_a_task_that_fine_tuning_does_not_improve_is_left_out_and_counted(tmp_path, own):
    task = views.TASKS[1]

    def equal(row):
        values = {"pretrained_accuracy": 0.5, "single_task_accuracy": own}
        if row["metric"] in values and row["task"] == task:
            return {**row, "value": values[row["metric"]]}
        return row

    view, metrics = made(tmp_path, change=equal)
    points = points_of(Measured(metrics, view), "ntk")
    assert points.left_out == 1 and points.aligned.shape == points.improved.shape == (3, 3)
    assert np.isfinite(points.improved).all()
    figure = figures.draw("alignment", metrics, view)
    title = figure.axes[0].get_title()
    assert title.endswith("(n = 9)\n1 task without improvement left out")


@pytest.mark.parametrize("name", NAMES)
def test_modes_that_move_no_matrix_have_nothing_to_show(name, tmp_path):
    only = {"modes": {"norms": "Layer norms"}, "merging": {}, "kernel_modes": []}
    view, metrics = made(tmp_path, **only)
    figure = figures.draw(name, metrics, view)
    assert "No mode of this run moves" in figure.axes[0].texts[0].get_text()


def test_what_is_switched_off_is_not_drawn(tmp_path):
    texts = views.TEXTS | {"analyses": ["layers"]}
    view = view_of(views.make_settings(analyses=["spectra", "alignment"], language=texts))
    names = figure_names(view)
    assert {"spectra", "alignment", "layers_language"} <= set(names)
    assert not {"layers", "spectra_language", "alignment_language"} & set(names)
    assert any(sentence.startswith("Figure layers: needs") for sentence in left_out(view))


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_captions_name_what_is_shown(name, seeds):
    view = view_of(
        views.make_settings(seeds=seeds, analyses=NAMES, merging=views.make_merging("ties"))
    )
    caption = figure_caption(name, view)
    assert "encoder small" in caption and "α" in caption
    assert ("over 3 seeds" in caption) == (seeds == 3)
