"""What the analyses beside the paper's say, each in a sentence with the numbers of the run."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..analysis.subsets import subsets_of
from ..config.view import SUM
from .alignment_figure import points_of
from .cells import Measured
from .claims import signed
from .depth_figures import common_layers


def on_interference(run: Measured) -> str:
    """What a vector does to other tasks, and what merging takes from its own."""
    off, focus = ~np.eye(len(run.part.tasks), dtype=bool), run.part.focus

    def of_others(mode: str) -> float:
        return float(100 * run.interference(mode)[:, off].mean())

    def of_merging(mode: str) -> float:
        return float(100 * (run.unified(focus, mode) - run.individual(focus, mode)).mean())

    return (
        f"Mean change of the accuracy on another task, in points: {_listed(run, of_others)}. By "
        f"merging all vectors, of that on a vector's own task: {_listed(run, of_merging)}."
    )


def on_number_of_tasks(run: Measured) -> str:
    """Normalized accuracy of the smallest subsets by the sum, and of the unified model of all tasks
    on the tasks of these subsets."""
    subsets, part = run.part.subsets, run.part
    if not subsets or min(subsets.sizes) == len(part.tasks) or SUM not in subsets.methods:
        return ""
    few, focus = min(subsets.sizes), part.focus
    drawn = subsets_of(part.tasks, few, subsets.draws)

    def ends(mode: str) -> str:
        alone = 100 * run.of_subsets(mode, few, SUM).mean()
        whole = 100 * np.mean([run.normalized(focus, mode, subset) for subset in drawn])
        return f"{alone:.1f} % and {whole:.1f} %"

    return (
        f"Normalized accuracy of the sum of {few} tasks, and that of all {len(part.tasks)} tasks' "
        f"sum (Table tasks) on the same {few}: {_texts(run, ends)}."
    )


def on_retention(run: Measured) -> str:
    """What the sum, and the methods that keep most and least, leave of the control task."""
    part = run.part
    before = run.pretrained(part.focus, [str(part.control)]).mean()
    methods = [SUM, *(part.methods if part.focus in part.merged_encoders else ())]
    kept = {
        (mode, method): float(100 * (run.retained(mode, method) / before).mean())
        for mode in part.modes
        for method in methods
    }
    of_sum = _texts(run, lambda mode: f"{kept[mode, SUM]:.1f} %")
    text = f"Of the accuracy on {part.control} the sums keep: {of_sum}"
    if len(methods) > 1:
        (least, low), *_, (most, high) = sorted(kept.items(), key=lambda item: item[1])
        named = [f"{part.method_title(m)} of {part.label(mode)}" for mode, m in (most, least)]
        text += f"; most is kept by {named[0]} ({high:.1f} %), least by {named[1]} ({low:.1f} %)"
    return f"{text}."


def on_layers(run: Measured) -> str:
    """In which layer the vectors of a mode are most alike, and where they are largest."""

    def most(mode: str) -> str:
        layers = run.layers("relative_norm", mode)
        cosines = run.layer_cosines(mode, layers) if layers else np.full((1, 0, 1), np.nan)
        there = np.isfinite(cosines).any(axis=(0, 2))
        if not there.any():
            return "no layer moves"
        layers = [layer for layer, own in zip(layers, there, strict=True) if own]
        alike = np.nanmean(cosines[:, there], axis=(0, 2))
        norms = run.in_layers("relative_norm", mode, layers, run.part.tasks).mean(axis=(0, 2))
        top, far = int(alike.argmax()), int(norms.argmax())
        cosine, norm = signed(float(alike[top]), 3), f"{norms[far]:.2g}"
        return f"{_place(layers[top])} ({cosine}) and {_place(layers[far])} ({norm})"

    found = _texts(run, most)
    return f"Mean cosine, and norm beside that of the pretrained weights, are largest in: {found}."


def on_spectra(run: Measured) -> str:
    """The mean stable rank of vectors and of their sum, over the layers that all modes move."""
    layers = common_layers(run, "stable_rank")

    def ranks(mode: str) -> str:
        if not run.layers("stable_rank", mode):
            return "no layer moves"
        alone = run.in_layers("stable_rank", mode, layers).mean()
        merged = run.in_layers("merged_stable_rank", mode, layers).mean()
        return f"{alone:.1f} and {merged:.1f}"

    if not layers:
        return ""
    return (
        "Mean stable rank of a task's vector, and of the sum of all, over the layers that all "
        f"modes move: {_texts(run, ranks)}."
    )


def on_alignment(run: Measured) -> str:
    """Pearson's correlation of alignment and improvement in each mode."""

    def correlation(mode: str) -> str:
        points = points_of(run, mode)
        none = np.zeros(0)
        x, y = (points.aligned.ravel(), points.improved.ravel()) if points else (none, none)
        if len(x) < 3 or not np.ptp(x) or not np.ptp(y):
            return "none"
        return f"{signed(float(np.corrcoef(x, y)[0, 1]), 2)} (n = {len(x)})"

    return f"Pearson's correlation of the two: {_texts(run, correlation)}."


def on_linearity(run: Measured) -> str:
    """The mean error of attention and of MLP parts, and in how many blocks attention's is less."""

    def parts(mode: str) -> str:
        of = {layer: float(values.mean()) for layer, values in run.linearity(mode).items()}
        attention, mlp = (
            {layer.split(".")[0]: value for layer, value in of.items() if layer.endswith(kind)}
            for kind in (".attention", ".mlp")
        )
        both = [block for block in attention if block in mlp]
        shown = [f"{np.mean([*each.values()]):.2f} {name}" if each else "" for name, each in
                 (("in attention", attention), ("in the MLP", mlp))]  # fmt: skip
        text = ", ".join(filter(None, shown)) or "no block moves"
        if both:
            ahead = sum(attention[block] < mlp[block] for block in both)
            text += f" (attention is closer to linear in {ahead} of {len(both)} blocks)"
        return text

    return f"Mean error over blocks: {_texts(run, parts)}."


def _texts(run: Measured, of: Callable[[str], str]) -> str:
    return "; ".join(f"{run.part.label(mode)} {of(mode)}" for mode in run.part.modes)


def _listed(run: Measured, of: Callable[[str], float]) -> str:
    return _texts(run, lambda mode: signed(of(mode)))


def _place(layer: str) -> str:
    block, kind = layer.split(".")
    return f"block {block}, {kind}"


ANSWERS: Mapping[str, Callable[[Measured], str]] = {
    "interference": on_interference,
    "number_of_tasks": on_number_of_tasks,
    "retention": on_retention,
    "layers": on_layers,
    "spectra": on_spectra,
    "alignment": on_alignment,
    "linearity": on_linearity,
}


def answer(analysis: str, runs: Sequence[Measured]) -> str:
    """What an analysis says of the first part of a run that has it; "": no part has."""
    for run in runs:
        if analysis in run.part.analyses:
            return ANSWERS[analysis](run)
    return ""
