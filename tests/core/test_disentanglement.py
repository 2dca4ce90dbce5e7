"""Disentanglement error ξ(α1, α2) of two tasks (paper, Eq. 2)."""

import itertools

import numpy as np
import pytest
import tiny
import torch
from test_evaluate import images_of, naive_features, summed

from task_arithmetic.core.disentanglement import (
    MODULES,
    Errors,
    Sample,
    changed,
    disentanglement_errors,
    divergence,
)
from task_arithmetic.files.manifest import sample_indices
from task_arithmetic.files.tensors import read_tensors
from task_arithmetic.stages import disentanglement as module
from task_arithmetic.stages.disentanglement import disentanglement, reference_weights
from task_arithmetic.stages.evaluate import vector_of
from task_arithmetic.vision import modality as vision
from task_arithmetic.vision.clip import classify

GRID = {"low": -2.0, "high": 2.0, "points": 5}
ALPHAS = [-2.0, -1.0, 0.0, 1.0, 2.0]


# --- Few-line versions ---------------------------------------------------------------------------


def softmax(features):
    powers = np.exp(features - features.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def kl(individual, unified):
    """Mean over images of Σ p ln(p / q), p of the individual model, q of the unified one."""
    p, q = softmax(individual), softmax(unified)
    return np.mean(
        [
            sum(a * np.log(a / b) for a, b in zip(x, y, strict=True))
            for x, y in zip(p, q, strict=True)
        ]
    )


def disagreement(individual, unified, head):
    same = 0
    for x, y in zip(individual, unified, strict=True):
        same += (head @ x).argmax() == (head @ y).argmax()
    return 1 - same / len(individual)


def naive_grid(mode, linearized, images=None, scale=1.0, symmetric=False):
    """ξ by a triple loop with one copy of open_clip's module for each model; of the first images,
    scaled, with the mean of both directions of the divergence."""
    tasks = ("one", "two")
    errors = {"representation": np.zeros((5, 5)), "classification": np.zeros((5, 5))}
    for i, a in enumerate(ALPHAS):
        for j, b in enumerate(ALPHAS):
            for t, task in enumerate(tasks):
                pixels, _ = images_of(task, "test")
                pixels = pixels[:images]
                path = tiny.workspace() / "suite" / "heads" / f"{task}.safetensors"
                head = read_tensors(path)["head"].double().numpy()
                alone = summed(mode, [task], [(a, b)[t]])
                both = summed(mode, tasks, [a, b])
                individual, unified = (
                    naive_features(tau, 1.0, pixels, linearized).double().numpy()
                    for tau in (alone, both)
                )
                distance = kl(individual, unified)
                if symmetric:
                    distance = (distance + kl(unified, individual)) / 2
                errors["representation"][i, j] += scale * distance
                errors["classification"][i, j] += scale * disagreement(individual, unified, head)
    return errors


def grids(path):
    frame = tiny.frame_of(path)
    return {
        name: frame[frame.metric == f"{name}_disentanglement"]
        .pivot(index="alpha", columns="other_alpha", values="value")
        .to_numpy()
        for name in ("representation", "classification")
    }


def settings(linearized=False, **more):
    return {"linearized": linearized, "limit": None, "samples": 2048, **GRID, **more}


# --- The two distances ---------------------------------------------------------------------------


def test_divergence_is_kl_of_the_softmax_of_raw_features():
    generator = np.random.default_rng(0)
    x, y = 3 * generator.standard_normal((2, 50, 16))
    ours = float(divergence(torch.from_numpy(x), torch.from_numpy(y)).mean())
    assert ours == pytest.approx(kl(x, y), rel=1e-12)
    assert ours != pytest.approx(kl(y, x), rel=1e-3)  # not symmetric: from individual to unified
    assert ours != pytest.approx(kl(x / np.linalg.norm(x), y / np.linalg.norm(y)), rel=1e-3)


def test_divergence_is_0_between_equals_and_never_negative():
    features = torch.randn(20, 16)
    assert (divergence(features, features) == 0).all()
    for scale in (1e-6, 1e-3, 100.0):
        assert (divergence(features, features + scale * torch.randn(20, 16)) >= 0).all()


def test_divergence_stays_finite_far_from_theta0():
    far = torch.tensor([[500.0, -500.0], [0.0, 80.0]])
    assert float(divergence(far, -far).mean()) == pytest.approx((1000 + 80) / 2)


def test_changed_is_the_share_of_other_predictions():
    generator = np.random.default_rng(1)
    x, y, head = (generator.standard_normal(s) for s in ((60, 16), (60, 16), (5, 16)))
    a, b, rows = (torch.from_numpy(t) for t in (x, y, head))
    ours = float(changed(classify(a, rows), classify(b, rows)).mean())
    assert ours == pytest.approx(disagreement(x, y, head), abs=1e-12)
    assert 0.5 < ours < 1
    # predictions depend on the direction of a feature alone
    assert not changed(classify(a, rows), classify(9 * a, rows)).any()


# --- The grid ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """mode → metrics file over the whole grid."""
    folder, found = tmp_path_factory.mktemp("grids"), {}
    for mode in tiny.MODES:
        found[mode] = folder / f"{mode}.csv"
        linearized = tiny.MODES[mode]["linearized"]
        disentanglement(**tiny.common(mode=mode), settings=settings(linearized), output=found[mode])
    return found


@pytest.mark.parametrize("mode", tiny.MODES)
def test_the_grid_is_that_of_a_naive_triple_loop(mode, ours):
    expected = naive_grid(mode, tiny.MODES[mode]["linearized"])
    found = grids(ours[mode])
    assert expected["representation"].max() > 1e-4 and expected["classification"].max() > 0.05
    assert np.abs(found["representation"] - expected["representation"]).max() < (
        1e-4 * expected["representation"].max()
    )
    assert np.abs(found["classification"] - expected["classification"]).max() < 1e-9


@pytest.mark.parametrize("mode", tiny.MODES)
def test_xi_is_0_at_0_and_nowhere_negative(mode, ours):
    for grid in grids(ours[mode]).values():
        assert grid.shape == (5, 5)
        assert grid[2, 2] == 0
        assert (grid >= 0).all()


@pytest.mark.parametrize("mode", tiny.MODES)
@pytest.mark.parametrize("t", [0, 1], ids=["first task", "second task"])
def test_a_tasks_term_is_exactly_0_where_the_other_coefficient_is_0(mode, t, monkeypatch, tmp_path):
    """With the other task's images gone, ξ is the term of this one."""
    original = module.disentanglement_errors

    def only(encoder, taus, samples, *rest, **options):
        empty = [Sample(*(rows[:0] for rows in each[:3]), each.head) for each in samples]
        empty[t] = samples[t]
        return original(encoder, taus, empty, *rest, **options)

    monkeypatch.setattr(module, "disentanglement_errors", only)
    linearized = tiny.MODES[mode]["linearized"]
    disentanglement(
        **tiny.common(mode=mode), settings=settings(linearized), output=tmp_path / "a.csv"
    )
    for grid in grids(tmp_path / "a.csv").values():
        other_is_0 = grid[:, 2] if t == 0 else grid[2, :]
        assert (other_is_0 == 0).all()
        assert grid.max() > 0


def test_the_rows_say_what_they_are(ours):
    frame = tiny.frame_of(ours["ntk"])
    assert len(frame) == 4 * 25
    assert set(frame["mode"]) == {"ntk"} and set(frame["split"]) == {"test"}
    assert set(frame["task"]) == {"one"} and set(frame["other_task"]) == {"two"}
    assert sorted(set(frame["alpha"])) == sorted(set(frame["other_alpha"])) == ALPHAS


def test_the_papers_grid_is_15_equispaced_values_with_an_exact_0(tmp_path, monkeypatch):
    seen = []

    def remember(encoder, taus, samples, alphas, *rest, **options):
        seen.append(alphas)
        return Errors(*np.zeros((4, 15, 15)), per_image=[])

    monkeypatch.setattr(module, "disentanglement_errors", remember)
    disentanglement(**tiny.common(), settings=settings(points=15), output=tmp_path / "a.csv")
    (alphas,) = seen
    assert alphas == pytest.approx([-2 + 4 * i / 14 for i in range(15)], abs=1e-9)
    assert 0.0 in alphas and alphas[0] == -2 and alphas[-1] == 2


def test_the_same_grid_twice_is_the_same_file(ours, tmp_path):
    disentanglement(**tiny.common(mode="attention"), settings=settings(), output=tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_bytes() == ours["attention"].read_bytes()


def test_batches_change_nothing_but_rounding(ours, tmp_path, monkeypatch):
    monkeypatch.setattr(vision, "BATCH", 7)
    disentanglement(**tiny.common(mode="attention"), settings=settings(), output=tmp_path / "a.csv")
    for name, grid in grids(tmp_path / "a.csv").items():
        assert np.abs(grid - grids(ours["attention"])[name]).max() < 1e-6, name


# --- Accuracy and loss, and each image -----------------------------------------------------------


@pytest.mark.parametrize("mode", ["ntk", "attention"])
def test_accuracy_and_loss_of_the_plane_are_those_of_each_model(mode, ours):
    frame = tiny.frame_of(ours[mode]).set_index(["metric", "alpha", "other_alpha"])["value"]
    for a, b in itertools.product([-1.0, 0.0, 2.0], repeat=2):
        tau, accuracy, loss = summed(mode, ["one", "two"], [a, b]), [], []
        for task in ("one", "two"):
            pixels, labels = images_of(task, "test")
            path = tiny.workspace() / "suite" / "heads" / f"{task}.safetensors"
            features = naive_features(tau, 1.0, pixels, tiny.MODES[mode]["linearized"]).double()
            logits = classify(features, read_tensors(path)["head"].double()).numpy()
            accuracy.append(np.mean(logits.argmax(1) == labels))
            wrong = [np.log(np.exp(x - x[y]).sum()) for x, y in zip(logits, labels, strict=True)]
            loss.append(np.mean(wrong))
        assert frame["plane_accuracy", a, b] == pytest.approx(np.mean(accuracy), abs=1e-9)
        assert frame["plane_loss", a, b] == pytest.approx(np.mean(loss), rel=1e-4)


@pytest.mark.parametrize("symmetric", [False, True])
def test_means_over_images_are_means_over_cells_and_weights_do_not_count(monkeypatch, symmetric):
    """Of a sample of one image, ξ itself is its distance; over several batches."""
    monkeypatch.setattr(vision, "BATCH", 3)
    monkeypatch.setattr(vision, "CHUNK_BYTES", 1)
    model = vision.read_encoder(tiny.shared_suite()["encoder_dir"])
    taus = [vector_of(tiny.shared_vector("attention", task), model) for task in ("one", "two")]
    every = tiny.common()
    samples = []
    for head, data_dir in zip(every["heads"], every["data_dirs"], strict=True):
        images, labels, rows = model.modality.read_examples(head, data_dir, "test")
        samples.append(Sample(np.array(images[:5]), np.full(5, 0.3), labels[:5], rows))
    alphas, inside = [-1.0, 0.0, 0.5, 1.0], slice(1, None)
    found = disentanglement_errors(model, taus, samples, alphas, False, symmetric)
    of_weights = [each._replace(weights=each.weights / 7) for each in samples]
    again = disentanglement_errors(model, taus, of_weights, alphas, False, symmetric)
    assert (again.loss == found.loss).all() and (again.accuracy == found.accuracy).all()
    for t, n in itertools.product(range(2), [0, 4]):
        alone = [Sample(*(rows[:0] for rows in each[:3]), each.head) for each in samples]
        alone[t] = Sample(samples[t].images[[n]], np.ones(1), *samples[t][2:])
        alone[t] = alone[t]._replace(labels=samples[t].labels[[n]])
        cells = disentanglement_errors(model, taus, alone, alphas, False, symmetric)
        for name in MODULES:
            grid, of = getattr(cells, name), found.per_image[t]
            assert getattr(of, name).dtype == np.float32 and len(getattr(of, name)) == 5
            assert getattr(of, name)[n] == pytest.approx(grid.mean(), rel=1e-4, abs=1e-7)
            within = getattr(of, f"{name}_inside")[n]
            assert within == pytest.approx(grid[inside, inside].mean(), rel=1e-4, abs=1e-7)
        assert (again.per_image[t].representation == found.per_image[t].representation).all()


# --- The images ----------------------------------------------------------------------------------


def test_only_the_sampled_test_images_are_read(tmp_path, monkeypatch):
    seen, original = [], module.disentanglement_errors

    def remember(encoder, taus, samples, *rest, **options):
        seen.extend(images for images, *_ in samples)
        return original(encoder, taus, samples, *rest, **options)

    monkeypatch.setattr(module, "disentanglement_errors", remember)
    disentanglement(**tiny.common(), settings=settings(samples=9), output=tmp_path / "a.csv")
    for images, task in zip(seen, ("one", "two"), strict=True):
        stored = np.load(tiny.workspace() / "suite" / "data" / task / "test_images.npy")
        assert np.array_equal(images, stored[sample_indices(len(stored), 9)])


# --- As the published code normalises ------------------------------------------------------------


@pytest.mark.parametrize("count", [40, 128, 300, 2048, 2100, 19_850])
def test_reference_weights_sum_batch_means_over_all_batches(count):
    weights = reference_weights(count)
    values = np.random.default_rng(0).random(count)
    batches = [values[i : i + 128] for i in range(0, count, 128)]
    expected = sum(batch.mean() for batch in batches[:16]) / len(batches)
    assert weights @ values[: len(weights)] == pytest.approx(expected, rel=1e-12)
    assert len(weights) == min(count, 2048)


def test_sun397_is_understated_tenfold_by_the_published_normalisation():
    assert reference_weights(19_850).sum() == pytest.approx(16 / 156)
    assert reference_weights(1880).sum() == pytest.approx(1)


def test_reference_scaling_is_the_published_normalisation(tmp_path, monkeypatch):
    """Symmetric divergence, unshuffled first batches; on a small batch size, so that it cuts."""
    monkeypatch.setattr(module, "REFERENCE_BATCH", 6)
    monkeypatch.setattr(module, "REFERENCE_BATCHES", 3)
    disentanglement(
        **tiny.common(mode="attention"),
        settings=settings(reference_scaling=True),
        output=tmp_path / "a.csv",
    )
    found = grids(tmp_path / "a.csv")
    naive = naive_grid("attention", False, images=18, scale=3 / 7, symmetric=True)
    for name, grid in found.items():
        assert np.abs(grid - naive[name]).max() < 1e-4 * naive[name].max(), name
