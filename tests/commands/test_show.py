"""show: a run's tables in a terminal, as wide as it is."""

import json

import pytest

TABLE2 = """encoder,mode,absolute,normalized,alpha,paper_absolute,absolute_std
tiny,pretrained,63.15,,,48.40,
tiny,attention,68.76,80.71,0.2,78.37,1.25
"""
WIDE = ["handwritten", "landcover", "textures", "letters", "numbers", "signs"]


@pytest.fixture
def run(make_run):
    folder = make_run("mine") / "tables"
    folder.mkdir()
    (folder / "table2.csv").write_text(TABLE2)
    (folder / "table2.md").write_text("**Table 2.** Task addition. Of all | tasks.\n\n| a |\n")
    head = ",".join(["mode", *WIDE, *(f"paper_{name}" for name in WIDE), "paper_none"])
    row = ",".join(["ntk", *["12.34"] * 2 * len(WIDE), ""])
    (folder / "table3.csv").write_text(f"{head}\n{row}\n")
    return folder


def test_the_tables_of_a_run_are_listed_with_their_titles(run, says):
    assert says("show", "mine") == (
        0, "table2  Table 2: Task addition, 2 rows\ntable3  Table 3, 1 rows\n", ""
    )  # fmt: skip
    found = json.loads(says("show", "mine", "--json")[1])
    assert found["tables"][0] == {"name": "table2", "title": "Table 2: Task addition", "rows": 2}


def test_a_table_is_printed_with_caption_and_spreads(run, says):
    lines = says("show", "results/mine", "table2")[1].splitlines()
    assert lines[0] == "Table 2. Task addition. Of all | tasks."
    assert lines[-1].split() == ["tiny", "attention", "68.8", "±", "1.2", "80.71", "0.20", "78.37"]
    assert lines[-2].split() == ["tiny", "pretrained", "63.15", "–", "–", "48.40"]
    assert lines[3].split() == ["Absolute", "Normalized", "Absolute"]


def test_json_has_the_same_numbers(run, says):
    found = json.loads(says("show", "mine", "table2", "--json")[1])
    assert found["caption"] == "Task addition. Of all | tasks."
    assert found["rows"][1] == {
        "encoder": "tiny", "mode": "attention", "absolute": 68.76, "normalized": 80.71,
        "alpha": 0.2, "paper_absolute": 78.37, "absolute_std": 1.25,
    }  # fmt: skip
    assert found["rows"][0]["normalized"] is None


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal_and_no_column_is_lost(run, says, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    text = says("show", "mine", "table3")[1]
    assert max(map(len, text.splitlines())) <= width
    assert text.split().count("12.34") == 2 * len(WIDE)
    assert all(text.split().count(name) == 2 for name in WIDE)
    assert "none" not in text  # a column without a number
    assert (text.count("ntk") == 1) == (width == 200)  # else the table goes on below


def test_mistakes_are_one_sentence(run, make_run, fails):
    make_run("new")
    assert "no table 'tabel2' (did you mean 'table2'?)" in fails("show", "mine", "tabel2")
    assert "There is no run mime in results (did you mean 'mine'?)" in fails("show", "mime")
    assert "results/new/tables has no tables yet" in fails("show", "new")
    (run / "table2.csv").write_text("encoder,mode,absolute\ntiny,ntk,much\n")
    assert "table2.csv is no table of this version" in fails("show", "mine", "table2")
    (run / "table2.csv").write_text("encoder,unheard\ntiny,1\n")
    assert "table2.csv is no table of this version" in fails("show", "mine", "table2", "--json")
    (run / "table2.csv").write_text("encoder,mode\n")
    assert "table2.csv is no table of this version" in fails("show", "mine", "table2")
