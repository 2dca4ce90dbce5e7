"""Captions of tables and figures: what is shown, over which seeds, on which suite."""

from collections.abc import Iterable

from ..config.available import PLANE, part_of
from ..config.published import TOLERANCE, has_published_merging
from ..config.view import Part, View, central_mode

TABLES = {
    "table1": "Task arithmetic performance. Individual: mean single-task accuracy; normalized: "
    "accuracy of the unified model relative to its individual models (weight disentanglement); "
    "absolute: accuracy of the unified model, averaged over tasks. Encoder: {focus}.",
    "table2": "Task addition. Accuracy of the unified model θ0 + α Σ τ, averaged over tasks, "
    "absolute and relative to each mode's own single-task accuracy; α is chosen on validation, "
    "for each mode by itself. Accuracies are those of the test split.",
    "table3": "Task arithmetic on texts. Test accuracy (%) of the unified model θ0 + α Σ τ of "
    "{language_focus} on each task: the share of generated answers that are exactly the right "
    "words{scores}. α is chosen {selection}, for each mode by itself.",
    "table4": "Efficiency. Parameters held and trained, size of the parameters held (4 bytes "
    "each, MB of 10⁶ bytes), peak memory (on a CPU: above that of the loaded libraries) and "
    "median time of a training step, time to fine-tune one task{first}.{table4_paper}",
    "table5": "Ablation. What is fine-tuned besides the attention weights: single-task accuracy "
    "and accuracy of the unified model, averaged over tasks. Encoder: {focus}.",
    "negation": "Task negation. θ0 − α τ for each task by itself: mean accuracy on the task to "
    "forget (target), accuracy on the control task ({control}) and how much of the pre-trained one "
    "it keeps, mean chosen α. α is the one with the lowest target accuracy on validation whose "
    "control accuracy there is at least {keep:g} % of the pre-trained one; the numbers are those "
    "of the test split. The paper prints none.",
    "tasks": "Every task. Test accuracy of the pre-trained encoder, of the individual model, of "
    "its task vector through the linearized encoder (post-hoc), and of the unified model, absolute "
    "and relative to the individual model. In the rows of post-hoc linearization the individual "
    "model is the post-hoc one.",
    "tasks_language": "Every task of texts. Test accuracy of the pre-trained encoder, of the "
    "individual model, and of the unified model, absolute and relative to the individual model (–: "
    "that has no accuracy above 0), and the α of the unified model.",
    "merging": "Fine-tuning modes crossed with merging methods. Each method merges the {tasks} "
    "task vectors of a mode into one: accuracy of the unified model on the test split, averaged "
    "over tasks, absolute and relative to the individual models of the mode, and how far it is "
    "from that of the sum Σ τ of the same mode, in points. α is chosen {part_selection}, for each "
    "mode and method by itself (1 where a method fixes it); of LiNeS it is the slope over depth. "
    "Data: what forms the merged vector besides the task vectors: none; inputs, without labels; "
    "labels, with their inputs; or test inputs (transductive), without labels, so that its "
    "accuracies are not those on unseen inputs. Time and peak memory of forming it are measured on "
    "the machine that merged, of RegMean without those of collecting its statistics; the sum has "
    "none (–): it is formed while it is evaluated.{of_texts}{published}",
    "targets": "Published accuracies. Test accuracy of the pre-trained encoder and of the "
    "individual models beside that which public implementations of the same experiment print, with "
    "recipes that differ in details from this run's. The average is that of the tasks shown above "
    "it. A difference of more than {tolerance} points is flagged.",
}

FIGURES = {
    "fig3": "Kernel behaviour test. Test accuracy of f(x; θ0 + τ), x axis, against that of the "
    "post-hoc linearized f_lin(x; θ0 + τ), y axis: a panel for each encoder, in it one marker per "
    "mode and task, whose number stands beside it. On the dashed line both are equal, which is "
    "kernel behaviour.",
    "fig5": "Non-linear advantage. Left: mean single-task accuracy of a mode against that of "
    "non-linear fine-tuning for each encoder, one large hollow marker, and one small one per task, "
    "whose number stands at the line that joins its modes. Right: their difference, which is the "
    "vertical distance to the dashed line.",
    "heatmap": "Disentanglement error ξ(α₁, α₂) (Equation 2) of {pair} for encoder {focus}: of the "
    "representation module (top, KL divergence) and of representation and head (bottom, fraction "
    "of changed predictions, summed over both tasks). Light regions have little error; the box is "
    "[0, 1] × [0, 1]. One colour scale per row, shared by all modes.",
    "fig7": "Single-task accuracy on test for every task and mode, and their mean. Black lines, "
    "whose ends stand out beside the bars: the pre-trained encoder (zero-shot).",
    "fig9": "Sensitivity to α for encoder {focus}: mean accuracy of the unified model on "
    "validation over the α grid, absolute (left) and normalized (right). Stars: the α chosen on "
    "{selection}, at the accuracy it has on test.",
    "merging": "Fine-tuning modes crossed with merging methods{encoders}: test accuracy of the "
    "unified model, averaged over tasks, absolute (left) and relative to the individual models of "
    "the mode (middle). A row for each method, the sum at the top, in it a mark for each mode. α "
    "is chosen on {selection}, for each mode and method by itself. Right: norms of the task "
    "vectors that are merged, of each mode a mark for each task and a line for their mean.",
    "layers": "Task vectors of encoder {focus} over depth: cosine similarity of the {pairs} pairs "
    "of tasks (top, mean ± sample standard deviation over pairs), and norm relative to the "
    "pretrained weights (bottom, over tasks). A layer is the weight matrices of one kind in one "
    "block; a mode that does not move them has no line. Of weights alone: no images, no α.",
    "spectra": "Rank of the task vectors of encoder {focus} over depth, from the singular values σ "
    "of each weight matrix: stable rank, effective rank (H: entropy of σ / Σσ), and the share of "
    "Σσ² in the largest r/T of r values, T = {tasks} tasks. Full marks: individual task vectors, "
    "mean over tasks and over the matrices of one kind in one block; hollow: their sum.{methods} "
    "Queries, keys and values are {fused}. Of weights alone: no images; where a method adds "
    "something that does not scale with α, α is the one chosen on {selection}.",
    "alignment": "Alignment of task vectors with what they are merged into, and what merging "
    "leaves of their improvement, of encoder {focus}: of each mode, method and task the mean over "
    "weight matrices of ‖U_k U_kᵀ τ‖ / ‖τ‖, with the leading left singular vectors of the merged "
    "matrix that leave 5 % of it (Iso, Equation 5), against (merged − pre-trained) / (individual − "
    "pre-trained) test accuracy. α is chosen on {selection}, for each mode and method by itself. "
    "r: Pearson's correlation over the n small marks.",
    "plane": "Accuracy (top) and cross-entropy loss (bottom) of {pair}, mean over both tasks, on "
    "the plane θ₀ + α₁ τ₁ + α₂ τ₂ of encoder {focus}, through f, or f_lin of a linearized mode, in "
    "the passes of the pair's heatmap: {samples}. One scale for each row; light is good, and "
    "losses beyond the scale have its last colour. Star: both at the α of the mode's unified "
    "model of all tasks, chosen on {selection}. {vectors}",
    "pairs": "Disentanglement error of all pairs of tasks for encoder {focus}, through f, or f_lin "
    "of a linearized mode: ξᵢⱼ is half of Equation 2 at α₁ = α₂ = α, the mean over images of i and "
    "over those of j of the distance from their individual model to θ₀ + α (τᵢ + τⱼ), of the "
    "representation module (top, KL divergence) and of representation and head (bottom, fraction "
    "of changed predictions). α is that of the mode's unified model of all tasks, chosen on "
    "{selection}; the error falls with α by itself. {samples}. One colour scale for each row. "
    "{vectors}",
    "interference": "What task vectors do to other tasks, encoder {focus}, through f, or f_lin of "
    "a linearized mode. Top: D_st, by how many points θ₀ + τ_s (row) changes the accuracy of the "
    "pre-trained encoder on task t (column), on the same images: {samples}. On the framed diagonal "
    "a vector is on its own task; the scale is set by the other values, with zero light. Bottom: "
    "I_t, accuracy of the unified model of all tasks minus that of the individual model on the "
    "whole test split, α chosen on {selection}. {vectors}",
    "linearity": "How linear encoder {focus} is in each part of a task vector: E‖f(θ₀ + τˡ) − "
    "f_lin(θ₀ + τˡ)‖ / E‖f(θ₀ + τˡ) − f(θ₀)‖ of raw features, in float64, where τˡ has only the "
    "tensors of a block's attention, of its MLP (each with the layer norm before it), or of both, "
    "of what lies before or after the blocks, or all. 0: linear as far as τˡ goes; the farther it "
    "goes, the larger the error by itself. It is f that is measured, of a linearized mode too, "
    "whose vectors were trained for f_lin. {samples}, here of the vector's own. Marks and bars: "
    "mean ± sample standard deviation over {tasks} tasks. {vectors}",
    "robustness": "Accuracy around the chosen α, α*, for encoder {focus}: mean normalized accuracy "
    "of the unified model on validation against α/α*, of every mode for the sum of its task "
    "vectors{by_method}. α* is chosen on {selection}, for each mode and method by itself. Marks: "
    "the points of the grid, up to 4 α*; thick: the plateau, the connected interval around α* with "
    "at least 95 % of the curve's maximum, by linear interpolation. Its width is given in α and, "
    "in parentheses, in α*; ≥: it ends where the grid does.",
    "number_of_tasks": "Merging more and fewer of the {tasks} tasks, for encoder {focus}: test "
    "accuracy of the unified model of a subset of the tasks relative to the individual models of "
    "the mode, mean over the subset, against the subset's size; a line for each mode and merging "
    "method. Points and bars: mean ± sample standard deviation over at most {draws} random subsets "
    "of each size, the same for all modes, methods and seeds. α is chosen on validation of the "
    "subset's tasks, for each subset by itself.",
    "retention": "What unified models keep of the control task, for encoder {focus}: test accuracy "
    "on {control}, relative to the pre-trained encoder's, against their normalized test accuracy "
    "on the {tasks} merged tasks, mean over these; a mark for each mode and merging method, whose "
    "number stands beside it, the sum's in a ring. α is chosen on validation of the merged tasks; "
    "the control task has no part in it.",
    "fig10": "Cosine similarity of task vectors of encoder {focus}. One colour scale for "
    "all modes, light at 0, to the largest size of the entries off the diagonal on both sides; the "
    "diagonal is 1 by definition.",
}
TABLE4_PAPER = (
    " The paper's columns are for T5-base on GLUE; its NTK linearization counts the embedding that "
    "the head shares once more. They compare modes, not encoders."
)
REFERENCE_SCALING = (
    "Normalised as in the published code: of the first 2,048 test images in this dataset's order "
    "(its own ones only if that is the published order), divided by the number of all batches, "
    "with the mean of both directions of the divergence."
)
NORMALIZABLE = (
    " Normalized accuracies are means over the tasks whose individual models have an accuracy "
    "above 0."
)
MERGING_PUBLISHED = (
    " Published: means over the same {} tasks as others print them, for non-linear fine-tuning "
    "with each method's own options. They are of other checkpoints, which the last column names, "
    "one set for each number, and are not comparable digit by digit, neither with this run nor "
    "between sets."
)
METHODS_RANK = (
    " Right: means over the layers that all modes move, also of what each method makes of the "
    "vectors."
)
SELECTION = {  # by reference_selection
    False: "on validation",
    True: "on the test scores that are shown, as in published code",
}
BANDS = {
    "fig3": "Markers and bars: mean ± sample standard deviation over {n} seeds.",
    "fig5": "Markers, columns and bars: mean ± sample standard deviation over {n} seeds.",
    "fig7": "Bars: mean ± sample standard deviation over {n} seeds.",
    "interference": "Top: mean, bottom: mean ± sample standard deviation over {n} seeds.",
    "linearity": "Of each task the mean over {n} seeds.",
    "merging": "Marks and bars: mean ± sample standard deviation over {n} seeds.",
    "layers": "First means over {n} seeds.",
    "spectra": "Means over {n} seeds.",
    "alignment": "Means over {n} seeds.",
    "fig9": "Lines, bands and bars: mean ± sample standard deviation over {n} seeds.",
    "robustness": "Lines, bands and widths: mean (± sample standard deviation) over {n} seeds.",
    "number_of_tasks": "Each subset's accuracy is a mean over {n} seeds.",
    "retention": "Marks and bars: mean ± sample standard deviation over {n} seeds.",
}


def suite_note(part: Part, paper_beside: Iterable[str], of: str = "") -> str:
    """What the suite is, and whose numbers stand in the paper's columns beside these encoders.

    Args:
        of: what the embedded suite is of; by default what the part is of.
    """
    of = of or ("short texts" if part.of_texts else "small images")
    pairs = [(ours, part.encoders[ours]) for ours in paper_beside]
    beside = ", ".join(f"{theirs} beside {ours}" for ours, theirs in pairs if theirs)
    if part.suite == "embedded":
        orientation = (
            f" The paper's columns are those of the paper's encoder ({beside}) on the eight real "
            "tasks, for orientation only."
        )
        return f"This is the embedded suite on {of}." + (orientation if beside else "")
    return f"The paper's columns are as published, on its eight tasks: {beside}." if beside else ""


def table3_note(texts: Part) -> str:
    """Whose numbers the paper's rows of Table 3 are, if there are any."""
    names = texts.paper_tasks
    if not any(names.values()):
        return ""
    beside = ", ".join(f"{names[t]} beside {t}" for t in texts.tasks if names[t])
    own = all(names[task] in (None, task) for task in texts.tasks)
    return "The paper's rows are those of Flan-T5-base on GLUE" + (
        "." if own else f" ({beside}), for orientation only."
    )


def of_scores(part: Part) -> str:
    """Of which tasks "accuracy" is another measure, if of any."""
    scores = [task for task in part.tasks if task in part.scores]
    return f" Of {', '.join(scores)}: Spearman's ρ." if scores else ""


def table_caption(name: str, view: View) -> str:
    """A table's caption."""
    texts, part, n = view.language, part_of(name, view), len(view.seeds)
    scores = [task for task in texts.tasks if task in texts.scores]
    first = [each.tasks[0] for each in (view, texts) if each.tasks]
    words = {
        "first": f" ({' and '.join(first)}: the first of each kind)"
        if len(first) > 1
        else f" ({''.join(first)}, the first)",
        "focus": view.focus,
        "control": view.control,
        "keep": 100 * (view.keep or 0),
        "table4_paper": TABLE4_PAPER * (view.suite in ("paper", "embedded")),
        "language_focus": texts.focus,
        "scores": f"; of {', '.join(scores)}, Spearman's ρ × 100" if scores else "",
        "selection": SELECTION[texts.reference_selection],
        "tolerance": TOLERANCE,
        "tasks": len(part.tasks),
        "part_selection": SELECTION[part.reference_selection],
        "of_texts": NORMALIZABLE * part.of_texts + of_scores(part),
        "published": MERGING_PUBLISHED.format(len(part.tasks)) * has_published_merging(part),
    }
    spread = f"Mean ± sample standard deviation over {n} seeds." if n > 1 else ""
    beside = {"table1": [view.focus], "table2": [*view.encoders], "table5": [view.focus]}
    kinds = {"small images": view, "short texts": texts}
    embedded = [kind for kind, p in kinds.items() if p.encoders and p.suite == "embedded"]
    notes = [
        TABLES[name if name in TABLES else name.removesuffix("_language")].format(**words),
        spread * (name != "table4"),
        table3_note(texts) * (name == "table3"),
        suite_note(
            part,
            beside.get(name, []) if view.paper_beside else [],
            " and ".join(embedded) * (name == "table4"),
        ),
    ]
    return " ".join(note for note in notes if note)


def figure_caption(name: str, view: View) -> str:
    """A figure's caption; `name` is fig3, fig5, fig7, fig9, fig10, merging, a pair's, or
    fig7_language …"""
    part, base, n = part_of(name, view), name.removesuffix("_language"), len(view.seeds)
    pair = " – ".join(part.pairs.get(base.removeprefix(PLANE), ()))
    kind = "heatmap" if pair else base
    kind = "plane" if pair and base.startswith(PLANE) else kind
    selection = "test" if part.reference_selection else "validation"
    encoders = f" for encoder {', '.join(part.merged_encoders)}"
    of_methods = f" (left) and of every merging method for {part.label(central_mode(part))} (right)"
    words = {
        "tasks": len(part.tasks),
        "pairs": len(part.tasks) * (len(part.tasks) - 1) // 2,
        "methods": METHODS_RANK * bool(part.methods),
        "fused": "separate matrices" if part.of_texts else "one matrix",
        "samples": _samples(kind, part),
        "vectors": f"Task vectors of this run, seed{'s' * (n > 1)} {', '.join(part.seeds)}.",
        "control": part.control,
        "draws": part.subsets.draws if part.subsets else 0,
        "by_method": of_methods * (part.focus in part.merged_encoders),
    }
    words |= {"focus": part.focus, "pair": pair, "selection": selection, "encoders": encoders}
    notes = [
        FIGURES[kind].format(**words),
        of_scores(part).strip() * (kind not in ("fig10", "layers", "spectra")),
        REFERENCE_SCALING * (kind == "heatmap" and part.reference_scaling),
        BANDS.get(kind, "Mean over {n} seeds.").format(n=n) * (n > 1),
        suite_note(part, []),
    ]
    return " ".join(note for note in notes if note)


def _samples(kind: str, part: Part) -> str:
    """How many images of each task an analysis has, in words."""
    if kind == "plane" and part.reference_scaling:
        return "the first 2,048 test images of each task, or all it has"
    name = "loss_plane" if kind == "plane" else kind
    return f"{part.samples.get(name, 0):,} random test images of each task, or all it has"
