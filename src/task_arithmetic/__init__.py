"""Task arithmetic by fine-tuning attention modules only: task vectors, unified models, weight
disentanglement. What a notebook uses is here; it is imported, with torch, at its first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Disentanglement",
    "Encoder",
    "MergedVector",
    "Task",
    "TaskVector",
    "UserError",
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

if TYPE_CHECKING:
    from .errors import UserError
    from .library import (
        Disentanglement,
        Encoder,
        MergedVector,
        Task,
        TaskVector,
        choose_alpha,
        choose_negation,
        disentanglement,
        evaluate,
        export,
        finetune,
        import_vector,
        load_encoder,
        load_task,
        merge,
        merging_methods,
    )


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".library", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
