"""Labels of code: what they remember, and which of them are accepted for one another."""

import json
import re
from pathlib import Path

import pytest

from task_arithmetic.errors import UserError
from task_arithmetic.pipeline import code, rerun
from task_arithmetic.pipeline.rerun import accept, acceptances, modules, stage_code


def modality(stage):
    return "vision" if stage in ("finetune", "head") else None


def before(digit, stage="finetune") -> str:
    """A label of other code with today's packages."""
    return f"{digit}" * 12 + "-" + today(stage).partition("-")[2]


def today(stage="finetune") -> str:
    """The label of the sources, whatever was accepted."""
    return code.code_hash(*modules(stage, modality(stage)))


OLD, OLDER = before(0), before(1)
WHY = "renamed a variable"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Jobs take their results to be in the current folder."""
    monkeypatch.chdir(tmp_path)
    forget()
    yield
    forget()


def forget():
    """Let this process read the sources again."""
    for function in (*vars(code).values(), *vars(rerun).values()):
        if hasattr(function, "cache_clear"):
            function.cache_clear()
    rerun._labels.clear()


def record(label, number=0, stage="finetune", run="mini", **arguments) -> Path:
    """A finished job's record."""
    path = Path(f"results/{run}/logs/{stage}/model/{number}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    made = {"code": label, "arguments": arguments, "outputs": {}, "accepted": []}
    path.write_text(json.dumps({"stage": stage, "job": "x", "attempts": [], "made": made}))
    return path


def made(path) -> dict:
    return json.loads(path.read_text())["made"]


def test_accepted_results_count_as_made_by_todays_code(capsys):
    paths = [record(OLD, 0), record(OLD, 1), record(OLD, 2, run="other")]
    assert stage_code("finetune", "vision") == today() != OLD
    accept("finetune", WHY)
    assert stage_code("finetune", "vision") == OLD and stage_code("head", "vision") == today("head")
    (entry,) = acceptances()["finetune"]
    assert (entry["code"], entry["as"], entry["reason"]) == (today(), OLD, WHY)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}Z", entry["date"])
    assert all(made(path)["accepted"] == [entry] for path in paths)
    said = capsys.readouterr().out
    assert said.startswith(f"Accepted for 3 results of finetune: {WHY} (the code changed")


def test_results_of_several_codes_are_never_accepted_by_their_number(capsys):
    """The many may be those of a mistake that the few have mended."""
    many, few = [record(OLD, i) for i in range(3)], record(OLDER, 3)
    with pytest.raises(UserError, match=f"with --code: {OLD} .3 results: .*; {OLDER} .1 result: "):
        accept("finetune", WHY)
    assert stage_code("finetune", "vision") == today() and acceptances() == {}
    accept("finetune", WHY, code=OLDER)
    assert stage_code("finetune", "vision") == OLDER and made(few)["accepted"]
    assert not any(made(path)["accepted"] for path in many)
    assert "3 results of other code will be made again" in capsys.readouterr().out


def test_other_versions_of_packages_are_accepted_by_name_alone():
    label = today().partition("-")[0] + "-" + "a" * 12
    record(label)
    with pytest.raises(UserError, match=f"with --code: {label} .1 result: the version of a pack"):
        accept("finetune", WHY)
    accept("finetune", WHY, code=label)
    assert stage_code("finetune", "vision") == label


def test_a_run_decides_whose_results_stay(capsys):
    for number in range(3):
        record(OLDER, number, run="other")
    paths = [record(OLD), record(OLD, run="shared")]
    accept("finetune", WHY, run="mini")
    assert stage_code("finetune", "vision") == OLD and all(made(path)["accepted"] for path in paths)
    said = capsys.readouterr().out
    assert "Accepted for 2 results" in said and "3 results of other code" in said


def test_a_later_change_is_accepted_as_the_code_that_the_results_bear(monkeypatch):
    path = record(OLD)
    accept("finetune", WHY)
    for number in (1, 2):  # the code changes twice more
        label = before(number + 1)
        monkeypatch.setattr(rerun, "code_hash", lambda *names, label=label: label)
        forget()
        assert stage_code("finetune", "vision") == label
        accept("finetune", f"again {number}")
        assert stage_code("finetune", "vision") == OLD
    assert [entry["as"] for entry in acceptances()["finetune"]] == [OLD] * 3
    assert [entry["reason"] for entry in made(path)["accepted"]] == [WHY, "again 1", "again 2"]


def test_what_was_accepted_by_mistake_can_be_taken_back():
    record(OLD)
    accept("finetune", WHY)
    for number in range(2):
        record(today(), number)  # made by hand, with today's code
    accept("finetune", "it was no harmless change", code=today())
    assert stage_code("finetune", "vision") == today()


def test_nothing_to_accept_is_said(capsys):
    path = record(today())
    accept("finetune", WHY)
    assert "Nothing to accept: 1 result of finetune bear today's" in capsys.readouterr().out
    assert made(path)["accepted"] == [] and acceptances() == {}


def test_all_tables_have_one_label(capsys):
    old = before(0, "table")
    record(old, 1, stage="table", name="table1")
    record(old, 2, stage="table", name="table2")
    accept("table", WHY)
    assert (
        stage_code("table") == old and "Accepted for 2 results of table" in capsys.readouterr().out
    )


def test_what_changed_is_named_if_the_old_code_is_remembered(monkeypatch, capsys):
    stage_code("finetune", "vision")
    rerun.remember()
    path = record(today())
    parts = {**code.code_parts(*modules("finetune", "vision")), "core/training.py": "0" * 16}
    versions = {**code.package_versions(*modules("finetune", "vision")), "torch": "99.0"}
    monkeypatch.setattr(rerun, "code_hash", lambda *names: "0" * 12 + "-" + "a" * 12)
    monkeypatch.setattr(rerun, "code_parts", lambda *names: parts)
    monkeypatch.setattr(rerun, "package_versions", lambda *names: versions)
    forget()
    accept("finetune", WHY, code=made(path)["code"])
    said = capsys.readouterr().out
    assert f"{WHY} (core/training.py changed; torch was " in said
    assert " and is 99.0)." in said


def test_mistakes_end_in_one_sentence():
    with pytest.raises(UserError, match="No result of finetune is recorded in any run in results"):
        accept("finetune", WHY)
    record(OLD)
    with pytest.raises(UserError, match="The --reason is empty"):
        accept("finetune", " ")
    with pytest.raises(UserError, match="There is no stage 'tune': take one of embedded, "):
        accept("tune", WHY)
    with pytest.raises(UserError, match="recorded in run gone"):
        accept("finetune", WHY, run="gone")
    assert not Path("results/shared").exists()
