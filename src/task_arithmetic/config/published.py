"""For which tasks and encoders there are published single-task accuracies.

The published numbers are in workflow/reference. Nothing here imports more than Python itself.
"""

from collections.abc import Iterable

from .view import Part

TASKS = ["cars", "dtd", "eurosat", "gtsrb", "mnist", "resisc45", "sun397", "svhn"]
ENCODERS = ["ViT-B-32", "ViT-B-16", "ViT-L-14"]
MODES = ["pretrained", "nonlinear", "ntk", "attention"]  # of those that have published numbers
TOLERANCE = 2  # points; a larger difference is flagged


def has_targets(images: Part) -> bool:
    """Whether a run has a table `targets`: it is of the paper's suite, and some of its tasks and of
    its encoders (by `paper_encoder`) have published accuracies."""
    found = tasks_with_targets(images) and encoders_with_targets(images)
    return images.suite == "paper" and bool(found)


def paper_beside(suite: str, tasks: Iterable[str]) -> bool:
    """Whether the paper's numbers stand beside a run's: it is of the paper's eight tasks, of which
    they are means, or of the embedded suite, where they stand for orientation."""
    return suite == "embedded" or (suite == "paper" and set(tasks) == set(TASKS))


def has_published_merging(part: Part) -> bool:
    """Whether the table of merging methods shows published numbers: the run is of the paper's
    suite and of all eight tasks, of which they are means, and non-linear fine-tuning of an encoder
    that has some is merged."""
    merged = [part.encoders[name] in ENCODERS for name in part.merged_encoders]
    whole = part.suite == "paper" and paper_beside(part.suite, part.tasks)
    return whole and not part.of_texts and "nonlinear" in part.modes and any(merged)


def tasks_with_targets(images: Part) -> list[str]:
    """The run's tasks that have published accuracies."""
    return [task for task in images.tasks if task in TASKS]


def encoders_with_targets(images: Part) -> list[str]:
    """The run's encoders that have published accuracies."""
    return [name for name, paper in images.encoders.items() if paper in ENCODERS]
