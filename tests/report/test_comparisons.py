"""Intervals and comparisons from the answers to single examples."""

import answered
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import views
from test_tables import REFERENCE

from task_arithmetic.analysis.uncertainty import DRAWS, interval, over_seeds, seed_draws
from task_arithmetic.config.view import view_of
from task_arithmetic.errors import UserError
from task_arithmetic.files.outcomes import write_outcomes
from task_arithmetic.report import comparisons, tables
from task_arithmetic.report.cells import Measured, load_metrics
from task_arithmetic.report.claims import claims, in_samples
from task_arithmetic.report.reference import read_reference
from task_arithmetic.report.resampled import Resampled, draws_of, read_draws

SMALL = {"tasks": 3, "encoders": 1, "ablations": {}, "pairs": {}}


class Made:
    """A run's answers, metrics, and what the stage makes of them."""

    def __init__(self, folder, **changes):
        self.settings = views.make_settings(**{**SMALL, **changes})
        self.named, self.rows = answered.make_answers(
            views.make_rows(self.settings, points=3, alphas=5)
        )
        self.folder, self.view = folder, view_of(self.settings)
        views.write_metrics(folder / "metrics.csv", self.rows)
        self.metrics = load_metrics(folder / "metrics.csv")
        write_outcomes(folder / "a.safetensors", self.named[::2])
        write_outcomes(folder / "b.safetensors", self.named[1::2])
        self.run()

    def run(self):
        comparisons.write(
            [self.folder / "a.safetensors", self.folder / "b.safetensors"],
            self.folder / "metrics.csv",
            self.settings,
            self.folder / "intervals.csv",
            self.folder / "comparisons.csv",
            self.folder / "draws.safetensors",
        )
        texts = {"keep_default_na": False, "na_values": {k: [""] for k in ("value", "low", "high")}}
        self.intervals = pd.read_csv(self.folder / "intervals.csv", dtype={"seed": str}, **texts)
        self.compared = pd.read_csv(self.folder / "comparisons.csv")
        self.draws = read_draws(self.folder / "draws.safetensors")

    def named_test(self):
        return [(cell, found) for cell, found in self.named if cell.split == "test"]

    def answers(self, metric, mode, task, seed=0, method="", split="test"):
        (found,) = [
            each.found[0] for cell, each in self.named
            if (cell.metric, cell.mode, cell.task, cell.method) == (metric, mode, task, method)
            and cell.split == split and cell.seed in (seed, None)
        ]  # fmt: skip
        return found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    merging = views.make_merging("ties", "per_task")
    return Made(tmp_path_factory.mktemp("made"), merging=merging)


@pytest.fixture(scope="module")
def of_seeds(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("seeds"), seeds=3)


def test_every_test_accuracy_has_an_interval_around_it(made):
    rows = made.metrics[
        (made.metrics["split"] == "test") & made.metrics["metric"].str.endswith("accuracy")
    ]
    keys = ["metric", "encoder", "mode", "method", "task", "other_task", "seed"]
    found = made.intervals[made.intervals["task"] != ""].set_index(keys)
    assert len(found) == len(rows) > 50
    for row in rows.itertuples():
        one = found.loc[tuple(getattr(row, key) for key in keys)]
        assert one["value"] == pytest.approx(row.value, abs=1e-9)
        assert one["low"] <= row.value <= one["high"]
        assert one["low"] < one["high"] or row.value in (0, 1)


def test_an_interval_is_that_of_resampled_examples(made):
    """Of one mean over tasks, drawn anew in another way: index by index."""
    own = made.intervals[
        (made.intervals["metric"] == "unified_accuracy") & (made.intervals["task"] == "")
    ]
    own = own[(own["mode"] == "ntk") & (own["method"] == "")].iloc[0]
    generator, tasks = np.random.default_rng(7), made.view.tasks
    answers = [made.answers("unified_accuracy", "ntk", task) for task in tasks]
    assert own["value"] == pytest.approx(np.mean(answers))
    means = [
        np.mean([each[generator.integers(0, len(each), len(each))].mean() for each in answers])
        for _ in range(4000)
    ]
    low, high = np.percentile(means, [2.5, 97.5])
    assert (own["low"], own["high"]) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_a_comparison_is_paired(made):
    rows = made.compared.set_index(["metric", "first", "second"])
    row = rows.loc["unified_accuracy", "nonlinear", "attention"]
    tasks = made.view.tasks
    gaps = [
        made.answers("unified_accuracy", "nonlinear", task).astype(int)
        - made.answers("unified_accuracy", "attention", task) for task in tasks
    ]  # fmt: skip
    assert row["difference"] == pytest.approx(np.mean(gaps), abs=1e-9)
    spread = np.sqrt(sum(gap.var() / len(gap) for gap in gaps)) / len(tasks)
    assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * spread, rel=0.15)
    every = np.concatenate(gaps)
    won, lost = int((every > 0).sum()), int((every < 0).sum())
    assert (row["images_for"], row["images_against"]) == (won, lost)
    assert row["images_p"] == pytest.approx(scipy.stats.binomtest(won, won + lost).pvalue)
    means = np.array([gap.mean() for gap in gaps])
    assert (row["tasks_for"], row["tasks_against"]) == ((means > 0).sum(), (means < 0).sum())
    assert row["seeds_for"] + row["seeds_against"] == 1


def test_all_modes_and_methods_are_compared_once(made):
    rows = made.compared[made.compared["metric"] == "unified_accuracy"]
    pairs = {frozenset(pair) for pair in zip(rows["first"], rows["second"], strict=True)}
    assert len(pairs) == len(rows)
    modes = ["nonlinear", "ntk", "attention"]
    for one, two in [("nonlinear", "ntk"), ("ntk", "posthoc"), ("attention/ties", "attention"),
                     ("ntk/ties", "nonlinear/ties"), ("ntk/per_task", "ntk")]:  # fmt: skip
        assert frozenset((one, two)) in pairs
    # 4 with posthoc under the sum, 3 under each of 2 methods, and each method against the sum
    assert len(rows) == 6 + 2 * 3 + 2 * len(modes)
    assert "ties" not in set(rows["first"]) | set(rows["second"])


def test_the_control_task_has_one_answer_an_image(made):
    row = made.compared.set_index(["metric", "first", "second"]).loc[
        "control_accuracy", "nonlinear", "ntk"
    ]
    assert row["images_for"] + row["images_against"] <= answered.EXAMPLES


def test_seeds_are_resampled_too(of_seeds):
    """Values of a sample are means over seeds drawn with replacement, the same for all modes."""
    run = Resampled(of_seeds.metrics, of_seeds.view, draws=draws_of(of_seeds.named_test()))
    found = run.unified("small", "ntk")
    assert found.shape == (DRAWS, 3)
    chosen = seed_draws(3)
    task = of_seeds.view.tasks[1]
    each = [
        draws for key, draws in run.draws.items()
        if key.metric == "unified_accuracy" and key.mode == "ntk" and key.task == task
        and key.split == "test" and not key.method
    ]  # fmt: skip
    every = np.array([np.mean([draws[d] for draws in each]) for d in range(20)])
    drawn = np.array([np.mean([each[s][d] for s in chosen[d]]) for d in range(20)])
    stretch = np.sqrt(3 / 2) * scipy.stats.t.ppf(0.975, 2) / scipy.stats.norm.ppf(0.975)
    assert found[:20, 1] == pytest.approx(every + stretch * (drawn - every), rel=1e-4)
    wide = interval(found.mean(axis=1))
    assert (
        wide[0] < Measured(of_seeds.metrics, of_seeds.view).unified("small", "ntk").mean() < wide[1]
    )


def test_cells_without_answers_are_as_measured(made):
    run = Resampled(made.metrics, made.view, draws={})
    plain = Measured(made.metrics, made.view)
    assert (run.unified("small", "ntk") == plain.unified("small", "ntk")).all()
    grid, curve = run.curve("unified_accuracy", "small", "ntk")
    assert (curve == plain.curve("unified_accuracy", "small", "ntk").values).all()


def test_models_that_answered_other_examples_are_not_compared(tmp_path):
    made = Made(tmp_path, modes={m: views.MODES[m] for m in ("nonlinear", "attention")})
    at = next(
        i
        for i, (c, _) in enumerate(made.named)
        if (c.metric, c.mode, c.split) == ("single_task_accuracy", "attention", "test")
    )
    cell, found = made.named[at]
    made.named[at] = cell._replace(sample="0123"), found
    write_outcomes(tmp_path / "a.safetensors", made.named[::2])
    write_outcomes(tmp_path / "b.safetensors", made.named[1::2])
    with pytest.raises(UserError, match="different examples"):
        made.run()


def test_tables_have_intervals_after_their_own_columns(made):
    paper = read_reference(REFERENCE)
    plain = tables.make_table("table2", made.metrics, paper, made.view)
    table = tables.make_table("table2", made.metrics, paper, made.view, made.draws)
    assert list(table)[: len(list(plain))] == list(plain)
    assert list(table)[len(list(plain)) :] == [
        "absolute_low", "absolute_high", "normalized_low", "normalized_high",
    ]  # fmt: skip
    assert (table["absolute_low"] < table["absolute"]).all()
    assert (table["absolute"] < table["absolute_high"]).all()
    text = tables.to_markdown("table2", table, made.view)
    assert text == tables.to_markdown("table2", plain, made.view), "what is printed keeps its form"


@pytest.mark.parametrize("name", ["table1", "tasks", "negation", "merging"])
def test_every_table_of_accuracies_has_intervals(made, name):
    paper = pd.DataFrame(columns=["table", "encoder", "mode", "column", "value"])
    table = tables.make_table(name, made.metrics, paper, made.view, made.draws)
    low = [column for column in table if column.endswith("_low")]
    assert low
    for column in low:
        there = table[table[column].notna()]
        own = there[column.removesuffix("_low")]
        assert len(there)
        assert (there[column] <= own + 1e-6).all()
        assert (own <= there[column.replace("_low", "_high")] + 1e-6).all()


def verdict_of(made, words):
    table4 = tables.make_table("table4", made.metrics, read_reference(REFERENCE), made.view)
    found = claims(made.metrics, made.view, table4, made.draws)
    (claim,) = [each for each in found if words in each.claim]
    return claim


@pytest.mark.parametrize(
    "gain, verdict", [(0.12, "holds"), (-0.12, "does not hold"), (0.0, "cannot be told")]
)
def test_a_claim_holds_if_its_intervals_do(tmp_path, monkeypatch, gain, verdict):
    """The same accuracies for all modes but for a gain from one to the next."""
    place = {"nonlinear": 0, "ntk": 1, "attention": 2}

    def level(rows):
        for row in rows:
            if row["metric"] == "unified_accuracy" and row["mode"] in place:
                row["value"] = 0.6 + gain * place[row["mode"]]
        return rows

    make = views.make_rows
    monkeypatch.setattr(views, "make_rows", lambda *a, **k: level(make(*a, **k)))
    claim = verdict_of(Made(tmp_path), "absolute accuracy")
    assert claim.holds == verdict
    assert claim.numbers.count("[") == 3, "three differences, each with its interval"


def test_without_answers_nothing_is_told_of_accuracies(made):
    table4 = tables.make_table("table4", made.metrics, read_reference(REFERENCE), made.view)
    found = claims(made.metrics, made.view, table4)
    told = [each for each in found if each.holds != "cannot be told"]
    assert not told


def test_images_with_a_control_task_and_texts_are_compared_side_by_side(tmp_path):
    made = Made(tmp_path, language=views.TEXTS)
    texts = made.compared[made.compared["encoder"] == "t5"]
    assert set(texts["metric"]) == {
        "single_task_accuracy",
        "unified_accuracy",
        "normalized_accuracy",
    }
    assert "control_accuracy" in set(made.compared["metric"])


def test_a_claim_does_not_hold_by_noise_alone(tmp_path, monkeypatch):
    """Nonlinear: f and f_lin are as accurate as each other, and right on other images, so that in
    samples they differ; attention is off by little, on the same images."""
    made = Made(tmp_path)
    for i, (cell, found) in enumerate(made.named):
        right = np.arange(answered.EXAMPLES)[None] < 90
        if cell.metric == "posthoc_accuracy" and cell.mode == "nonlinear":
            made.named[i] = cell, found._replace(found=right[:, ::-1])
        elif cell.metric == "posthoc_accuracy":
            made.named[i] = cell, found._replace(found=np.arange(answered.EXAMPLES)[None] < 89)
        elif cell.metric == "single_task_accuracy":
            made.named[i] = cell, found._replace(found=right)
    values = {
        (c.metric, c.encoder, c.mode, c.task, c.split): f.accuracy()[0] for c, f in made.named
    }
    for row in made.rows:
        at = tuple(row[key] for key in ("metric", "encoder", "mode", "task", "split"))
        if row["metric"] in ("posthoc_accuracy", "single_task_accuracy"):
            row["value"] = values[at]
    views.write_metrics(tmp_path / "metrics.csv", made.rows)
    made.metrics = load_metrics(tmp_path / "metrics.csv")
    write_outcomes(tmp_path / "a.safetensors", made.named[::2])
    write_outcomes(tmp_path / "b.safetensors", made.named[1::2])
    made.run()
    claim = verdict_of(made, "Kernel behaviour")
    assert "Non-linear fine-tuning 0.0\N{NO-BREAK SPACE}points" in claim.numbers
    assert claim.holds != "holds"


def test_a_statistic_of_seeds_is_of_each_by_itself(of_seeds):
    """|f − f_lin| of seeds that are off to both sides is not 0 in any sample."""
    samples = Resampled(of_seeds.metrics, of_seeds.view, draws=of_seeds.draws)

    def off(run):
        gap = run.individual("small", "nonlinear") - run.through_f_lin("small", "nonlinear")
        return {"nonlinear": np.abs(gap).mean(axis=1)}

    each = np.stack([off(one)["nonlinear"] for one in samples.of_seeds()])
    assert each.shape == (3, DRAWS)
    assert in_samples(samples, off)["nonlinear"] == pytest.approx(over_seeds(each))


def test_four_tasks_say_nothing_of_cosines(made):
    assert verdict_of(made, "cosine").holds == "cannot be told"
