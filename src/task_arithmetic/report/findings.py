"""What a run says about the paper's claims: neutral sentences and one row per claim, with numbers.

A claim holds if the means over seeds are in the claimed order; with several seeds it is also said
in how many of them the order holds. Nothing here is tested for significance.
"""

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..config.available import MERGING, has, part_of
from ..config.published import TOLERANCE
from ..config.view import Part, View
from ..files.leaks import leak
from . import merging
from .cells import Measured, percent

PAPER_ORDER = ["attention", "ntk", "nonlinear"]  # of accuracy in task addition, high to low

Values = dict[str, np.ndarray]  # mode → (S,)


def shown(values: np.ndarray, digits: int = 1, unit: str = " %") -> str:
    """Mean over seeds, ± sample standard deviation if there are several."""
    text = f"{values.mean():.{digits}f}"
    if len(values) > 1:
        text += f" ± {values.std(ddof=1):.{digits}f}"
    return (text + unit).replace(" ", "\N{NO-BREAK SPACE}")


def listed(values: Values, part: Part, digits: int = 1, unit: str = " %") -> str:
    """Label and number of every mode."""
    return "; ".join(
        f"{part.label(mode)} {shown(numbers, digits, unit)}" for mode, numbers in values.items()
    )


# ---------------------------------------------------------------- sentences


def sentences(metrics: pd.DataFrame, view: View) -> list[str]:
    """Headlines: zero-shot accuracies near chance, unified accuracy, the best mode and its lead,
    negation, the chosen α, modes under other merging methods."""
    parts = [Measured(metrics, part) for part in view.parts]
    found = sentence_on_chance(metrics, view)
    found += [sentence_on_addition(run, encoder) for run in parts for encoder in run.part.encoders]
    if view.control:
        images = Measured(metrics, view)
        found += [sentence_on_negation(images, encoder) for encoder in view.encoders]
    if view.encoders:
        found += sentences_on_leaks(Measured(metrics, view))
    found += [*sentence_on_cut_texts(metrics, view.language), sentence_on_alpha(parts, view)]
    shown = [Measured(metrics, part_of(name, view)) for name in MERGING if has(name, view)]
    return found + [sentence for run in shown for sentence in merging.sentences(run)]


def sentence_on_chance(metrics: pd.DataFrame, view: View) -> list[str]:
    """Of which tasks of images a pretrained encoder knows no more than chance, as it does if class
    names stand in another order than the labels: its accuracy on test is below 2/K of K classes or,
    of at most three, where that is much to ask, below 1/K."""
    run, near = Measured(metrics, view), []
    for encoder, (task, classes) in product(view.encoders, view.classes.items()):
        accuracy = run.pretrained(encoder, [task])
        if accuracy.mean() < (2 if classes > 3 else 1) / classes:
            near.append(f"{task} ({encoder}, {shown(percent(accuracy))} of {classes} classes)")
    if not near:
        return []
    say = "check the class names and their order, unless it is a task that no CLIP knows"
    return [f"Zero-shot accuracy is near chance for {'; '.join(near)}: {say}."]


def sentence_on_addition(run: Measured, encoder: str) -> str:
    """The unified models of an encoder, the best of them and its lead."""
    part = run.part
    values = {mode: percent(run.unified(encoder, mode)) for mode in part.unified_modes}
    best, *others = sorted(values, key=lambda mode: -values[mode].mean())
    text = (
        f"Task addition, {encoder}: the unified model of {part.label(best)} has the "
        f"highest mean accuracy on test, {shown(values[best])}"
    )
    if others:
        lead = values[best].mean() - values[others[0]].mean()
        text += f", {lead:.1f} points above {part.label(others[0])}, the next one"
    zero_shot = shown(percent(run.pretrained(encoder)))
    return f"{text} ({listed(values, part)}; pre-trained {zero_shot})."


def sentences_on_leaks(run: Measured) -> list[str]:
    """Individual models that know the test images of DTD, by their accuracy on these."""
    found = []
    for encoder, mode in product(run.part.encoders, run.part.modes):
        for task in run.part.tasks:
            accuracy = float(run.individual(encoder, mode, [task]).max())
            found.append(leak(task, accuracy, f"{run.part.label(mode)}, {encoder},"))
    return [*filter(None, found)]


def sentence_on_negation(run: Measured, encoder: str) -> str:
    """What negating each task costs it, and the control task."""
    control = str(run.part.control)
    before, ways = run.pretrained(encoder, [control]).mean(), []
    for mode in run.part.modes:
        target = shown(percent(run.negated(encoder, mode)))
        kept = shown(percent(run.negated(encoder, mode, "control_accuracy")) / before)
        ways.append(f"{run.part.label(mode)} to {target}, keeping {kept}")
    return (
        f"Task negation, {encoder}: the mean target accuracy goes from "
        f"{shown(percent(run.pretrained(encoder)))} (pre-trained) with {'; with '.join(ways)} of "
        f"the accuracy on {control}."
    )


def sentence_on_cut_texts(metrics: pd.DataFrame, texts: Part) -> list[str]:
    """Which texts were longer than a model was to read, if any."""
    rows = metrics[(metrics["metric"] == "cut_inputs") & (metrics["value"] > 0)]
    rows = rows[rows["encoder"] == texts.focus]
    named = [f"{row.value:,.0f} of {row.task} ({row.split})" for row in rows.itertuples()]
    text = f"Texts that were cut to the length that their task allows: {', '.join(named)}."
    return [text] if named else []


def sentence_on_alpha(parts: list[Measured], view: View) -> str:
    """Where the chosen α is the first or the last of its grid."""
    at_end = []
    for run in parts:
        for encoder, mode in product(run.part.encoders, run.part.unified_modes):
            grid, _ = run.curve("unified_accuracy", encoder, mode)
            if np.isin(run.chosen_alpha(encoder, mode), grid[[0, -1]]).any():
                at_end.append(f"{encoder}, {run.part.label(mode)}")
    place = f"at an end of its grid for {'; '.join(at_end)}" if at_end else "inside its grid"
    on_test = " (of texts on test)" if view.language.reference_selection else ""
    return f"The α chosen on validation{on_test} for task addition lies {place}."


def sentence_on_published(table: pd.DataFrame, view: View) -> str:
    """How many accuracies are far from the published ones, and the farthest.

    Args:
        table: the table `targets`.
    """
    rows = table[table["task"] != "average"]
    differences = rows["difference"].round(2)  # as the table shows them
    which = "zero-shot and single-task accuracies that have a published number"
    flagged = differences[rows["flag"] == "yes"]
    if len(flagged):
        below = int((flagged < 0).sum())
        text = (
            f"{len(flagged)} of the {len(rows)} {which} are more than {TOLERANCE} points away from "
            f"it ({below} below, {len(flagged) - below} above)"
        )
    else:
        text = f"All {len(rows)} {which} are within {TOLERANCE} points of it"
    far = rows.loc[differences.abs().idxmax()]
    distance = f"{differences[far.name]:+.1f}".replace("-", "−")
    place = f"{far['encoder']}, {view.label(far['mode'])}, {far['task']}"
    return f"{text}; the largest difference is {distance} points ({place})."


# ---------------------------------------------------------------- claims


class Claim(NamedTuple):
    """A claim of the paper: for which encoder …, the numbers of this run, whether it holds."""

    claim: str
    where: str
    numbers: str
    holds: str


Claims = Iterator[Claim]
Holds = Callable[[dict[str, float]], bool]  # whether a claim holds of one number per mode


def claims(metrics: pd.DataFrame, view: View, table4: pd.DataFrame) -> list[Claim]:
    """The paper's claims on this run.

    Args:
        table4: the efficiency table, with the paper's columns.
    """
    parts = [part for part in (view, view.language) if set(PAPER_ORDER) <= set(part.modes)]
    found: list[Claim] = []
    for part in parts:
        for claim_on in (_claim_on_addition,) if part.of_texts else CLAIMS:
            found += claim_on(Measured(metrics, part))
    return found + [claim for part in parts for claim in _claim_on_efficiency(part, table4)]


def judged(
    claim: str,
    where: str,
    values: Values,
    part: Part,
    holds: Holds,
    digits: int = 1,
    unit: str = " %",
) -> Claim:
    """A claim on one number per mode: whether it holds on the mean, and in how many seeds."""
    seeds = len(next(iter(values.values())))
    answer = "yes" if holds({mode: v.mean() for mode, v in values.items()}) else "no"
    count = sum(holds({mode: v[s] for mode, v in values.items()}) for s in range(seeds))
    answer += f" ({count} of {seeds} seeds)" if seeds > 1 else ""
    return Claim(claim, where, listed(values, part, digits, unit), answer)


def falling(numbers: dict[str, float]) -> bool:
    """Each number is above the next."""
    return bool((np.diff(list(numbers.values())) < 0).all())


def attention_lowest(numbers: dict[str, float]) -> bool:
    """Attention's number is below all others."""
    return all(numbers["attention"] < v for mode, v in numbers.items() if mode != "attention")


def attention_highest(numbers: dict[str, float]) -> bool:
    """Attention's number is above all others."""
    return all(numbers["attention"] > v for mode, v in numbers.items() if mode != "attention")


def _claim_on_addition(run: Measured) -> Claims:
    part, table = run.part, "Table 3" if run.part.of_texts else "Table 2"
    order = " > ".join(part.label(mode) for mode in PAPER_ORDER)
    kinds = {"absolute": run.unified} | ({} if part.of_texts else {"normalized": run.normalized})
    for (kind, accuracy), encoder in product(kinds.items(), part.encoders):
        values = {mode: percent(accuracy(encoder, mode)) for mode in PAPER_ORDER}
        claim = f"Task addition, {kind} accuracy: {order} ({table})"
        yield judged(claim, encoder, values, part, falling)


def _claim_on_kernel_behaviour(run: Measured) -> Claims:
    claim = "Kernel behaviour: attention is closer to the line of equal accuracy (Figure 3)"
    part = run.part
    modes = [mode for mode in part.kernel_modes if mode in ("nonlinear", "attention")]
    for encoder in part.encoders if len(modes) == 2 else []:
        distance = {
            mode: percent(np.abs(run.individual(encoder, mode) - run.through_f_lin(encoder, mode)))
            for mode in modes
        }
        found = judged(claim, encoder, distance, part, attention_lowest, unit=" points")
        yield found._replace(numbers=f"mean distance: {found.numbers}")


def _claim_on_nonlinear_advantage(run: Measured) -> Claims:
    claim = "Non-linear advantage: smaller for attention than for NTK (Figure 5)"
    for encoder in run.part.encoders:
        alone = {mode: run.individual(encoder, mode).mean(axis=1) for mode in PAPER_ORDER}
        gap = {mode: 100 * (alone["nonlinear"] - alone[mode]) for mode in ("ntk", "attention")}
        yield judged(claim, encoder, gap, run.part, attention_lowest, unit=" points")


def _claim_on_disentanglement(run: Measured) -> Claims:
    part, modules = run.part, ["representation", "classification"]
    regions = {"[0, 1]²": (0, 1), "the whole grid": (-np.inf, np.inf)}
    for region, pair, module in product(regions, part.pairs.values(), modules):
        low, high = regions[region]
        values = {}
        for mode in part.modes:
            grid, errors = run.surface(module, mode, pair)
            inside = np.flatnonzero((grid >= low - 1e-9) & (grid <= high + 1e-9))
            values[mode] = errors[:, inside][:, :, inside]
        if len(inside) > 1:  # the origin says nothing
            values = {mode: errors.mean(axis=(1, 2)) for mode, errors in values.items()}
            claim = f"Mean disentanglement error over {region}: smallest for attention"
            where = f"{part.focus}, {' – '.join(pair)}, {module}"
            yield judged(f"{claim} (Figures 6, 8)", where, values, part, attention_lowest, 4, "")


def _claim_on_alpha(run: Measured) -> Claims:
    focus = run.part.focus
    curves = {mode: run.curve("unified_accuracy", focus, mode).values for mode in run.part.modes}
    means = {mode: values.mean(axis=(0, 1)) for mode, values in curves.items()}
    best = np.max([values for mode, values in means.items() if mode != "attention"], axis=0)
    count = f"at {int((means['attention'] > best).sum())} of {len(best)} α"
    claim = "Sensitivity to α: attention is ahead over a wide range of α (Figure 9)"
    yield Claim(claim, focus, "attention is highest on validation " + count, count)


def _claim_on_cosines(run: Measured) -> Claims:
    part, off = run.part, ~np.eye(len(run.part.tasks), dtype=bool)
    if off.any():
        values = {m: np.abs(run.cosines(m)[:, off]).mean(axis=1) for m in part.modes}
        claim = "Mean |cosine| between different task vectors: smallest for attention (Figure 10)"
        yield judged(claim, part.focus, values, part, attention_lowest, 4, "")


def _claim_on_ablation(run: Measured) -> Claims:
    part, modes = run.part, ["attention", *run.part.ablations]
    if not part.ablations:
        return
    values = {mode: percent(run.unified(part.focus, mode)) for mode in [*modes, "ntk"]}
    claim = "Ablation: every paradigm is above NTK in absolute accuracy (Table 5)"
    yield judged(claim, part.focus, values, part, lambda v: min(v[m] for m in modes) > v["ntk"])
    del values["ntk"]
    claim = "Ablation: attention weights alone have the highest absolute accuracy (Table 5)"
    yield judged(claim, part.focus, values, part, attention_highest)


def _claim_on_efficiency(part: Part, table4: pd.DataFrame) -> Claims:
    ratios = {
        "time of a step": ("step_seconds", "training_minutes"),
        "parameters held": ("held_parameters", "held_parameters"),
        "parameters trained": ("trained_parameters", "trained_parameters"),
    }
    for (mode, word), encoder in product((("ntk", "more"), ("attention", "less")), part.encoders):
        rows = table4[table4["encoder"] == encoder].set_index("mode").drop(columns="encoder")
        ratio = rows.loc[mode] / rows.loc["nonlinear"]
        texts = []
        for name, (ours, paper) in ratios.items():
            published = ratio[f"paper_{paper}"]
            beside = "" if np.isnan(published) else f" (paper {published:.2f} ×)"
            texts.append(f"{name} {ratio[ours]:.2f} ×{beside}")
        claim = (
            f"Efficiency: a step of {part.label(mode)} takes {word} time than one of "
            f"{part.label('nonlinear')} (Table 4)"
        )
        holds = (ratio["step_seconds"] > 1) == (word == "more")
        yield Claim(claim, encoder, "; ".join(texts), "yes" if holds else "no")


CLAIMS = (  # of images; of texts _claim_on_addition alone
    _claim_on_addition,
    _claim_on_kernel_behaviour,
    _claim_on_nonlinear_advantage,
    _claim_on_disentanglement,
    _claim_on_alpha,
    _claim_on_cosines,
    _claim_on_ablation,
)
