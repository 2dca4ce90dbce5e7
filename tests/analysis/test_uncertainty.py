"""Bootstrap and sign test, each against a few lines of its own."""

import itertools

import numpy as np
import pytest
import scipy.stats

from task_arithmetic.analysis import uncertainty as u
from task_arithmetic.core.outcomes import Outcomes, spearman


def bits(shares, n=400, seed=0):
    return Outcomes(
        np.random.default_rng(seed).random((len(shares), n)) < np.array(shares)[:, None]
    )


def test_a_sample_counts_each_example_as_often_for_all_models():
    """A model that is right where another is wrong: their sum is 1 in every sample."""
    a = bits([0.3])
    first, second = u.resampled([a, Outcomes(~a.found)], seed=5, draws=50)
    assert first.shape == (50, 1)
    assert first + second == pytest.approx(1, abs=1e-12)
    assert first.std() > 0


def test_draws_of_an_accuracy_are_binomial():
    """Resampling N bits of which K are 1 draws from Binomial(N, K/N) / N."""
    found = bits([0.7], n=300)
    p = found.accuracy()[0]
    (draws,) = u.resampled([found], seed=1, draws=4000)
    counts = np.arange(301)
    shares = (draws * 300 <= counts + 1e-6).mean(axis=0)
    assert np.abs(shares - scipy.stats.binom.cdf(counts, 300, p)).max() < 0.03
    assert draws.mean() == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / 300 / 4000))
    assert draws.std() == pytest.approx(np.sqrt(p * (1 - p) / 300), rel=0.06)


def test_a_paired_interval_is_that_of_the_differences():
    a = bits([0.6, 0.62], n=500).found
    first, second = u.resampled([Outcomes(a[:1]), Outcomes(a[1:])], seed=2)
    d = a[0].astype(float) - a[1]
    low, high = u.interval(first[:, 0] - second[:, 0])
    half = 1.96 * d.std() / np.sqrt(500)
    assert low == pytest.approx(d.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(d.mean() + half, abs=0.15 * half)


def test_draws_are_the_same_whatever_is_resampled_beside_and_in_pieces(monkeypatch):
    a, b = bits([0.4, 0.5, 0.9], n=101), bits([0.2], n=101, seed=4)
    alone = u.resampled([a], seed=9, draws=60)[0]
    assert (u.resampled([b, a], seed=9, draws=60)[1] == alone).all()
    monkeypatch.setattr(u, "AT_ONCE", 101 * 7)
    assert (u.resampled([a], seed=9, draws=60)[0] == alone).all()
    assert (u.resampled([a], seed=8, draws=60)[0] != alone).any()


def test_an_interval_covers_the_truth_as_often_as_it_says():
    generator, hits = np.random.default_rng(3), 0
    for trial in range(200):
        found = Outcomes(generator.random((1, 250)) < 0.65)
        low, high = u.interval(u.resampled([found], seed=trial, draws=400)[0][:, 0])
        hits += low <= 0.65 <= high
    assert 0.90 <= hits / 200 <= 0.99


def test_spearman_of_samples_is_that_of_the_resampled_texts():
    generator = np.random.default_rng(0)
    a, b = generator.integers(0, 6, 40).astype(float), generator.integers(0, 9, 40) / 2
    counts = generator.multinomial(40, [1 / 40] * 40, size=30)
    expected = [
        scipy.stats.spearmanr(np.repeat(a, row), np.repeat(b, row)).statistic for row in counts
    ]
    assert u.weighted_spearman(a, b, counts) == pytest.approx(expected, abs=1e-12)
    assert u.weighted_spearman(np.ones(40), b, counts).tolist() == [0.0] * 30
    once = np.ones((1, 40), int)
    assert u.weighted_spearman(a, b, once)[0] == pytest.approx(spearman(a, b), abs=1e-12)


def test_scores_and_bits_of_the_same_examples_share_their_samples():
    truth = np.arange(50.0)
    right = Outcomes((np.arange(50) < 25)[None])
    scores = Outcomes(np.where(np.arange(50) < 25, 0.0, truth)[None], truth)
    drawn = u.resampled([scores, right], seed=0, draws=200)
    assert np.corrcoef(drawn[0][:, 0], drawn[1][:, 0])[0, 1] < -0.3


@pytest.mark.parametrize(
    "above, below", [(0, 0), (1, 0), (5, 1), (8, 0), (3, 3), (30, 18), (0, 12), (600, 500)]
)
def test_the_sign_test_is_the_binomial_one(above, below):
    differences = np.array([1.0] * above + [-2.0] * below + [0.0] * 7)
    expected = scipy.stats.binomtest(above, above + below).pvalue if above + below else 1.0
    assert u.sign_test(differences)[:2] == (above, below)
    assert u.sign_test(differences)[2] == pytest.approx(expected, abs=1e-10)


def test_the_sign_test_of_very_many_is_finite():
    assert 0 <= u.sign_test(np.array([1.0] * 40_000 + [-1.0] * 39_000))[2] < 0.001


def test_a_mean_over_pairs_counts_a_pair_as_often_as_both_tasks_are_drawn():
    generator = np.random.default_rng(0)
    values, counts = generator.random((4, 4)), np.array([[2, 1, 1, 0], [1, 1, 1, 1], [4, 0, 0, 0]])
    values = values + values.T
    for row, found in zip(counts, u.mean_over_pairs(values, counts), strict=True):
        drawn = np.repeat(np.arange(4), row)
        pairs = [values[i, j] for i, j in itertools.permutations(drawn, 2) if i != j]
        assert found == pytest.approx(np.mean(pairs)) if pairs else np.isnan(found)


@pytest.mark.parametrize("freedom", [1, 2, 5, 10, 11, 15, 30, 100])
def test_student_has_the_quantiles_of_its_t(freedom):
    assert u.student(freedom) == pytest.approx(scipy.stats.t.ppf(0.975, freedom), abs=1e-3)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_few_seeds_do_not_look_surer_than_they_are(seeds):
    """Differences of seeds alone, of which the true mean is 0: rarely above 0 by chance."""
    generator, above = np.random.default_rng(0), 0
    for _ in range(400):
        values = np.repeat(generator.normal(size=(seeds, 1)), u.DRAWS, axis=1)
        above += u.interval(u.over_seeds(values))[0] > 0
    assert above / 400 < 0.045


def test_one_seed_is_as_it_is():
    values = np.random.default_rng(0).normal(size=(1, 50, 3))
    assert (u.over_seeds(values) == values[0]).all()


def test_a_statistic_that_noise_moves_is_moved_back():
    """|x| of a model that is off by nothing: its samples are not, and their mean is not 0."""
    draws = np.abs(np.random.default_rng(0).normal(0, 1, 4000))
    low, high = u.interval(draws, 0.0)
    assert low < 0 < high
    assert (low + high) / 2 < u.interval(draws)[1] / 2
    assert u.interval(draws, float(draws.mean())) == pytest.approx(u.interval(draws))


def test_a_statistic_that_is_often_undefined_has_no_interval():
    draws = np.arange(1000.0)
    draws[:20] = np.nan
    assert np.isfinite(u.interval(draws)).all()
    draws[:30] = np.nan
    assert np.isnan(u.interval(draws)).all()


def test_seeds_and_tasks_are_drawn_with_replacement():
    seeds = u.seed_draws(3, draws=500)
    assert seeds.shape == (500, 3)
    assert set(np.unique(seeds)) == {0, 1, 2}
    assert any(len(set(row)) < 3 for row in seeds)
    assert (u.seed_draws(1) == 0).all()
    tasks = u.task_draws(5, draws=500)
    assert (tasks.sum(axis=1) == 5).all()
    assert tasks.max() > 1
