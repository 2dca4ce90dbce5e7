"""The paper's claims on a run: each holds, does not hold, or cannot be told from this run.

A claim is that some numbers are larger than others. Each difference has a 95 % interval over
bootstrap samples of the test examples, and of the seeds where there are several (resampled.py); of
similarities of task vectors over samples of the tasks, of five or more. The claim holds if all of
these intervals are above 0, and does not hold if any is below.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import combinations, product
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from ..analysis.uncertainty import DRAWS, interval, mean_over_pairs, over_seeds, task_draws
from ..config.view import Part, View
from .cells import Measured, Region, percent
from .resampled import Draws, Resampled

PAPER_ORDER = ["attention", "ntk", "nonlinear"]  # of accuracy in task addition, high to low
Verdict = Literal["holds", "does not hold", "cannot be told"]
Values = dict[str, np.ndarray]  # mode → (S,), or (draws,) in bootstrap samples
Order = list[tuple[str, str]]  # pairs of modes, the one with the larger number first
LEAST_TASKS = 5  # of which samples say something: of fewer they are far too alike


class Claim(NamedTuple):
    """A claim of the paper: for which encoder …, the numbers of this run, whether it holds."""

    claim: str
    where: str
    numbers: str
    holds: Verdict


Claims = Iterator[Claim]


class Runs(NamedTuple):
    """A part as measured, and in bootstrap samples."""

    measured: Measured
    samples: Resampled

    @property
    def part(self) -> Part:
        return self.measured.part


def claims(
    metrics: pd.DataFrame, view: View, table4: pd.DataFrame, draws: Draws | None = None
) -> list[Claim]:
    """The paper's claims on this run.

    Args:
        table4: the efficiency table, with the paper's columns.
        draws: what read_draws returns; without them nothing can be told of accuracies.
    """
    parts = [part for part in (view, view.language) if set(PAPER_ORDER) <= set(part.modes)]
    found: list[Claim] = []
    for part in parts:
        runs = Runs(Measured(metrics, part), Resampled(metrics, part, draws=draws or {}))
        for claim_on in (_claim_on_addition,) if part.of_texts else CLAIMS:
            found += claim_on(runs)
        found += _claim_on_efficiency(runs.measured, table4)
    return found


# ---------------------------------------------------------------- numbers in words


def shown(values: np.ndarray, digits: int = 1, unit: str = " %") -> str:
    """Mean over seeds, ± sample standard deviation if there are several."""
    text = signed(values.mean(), digits)
    if len(values) > 1:
        text += f" ± {values.std(ddof=1):.{digits}f}"
    return (text + unit).replace(" ", "\N{NO-BREAK SPACE}")


def listed(values: Values, part: Part, digits: int = 1, unit: str = " %") -> str:
    """Label and number of every mode."""
    return "; ".join(
        f"{part.label(mode)} {shown(numbers, digits, unit)}" for mode, numbers in values.items()
    )


def signed(value: float, digits: int = 1) -> str:
    """A number with a minus that is one."""
    text = f"{value:.{digits}f}"
    text = text.removeprefix("-") if float(text) == 0 else text
    return text.replace("-", "\N{MINUS SIGN}")


def within(ends: tuple[float, float], digits: int = 1) -> str:
    """An interval: [low, high]."""
    return f"[{signed(ends[0], digits)},\N{NO-BREAK SPACE}{signed(ends[1], digits)}]"


def verdict(intervals: Iterable[tuple[float, float] | None]) -> Verdict:
    """Of intervals of differences that are claimed to be above 0; None: there is none."""
    ends = list(intervals)
    if any(each and each[1] < 0 for each in ends):
        return "does not hold"
    all_above = bool(ends) and all(each and each[0] > 0 for each in ends)
    return "holds" if all_above else "cannot be told"


def in_samples(samples: Resampled, values_of: Callable[[Measured], Values]) -> Values:
    """Values of each seed in every sample, and of these the means over drawn seeds (draws,); of a
    mode whose values have no samples, none."""
    each = [values_of(one) for one in samples.of_seeds()]
    return {
        mode: over_seeds(np.stack([values[mode] for values in each]))
        for mode in each[0]
        if all(len(values[mode]) == DRAWS for values in each)
    }


def judged(
    claim: str,
    where: str,
    runs: Runs,
    values_of: Callable[[Measured], Values],
    order: Order,
    digits: int = 1,
    unit: str = " %",
) -> Claim:
    """A claim on one number per mode, as measured and in every sample."""
    values, drawn = values_of(runs.measured), in_samples(runs.samples, values_of)
    return _judged(claim, where, runs.part, values, drawn, order, digits, unit)


def _judged(
    claim: str,
    where: str,
    part: Part,
    values: Values,
    drawn: Values,
    order: Order,
    digits: int = 1,
    unit: str = " %",
) -> Claim:
    seeds, texts, ends = len(next(iter(values.values()))), [], []
    for larger, smaller in order:
        gap = float(values[larger].mean() - values[smaller].mean())
        there = larger in drawn and smaller in drawn
        ends.append(interval(drawn[larger] - drawn[smaller], gap) if there else None)
        text = f"{part.label(larger)} less {part.label(smaller)} {signed(gap, digits)}"
        texts.append(text + (f" {within(ends[-1], digits)}" if ends[-1] else ""))
    numbers = f"{listed(values, part, digits, unit)} ({'; '.join(texts)})"
    if seeds > 1:
        every = np.all([values[larger] > values[smaller] for larger, smaller in order], axis=0)
        numbers += f"; in this order in {int(every.sum())} of {seeds} seeds"
    return Claim(claim, where, numbers, verdict(ends))


def attention_lowest(modes: Iterable[str]) -> Order:
    """Attention's number is below all others."""
    return [(mode, "attention") for mode in modes if mode != "attention"]


# ---------------------------------------------------------------- the claims


def _claim_on_addition(runs: Runs) -> Claims:
    part, table = runs.part, "Table 3" if runs.part.of_texts else "Table 2"
    order = list(combinations(PAPER_ORDER, 2))  # the ends as well, which both steps imply
    names = " > ".join(part.label(mode) for mode in PAPER_ORDER)
    for encoder in part.encoders:

        def absolute(run: Measured, encoder: str = encoder) -> Values:
            return {mode: percent(run.unified(encoder, mode)) for mode in PAPER_ORDER}

        def normalized(run: Measured, encoder: str = encoder) -> Values:
            return {mode: percent(run.normalized(encoder, mode)) for mode in PAPER_ORDER}

        for values_of in (absolute,) if part.of_texts else (absolute, normalized):
            claim = f"Task addition, {values_of.__name__} accuracy: {names} ({table})"
            yield judged(claim, encoder, runs, values_of, order)


def _claim_on_kernel_behaviour(runs: Runs) -> Claims:
    claim = "Kernel behaviour: attention is closer to the line of equal accuracy (Figure 3)"
    modes = [mode for mode in runs.part.kernel_modes if mode in ("nonlinear", "attention")]
    for encoder in runs.part.encoders if len(modes) == 2 else []:

        def distance(run: Measured, encoder: str = encoder) -> Values:
            pairs = {m: (run.individual(encoder, m), run.through_f_lin(encoder, m)) for m in modes}
            return {mode: percent(np.abs(f - f_lin)) for mode, (f, f_lin) in pairs.items()}

        found = judged(claim, encoder, runs, distance, attention_lowest(modes), unit=" points")
        yield found._replace(numbers=f"mean distance: {found.numbers}")


def _claim_on_nonlinear_advantage(runs: Runs) -> Claims:
    claim = "Non-linear advantage: smaller for attention than for NTK (Figure 5)"
    for encoder in runs.part.encoders:

        def gap(run: Measured, encoder: str = encoder) -> Values:
            alone = {mode: percent(run.individual(encoder, mode)) for mode in PAPER_ORDER}
            return {mode: alone["nonlinear"] - alone[mode] for mode in ("ntk", "attention")}

        yield judged(claim, encoder, runs, gap, [("ntk", "attention")], unit=" points")


def _claim_on_disentanglement(runs: Runs) -> Claims:
    part, modules = runs.part, ["representation", "classification"]
    for (inside, region), pair, module in product(
        ((True, "[0, 1]²"), (False, "the whole grid")), part.pairs.values(), modules
    ):
        if inside and runs.measured.cells_inside(pair) < 2:  # the origin says nothing
            continue

        def error(run: Measured, of: Region = Region(module, pair, inside)) -> Values:  # noqa: B008
            return {mode: run.mean_error(mode, of) for mode in part.modes}

        claim = f"Mean disentanglement error over {region}: smallest for attention (Figures 6, 8)"
        where = f"{part.focus}, {' – '.join(pair)}, {module}"
        yield judged(claim, where, runs, error, attention_lowest(part.modes), 4, "")


def _claim_on_alpha(runs: Runs) -> Claims:
    """That attention is ahead at more than half of the α."""
    focus, modes = runs.part.focus, runs.part.modes

    def ahead(run: Measured) -> Values:
        """At how many α."""
        curves = {mode: run.curve("unified_accuracy", focus, mode).values for mode in modes}
        means = {mode: values.mean(axis=1) for mode, values in curves.items()}
        best = np.max([values for mode, values in means.items() if mode != "attention"], axis=0)
        return {"attention": (means["attention"] > best).sum(axis=1)}

    grid, _ = runs.measured.curve("unified_accuracy", focus, "attention")
    found = float(ahead(runs.measured)["attention"].mean())
    ends = None
    if drawn := in_samples(runs.samples, ahead):
        low, high = np.clip(interval(drawn["attention"], found), 0, len(grid))
        ends = float(low), float(high)
    text = f" {within(ends, 0)}" if ends else ""
    claim = "Sensitivity to α: attention is ahead at more than half of the α (Figure 9)"
    numbers = f"attention is highest on validation at {found:.3g}{text} of {len(grid)} α"
    half = len(grid) / 2
    yield Claim(
        claim, focus, numbers, verdict([(ends[0] - half, ends[1] - half) if ends else None])
    )


def _claim_on_cosines(runs: Runs) -> Claims:
    part, tasks = runs.part, len(runs.part.tasks)
    if tasks < 2:
        return
    off, counts = ~np.eye(tasks, dtype=bool), task_draws(tasks)
    cosines = {mode: np.abs(runs.measured.cosines(mode)) for mode in part.modes}
    values = {mode: each[:, off].mean(axis=1) for mode, each in cosines.items()}
    drawn: Values = {}
    if tasks >= LEAST_TASKS:
        drawn = {m: mean_over_pairs(each.mean(axis=0), counts) for m, each in cosines.items()}
    claim = "Mean |cosine| between different task vectors: smallest for attention (Figure 10)"
    order = attention_lowest(part.modes)
    yield _judged(claim, part.focus, part, values, drawn, order, 4, "")


def _claim_on_ablation(runs: Runs) -> Claims:
    part, modes = runs.part, ["attention", *runs.part.ablations]
    if not part.ablations:
        return

    def absolute(run: Measured) -> Values:
        return {mode: percent(run.unified(part.focus, mode)) for mode in [*modes, "ntk"]}

    claim = "Ablation: attention weights alone have the highest absolute accuracy (Table 5)"
    order = [("attention", mode) for mode in part.ablations]
    yield judged(claim, part.focus, runs, absolute, order)
    claim = "Ablation: every paradigm is above NTK in absolute accuracy (Table 5)"
    yield judged(claim, part.focus, runs, absolute, [(mode, "ntk") for mode in modes])


def _claim_on_efficiency(run: Measured, table4: pd.DataFrame) -> Claims:
    ratios = {
        "time of a step": ("step_seconds", "training_minutes"),
        "parameters held": ("held_parameters", "held_parameters"),
        "parameters trained": ("trained_parameters", "trained_parameters"),
    }
    part = run.part
    for (mode, word), encoder in product((("attention", "less"), ("ntk", "more")), part.encoders):
        rows = table4[table4["encoder"] == encoder].set_index("mode").drop(columns="encoder")
        ratio = rows.loc[mode] / rows.loc["nonlinear"]
        texts, ends = [], run.step_ratio(encoder, mode, "nonlinear")
        for name, (ours, paper) in ratios.items():
            published = ratio[f"paper_{paper}"]
            spread = f" {within(ends, 2)}" if ends and ours == "step_seconds" else ""
            beside = "" if np.isnan(published) else f" (paper {published:.2f} ×)"
            texts.append(f"{name} {ratio[ours]:.2f}{spread} ×{beside}")
        claim = (
            f"Efficiency: a step of {part.label(mode)} takes {word} time than one of "
            f"{part.label('nonlinear')} (Table 4)"
        )
        above = (ends[0] - 1, ends[1] - 1) if ends else None
        if above and word == "less":
            above = -above[1], -above[0]
        yield Claim(claim, encoder, "; ".join(texts), verdict([above]))


CLAIMS = (  # of images; of texts _claim_on_addition alone
    _claim_on_addition,
    _claim_on_kernel_behaviour,
    _claim_on_nonlinear_advantage,
    _claim_on_disentanglement,
    _claim_on_alpha,
    _claim_on_cosines,
    _claim_on_ablation,
)
