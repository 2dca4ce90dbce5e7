"""Which tables and figures a run has, and what the others would need.

Each says what it needs of a run's tasks, encoders and modes; workflow, `plan`, `check` and report
ask here. Nothing here imports more than Python itself.
"""

import re

from .published import has_targets
from .view import PAPER_MODES, Part, View

TABLES = ["table1", "table2", "table3", "table4", "table5", "negation", "tasks", "tasks_language"]
MERGING = ["merging", "merging_language"]  # a table and a figure each
TABLES += [*MERGING, "targets"]
OWN_FIGURES = ["fig3", "fig5", "fig7", "fig9", "fig10"]  # the others are of pairs of tasks
PAPER_PAIRS = {"fig6", "fig8"}  # those of the paper
TEXT_FIGURES = ["fig7_language", "fig9_language", "fig10_language"]
ANALYSES = [
    "robustness",
    "layers",
    "spectra",
    "alignment",
    "pairs",
    "interference",
    "linearity",
    "number_of_tasks",
    "retention",
]  # figures that have the name of the analysis that they show
NEED = dict.fromkeys(("interference", "layers", "alignment", "pairs"), " and two tasks")
NEED |= {"number_of_tasks": " and two tasks", "retention": " and a control task (negation.control)"}
NEED |= {"loss_plane": " and pairs of tasks (disentanglement.pairs)"}
PLANE = "plane_"  # and the name of a pair: of the analysis loss_plane
PAPER_FIGURES = {*OWN_FIGURES, *TEXT_FIGURES, *PAPER_PAIRS}
RESERVED_PAIRS = {*OWN_FIGURES, *TABLES, *ANALYSES}  # names of other views
RESERVED_PAIRS |= {"fig1", "fig2", "fig4", "timeline"}


def table_names(view: View) -> list[str]:
    """The tables of a run: of its part on images, on texts (`…_language`), or on both."""
    return [name for name in TABLES if has(name, view)]


def has(name: str, view: View) -> bool:
    """Whether a run has this table or figure."""
    return _lacks(name, view) is None


def figure_names(view: View) -> list[str]:
    """The figures of a run in the order of their numbers, as table_names."""
    pairs = list(view.pairs) if view.encoders else []
    images = [name for name in OWN_FIGURES if has(name, view)]
    texts = [name for name in TEXT_FIGURES if has(name, view)]
    numbered = sorted([*images, *(PAPER_PAIRS & set(pairs))], key=lambda name: int(name[3:]))
    others = [name for name in pairs if name not in PAPER_PAIRS]
    others += [PLANE + name for name in pairs if has("loss_plane", view)]
    others += [name for name in ANALYSES if has(name, view)]
    texts += [f"{name}_language" for name in ANALYSES if has(f"{name}_language", view)]
    merging = [name for name in MERGING if has(name, view)]
    of_images = [name for name in merging if part_of(name, view) is view]
    return [*numbered, *others, *of_images, *texts, *merging[len(of_images) :]]


def left_out(view: View) -> list[str]:
    """Sentences on the paper's tables and figures that a run has not, and what they would need."""
    found: dict[str, list[str]] = {}
    for name in [
        *TABLES,
        *OWN_FIGURES,
        "posthoc",
        "claims",
        "heatmaps",
        *TEXT_FIGURES,
        "loss_plane",
        *ANALYSES,
    ]:
        if why := _lacks(name, view):
            found.setdefault(why, []).append(title_of(name))
    return [f"{', '.join(titles)}: {why}." for why, titles in found.items()]


def _lacks(name: str, view: View) -> str | None:
    """What a run lacks that a table or figure needs, in words; None: nothing."""
    part, base = part_of(name, view), name.removesuffix("_language")
    modes = part.modes
    if name == "targets":
        there = has_targets(view)
        needed = "tasks and encoders with published accuracies, in one of their suites"
    elif not part.encoders and name != "table4":
        return "the run has no " + ("texts" if part.of_texts else "images")
    elif name == "table5":
        there = "attention" in modes or bool(view.ablations)
        needed = "the mode attention or an ablation"
    elif name in MERGING:
        there = bool(part.methods and part.merged_encoders and len(part.tasks) > 1)
        needed = "two tasks and a merging method (merging.methods)"
    elif name == "negation":
        there, needed = bool(view.control), "a control task (negation.control)"
    elif name == "fig3":
        there, needed = bool(view.kernel_modes), "a mode that is not linearized"
    elif name == "fig5":
        there = "nonlinear" in modes and len(modes) > 1
        needed = "the mode nonlinear and another one"
    elif name == "posthoc":
        there, needed = "nonlinear" in modes, "the mode nonlinear"
    elif name == "claims":
        there, needed = set(PAPER_MODES) <= set(modes), f"the modes {', '.join(PAPER_MODES)}"
    elif base in (*ANALYSES, "loss_plane"):
        there, needed = base in part.analyses, f"analyses.{base}{NEED.get(base, '')}"
    elif name == "heatmaps":
        there, needed = bool(view.pairs), "pairs of tasks (disentanglement.pairs)"
    elif name.startswith("fig10"):
        there, needed = len(part.tasks) > 1, "two tasks"
    else:
        return None
    return None if there else f"needs {needed}"


def title_of(name: str) -> str:
    """Table 2, Figure 10, Figure 9 on texts, Table negation, Heatmap mine …"""
    known = {
        "posthoc": "Post-hoc linearization",
        "claims": "Claims of the paper",
        "heatmaps": "Heatmaps (Figures 6 and 8)",
        "merging": "Merging methods",
    }
    base, texts = name.removesuffix("_language"), " on texts" * name.endswith("_language")
    known |= {each: f"Figure {each.replace('_', ' ')}" for each in [*ANALYSES, "loss_plane"]}
    if name.startswith(PLANE):
        return f"Loss plane of {title_of(name.removeprefix(PLANE))}"
    if base in known:
        return known[base] + texts
    if found := re.fullmatch(r"(table|fig)(\d+)", base):
        return f"{'Table' if found[1] == 'table' else 'Figure'} {found[2]}{texts}"
    return f"Table {base}{texts}" if name in TABLES else f"Heatmap {name}"


def part_of(name: str, view: View) -> Part:
    """The part that a table or figure shows: fig9_language is fig9 of texts."""
    return view.language if name == "table3" or name.endswith("_language") else view
