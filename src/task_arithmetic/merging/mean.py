"""Weight averaging: the mean of the task vectors."""

from typing import Any

from .method import Merged, Method, Options, Part
from .sum import sum_of


def merge(part: Part, options: Options, state: Any = None) -> Merged:
    """M = (1/T) Σ τ_t of one tensor of any shape."""
    return Merged(None, sum_of(part).div_(len(part.deltas)))


METHOD = Method(
    name="mean",
    title="Weight averaging",
    paper="Model soups: averaging weights of multiple fine-tuned models improves accuracy without "
    "increasing inference time",
    arxiv="2203.05482",
    equation=r"M = \frac{1}{T} \sum_t \tau_t",
    scope="element",
    grid=(1.0, 1.0, 1.0),  # one value
    merge=merge,
)
