"""What a run says: neutral sentences with numbers, and intervals where it has them."""

from itertools import product

import numpy as np
import pandas as pd

from ..analysis.uncertainty import interval
from ..config.available import MERGING, has, part_of
from ..config.published import TOLERANCE
from ..config.view import Part, View
from ..files.leaks import leak
from . import merging
from .cells import Measured, percent
from .claims import Runs, in_samples, listed, shown, within
from .resampled import Draws, Resampled


def sentences(metrics: pd.DataFrame, view: View, draws: Draws | None = None) -> list[str]:
    """Headlines: zero-shot accuracies near chance, unified accuracy, the best mode and its lead,
    negation, the chosen α, modes under other merging methods.

    Args:
        draws: what read_draws returns; without them there are no intervals.
    """
    parts = [Measured(metrics, part) for part in view.parts]
    found = sentence_on_chance(metrics, view)
    for run in parts:
        runs = Runs(run, Resampled(metrics, run.part, draws=draws or {}))
        found += [sentence_on_addition(runs, encoder) for encoder in run.part.encoders]
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


def sentence_on_addition(runs: Runs, encoder: str) -> str:
    """The unified models of an encoder, the best of them and its lead."""
    part = runs.part

    def of_modes(run: Measured) -> dict[str, np.ndarray]:
        return {mode: percent(run.unified(encoder, mode)) for mode in part.unified_modes}

    values, drawn = of_modes(runs.measured), in_samples(runs.samples, of_modes)
    best, *others = sorted(values, key=lambda mode: -values[mode].mean())
    text = (
        f"Task addition, {encoder}: the unified model of {part.label(best)} has the "
        f"highest mean accuracy on test, {shown(values[best])}"
    )
    if others:
        lead = float(values[best].mean() - values[others[0]].mean())
        spread = ""
        if best in drawn and others[0] in drawn:
            spread = f" {within(interval(drawn[best] - drawn[others[0]], lead))}"
        text += f", {lead:.1f}{spread} points above {part.label(others[0])}, the next one"
    zero_shot = shown(percent(runs.measured.pretrained(encoder)))
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
