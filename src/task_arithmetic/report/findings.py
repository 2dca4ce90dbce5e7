"""What a run says about the paper's claims: neutral sentences and one row per claim, with numbers.

A claim holds if the means over seeds are in the claimed order; with several seeds it is also said
in how many of them the order holds. Nothing here is tested for significance.
"""

from itertools import product

import numpy as np

from ..config.available import encoders_of, is_language, language_of
from ..config.targets import TOLERANCE
from .cells import (
    cells,
    chosen_alpha,
    cosines,
    curve,
    individual,
    label_of,
    modes_of,
    pretrained,
    seeds_of,
    surface,
    unified_modes_of,
)

PAPER_ORDER = ["attention", "ntk", "nonlinear"]  # of accuracy in task addition, high to low


def shown(values, digits=1, unit=" %") -> str:
    """Mean over seeds, ± sample standard deviation if there are several."""
    text = f"{values.mean():.{digits}f}"
    if len(values) > 1:
        text += f" ± {values.std(ddof=1):.{digits}f}"
    return (text + unit).replace(" ", "\N{NO-BREAK SPACE}")


def verdict(values: dict, holds) -> str:
    """yes or no, and in how many seeds.

    Args:
        values: mode → (S,).
        holds: function of one number per mode (the same dict with numbers) that says whether the
            claim holds.
    """
    seeds = len(next(iter(values.values())))
    answer = "yes" if holds({mode: v.mean() for mode, v in values.items()}) else "no"
    count = sum(holds({mode: v[s] for mode, v in values.items()}) for s in range(seeds))
    return answer + (f" ({count} of {seeds} seeds)" if seeds > 1 else "")


def falling(numbers: dict) -> bool:
    """Each number is above the next."""
    return bool((np.diff(list(numbers.values())) < 0).all())


def attention_lowest(numbers: dict) -> bool:
    """Attention's number is below all others."""
    return all(numbers["attention"] < v for mode, v in numbers.items() if mode != "attention")


def listed(values: dict, settings, digits=1, unit=" %") -> str:
    """Label and number of every mode."""
    return "; ".join(
        f"{label_of(mode, settings)} {shown(numbers, digits, unit)}"
        for mode, numbers in values.items()
    )


def percent(metrics, metric, encoder, modes, settings) -> dict:
    """mode → mean test accuracy (S,) of the unified model over tasks, in percent."""
    where = seeds_of(settings), settings["tasks"]
    return {
        mode: 100 * cells(metrics, metric, encoder, mode, *where)[0].mean(axis=1) for mode in modes
    }


# ---------------------------------------------------------------- sentences


def sentences(metrics, settings) -> list[str]:
    """Headlines: unified accuracy, the best mode and its lead, negation, the chosen α."""
    found, at_end = [], []
    for part in (settings, language_of(settings)):
        for encoder in encoders_of(part):
            found.append(_added(metrics, part, encoder))
            at_end += _at_end(metrics, part, encoder)
    if settings["control"]:
        found += [_negated(metrics, settings, encoder) for encoder in encoders_of(settings)]
    found += _cut(metrics, language_of(settings))
    place = f"at an end of its grid for {'; '.join(at_end)}" if at_end else "inside its grid"
    reference = settings["language"]["reference_selection"]
    chosen = "chosen on validation (of texts on test)" if reference else "chosen on validation"
    return [*found, f"The α {chosen} for task addition lies {place}."]


def _added(metrics, settings, encoder) -> str:
    """The unified models of an encoder, the best of them and its lead."""
    zero = 100 * pretrained(metrics, encoder, settings["tasks"]).mean(axis=1)
    modes = unified_modes_of(settings)
    unified = percent(metrics, "unified_accuracy", encoder, modes, settings)
    best, *others = sorted(unified, key=lambda mode: -unified[mode].mean())
    text = (
        f"Task addition, {encoder}: the unified model of {label_of(best, settings)} has the "
        f"highest mean accuracy on test, {shown(unified[best])}"
    )
    if others:
        lead = unified[best].mean() - unified[others[0]].mean()
        text += f", {lead:.1f} points above {label_of(others[0], settings)}, the next one"
    return f"{text} ({listed(unified, settings)}; pre-trained {shown(zero)})."


def _at_end(metrics, settings, encoder) -> list[str]:
    """Where the chosen α is the first or the last of its grid."""
    seeds, tasks, found = seeds_of(settings), settings["tasks"], []
    for mode in unified_modes_of(settings):
        grid, _ = curve(metrics, "unified_accuracy", encoder, mode, seeds, tasks)
        if np.isin(chosen_alpha(metrics, encoder, mode, seeds, tasks), grid[[0, -1]]).any():
            found.append(f"{encoder}, {label_of(mode, settings)}")
    return found


def _cut(metrics, settings) -> list[str]:
    """Which texts were longer than a model was to read, if any."""
    rows = metrics[(metrics["metric"] == "cut_inputs") & (metrics["value"] > 0)]
    rows = rows[rows["encoder"] == settings["focus"]]
    named = [f"{row.value:,.0f} of {row.task} ({row.split})" for row in rows.itertuples()]
    return [f"Texts that were cut to the length that their task allows: {', '.join(named)}."] * (
        len(named) > 0
    )


def _negated(metrics, settings, encoder) -> str:
    """What negating each task costs it, and the control task."""
    seeds, tasks, control = seeds_of(settings), settings["tasks"], settings["control"]
    zero = 100 * pretrained(metrics, encoder, tasks).mean(axis=1)
    before = pretrained(metrics, encoder, [control]).mean()
    ways = []
    for mode in modes_of(settings):
        where = encoder, mode, seeds, tasks, "test", control
        target = 100 * cells(metrics, "negated_accuracy", *where)[0].mean(axis=1)
        kept = 100 * cells(metrics, "control_accuracy", *where)[0].mean(axis=1) / before
        ways.append(f"{label_of(mode, settings)} to {shown(target)}, keeping {shown(kept)}")
    return (
        f"Task negation, {encoder}: the mean target accuracy goes from {shown(zero)} "
        f"(pre-trained) with {'; with '.join(ways)} of the accuracy on {control}."
    )


def beside_published(table, settings) -> str:
    """How many accuracies are far from the published ones, and the farthest.

    Args:
        table: the table `targets` as read from its CSV.
    """
    rows = table[table["task"] != "average"]
    which = "zero-shot and single-task accuracies that have a published number"
    flagged = rows[rows["flag"] == "yes"]
    if len(flagged):
        below = int((flagged["difference"] < 0).sum())
        text = (
            f"{len(flagged)} of the {len(rows)} {which} are more than {TOLERANCE} points away from "
            f"it ({below} below, {len(flagged) - below} above)"
        )
    else:
        text = f"All {len(rows)} {which} are within {TOLERANCE} points of it"
    far = rows.loc[rows["difference"].abs().idxmax()]
    distance = f"{far['difference']:+.1f}".replace("-", "−")
    place = f"{far['encoder']}, {label_of(far['mode'], settings)}, {far['task']}"
    return f"{text}; the largest difference is {distance} points ({place})."


# ---------------------------------------------------------------- claims
# Each function yields rows (claim, where, numbers of this run, whether it holds).


def claims(metrics, settings, table4) -> list[tuple[str, str, str, str]]:
    """The paper's claims on this run, as rows (claim, where, numbers, whether it holds).

    Args:
        table4: the efficiency table as read from its CSV, with the paper's columns.
    """
    tested = (_addition, _kernel, _advantage, _disentanglement, _alpha, _cosine, _ablation)
    parts = [(settings, tested), (language_of(settings), (_addition,))]
    parts = [(part, about) for part, about in parts if set(PAPER_ORDER) <= set(part["modes"])]
    found = [row for part, about in parts for each in about for row in each(metrics, part)]
    return found + [row for part, _ in parts for row in _efficiency(part, table4)]


def _addition(metrics, settings):
    order = " > ".join(label_of(mode, settings) for mode in PAPER_ORDER)
    kinds = {"absolute": "unified_accuracy", "normalized": "normalized_accuracy"}
    if is_language(settings):
        kinds.pop("normalized")  # the paper has none
    for kind, metric in kinds.items():
        for encoder in encoders_of(settings):
            values = percent(metrics, metric, encoder, PAPER_ORDER, settings)
            table = "Table 3" if is_language(settings) else "Table 2"
            claim = f"Task addition, {kind} accuracy: {order} ({table})"
            yield claim, encoder, listed(values, settings), verdict(values, falling)


def _kernel(metrics, settings):
    where = seeds_of(settings), settings["tasks"]
    tested = {"nonlinear", "attention"} <= {*settings["kernel_modes"]}
    for encoder in encoders_of(settings) if tested else []:
        distance = {}
        for mode in ("nonlinear", "attention"):
            linear = cells(metrics, "posthoc_accuracy", encoder, mode, *where)[0]
            gaps = np.abs(individual(metrics, encoder, mode, *where) - linear)
            distance[mode] = 100 * gaps.mean(axis=1)
        claim = "Kernel behaviour: attention is closer to the line of equal accuracy (Figure 3)"
        text = "mean distance: " + listed(distance, settings, unit=" points")
        yield claim, encoder, text, verdict(distance, attention_lowest)


def _advantage(metrics, settings):
    where = seeds_of(settings), settings["tasks"]
    for encoder in encoders_of(settings):
        alone = {m: individual(metrics, encoder, m, *where).mean(axis=1) for m in PAPER_ORDER}
        gap = {mode: 100 * (alone["nonlinear"] - alone[mode]) for mode in ("ntk", "attention")}
        claim = "Non-linear advantage: smaller for attention than for NTK (Figure 5)"
        text = listed(gap, settings, unit=" points")
        yield claim, encoder, text, verdict(gap, attention_lowest)


def _disentanglement(metrics, settings):
    focus, seeds = settings["focus"], seeds_of(settings)
    modules = ["representation", "classification"]
    for region in ("[0, 1]²", "the whole grid"):
        for pair, module in product(settings["pairs"].values(), modules):
            values = {}
            for mode in modes_of(settings):
                name = f"{module}_disentanglement"
                grid, errors = surface(metrics, name, focus, mode, seeds, pair)
                if region == "[0, 1]²":
                    inside = np.flatnonzero((grid >= -1e-9) & (grid <= 1 + 1e-9))
                    inside = inside if len(inside) > 1 else inside[:0]  # the origin says nothing
                    errors = errors[:, inside][:, :, inside]
                values[mode] = errors.reshape(len(seeds), -1)
            if values["attention"].size:
                values = {mode: errors.mean(axis=1) for mode, errors in values.items()}
                claim = f"Mean disentanglement error over {region}: smallest for attention"
                text = listed(values, settings, 4, "")
                where = f"{focus}, {' – '.join(pair)}, {module}"
                yield f"{claim} (Figures 6, 8)", where, text, verdict(values, attention_lowest)


def _alpha(metrics, settings):
    grid, means = None, {}
    for mode in modes_of(settings):
        where = settings["focus"], mode, seeds_of(settings), settings["tasks"]
        grid, values = curve(metrics, "unified_accuracy", *where, grid=grid)
        means[mode] = values.mean(axis=(0, 1))
    best = np.max([values for mode, values in means.items() if mode != "attention"], axis=0)
    count = f"at {int((means['attention'] > best).sum())} of {len(grid)} α"
    claim = "Sensitivity to α: attention is ahead over a wide range of α (Figure 9)"
    yield claim, settings["focus"], "attention is highest on validation " + count, count


def _cosine(metrics, settings):
    tasks, values = settings["tasks"], {}
    off = ~np.eye(len(tasks), dtype=bool)
    for mode in modes_of(settings) if len(tasks) > 1 else []:
        matrices = cosines(metrics, settings["focus"], mode, seeds_of(settings), tasks)
        values[mode] = np.abs(matrices[:, off]).mean(axis=1)
    if values:
        claim = "Mean |cosine| between different task vectors: smallest for attention (Figure 10)"
        text = listed(values, settings, 4, "")
        yield claim, settings["focus"], text, verdict(values, attention_lowest)


def _ablation(metrics, settings):
    if not settings["ablations"]:
        return
    focus, modes = settings["focus"], ["attention", *sorted(settings["ablations"])]
    values = percent(metrics, "unified_accuracy", focus, [*modes, "ntk"], settings)
    every = verdict(values, lambda found: min(found[mode] for mode in modes) > found["ntk"])
    first = verdict(values, lambda found: found["attention"] > max(found[m] for m in modes[1:]))
    text = listed(values, settings)
    yield "Ablation: every paradigm is above NTK in absolute accuracy (Table 5)", focus, text, every
    text = listed({mode: values[mode] for mode in modes}, settings)
    claim = "Ablation: attention weights alone have the highest absolute accuracy (Table 5)"
    yield claim, focus, text, first


def _efficiency(settings, table4):
    shown_ratios = {
        "time of a step": ("step_seconds", "training_minutes"),
        "parameters held": ("held_parameters", "held_parameters"),
        "parameters trained": ("trained_parameters", "trained_parameters"),
    }
    for mode, word in (("ntk", "more"), ("attention", "less")):
        for encoder in encoders_of(settings):
            rows = table4[table4["encoder"] == encoder].set_index("mode").drop(columns="encoder")
            ratio = rows.loc[mode] / rows.loc["nonlinear"]
            text = "; ".join(
                f"{name} {ratio[ours]:.2f} ×"
                + f" (paper {ratio[f'paper_{paper}']:.2f} ×)"
                * bool(ratio.notna()[f"paper_{paper}"])
                for name, (ours, paper) in shown_ratios.items()
            )
            claim = (
                f"Efficiency: a step of {label_of(mode, settings)} takes {word} time than one of "
                f"{label_of('nonlinear', settings)} (Table 4)"
            )
            more = ratio["step_seconds"] > 1
            yield claim, encoder, text, "yes" if more == (word == "more") else "no"
