"""Subsets of the tasks of a run, to see what merging more or fewer of them costs."""

import hashlib
from collections.abc import Sequence
from itertools import combinations, count
from math import comb
from typing import Literal

Sizes = Sequence[int] | Literal["all", "doubled"]


def sizes_of(sizes: Sizes, tasks: int) -> list[int]:
    """How many tasks subsets have, of so many.

    Args:
        sizes: listed; all: 2, 3, 4, …; doubled: 2, 4, 8, … and as many as there are.
    """
    if sizes == "all":
        return list(range(2, tasks + 1))
    if sizes == "doubled":
        powers = [2**power for power in range(1, tasks.bit_length())]
        return sorted({*powers, tasks})
    return [int(size) for size in sizes]


def subsets_of(tasks: Sequence[str], size: int, draws: int) -> list[tuple[str, ...]]:
    """Distinct random subsets of a size, at most `draws`, each in the order of `tasks`.

    A draw has the tasks whose names, hashed with the size and the draw's number, come first. So it
    does not depend on the order of the tasks, on other sizes or on how many draws there are; of one
    that was there before, a draw is the next.
    """
    if comb(len(tasks), size) <= draws:
        return list(combinations(tasks, size))
    found: dict[tuple[str, ...], None] = {}
    numbers = count()
    while len(found) < draws:
        number = next(numbers)
        hashed = {t: hashlib.sha256(f"{size} {number} {t}".encode()).digest() for t in tasks}
        least = sorted(hashed.values())[size - 1]
        found[tuple(task for task in tasks if hashed[task] <= least)] = None
    return list(found)


def label_of(subset: Sequence[str]) -> str:
    """What rows call a subset: its tasks, joined by "+", which no name has."""
    return "+".join(subset)
