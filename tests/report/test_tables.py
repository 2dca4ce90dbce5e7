"""Tables against independent few-line recomputations from the rows, and their errors."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import views

from task_arithmetic.config import available, targets
from task_arithmetic.config.reading import ROOT, read_yaml, validate_config
from task_arithmetic.config.settings import view_settings
from task_arithmetic.config.view import view_of
from task_arithmetic.errors import UserError
from task_arithmetic.report import figures, tables
from task_arithmetic.report.captions import table_caption
from task_arithmetic.report.cells import load_metrics

REFERENCE = Path(__file__).parents[2] / "workflow/reference/paper.csv"
TARGETS = REFERENCE.with_name("targets.csv")
OF_TEXTS = ["table3", "tasks_language"]
OTHERS = [name for name in tables.ROWS if name not in ("targets", *OF_TEXTS)]  # of every run
TABLE2 = "encoder,mode,absolute,normalized,alpha,paper_absolute,paper_normalized"


@pytest.fixture(scope="module")
def one():
    settings = views.make_settings(tasks=4, encoders=2, seeds=1)
    return settings, views.make_rows(settings, points=3)


@pytest.fixture(scope="module")
def three():
    settings = views.make_settings(tasks=3, encoders=3, seeds=3)
    return settings, views.make_rows(settings, points=3, alphas=6)


def make(name, settings, rows, tmp_path):
    path = views.write_metrics(tmp_path / "metrics.csv", rows)
    metrics = load_metrics(path)
    return tables.make_table(name, metrics, tables.read_reference(REFERENCE), view_of(settings))


def write(name, settings, rows, tmp_path):
    """The three files' texts."""
    path = views.write_metrics(tmp_path / "metrics.csv", rows)
    tables.write(name, path, REFERENCE, settings, tmp_path)
    return [(tmp_path / f"{name}.{kind}").read_text() for kind in ("csv", "md", "tex")]


def values(rows, metric, encoder, mode, seed="", split="test", tasks=None):
    """Values of one model on one split, a task each, in the rows' order."""
    keys = {"metric": metric, "encoder": encoder, "mode": mode, "seed": seed, "split": split}
    found = [row for row in rows if all(row[key] == keys[key] for key in keys)]
    return np.array([row["value"] for row in found if tasks is None or row["task"] in tasks])


def paper_settings(tasks=("cars", "dtd", "mnist", "sun397"), **changes):
    """Settings of a run of the paper's suite."""
    tasks = list(tasks)
    pairs = {"fig6": tasks[:2], "fig8": tasks[1::-1]}
    return views.make_settings(suite="paper", **changes) | {"tasks": tasks, "pairs": pairs}


def make_targets(settings, rows, tmp_path):
    metrics = load_metrics(views.write_metrics(tmp_path / "metrics.csv", rows))
    return tables.make_table("targets", metrics, tables.read_targets(TARGETS), view_of(settings))


def row_of(table, **keys):
    for key, value in keys.items():
        table = table[table[key] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_table2_has_exactly_the_promised_columns_and_rows(one, tmp_path):
    settings, rows = one
    text = write("table2", settings, rows, tmp_path)[0]
    assert text.splitlines()[0] == TABLE2
    found = [tuple(line.split(",")[:2]) for line in text.splitlines()[1:]]
    modes = ["pretrained", "nonlinear", "ntk", "attention", "posthoc"]
    assert found == [(encoder, mode) for encoder in settings["encoders"] for mode in modes]
    zero_shot = text.splitlines()[1].split(",")
    assert zero_shot[3:] == ["", "", "48.40", ""]
    assert len(zero_shot[2].split(".")[1]) == 2


def test_table2_is_the_mean_over_tasks_in_percent(one, tmp_path):
    settings, rows = one
    table = make("table2", settings, rows, tmp_path)
    for encoder in settings["encoders"]:
        zero = values(rows, "pretrained_accuracy", encoder, "pretrained", tasks=settings["tasks"])
        row = row_of(table, encoder=encoder, mode="pretrained")
        assert row["absolute"] == pytest.approx(100 * zero.mean())
        for mode in ("nonlinear", "posthoc"):
            row = row_of(table, encoder=encoder, mode=mode)
            unified = values(rows, "unified_accuracy", encoder, mode, 0)
            assert len(unified) == 4
            assert row["absolute"] == pytest.approx(100 * unified.mean())
            if mode == "posthoc":
                alone = values(rows, "posthoc_accuracy", encoder, "nonlinear", 0)
            else:
                alone = values(rows, "single_task_accuracy", encoder, mode, 0)
            assert row["normalized"] == pytest.approx(100 * (unified / alone).mean())


def test_several_seeds_give_mean_and_sample_standard_deviation(three, tmp_path):
    settings, rows = three
    table = make("table2", settings, rows, tmp_path)
    stds = "absolute_std,normalized_std,alpha_std"
    assert ",".join(table.columns) == f"{TABLE2},{stds}"
    row = row_of(table, encoder="base", mode="ntk")
    by_seed = [100 * values(rows, "unified_accuracy", "base", "ntk", s).mean() for s in range(3)]
    assert row["absolute"] == pytest.approx(sum(by_seed) / 3)
    by_hand = (sum((x - sum(by_seed) / 3) ** 2 for x in by_seed) / 2) ** 0.5
    assert row["absolute_std"] == pytest.approx(by_hand)
    assert pd.isna(row_of(table, encoder="base", mode="pretrained")["absolute_std"])
    text, markdown, latex = write("table2", settings, rows, tmp_path)
    assert f"{row['absolute']:.1f} ± {by_hand:.1f}" in markdown
    assert rf"{row['absolute']:.1f} $\pm$ {by_hand:.1f}" in latex
    assert "sample standard deviation over 3 seeds" in markdown
    assert "e-" not in text  # equal numbers have no spread, not 1e-17


def test_alpha_is_the_mean_over_seeds_of_the_chosen_one(three, tmp_path):
    settings, rows = three
    chosen = {
        (row["seed"], row["alpha"])
        for row in rows
        if (row["metric"], row["encoder"], row["mode"], row["split"])
        == ("unified_accuracy", "small", "attention", "test")
    }
    assert len(chosen) == 3  # one a seed
    row = row_of(make("table2", settings, rows, tmp_path), encoder="small", mode="attention")
    assert row["alpha"] == pytest.approx(np.mean([alpha for _, alpha in chosen]))


def test_the_papers_numbers_stand_beside_the_encoder_that_names_them(three, tmp_path):
    settings, rows = three
    table = make("table2", settings, rows, tmp_path)
    row = row_of(table, encoder="base", mode="attention")
    assert (row["paper_absolute"], row["paper_normalized"]) == (80.44, 87.25)  # ViT-B-16
    assert table[table.encoder == "large"][["paper_absolute", "paper_normalized"]].isna().all(None)
    assert table[table["mode"] == "posthoc"]["paper_absolute"].isna().all()
    table = make("table1", settings, rows, tmp_path)
    assert list(table["mode"]) == ["nonlinear", "ntk", "attention"]
    assert list(table["paper_absolute"]) == [70.00, 76.26, 78.37]
    assert set(table["encoder"]) == {"small"}


def test_table5_has_the_ablations_of_the_focus_encoder(one, tmp_path):
    settings, rows = one
    table = make("table5", settings, rows, tmp_path)
    assert list(table["mode"]) == [
        "attention", "attention_bias", "attention_mlp", "attention_mlp_bias"
    ]  # fmt: skip
    assert list(table["paper_single_task"]) == [89.55, 89.48, 88.95, 89.43]
    assert list(table["paper_absolute"]) == [78.37, 77.71, 76.52, 77.80]
    assert list(table["paper_normalized"]) == [87.42, 86.79, 86.11, 86.93]
    alone = values(rows, "single_task_accuracy", "small", "attention_mlp", 0)
    assert table["single_task"][2] == pytest.approx(100 * alone.mean())


def test_table4_has_sizes_in_megabytes_of_a_million_and_the_papers_t5(one, tmp_path):
    settings, rows = one
    altered = [
        row | {"value": 222_903_552.0}
        if (row["metric"], row["mode"]) == ("held_parameters", "nonlinear")
        else row
        for row in rows
    ]
    row = row_of(make("table4", settings, altered, tmp_path), encoder="small", mode="nonlinear")
    assert row["size_mb"] == pytest.approx(891.614, abs=1e-3)
    assert row["size_mb"] == pytest.approx(row["paper_size_mb"], abs=1e-3)
    assert row["paper_training_minutes"] == pytest.approx(17 + 38 / 60)
    seconds = values(rows, "training_seconds", "small", "nonlinear", split="")[0]
    assert row["training_minutes"] == pytest.approx(seconds / 60)
    _, markdown, _ = write("table4", settings, altered, tmp_path)
    assert "222 M | 63.7 M | 891.614 | 10:15" in markdown
    assert "T5-base on GLUE" in markdown


def test_negation_keeps_the_control_accuracy_relative_to_pretrained(three, tmp_path):
    settings, rows = three
    table = make("negation", settings, rows, tmp_path)
    assert list(table)[:8] == (
        "encoder mode target control alpha control_kept paper_target paper_control".split()
    )
    before = values(rows, "pretrained_accuracy", "large", "pretrained", tasks=["scenes"])
    kept = [values(rows, "control_accuracy", "large", "ntk", s).mean() / before for s in range(3)]
    row = row_of(table, encoder="large", mode="ntk")
    assert row["control_kept"] == pytest.approx(100 * np.mean(kept))
    assert row["control_kept_std"] == pytest.approx(100 * np.std(kept, ddof=1))
    target = [values(rows, "negated_accuracy", "large", "ntk", s).mean() for s in range(3)]
    assert row["target"] == pytest.approx(100 * np.mean(target))
    assert table["paper_target"].isna().all()
    row = row_of(table, encoder="large", mode="pretrained")
    assert (row["control_kept"], row["control"]) == (100, pytest.approx(100 * before[0]))
    assert pd.isna(row["alpha"])


def test_tasks_has_the_raw_number_of_every_task(one, tmp_path):
    settings, rows = one
    table = make("tasks", settings, rows, tmp_path)
    focus, other = 7, 4  # modes, posthoc, and the ablations on the focus encoder
    assert len(table) == len(settings["tasks"]) * (focus + other)
    row = row_of(table, encoder="small", task="svhn", mode="attention")
    index = settings["tasks"].index("svhn")
    alone = values(rows, "single_task_accuracy", "small", "attention", 0)[index]
    linear = values(rows, "posthoc_accuracy", "small", "attention", 0)[index]
    assert row["single_task"] == pytest.approx(100 * alone)
    assert row["posthoc"] == pytest.approx(100 * linear)
    assert pd.isna(row_of(table, encoder="small", task="svhn", mode="ntk")["posthoc"])
    assert table.drop(columns="posthoc").notna().all(None)


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("table2", {"metric": "pretrained_accuracy", "encoder": "base", "task": "svhn"}),
        ("table2", {"metric": "unified_accuracy", "mode": "ntk", "seed": 2, "task": "mnist"}),
        ("table1", {"metric": "single_task_accuracy", "mode": "ntk", "seed": 0, "task": "svhn"}),
        ("table2", {"metric": "normalized_accuracy", "mode": "posthoc", "seed": 1}),
        ("table4", {"metric": "peak_memory_bytes", "encoder": "large", "mode": "attention"}),
        ("table5", {"metric": "unified_accuracy", "mode": "attention_mlp", "task": "digits"}),
        ("negation", {"metric": "control_accuracy", "mode": "nonlinear", "task": "svhn"}),
        ("tasks", {"metric": "posthoc_accuracy", "mode": "attention", "task": "svhn"}),
    ],
)
def test_a_missing_cell_is_an_error_that_names_it(name, gone, three, tmp_path):
    settings, rows = three
    rest = [row for row in rows if any(row[key] != gone[key] for key in gone)]
    assert len(rest) < len(rows)
    with pytest.raises(UserError) as error:
        make(name, settings, rest, tmp_path)
    for key, value in gone.items():
        assert str(value) in str(error.value), key
    empty = [row | {"value": ""} if row not in rest else row for row in rows]
    with pytest.raises(UserError):  # a value that is not there is a missing cell too
        make(name, settings, empty, tmp_path)


def test_a_row_that_stands_twice_is_an_error(one, tmp_path):
    settings, rows = one
    with pytest.raises(UserError, match="two rows for encoder small, mode pretrained"):
        make("table2", settings, [*rows, rows[0]], tmp_path)
    other_value = [*rows, rows[0] | {"value": 0.5}]
    with pytest.raises(UserError, match="two rows"):
        make("table2", settings, other_value, tmp_path)


def test_two_chosen_alphas_are_an_error(one, tmp_path):
    settings, rows = one
    chosen = next(r for r in rows if r["metric"] == "unified_accuracy" and r["split"] == "test")
    with pytest.raises(UserError, match="2 values of unified_accuracy"):
        make("table2", settings, [*rows, chosen | {"alpha": 0.95}], tmp_path)
    moved = [row | {"alpha": 0.95} if row is chosen else row for row in rows]
    with pytest.raises(UserError, match="another α"):
        make("table2", settings, moved, tmp_path)


def test_bad_files_are_user_errors(one, tmp_path):
    settings, rows = one
    with pytest.raises(UserError, match="does not exist"):
        tables.write("table2", tmp_path / "no.csv", REFERENCE, settings, tmp_path)
    with pytest.raises(UserError, match="no table table9"):
        make("table9", settings, rows, tmp_path)
    (tmp_path / "broken.csv").write_text("encoder,mode\nsmall,ntk\n")
    with pytest.raises(UserError, match="lacks the column seed"):
        load_metrics(tmp_path / "broken.csv")
    path = views.write_metrics(tmp_path / "text.csv", [rows[0] | {"value": "high"}])
    with pytest.raises(UserError, match="text for a number"):
        load_metrics(path)


@pytest.mark.parametrize("name", OTHERS)
def test_captions_say_whose_numbers_these_are(name, one, tmp_path):
    settings, rows = one
    _, markdown, latex = write(name, settings, rows, tmp_path)
    for text in (markdown, latex):
        assert "embedded suite on small images" in text
    if name in ("table1", "table2", "table5"):
        assert "ViT-B-32 beside small" in markdown and "for orientation only" in markdown
    _, markdown, _ = write(name, settings | {"suite": "paper"}, rows, tmp_path)
    assert "embedded" not in markdown


def test_latex_and_markdown_escape_what_they_must(one, tmp_path):
    settings, rows = one
    modes = settings["modes"] | {"attention": r"100% A_b & c | d"}
    _, markdown, latex = write("table1", settings | {"modes": modes}, rows, tmp_path)
    assert r"100\% A\_b \& c | d" in latex and r"100% A_b & c \| d" in markdown
    assert latex.isascii()
    headings, printed, texts = views.read_markdown(tmp_path / "table1.md")
    assert (texts, len(printed), printed[2][1]) == (2, 3, r"100% A_b & c | d")
    assert len(headings) == len(printed[0])
    body = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert {line.replace(r"\&", "").count("&") for line in body} == {len(headings) - 1}


@pytest.mark.parametrize("name", OTHERS)
def test_every_table_has_equal_bytes_twice(name, three, tmp_path):
    settings, rows = three
    first = write(name, settings, rows, tmp_path)
    assert write(name, settings, list(reversed(rows)), tmp_path) == first


def test_a_mode_of_ones_own_and_no_ablations(tmp_path):
    modes = {"attention": "Ours", "layernorm": "Norms", "nonlinear": "All"}
    settings = views.make_settings(tasks=2, encoders=1, modes=modes, ablations={})
    rows = views.make_rows(settings, points=3, alphas=3)
    table = make("table2", settings, rows, tmp_path)
    wanted = ["pretrained", "nonlinear", "attention", "layernorm", "posthoc"]
    assert list(table["mode"]) == wanted
    assert list(make("table5", settings, rows, tmp_path)["mode"]) == ["attention"]
    with pytest.raises(UserError, match="no row"):
        make("table5", settings | {"modes": {"nonlinear": "All"}}, rows, tmp_path)


def test_the_reference_is_what_the_paper_prints():
    with open(REFERENCE, newline="") as file:
        rows = list(csv.DictReader(file))
    paper = {(r["table"], r["encoder"], r["mode"], r["column"]): r["value"] for r in rows}
    assert len(paper) == len(rows) == 72
    assert paper["table2", "ViT-L-14", "attention", "normalized"] == "93.66"
    for mode, average in (("nonlinear", 73.25), ("ntk", 77.77), ("attention", 85.30)):
        scores = {k[3]: float(v) for k, v in paper.items() if k[0] == "table3" and k[2] == mode}
        assert scores.pop("average") == average
        assert sum(scores.values()) / 7 == pytest.approx(average, abs=0.006)
    for key, value in paper.items():  # the same experiment in several tables
        if key[0] in ("table1", "table5") and key[2] in ("nonlinear", "ntk", "attention"):
            assert paper.get(("table2", *key[1:]), value) == value


# ---------------------------------------------------------------- published accuracies


def test_targets_stand_beside_zero_shot_and_single_task_accuracies(tmp_path):
    settings = paper_settings(encoders=3)  # small: ViT-B-32, base: ViT-B-16, large: none
    rows = views.make_rows(settings, points=3, alphas=3)
    table = make_targets(settings, rows, tmp_path)
    assert list(table) == "encoder mode task measured published difference flag".split()
    modes = ["pretrained", "nonlinear", "ntk", "attention"]
    wanted = [(e, m, t) for e in ("small", "base") for m in modes
              for t in [*settings["tasks"], "average"]]  # fmt: skip
    assert list(table[["encoder", "mode", "task"]].itertuples(False, None)) == wanted
    row = row_of(table, encoder="base", mode="pretrained", task="dtd")
    zero = values(rows, "pretrained_accuracy", "base", "pretrained", tasks=["dtd"])[0]
    assert (row["measured"], row["published"]) == (pytest.approx(100 * zero), 45.1)
    row = row_of(table, encoder="small", mode="ntk", task="sun397")
    alone = values(rows, "single_task_accuracy", "small", "ntk", 0, tasks=["sun397"])[0]
    assert (row["measured"], row["published"]) == (pytest.approx(100 * alone), 76.4)
    assert row["difference"] == pytest.approx(100 * alone - 76.4)
    row = row_of(table, encoder="small", mode="attention", task="average")
    assert row["published"] == pytest.approx((74.3 + 78.6 + 99.7 + 74.7) / 4)  # of these tasks
    alone = values(rows, "single_task_accuracy", "small", "attention", 0)
    assert row["measured"] == pytest.approx(100 * alone.mean())


def test_the_average_of_all_eight_tasks_is_the_published_one(tmp_path):
    settings = paper_settings(targets.TASKS, encoders=1)
    table = make_targets(settings, views.make_rows(settings, points=3, alphas=3), tmp_path)
    assert row_of(table, mode="nonlinear", task="average")["published"] == 90.5
    assert row_of(table, mode="attention", task="average")["published"] == 89.55


@pytest.mark.parametrize(
    ("accuracy", "flag"), [(0.803, "no"), (0.80301, "yes"), (0.763, "no"), (0.76299, "yes")]
)
def test_more_than_two_points_either_way_are_flagged(accuracy, flag, tmp_path):
    settings = paper_settings(encoders=1)
    keys = {"metric": "single_task_accuracy", "mode": "nonlinear", "task": "cars", "split": "test"}
    rows = [
        row | {"value": accuracy} if all(row[k] == v for k, v in keys.items()) else row
        for row in views.make_rows(settings, points=3, alphas=3)
    ]
    table = make_targets(settings, rows, tmp_path)  # 78.3 is published
    assert row_of(table, mode="nonlinear", task="cars")["flag"] == flag


def test_targets_are_written_like_any_table(tmp_path):
    settings = paper_settings(encoders=2, seeds=3)
    rows = views.make_rows(settings, points=3, alphas=3)
    rows = views.near_published(rows, settings, tables.read_targets(TARGETS))
    path = views.write_metrics(tmp_path / "metrics.csv", rows)
    tables.write("targets", path, TARGETS, settings, tmp_path)
    text, markdown, latex = [(tmp_path / f"targets.{k}").read_text() for k in ("csv", "md", "tex")]
    heading = "encoder,mode,task,measured,published,difference,flag,measured_std"
    assert text.splitlines()[0] == heading
    headings, rows, texts = views.read_markdown(tmp_path / "targets.md")
    assert (headings[-1], texts) == ("More than 2 points", 3)
    assert rows[0][:2] == ["small", "Pre-trained"] and rows[0][-1] in ("yes", "no")
    assert all(row[5][0] in "+−" for row in rows) and "±" in rows[5][3]
    assert {row[-1] for row in rows} == {"yes", "no"}
    assert "Difference (points)" in latex and "$-$" in latex
    table = pd.read_csv(tmp_path / "targets.csv")
    assert [row[-1] for row in rows] == list(table["flag"])
    assert (table["difference"] - (table["measured"] - table["published"])).abs().max() < 0.011
    assert "more than 2 points is flagged" in markdown


def test_only_a_run_with_published_accuracies_has_targets():
    assert available.table_names(view_of(paper_settings())) == [*OTHERS, "targets"]
    assert available.table_names(view_of(paper_settings(["cars", "my-task"]))) == [
        *OTHERS,
        "targets",
    ]
    assert available.table_names(view_of(paper_settings(["boats", "my-task"]))) == OTHERS
    assert (
        available.table_names(view_of(paper_settings() | {"encoders": {"large": None}})) == OTHERS
    )
    assert available.table_names(view_of(paper_settings() | {"suite": "embedded"})) == OTHERS


def test_tasks_encoders_and_modes_without_published_accuracies_are_left_out(tmp_path):
    settings = paper_settings(["cars", "my-task"], encoders=3)
    settings["modes"] = {"mine": "Mine", **settings["modes"]}
    del settings["modes"]["ntk"]
    table = make_targets(settings, views.make_rows(settings, points=3, alphas=3), tmp_path)
    assert set(table["task"]) == {"cars", "average"} and "large" not in set(table["encoder"])
    assert set(table["mode"]) == {"pretrained", "nonlinear", "attention"}
    assert row_of(table, encoder="base", mode="nonlinear", task="average")["published"] == 87.1


def test_a_missing_accuracy_or_published_number_is_an_error(tmp_path):
    settings = paper_settings(encoders=1)
    rows = views.make_rows(settings, points=3, alphas=3)
    gone = {"metric": "single_task_accuracy", "mode": "ntk", "task": "dtd"}
    rest = [row for row in rows if any(row[k] != v for k, v in gone.items())]
    with pytest.raises(UserError, match="single_task_accuracy.*ntk.*dtd"):
        make_targets(settings, rest, tmp_path)
    metrics = load_metrics(views.write_metrics(tmp_path / "metrics.csv", rows))
    published = tables.read_targets(TARGETS)
    lacking = published[(published["mode"] != "ntk") | (published["column"] != "dtd")]
    with pytest.raises(UserError, match="lack ViT-B-32, ntk, dtd"):
        tables.make_table("targets", metrics, lacking, view_of(settings))
    with pytest.raises(UserError, match="does not exist"):
        tables.read_targets(tmp_path / "no.csv")
    with pytest.raises(UserError, match="needs the columns encoder, mode, source, cars"):
        tables.read_targets(REFERENCE)


def test_the_published_accuracies_are_complete_and_agree_with_their_averages():
    with open(TARGETS, newline="") as file:
        rows = list(csv.DictReader(file))
    modes = ["zeroshot", *targets.MODES[1:]]
    assert {(r["encoder"], r["mode"]) for r in rows} == {
        (encoder, mode) for encoder in targets.ENCODERS for mode in modes
    }
    assert len(rows) == 12
    for row in rows:
        numbers = [float(row[task]) for task in targets.TASKS]
        assert all(30 < number < 100 for number in numbers)
        assert sum(numbers) / 8 == pytest.approx(float(row["average"]), abs=0.08)
    published = tables.read_targets(TARGETS)
    assert len(published) == 12 * 9 and set(published["mode"]) == set(targets.MODES)


def test_the_papers_tasks_and_encoders_have_targets():
    """Those of config.yaml, by the names that its definitions give them."""
    config = validate_config(read_yaml(ROOT / "config.yaml"))
    view = view_of(json.loads(view_settings(config)))
    assert targets.has_targets(view)
    assert targets.tasks_with_targets(view) == targets.TASKS
    assert targets.encoders_with_targets(view) == targets.ENCODERS


# --- Texts ---------------------------------------------------------------------------------------


def of_texts(seeds=1, **changes):
    """Settings with a part on texts, and metrics of both."""
    settings = views.make_settings(tasks=3, seeds=seeds, language=views.TEXTS | changes)
    return settings, views.make_rows(settings, points=3, alphas=11)


def table_of(name, rows, settings, tmp_path):
    metrics = load_metrics(views.write_metrics(tmp_path / "metrics.csv", rows))
    return tables.make_table(name, metrics, tables.read_reference(REFERENCE), view_of(settings))


@pytest.mark.parametrize("seeds", [1, 3])
def test_table_3_is_the_unified_accuracy_of_each_task_on_test(tmp_path, seeds):
    settings, rows = of_texts(seeds)
    table = table_of("table3", rows, settings, tmp_path).set_index("mode")
    columns = ["cola", "mnli", "stsb", "average"]
    assert list(table.columns)[:8] == [*columns, *(f"paper_{c}" for c in columns)]
    frame = pd.DataFrame(rows)
    frame = frame[(frame.metric == "unified_accuracy") & (frame.split == "test")]
    for mode in views.MODES:
        own = frame[(frame.encoder == "t5") & (frame["mode"] == mode)]
        mean = 100 * own.groupby("task").value.mean()
        assert table.cola[mode] == pytest.approx(mean["acceptability"])
        assert table.stsb[mode] == pytest.approx(mean["similarity"])
        assert table.average[mode] == pytest.approx(mean.mean())
        if seeds > 1:
            by_seed = own.groupby("seed").value.mean()
            assert table.average_std[mode] == pytest.approx(100 * by_seed.std(ddof=1))
    assert table.paper_mnli["attention"] == 86.25 and table.paper_average.isna().all()


def test_table_3_of_all_seven_tasks_has_the_designs_columns_and_the_papers_average(tmp_path):
    names = ["cola", "mnli", "mrpc", "qqp", "rte", "sst2", "stsb"]
    own = {"tasks": names, "paper_tasks": {name: name for name in names}, "scores": ["stsb"]}
    settings, rows = of_texts(**own)
    table = table_of("table3", rows, settings, tmp_path)
    expected = [*names, "average"]
    assert list(table.columns) == ["mode", *expected, *(f"paper_{name}" for name in expected)]
    assert list(table.paper_average) == [73.25, 77.77, 85.30]
    assert "orientation" not in table_caption("table3", view_of(settings))


def test_a_task_of_texts_without_a_counterpart_has_a_column_of_its_own(tmp_path):
    settings, rows = of_texts(paper_tasks={"acceptability": None, "inference": "mnli",
                                           "similarity": None})  # fmt: skip
    table = table_of("table3", rows, settings, tmp_path)
    assert list(table.columns)[:5] == ["mode", "acceptability", "mnli", "similarity", "average"]
    assert table.paper_similarity.isna().all() and table.paper_mnli.notna().all()


@pytest.mark.parametrize("name", OF_TEXTS)
@pytest.mark.parametrize("seeds", [1, 2])
def test_tables_of_texts_are_written_and_read_back(tmp_path, name, seeds):
    settings, rows = of_texts(seeds)
    path = views.write_metrics(tmp_path / "metrics.csv", rows)
    tables.write(name, path, REFERENCE, settings, tmp_path)
    headings, printed, texts = views.read_markdown(tmp_path / f"{name}.md")
    assert all(len(row) == len(headings) for row in printed)
    assert ("±" in str(printed)) == (seeds > 1)
    latex = (tmp_path / f"{name}.tex").read_text()
    assert latex.count(r"\\") == len(printed) + 1
    if name == "table3":
        assert [row[:2] for row in printed[:2]] == [
            ["Non-linear fine-tuning", "this run"],
            ["Non-linear fine-tuning", "paper"],
        ]
        assert texts == 2 and headings[2:] == [*settings["language"]["tasks"], "average"]


def test_efficiency_is_that_of_images_and_texts_in_one_table(tmp_path):
    settings, rows = of_texts()
    table = table_of("table4", rows, settings, tmp_path)
    assert list(table.encoder.unique()) == ["small", "base", "t5"]
    assert table.set_index(["encoder", "mode"]).held_parameters["t5", "ntk"] == 680_000


def test_a_run_on_texts_alone_has_no_tables_or_figures_of_images():
    settings, _ = of_texts()
    alone = view_of(settings | {"encoders": {}})
    assert available.table_names(alone) == ["table3", "table4", "tasks_language"]
    assert available.figure_names(alone) == ["fig7_language", "fig9_language", "fig10_language"]
    assert {*OF_TEXTS, *OTHERS} == set(available.table_names(view_of(settings)))


def test_the_caption_of_table_3_says_how_alpha_was_chosen_and_whose_the_papers_rows_are():
    settings, _ = of_texts()
    caption = table_caption("table3", view_of(settings))
    assert "α is chosen on validation" in caption and "cola beside acceptability" in caption
    assert "of similarity, Spearman's ρ × 100" in caption
    settings, _ = of_texts(reference_selection=True)
    assert "on the test scores that are shown" in table_caption("table3", view_of(settings))


def test_a_task_of_texts_without_normalized_accuracy_shows_a_dash_and_the_rest_its_numbers(
    tmp_path,
):
    settings, rows = of_texts()
    failed = {"encoder": "t5", "mode": "ntk", "task": "similarity"}
    kept = []
    for row in rows:
        if failed.items() <= row.items():
            if row["metric"] == "normalized_accuracy":
                continue
            if row["metric"] == "single_task_accuracy":
                row = row | {"value": -0.1}
        kept.append(row)
    table = table_of("tasks_language", kept, settings, tmp_path).set_index(["mode", "task"])
    missing = table.normalized.isna()
    assert list(missing[missing].index) == [("ntk", "similarity")]
    assert (table.alpha == 0.25).all()
    metrics = load_metrics(tmp_path / "metrics.csv")
    assert figures.draw("fig9_language", metrics, view_of(settings))
    gone = [r for r in rows if not (failed.items() <= r.items() and r["metric"][:4] == "norm")]
    with pytest.raises(UserError, match="no normalized_accuracy for encoder t5, mode ntk"):
        table_of("tasks_language", gone, settings, tmp_path)  # its individual model has one


def test_tasks_and_modes_that_the_paper_has_not_get_no_row_of_it(tmp_path):
    settings, rows = of_texts(paper_tasks=dict.fromkeys(views.TEXTS["tasks"]), scores=[])
    path = views.write_metrics(tmp_path / "metrics.csv", rows)
    tables.write("table3", path, REFERENCE, settings, tmp_path)
    _, printed, _ = views.read_markdown(tmp_path / "table3.md")
    assert [row[1] for row in printed] == ["this run"] * 3
    caption = table_caption("table3", view_of(settings))
    assert "paper" not in caption and "Spearman" not in caption
