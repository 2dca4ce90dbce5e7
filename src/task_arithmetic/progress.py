"""How far a piece of work is: handed in by who starts it, so that the work knows nothing of jobs,
terminals or notebooks."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Progress:
    """What long work tells. This one listens and says nothing.

    Attributes:
        provenance: what a result depends on beside its own arguments, such as the label of the
            code; an unfinished piece of work with another provenance is not gone on with.
    """

    provenance: dict[str, Any] = {}

    def at(self, done: int, total: int, unit: str, **figures: float) -> None:
        """`done` of `total` units are done; figures such as the loss may stand beside."""

    @contextmanager
    def saving(self, save: Callable[[], str]) -> Iterator[None]:
        """Within the block, who stops the work calls save(), which returns a sentence on what is
        saved; perhaps in another thread, while the block goes on."""
        yield

    def when_done(self, action: Callable[[], object]) -> None:
        """Call action() once the work's results are complete and kept."""
        action()


SILENT = Progress()


class Bar(Progress):
    """A bar in a terminal or notebook."""

    def __init__(self, title: str = "") -> None:
        self.title = title
        self.bar: Any = None

    def at(self, done: int, total: int, unit: str, **figures: float) -> None:
        from tqdm.auto import tqdm

        if self.bar is None:
            self.bar = tqdm(total=total, desc=self.title, unit=unit, initial=done, file=sys.stderr)
        self.bar.update(done - self.bar.n)
        if figures:
            self.bar.set_postfix({key: f"{value:.3g}" for key, value in figures.items()})
        if done >= total:
            self.bar.close()
            self.bar = None
