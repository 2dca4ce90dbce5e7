"""For which tasks and encoders there are published accuracies, and in which suites.

The published numbers are in workflow/reference. Nothing here imports more than Python itself.
"""

from collections.abc import Iterable

from .view import Part

TASKS = ["cars", "dtd", "eurosat", "gtsrb", "mnist", "resisc45", "sun397", "svhn"]
MORE = ["stl10", "oxford_pets", "flowers102", "cifar100", "pcam", "fer2013"]
MOST = ["cifar10", "food101", "fashion_mnist", "rendered_sst2", "emnist_digits", "kmnist"]
SUITES = {"paper": TASKS, "clip14": TASKS + MORE, "clip20": TASKS + MORE + MOST}
ENCODERS = ["ViT-B-32", "ViT-B-16", "ViT-L-14"]
MODES = ["pretrained", "nonlinear", "ntk", "attention"]  # of those that have published numbers
TOLERANCE = 2  # points; a larger difference is flagged


def tasks_with_targets(images: Part, encoder: str | None, mode: str) -> list[str]:
    """The run's tasks that have a published accuracy: in a suite of SUITES the paper's eight in
    every mode, the others fine-tuned in full and, of one encoder, zero-shot.

    Args:
        encoder: the paper's.
    """
    if images.suite not in SUITES or encoder not in ENCODERS or mode not in MODES:
        return []
    others = mode == "nonlinear" or (mode, encoder) == ("pretrained", "ViT-B-32")
    return [task for task in images.tasks if task in TASKS + (MORE + MOST) * others]


def has_targets(images: Part) -> bool:
    """Whether a run has a table `targets`: something of it has a published accuracy."""
    modes = ["pretrained", *images.modes]
    return any(tasks_with_targets(images, e, m) for e in images.encoders.values() for m in modes)


def paper_beside(suite: str, tasks: Iterable[str]) -> bool:
    """Whether the paper's numbers stand beside a run's: it is of the paper's eight tasks, of which
    they are means, or of the embedded suite, where they stand for orientation."""
    return suite == "embedded" or (suite == "paper" and set(tasks) == set(TASKS))


def has_published_merging(part: Part) -> bool:
    """Whether the table of merging methods shows published numbers: the run is of all tasks of one
    of SUITES, of which they are means, and no others, and non-linear fine-tuning of an encoder that
    has some is merged."""
    merged = [part.encoders[name] in ENCODERS for name in part.merged_encoders]
    whole = set(part.tasks) == set(SUITES.get(part.suite, []))
    return whole and not part.of_texts and "nonlinear" in part.modes and any(merged)
