"""What is read of a task's definition when its data are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ..errors import UserError

Settings = Mapping[str, Any]  # a definition as it is written
SPLIT_WORDS = {  # what a split may be called in names of files and folders
    "train": ["train", "training"],
    "validation": ["validation", "valid", "dev", "val"],
    "test": ["test", "testing", "eval", "evaluation"],
}


@dataclass(frozen=True)
class Definition:
    """What a task's definition says of its data; config/experiment.py tells what each key means.

    Attributes:
        task: the task's name. given: the whole definition, as its manifest keeps it.
        files: what listing() found at its path when the run was planned.
    """

    task: str = ""
    given: Settings = field(default_factory=dict)
    path: str = ""
    hub: str | None = None
    config: str | None = None
    files: str | None = None
    image: str = "image"
    texts: Sequence[str] = ()
    label: str = "label"
    split: str | None = None
    train: str | None = "train"
    validation: str | int | None = None
    test: str | float = "test"
    metric: str | None = None
    stratified: bool = True
    classes: list[str] | str | None = None
    source_classes: list[str] | str | None = None
    alike_classes: str = "error"
    missing_classes: str = "error"
    expected: Mapping[str, int] = field(default_factory=dict)
    shared_images: float = 0
    shared_texts: float = 0

    @classmethod
    def of(cls, task: str, given: Settings) -> "Definition":
        """What is read of a definition; it may have other keys."""
        known = {each.name for each in fields(cls)} - {"task", "given"}
        return cls(task, given, **{key: given[key] for key in known & set(given)})

    @property
    def noun(self) -> str:
        """What a row of the task is."""
        return "text" if self.texts else "image"

    @property
    def has_scores(self) -> bool:
        """Whether its labels are scores, not classes."""
        return self.metric == "spearman"

    @property
    def roles(self) -> dict[str, str]:
        """train, validation and test → the source's split that it asks for, if it names one."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {role: name for role, name in named.items() if isinstance(name, str)}

    def error(self, sentence: str) -> UserError:
        """What is wrong with the task's data."""
        return UserError(f"Task {self.task}: {sentence}")
