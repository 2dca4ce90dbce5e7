"""The questions of a report: what belongs to which, and answers that follow the numbers."""

import pandas as pd
import pytest
import views

from task_arithmetic.config import available
from task_arithmetic.config.view import view_of
from task_arithmetic.report import questions
from task_arithmetic.report.claims import Claim
from task_arithmetic.report.questions import MORE, QUESTIONS, asked, counted, judged

SOON = ["plane_fig6", "robustness", "interference", "layers", "spectra", "alignment", "pairs"]
SOON += ["linearity", "number_of_tasks", "retention"]


def claim(holds, what="Task addition: A > B (Table 2)"):
    return Claim(what, "small", "A 70.0 %; B 60.0 %", holds)


@pytest.mark.parametrize("suffix", ["", "_language"])
def test_what_belongs_to_no_question_is_more_and_nothing_is_twice(monkeypatch, suffix):
    view = view_of(views.make_settings(tasks=3, language=views.TEXTS))
    figures = [*available.figure_names(view), *(name + suffix for name in SOON), "unheard_of"]
    monkeypatch.setattr(questions, "figure_names", lambda view: figures)
    found = asked(view, [], {})
    shown = [name for each in found for name in each.figures]
    assert sorted(shown) == sorted(figures)
    (more,) = [each for each in found if each.question is MORE]
    assert more.figures == ["unheard_of"] and more.tables == [] and more.answer is None
    tables = [name for each in found for name in each.tables]
    assert sorted(tables) == sorted(available.table_names(view))
    assert found[-1] is more and [each.question for each in found[:-1]] == [
        question for question in QUESTIONS if question in [each.question for each in found]
    ]


def test_a_verdict_is_what_all_claims_say():
    assert judged([claim("holds"), claim("holds")]).verdict == "Yes (all 2 comparisons)."
    assert judged([claim("does not hold")]).verdict == "No."
    assert judged([claim("cannot be told")]).verdict == "This run cannot tell."
    both = judged([claim("does not hold"), claim("holds"), claim("cannot be told")])
    counts = "1 holds, 1 does not hold, 1 cannot be told of 3 comparisons"
    assert both.verdict == f"In part ({counts})."
    assert both.text == "The paper's claim: Task addition: A > B. Here (small): A 70.0 %; B 60.0 %."
    assert counted([claim("does not hold"), claim("does not hold")]) == "2 do not hold"


def test_a_claim_answers_the_question_that_it_is_about():
    view = view_of(views.make_settings(tasks=3))
    about = {"Kernel behaviour: closer (Figure 3)": "linear", "Task addition, absolute": "unified",
             "Mean |cosine| is smallest": "similarity", "Something else": "more",
             "Sensitivity to α: ahead": "alpha", "Efficiency: less time": "cost"}  # fmt: skip
    found = asked(view, [claim("holds", what) for what in about], {})
    where = {each[0]: asked.question.name for asked in found for each in asked.claims}
    assert where == about


def test_without_claims_the_tables_answer():
    view = view_of(views.make_settings(tasks=3, merging=views.make_merging("ties")))
    keys = {"encoder": ["small"] * 3, "mode": ["pretrained", "nonlinear", "attention"]}
    tables = {
        "table2": pd.DataFrame(keys | {"absolute": [50, 71.25, 70], "alpha": [None, 0.3, 0.45]}),
        "negation": pd.DataFrame(
            keys | {"target": [60, 20, 12.5], "control": [9, 9, 8], "control_kept": [100, 98, 96]}
        ),
        "merging": pd.DataFrame({
            "encoder": "small", "mode": ["nonlinear", "nonlinear", "attention", "attention"],
            "method": ["sum", "ties", "sum", "ties"], "absolute": [71.0, 75.0, 70.0, 76.5],
            "delta": [0.0, 4.0, 0.0, 6.5]}),
        "table4": pd.DataFrame(keys | {"step_seconds": [3, 0.25, 0.125]}),
    }  # fmt: skip
    evidence = questions.Evidence(view, tables)
    assert questions.on_unified(evidence) == (
        "The highest mean accuracy of a unified model on test is 71.25 % (Non-linear fine-tuning, "
        "small), before 70.00 % (Attention modules only, small)."
    )
    assert questions.on_alpha(evidence).endswith("lie between 0.30 and 0.45.")
    said = questions.on_negation(evidence)
    assert said.startswith("Attention modules only of small") and "60.0 % to 12.5 %" in said
    said = questions.on_merging(evidence)
    assert "76.5 %, is that of TIES (Attention modules only, small), 6.5 points above" in said
    assert said.endswith("ahead of Non-linear fine-tuning under 1 of 2 methods.")
    assert "Attention modules only (small), 0.125 s" in questions.on_cost(evidence)
