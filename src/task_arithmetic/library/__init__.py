"""What a notebook uses: encoders, tasks and task vectors as values, and the paper's steps on them.
A thin layer over the functions that a run of the pipeline calls, which gives the same numbers."""

from ..errors import UserError
from .cache import cache_dir
from .encoders import Encoder, load_encoder
from .export import export
from .imports import import_vector
from .merging import merge, merging_methods
from .steps import (
    Disentanglement,
    choose_alpha,
    choose_negation,
    disentanglement,
    evaluate,
    finetune,
)
from .tasks import Task, load_task
from .vectors import MergedVector, TaskVector

__all__ = [
    "Disentanglement",
    "Encoder",
    "MergedVector",
    "Task",
    "TaskVector",
    "UserError",
    "cache_dir",
    "choose_alpha",
    "choose_negation",
    "disentanglement",
    "evaluate",
    "export",
    "finetune",
    "import_vector",
    "load_encoder",
    "load_task",
    "merge",
    "merging_methods",
]
