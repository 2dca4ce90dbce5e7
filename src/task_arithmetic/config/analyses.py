"""The analyses beside the paper's: which a configuration asks for, and what each may be told."""

from typing import Annotated, Literal

from . import kinds as a  # a.Count
from .kinds import Section, key
from .mergers import Alphas

# Of these a part on texts has its own too; the others need images, or their control task.
OF_TEXTS = ("robustness", "layers", "spectra", "alignment")


class Plain(Section):
    """An analysis without options: `{}`."""


class Samples(Section):
    """An analysis of some test images."""

    samples: a.Count = key("random test images of each task", 2048)


class Subsets(Section):
    """Merging subsets of the tasks."""

    draws: a.Count = key("random subsets of each size, at most", 5)
    sizes: Annotated[list[a.Count], a.SOME, a.DISTINCT] | Literal["all", "doubled"] = key(
        "numbers of tasks; all; doubled: 2, 4, 8, … and as many as there are", "all"
    )
    methods: Annotated[a.Names, a.SOME] = key("sum, or those that need vectors alone", ["sum"])
    alphas: Alphas | None = key(
        "the grid of α; null: `alphas` of the sum, each other method's own", None
    )


class Analyses(Section):
    """What is shown beside the paper's tables and figures, of the encoder `focus`; `{}` or options:
    made, null: not made."""

    loss_plane: Plain | None = key("accuracy and loss beside each heatmap", None)
    robustness: Plain | None = key("accuracy around the chosen α", None)
    interference: Samples | None = key("what each task vector does to the other tasks", None)
    layers: Plain | None = key("cosine and norm of task vectors over depth", None)
    spectra: Plain | None = key("rank of task vectors over depth", None)
    alignment: Plain | None = key("alignment of subspaces against improvement by merging", None)
    pairs: Samples | None = key("disentanglement error of all pairs at the chosen α", None)
    linearity: Samples | None = key("how linear the model is in each block's part of τ", None)
    number_of_tasks: Subsets | None = key("merging of subsets of the tasks", None)
    retention: Plain | None = key("accuracy of merged models on the control task", None)
