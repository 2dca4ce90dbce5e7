"""Which tables and figures a run has, and what the others would need.

Each says what it needs of a run's tasks, encoders and modes; workflow, `plan`, `check` and report
ask here. Nothing here imports more than Python itself.
"""

import re

from .targets import has_targets

PAPER_MODES = ["nonlinear", "ntk", "attention"]  # the paper's order; other modes follow
TABLES = ["table1", "table2", "table3", "table4", "table5", "negation", "tasks", "tasks_language"]
TABLES += ["targets"]
OWN_FIGURES = ["fig3", "fig5", "fig7", "fig9", "fig10"]  # the others are of pairs of tasks
PAPER_PAIRS = {"fig6", "fig8"}  # those of the paper
TEXT_FIGURES = ["fig7_language", "fig9_language", "fig10_language"]
PAPER_FIGURES = {*OWN_FIGURES, *TEXT_FIGURES, *PAPER_PAIRS}
RESERVED_PAIRS = {*OWN_FIGURES, *TABLES, "fig1", "fig2", "fig4", "timeline"}  # other views' names


def table_names(settings: dict) -> list[str]:
    """The tables of a run: of its part on images, on texts (`…_language`), or on both.

    Args:
        settings: what settings.view_settings gives, as a dictionary.
    """
    return [name for name in TABLES if _lacks(name, settings) is None]


def figure_names(settings: dict) -> list[str]:
    """The figures of a run in the order of their numbers, as table_names."""
    pairs = list(settings["pairs"]) if settings["encoders"] else []
    images = [name for name in OWN_FIGURES if _lacks(name, settings) is None]
    texts = [name for name in TEXT_FIGURES if _lacks(name, settings) is None]
    numbered = sorted([*images, *(PAPER_PAIRS & set(pairs))], key=lambda name: int(name[3:]))
    return [*numbered, *(name for name in pairs if name not in PAPER_PAIRS), *texts]


def left_out(settings: dict) -> list[str]:
    """Sentences on the paper's tables and figures that a run has not, and what they would need."""
    found: dict[str, list[str]] = {}
    for name in [*TABLES, *OWN_FIGURES, "posthoc", "claims", "pairs", *TEXT_FIGURES]:
        if why := _lacks(name, settings):
            found.setdefault(why, []).append(title_of(name))
    return [f"{', '.join(titles)}: {why}." for why, titles in found.items()]


def _lacks(name: str, settings: dict) -> str | None:
    """What a run lacks that a table or figure needs, in words; None: nothing."""
    part = settings["language"] if name == "table3" or name.endswith("_language") else settings
    modes, tasks, control = part["modes"], part["tasks"], settings["control"]
    if name == "targets":
        needed = has_targets(settings), "some of the paper's tasks and encoders, in suite paper"
    elif not part["encoders"] and name != "table4":
        return "the run has no " + ("images" if part is settings else "texts")
    elif name == "table5":
        needed = "attention" in modes or settings["ablations"], "the mode attention or an ablation"
    elif name == "negation":
        needed = control, "a control task (negation.control)"
    elif name == "fig3":
        needed = settings["kernel_modes"], "a mode that is not linearized"
    elif name == "fig5":
        needed = "nonlinear" in modes and len(modes) > 1, "the mode nonlinear and another one"
    elif name == "posthoc":
        needed = "nonlinear" in modes, "the mode nonlinear"
    elif name == "claims":
        needed = set(PAPER_MODES) <= set(modes), f"the modes {', '.join(PAPER_MODES)}"
    elif name == "pairs":
        needed = settings["pairs"], "pairs of tasks (disentanglement.pairs)"
    elif name.startswith("fig10"):
        needed = len(tasks) > 1, "two tasks"
    else:
        return None
    return None if needed[0] else f"needs {needed[1]}"


def title_of(name: str) -> str:
    """Table 2, Figure 10, Figure 9 on texts, Table negation, Heatmap mine …"""
    known = {
        "posthoc": "Post-hoc linearization",
        "claims": "Claims of the paper",
        "pairs": "Heatmaps (Figures 6 and 8)",
    }
    base, texts = name.removesuffix("_language"), " on texts" * name.endswith("_language")
    if name in known:
        return known[name]
    if found := re.fullmatch(r"(table|fig)(\d+)", base):
        return f"{'Table' if found[1] == 'table' else 'Figure'} {found[2]}{texts}"
    return f"Table {base}{texts}" if name in TABLES else f"Heatmap {name}"


def view_of(name, settings) -> tuple[str, dict]:
    """A table or figure such as fig9_language: fig9 of the settings of the part on texts."""
    if name.endswith("_language"):
        return name.removesuffix("_language"), language_of(settings)
    return name, settings


def language_of(settings) -> dict:
    """The settings of the part on texts, in the form of those of the part on images."""
    return {**settings, **settings["language"], "language": None}


def encoders_of(settings) -> list[str]:
    """Names of the encoders in the configuration's order."""
    return list(settings["encoders"])


def is_language(settings) -> bool:
    """Whether these settings are those of the part on texts."""
    return settings["language"] is None
