"""What a run says about the paper's claims: neutral sentences and one row per claim, with numbers.

A claim holds if the means over seeds are in the claimed order; with several seeds it is also said
in how many of them the order holds. Nothing here is tested for significance.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..config.targets import TOLERANCE
from ..config.view import Part, View
from .cells import Measured, percent

PAPER_ORDER = ["attention", "ntk", "nonlinear"]  # of accuracy in task addition, high to low

Values = dict[str, np.ndarray]  # mode → (S,)


def shown(values: np.ndarray, digits: int = 1, unit: str = " %") -> str:
    """Mean over seeds, ± sample standard deviation if there are several."""
    text = f"{values.mean():.{digits}f}"
    if len(values) > 1:
        text += f" ± {values.std(ddof=1):.{digits}f}"
    return (text + unit).replace(" ", "\N{NO-BREAK SPACE}")


def verdict(values: Values, holds: Callable[[dict[str, float]], bool]) -> str:
    """yes or no, and in how many seeds.

    Args:
        holds: whether the claim holds of one number per mode.
    """
    seeds = len(next(iter(values.values())))
    answer = "yes" if holds({mode: v.mean() for mode, v in values.items()}) else "no"
    count = sum(holds({mode: v[s] for mode, v in values.items()}) for s in range(seeds))
    return answer + (f" ({count} of {seeds} seeds)" if seeds > 1 else "")


def falling(numbers: dict[str, float]) -> bool:
    """Each number is above the next."""
    return bool((np.diff(list(numbers.values())) < 0).all())


def attention_lowest(numbers: dict[str, float]) -> bool:
    """Attention's number is below all others."""
    return all(numbers["attention"] < v for mode, v in numbers.items() if mode != "attention")


def listed(values: Values, part: Part, digits: int = 1, unit: str = " %") -> str:
    """Label and number of every mode."""
    return "; ".join(
        f"{part.label(mode)} {shown(numbers, digits, unit)}" for mode, numbers in values.items()
    )


def unified(
    run: Measured, encoder: str, modes: Iterable[str], metric: str = "unified_accuracy"
) -> Values:
    """Mean test accuracy of the unified model over tasks, in percent."""
    return {mode: percent(run.cells(metric, encoder, mode)[0]) for mode in modes}


# ---------------------------------------------------------------- sentences


def sentences(metrics: pd.DataFrame, view: View) -> list[str]:
    """Headlines: unified accuracy, the best mode and its lead, negation, the chosen α."""
    images, found, at_end = Measured(metrics, view), [], []
    for run in (Measured(metrics, part) for part in view.parts):
        for encoder in run.part.encoders:
            found.append(_added(run, encoder))
            at_end += _at_end(run, encoder)
    if view.control:
        found += [_negated(images, encoder, view.control) for encoder in view.encoders]
    found += _cut(metrics, view.language)
    place = f"at an end of its grid for {'; '.join(at_end)}" if at_end else "inside its grid"
    reference = view.language.reference_selection
    chosen = "chosen on validation (of texts on test)" if reference else "chosen on validation"
    return [*found, f"The α {chosen} for task addition lies {place}."]


def _added(run: Measured, encoder: str) -> str:
    """The unified models of an encoder, the best of them and its lead."""
    part, values = run.part, unified(run, encoder, run.part.unified_modes)
    best, *others = sorted(values, key=lambda mode: -values[mode].mean())
    text = (
        f"Task addition, {encoder}: the unified model of {part.label(best)} has the "
        f"highest mean accuracy on test, {shown(values[best])}"
    )
    if others:
        lead = values[best].mean() - values[others[0]].mean()
        text += f", {lead:.1f} points above {part.label(others[0])}, the next one"
    zero = percent(run.pretrained(encoder))
    return f"{text} ({listed(values, part)}; pre-trained {shown(zero)})."


def _at_end(run: Measured, encoder: str) -> list[str]:
    """Where the chosen α is the first or the last of its grid."""
    found = []
    for mode in run.part.unified_modes:
        grid, _ = run.curve("unified_accuracy", encoder, mode)
        if np.isin(run.chosen_alpha(encoder, mode), grid[[0, -1]]).any():
            found.append(f"{encoder}, {run.part.label(mode)}")
    return found


def _cut(metrics: pd.DataFrame, texts: Part) -> list[str]:
    """Which texts were longer than a model was to read, if any."""
    rows = metrics[(metrics["metric"] == "cut_inputs") & (metrics["value"] > 0)]
    rows = rows[rows["encoder"] == texts.focus]
    named = [f"{row.value:,.0f} of {row.task} ({row.split})" for row in rows.itertuples()]
    text = f"Texts that were cut to the length that their task allows: {', '.join(named)}."
    return [text] if named else []


def _negated(run: Measured, encoder: str, control: str) -> str:
    """What negating each task costs it, and the control task."""
    zero, before = percent(run.pretrained(encoder)), run.pretrained(encoder, [control]).mean()
    ways = []
    for mode in run.part.modes:
        target, on_control, _ = run.negated(encoder, mode)
        kept = shown(percent(on_control) / before)
        ways.append(f"{run.part.label(mode)} to {shown(percent(target))}, keeping {kept}")
    return (
        f"Task negation, {encoder}: the mean target accuracy goes from {shown(zero)} "
        f"(pre-trained) with {'; with '.join(ways)} of the accuracy on {control}."
    )


def beside_published(table: pd.DataFrame, view: View) -> str:
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


def claims(metrics: pd.DataFrame, view: View, table4: pd.DataFrame) -> list[Claim]:
    """The paper's claims on this run.

    Args:
        table4: the efficiency table, with the paper's columns.
    """
    tested = (_addition, _kernel, _advantage, _disentanglement, _alpha, _cosine, _ablation)
    parts = [part for part in (view, view.language) if set(PAPER_ORDER) <= set(part.modes)]
    runs = [Measured(metrics, part) for part in parts]
    about = [(run, each) for run in runs for each in tested[: 1 if run.part.of_texts else None]]
    found = [claim for run, each in about for claim in each(run)]
    return found + [claim for part in parts for claim in _efficiency(part, table4)]


def _addition(run: Measured) -> Claims:
    order = " > ".join(run.part.label(mode) for mode in PAPER_ORDER)
    kinds = ["absolute"] if run.part.of_texts else ["absolute", "normalized"]  # as in the paper
    table = "Table 3" if run.part.of_texts else "Table 2"
    for kind, encoder in product(kinds, run.part.encoders):
        metric = "unified_accuracy" if kind == "absolute" else "normalized_accuracy"
        values = unified(run, encoder, PAPER_ORDER, metric)
        claim = f"Task addition, {kind} accuracy: {order} ({table})"
        yield Claim(claim, encoder, listed(values, run.part), verdict(values, falling))


def _kernel(run: Measured) -> Claims:
    modes = ["nonlinear", "attention"]
    for encoder in run.part.encoders if {*modes} <= {*run.part.kernel_modes} else []:
        distance = {
            mode: percent(np.abs(run.individual(encoder, mode) - run.through_f_lin(encoder, mode)))
            for mode in modes
        }
        claim = "Kernel behaviour: attention is closer to the line of equal accuracy (Figure 3)"
        text = "mean distance: " + listed(distance, run.part, unit=" points")
        yield Claim(claim, encoder, text, verdict(distance, attention_lowest))


def _advantage(run: Measured) -> Claims:
    for encoder in run.part.encoders:
        alone = {mode: run.individual(encoder, mode).mean(axis=1) for mode in PAPER_ORDER}
        gap = {mode: 100 * (alone["nonlinear"] - alone[mode]) for mode in ("ntk", "attention")}
        claim = "Non-linear advantage: smaller for attention than for NTK (Figure 5)"
        text = listed(gap, run.part, unit=" points")
        yield Claim(claim, encoder, text, verdict(gap, attention_lowest))


def _disentanglement(run: Measured) -> Claims:
    part, modules = run.part, ["representation", "classification"]
    for region, pair, module in product(
        ("[0, 1]²", "the whole grid"), part.pairs.values(), modules
    ):
        values = {}
        for mode in part.modes:
            grid, errors = run.surface(f"{module}_disentanglement", mode, pair)
            if region == "[0, 1]²":
                inside = np.flatnonzero((grid >= -1e-9) & (grid <= 1 + 1e-9))
                inside = inside if len(inside) > 1 else inside[:0]  # the origin says nothing
                errors = errors[:, inside][:, :, inside]
            values[mode] = errors.reshape(len(part.seeds), -1)
        if values["attention"].size:
            values = {mode: errors.mean(axis=1) for mode, errors in values.items()}
            claim = f"Mean disentanglement error over {region}: smallest for attention"
            where = f"{part.focus}, {' – '.join(pair)}, {module}"
            text, holds = listed(values, part, 4, ""), verdict(values, attention_lowest)
            yield Claim(f"{claim} (Figures 6, 8)", where, text, holds)


def _alpha(run: Measured) -> Claims:
    grid, means, focus = None, {}, run.part.focus
    for mode in run.part.modes:
        grid, values = run.curve("unified_accuracy", focus, mode, grid=grid)
        means[mode] = values.mean(axis=(0, 1))
    best = np.max([values for mode, values in means.items() if mode != "attention"], axis=0)
    count = f"at {int((means['attention'] > best).sum())} of {len(best)} α"
    claim = "Sensitivity to α: attention is ahead over a wide range of α (Figure 9)"
    yield Claim(claim, focus, "attention is highest on validation " + count, count)


def _cosine(run: Measured) -> Claims:
    tasks = len(run.part.tasks)
    if tasks > 1:
        off = ~np.eye(tasks, dtype=bool)
        values = {m: np.abs(run.cosines(m)[:, off]).mean(axis=1) for m in run.part.modes}
        claim = "Mean |cosine| between different task vectors: smallest for attention (Figure 10)"
        text = listed(values, run.part, 4, "")
        yield Claim(claim, run.part.focus, text, verdict(values, attention_lowest))


def _ablation(run: Measured) -> Claims:
    part, modes = run.part, ["attention", *run.part.ablations]
    if not part.ablations:
        return
    values = unified(run, part.focus, [*modes, "ntk"])
    holds = verdict(values, lambda found: min(found[mode] for mode in modes) > found["ntk"])
    claim = "Ablation: every paradigm is above NTK in absolute accuracy (Table 5)"
    yield Claim(claim, part.focus, listed(values, part), holds)
    holds = verdict(values, lambda found: found["attention"] > max(found[m] for m in modes[1:]))
    text = listed({mode: values[mode] for mode in modes}, part)
    claim = "Ablation: attention weights alone have the highest absolute accuracy (Table 5)"
    yield Claim(claim, part.focus, text, holds)


def _efficiency(part: Part, table4: pd.DataFrame) -> Claims:
    shown_ratios = {
        "time of a step": ("step_seconds", "training_minutes"),
        "parameters held": ("held_parameters", "held_parameters"),
        "parameters trained": ("trained_parameters", "trained_parameters"),
    }
    for (mode, word), encoder in product((("ntk", "more"), ("attention", "less")), part.encoders):
        rows = table4[table4["encoder"] == encoder].set_index("mode").drop(columns="encoder")
        ratio = rows.loc[mode] / rows.loc["nonlinear"]
        texts = []
        for name, (ours, paper) in shown_ratios.items():
            published = ratio[f"paper_{paper}"]
            beside = "" if np.isnan(published) else f" (paper {published:.2f} ×)"
            texts.append(f"{name} {ratio[ours]:.2f} ×{beside}")
        claim = (
            f"Efficiency: a step of {part.label(mode)} takes {word} time than one of "
            f"{part.label('nonlinear')} (Table 4)"
        )
        holds = (ratio["step_seconds"] > 1) == (word == "more")
        yield Claim(claim, encoder, "; ".join(texts), "yes" if holds else "no")
