"""The questions that a report asks of a run: each with the tables, figures and claims that answer
it and its answer in a sentence, computed from them.

QUESTIONS stand from the most general one down. A table or figure belongs to the first question that
names it, of images and texts alike; what none names is More.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..config.available import figure_names, table_names
from ..config.view import SUM, View
from .answers import answer
from .cells import Measured
from .claims import Claim, Verdict, signed, within
from .findings import sentence_on_published
from .printing import number

VERDICTS: dict[Verdict, tuple[str, str]] = {  # what a claim is, in an answer and of several
    "holds": ("Yes", "hold"),
    "does not hold": ("No", "do not hold"),
    "cannot be told": ("This run cannot tell", "cannot be told"),
}


class Evidence(NamedTuple):
    """What answers are computed from where no claim answers: name → table, all that a run has, and
    the cells of its parts."""

    view: View
    tables: Mapping[str, pd.DataFrame]
    runs: Sequence[Measured] = ()


class Question(NamedTuple):
    """A question of a report.

    Attributes:
        name: of its place on the page.
        tables, figures: regular expressions of whole names, without `_language`.
        claims: a regular expression that is found in the claims that answer it, in lower case.
        otherwise: the answer where no claim does; "" if it has none.
    """

    name: str
    title: str
    tables: str
    figures: str
    claims: str
    otherwise: Callable[[Evidence], str] = lambda evidence: ""


class Answer(NamedTuple):
    """A verdict, "" if there is none, and the numbers."""

    verdict: str
    text: str


class Asked(NamedTuple):
    """A question with what a run has to say on it; tables, figures: names; answer: None: none."""

    question: Question
    tables: list[str]
    figures: list[str]
    claims: list[Claim]
    answer: Answer | None


def asked(
    view: View,
    claims: Iterable[Claim],
    tables: Mapping[str, pd.DataFrame],
    metrics: pd.DataFrame | None = None,
) -> list[Asked]:
    """The questions on which a run has a table, a figure or a claim.

    Args:
        claims: what claims.claims returns. tables: name → what tables.make_table returns.
        metrics: what load_metrics returns; None: no answers of analyses.
    """
    runs = [] if metrics is None else [Measured(metrics, part) for part in view.parts]
    own: dict[Question, tuple[list[str], list[str], list[Claim]]]
    own = {question: ([], [], []) for question in (*QUESTIONS, MORE)}
    for name in table_names(view):
        own[_first("tables", re.fullmatch, _base(name))][0].append(name)
    for name in figure_names(view):  # heatmaps of pairs have names of the user's own
        pair = name in view.pairs or name in view.language.pairs
        base = "heatmap" if pair else _base(name)
        own[_first("figures", re.fullmatch, base)][1].append(name)
    for claim in claims:
        own[_first("claims", re.search, claim.claim.lower())][2].append(claim)
    found = []
    for question, parts in own.items():
        if any(parts):
            text = "" if parts[2] else question.otherwise(Evidence(view, tables, runs))
            said = Answer("", text) if text else None
            found.append(Asked(question, *parts, judged(parts[2]) if parts[2] else said))
    return found


def _base(name: str) -> str:
    return name.removesuffix("_language")


def _first(which: str, fits: Callable[[str, str], object], text: str) -> Question:
    """The first question one of whose expressions, `which`, fits a text."""
    return next((each for each in QUESTIONS if fits(getattr(each, which), text)), MORE)


# ---------------------------------------------------------------- answers


def counted(claims: Sequence[Claim]) -> str:
    """How many claims hold, do not, and cannot be told."""
    counts = Counter(claim.holds for claim in claims)
    words = {each: each if counts[each] == 1 else VERDICTS[each][1] for each in counts}
    return ", ".join(f"{counts[each]} {words[each]}" for each in VERDICTS if each in words)


def judged(claims: Sequence[Claim]) -> Answer:
    """Whether what the paper claims here holds, with the numbers of the first of several claims."""
    first, *others = claims
    if any(claim.holds != first.holds for claim in others):
        some = "In part" if any(claim.holds == "holds" for claim in claims) else "In no case"
        lead = f"{some} ({counted(claims)} of {len(claims)} comparisons)."
    else:
        lead = VERDICTS[first.holds][0] + (f" (all {len(claims)} comparisons)." if others else ".")
    plain = re.sub(r" \([^()]*(Table|Figure)[^()]*\)$", "", first.claim)
    text = f"The paper's claim: {plain}. Here ({first.where}): {first.numbers}."
    return Answer(lead, text)


def best(evidence: Evidence, name: str, column: str, what: str, lowest: bool = False) -> str:
    """The row of a table with the highest, or lowest, number of a column, and the next one."""
    table = evidence.tables.get(name)
    if table is None or not table[column].notna().any():
        return ""
    table = table[table["mode"] != "pretrained"]  # which nobody unified
    ranked = table.dropna(subset=[column]).sort_values(column, ascending=lowest, kind="stable")
    texts = []
    for row in ranked.head(2).to_dict("records"):
        value = number(row[column], "percent", row.get(f"{column}_std"))
        value += _ends(row, column)
        place = evidence.view.label(row["mode"])
        place += f", {row['encoder']}" if "encoder" in row else ""
        texts.append(f"{value} % ({place})")
    after = f", before {texts[1]}" if len(texts) > 1 else ""
    return f"The {'lowest' if lowest else 'highest'} {what} is {texts[0]}{after}."


def _ends(row: Mapping[str, Any], column: str) -> str:
    """The 95 % interval of a number in percent, where there is one."""
    ends = row.get(f"{column}_low", np.nan), row.get(f"{column}_high", np.nan)
    return "" if pd.isna(ends[0]) else f" {within(ends)}"


def on_unified(evidence: Evidence) -> str:
    """The best unified model of images, or of texts."""
    what = "mean accuracy of a unified model on test"
    return best(evidence, "table2", "absolute", what) or best(evidence, "table3", "average", what)


def on_alpha(evidence: Evidence) -> str:
    """Between which α those of the unified models lie."""
    table = evidence.tables.get("table2")
    if table is None or not len(alphas := table["alpha"].dropna()):
        return ""
    low, high = (number(each, "alpha") for each in (alphas.min(), alphas.max()))
    return f"The chosen α of the unified models lie between {low} and {high}."


def on_single_tasks(evidence: Evidence) -> str:
    """The mode with the highest mean accuracy of individual models."""
    tables = {name: evidence.tables.get(name) for name in ("tasks", "tasks_language")}
    of_modes = {
        name: table.groupby(["encoder", "mode"], as_index=False, sort=False)["single_task"].mean()
        for name, table in tables.items()
        if table is not None
    }
    what = "mean accuracy of individual models on test"
    every = evidence._replace(tables=of_modes)
    answers = (best(every, name, "single_task", what) for name in tables)
    return next(filter(None, answers), "")


def on_merging(evidence: Evidence) -> str:
    """The best method, its lead over the sum of the same mode, and for how many methods attention
    is ahead of nonlinear."""
    name = next((each for each in ("merging", "merging_language") if each in evidence.tables), "")
    if not name:
        return ""
    table, view = evidence.tables[name], evidence.view
    part = view if name == "merging" else view.language
    row = table.loc[table["absolute"].idxmax()].to_dict()
    where = f"{part.label(row['mode'])}, {row['encoder']}"
    of = " on texts" if part.of_texts else ""
    highest = f"{row['absolute']:.1f}{_ends(row, 'absolute')} %"
    text = f"The highest absolute accuracy{of}, {highest}, is that of "
    if row["method"] == SUM:
        text += f"{part.method_title(SUM)} itself, the plain sum ({where})"
    else:
        lead = f"{signed(row['delta'])}{_ends(row, 'delta')}"
        text += f"{part.method_title(row['method'])} ({where}), {lead} points above the plain sum"
    wide = table.pivot_table("absolute", ["encoder", "method"], "mode")
    if {"attention", "nonlinear"} <= {*wide}:
        ahead = int((wide["attention"] > wide["nonlinear"] + 1e-9).sum())
        modes = f"{part.label('attention')} is ahead of {part.label('nonlinear')}"
        text += f"; in absolute accuracy {modes} under {ahead} of {len(wide)} methods"
    return f"{text}."


def on_negation(evidence: Evidence) -> str:
    """The mode that forgets most, and what that keeps of the control task."""
    table = evidence.tables.get("negation")
    if table is None or (table["mode"] == "pretrained").all():
        return ""
    row = table[table["mode"] != "pretrained"].sort_values("target", kind="stable").iloc[0]
    same = table[(table["mode"] == "pretrained") & (table["encoder"] == row["encoder"])].iloc[0]
    return (
        f"{evidence.view.label(row['mode'])} of {row['encoder']} forgets most: mean accuracy on "
        f"the forgotten task falls from {same['target']:.1f} % to {row['target']:.1f} %, and "
        f"{row['control_kept']:.1f} % of the accuracy on {evidence.view.control} is kept."
    )


def on_cost(evidence: Evidence) -> str:
    """The mode with the shortest training step."""
    if (table := evidence.tables.get("table4")) is None:
        return ""
    row = table.sort_values("step_seconds", kind="stable").iloc[0]
    return (
        f"The shortest training step is that of {evidence.view.label(row['mode'])} "
        f"({row['encoder']}), {number(row['step_seconds'], 'seconds')} s."
    )


def on_published(evidence: Evidence) -> str:
    """How many accuracies are far from the published ones."""
    table = evidence.tables.get("targets")
    return "" if table is None else sentence_on_published(table, evidence.view)


def on_analysis(name: str, evidence: Evidence) -> str:
    """What an analysis beside the paper's says."""
    return answer(name, evidence.runs)


NONE = r"(?!)"
QUESTIONS = (
    Question("unified", "Does attention-only fine-tuning make better unified models?",
             r"table[123]", NONE, r"^(task )?addition", on_unified),
    Question("disentangled", "Does each of its task vectors leave the inputs of other tasks "
             "alone (disentanglement)?", NONE, r"heatmap|pairs|plane_.*", r"disentangle"),
    Question("linear", "Does the model stay closer to linear while it is fine-tuned?",
             NONE, r"fig3", r"kernel"),
    Question("single", "Does it lose less to non-linear fine-tuning than NTK, on a task by itself?",
             r"tasks", r"fig[57]", r"non-?linear advantage|single.task", on_single_tasks),
    Question("alpha", "Is it ahead over a wide range of α, the factor of the task vectors?",
             NONE, r"fig9|robustness", r"sensitiv|robust|α", on_alpha),
    Question("merging", "Does it also help other methods of merging?",
             r"merging", r"merging", r"merging|method", on_merging),
    Question("similarity", "Are its task vectors of different tasks the closest to orthogonal?",
             NONE, r"fig10", r"cosine|orthogonal"),
    Question("negation", "Can a task be forgotten without loss elsewhere?",
             r"negation", NONE, r"negat|forget", on_negation),
    Question("parts", "Are the attention weights alone the best choice?",
             r"table5", NONE, r"ablation",
             lambda evidence: best(evidence, "table5", "absolute", "accuracy of a unified model")),
    Question("cost", "Does it cost less?", r"table4", NONE, r"efficien|cost", on_cost),
    Question("interference", "What does one task's vector do to other tasks?",
             r"interference", r"interference", r"interfere",
             partial(on_analysis, "interference")),
    Question("number", "How does merging scale with the number of tasks?",
             r"number_of_tasks", r"number_of_tasks", r"number of tasks",
             partial(on_analysis, "number_of_tasks")),
    Question("retention", "What is lost on the control task?",
             r"retention", r"retention", r"retention|control",
             partial(on_analysis, "retention")),
    Question("layers", "Where in depth do task vectors agree, and where are they large?",
             r"layers", r"layers", r"depth|layer",
             partial(on_analysis, "layers")),
    Question("spectra", "How low is the rank of task vectors?",
             r"spectra", r"spectra", r"rank|spectr",
             partial(on_analysis, "spectra")),
    Question("alignment", "Does the alignment of subspaces explain how well merging works?",
             r"alignment", r"alignment", r"align",
             partial(on_analysis, "alignment")),
    Question("linearity", "Where in depth is the model linear?",
             r"linearity", r"linearity", r"linearity",
             partial(on_analysis, "linearity")),
    Question("published", "Are the single models as good as those that others publish?",
             r"targets", NONE, r"published", on_published),
)  # fmt: skip
MORE = Question("more", "More", NONE, NONE, NONE)
