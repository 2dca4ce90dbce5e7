"""Which tables and figures a run has, and for which there are published single-task accuracies.

The published numbers are in workflow/reference. Nothing here imports more than Python itself.
"""

TASKS = ["cars", "dtd", "eurosat", "gtsrb", "mnist", "resisc45", "sun397", "svhn"]
ENCODERS = ["ViT-B-32", "ViT-B-16", "ViT-L-14"]
MODES = ["pretrained", "nonlinear", "ntk", "attention"]  # of those that have published numbers
TOLERANCE = 2  # points; a larger difference is flagged


def table_names(settings: dict) -> list[str]:
    """The tables of a run: of its part on images, on texts (`…_language`), or on both.

    Args:
        settings: what settings.view_settings gives, as a dictionary.
    """
    images, texts = bool(settings["encoders"]), bool(settings["language"]["encoders"])
    wanted = {
        "table1": images,
        "table2": images,
        "table3": texts,
        "table4": True,
        "table5": images,
        "negation": images,
        "tasks": images,
        "tasks_language": texts,
        "targets": has_targets(settings),
    }
    return [name for name, is_wanted in wanted.items() if is_wanted]


def figure_names(settings: dict) -> list[str]:
    """The figures of a run, as table_names."""
    images, texts = settings["encoders"], settings["language"]["encoders"]
    found = ["fig3", "fig5", "fig6", "fig7", "fig8", "fig9", "fig10"] if images else []
    return found + (["fig7_language", "fig9_language", "fig10_language"] if texts else [])


def has_targets(settings: dict) -> bool:
    """Whether a run has a table `targets`: it is of the paper's suite, and some of its tasks and of
    its encoders (by `paper_encoder`) have published accuracies.

    Args:
        settings: what settings.view_settings gives, as a dictionary.
    """
    found = tasks_with_targets(settings) and encoders_with_targets(settings)
    return settings["suite"] == "paper" and bool(found)


def tasks_with_targets(settings: dict) -> list[str]:
    """The run's tasks that have published accuracies."""
    return [task for task in settings["tasks"] if task in TASKS]


def encoders_with_targets(settings: dict) -> list[str]:
    """The run's encoders that have published accuracies."""
    return [name for name, paper in settings["encoders"].items() if paper in ENCODERS]
