"""A leak in published checkpoints that accuracies show."""

TASK, MOST = "dtd", 0.95


def leak(task: str, accuracy: float, model: str) -> str | None:
    """A sentence, if an individual model's accuracy on test is one that only the test images teach.

    The models of DTD that the first edition of the TALL masks' checkpoints holds were trained on
    all of its 5,640 images: they have 98 % on test, where others have 79 to 84 %
    (github.com/nik-dim/tall_masks, issue 1).
    """
    if task != TASK or accuracy <= MOST:
        return None
    return (
        f"{model} has {100 * accuracy:.1f} % on the test images of DTD: it was trained on them, as "
        "the first edition of the checkpoints of TALL masks was; take the second edition (since "
        "October 2024), or fine-tune it."
    )
