"""Tables against independent few-line recomputations from the rows, and their errors."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import views

from task_arithmetic.config.available import MERGING, TABLES
from task_arithmetic.config.view import view_of
from task_arithmetic.errors import UserError
from task_arithmetic.report import printing, tables
from task_arithmetic.report.cells import load_metrics

REFERENCE = Path(__file__).parents[2] / "workflow/reference/paper.csv"
TARGETS = REFERENCE.with_name("targets.csv")
OF_TEXTS = ["table3", "tasks_language"]
OTHERS = [name for name in TABLES if name not in ("targets", *OF_TEXTS, *MERGING)]  # of every run
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


def row_of(table, **keys):
    for key, value in keys.items():
        table = table[table[key] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_every_column_has_a_heading_and_those_of_the_paper_are_its_own():
    for columns, paper in ((table.columns, table.paper) for table in tables.TABLES.values()):
        assert {*columns} <= printing.COLUMNS.keys() and {*paper} <= {*columns}
    assert {column.kind for column in printing.COLUMNS.values()} <= {
        *printing.FORMATS,
        "text",
        "flag",
    }


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
