"""What a stage is: one typed declaration, from which come its command, Snakemake's call of it, what
its results depend on, where they are kept, and what `verify` looks at.

Each field of a declaration has one of the kinds below. A file that is read can only be an Input: a
field of another type is refused when it is declared, and a Name that is a path when it is given, so
that no result can depend on a file whose content does not count.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import UnionType
from typing import Any, NamedTuple, NewType, TypeVar, Union, get_args, get_origin, get_type_hints

from ..errors import UserError

Input = NewType("Input", str)  # a file or folder that is read; its content counts
Output = NewType("Output", str)  # a file or folder that is written
Name = NewType("Name", str)  # what is computed: a word, no path
Seed = NewType("Seed", int)  # likewise, a whole number
Settings = NewType(
    "Settings", dict[str, Any]
)  # the stage's slice of the configuration; JSON as an option
Threads = NewType("Threads", int)  # no result depends on it, as on what the report only shows:
Shown = NewType("Shown", str)
KINDS = (Input, Output, Name, Seed, Settings, Threads, Shown)
MODALITIES = ["vision", "language"]

Stage = TypeVar("Stage")


class Option(NamedTuple):
    """A field of a declaration."""

    name: str
    kind: Any  # of KINDS
    many: bool
    required: bool
    default: Any


@dataclass(frozen=True)
class Declared:
    """All that is known of a stage.

    Attributes:
        command: its name on the command line. text: what it does.
        code: the function that does it, "room.module.function"; or of each modality another.
        options: the function's arguments; those that it gets beside them are `progress` and, on a
            device, `device`.
        on_device: it takes a GPU, where there is one: always, or for the modalities named.
        stored: finished results are kept in the store. hashed: a .sha256 is written beside them.
        modal: its function calls the modality of its encoder.
        by_method: its function calls the merging method that its settings name.
    """

    command: str
    text: str
    code: str | dict[str, str]
    options: dict[str, Option]
    on_device: tuple[str, ...] = ()
    stored: bool = False
    hashed: bool = False
    modal: bool = False
    by_method: bool = False

    def of_kind(self, *kinds: Any) -> list[str]:
        """The names of the options of these kinds."""
        return [option.name for option in self.options.values() if option.kind in kinds]

    def paths(self, arguments: dict[str, Any], name: str) -> list[str]:
        """The paths that an option gives."""
        value = arguments.get(name) or []
        return [str(path) for path in (value if isinstance(value, list) else [value])]

    def computed(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments that say what is computed: neither paths nor what no result depends on."""
        names = self.of_kind(Name, Seed, Settings)
        return {name: arguments[name] for name in names if name in arguments}

    def check(self, arguments: dict[str, Any]) -> None:
        """Refuse a path where a name is declared. Raises UserError."""
        for option in self.of_kind(Name):
            for value in self.paths(arguments, option):
                if os.sep in value:
                    raise UserError(
                        f"--{option.replace('_', '-')} of {self.command} is a name, but {value} is "
                        "a path: give a name, or declare the option as an Input."
                    )

    def modality(self, arguments: dict[str, Any]) -> str | None:
        """The modality that a call is of; None: the stage is the same for all."""
        if not self.modal and isinstance(self.code, str):
            return None
        return (arguments.get("settings") or {}).get("modality", MODALITIES[0])

    def variant(self, arguments: dict[str, Any]) -> str | None:
        """The one of several codes that a call reaches: a merging method, or a modality."""
        if self.by_method:
            settings = arguments.get("settings") or {}
            return settings.get("merging", settings).get("method")
        return self.modality(arguments)

    def function(self, arguments: dict[str, Any]) -> Callable[..., None]:
        """The function that a call is of; its module is imported only now."""
        modality = self.modality(arguments) or MODALITIES[0]
        return named(self.code[modality] if isinstance(self.code, dict) else self.code)


def named(code: str) -> Callable[..., Any]:
    """A function of the package by its name, "room.module.function"."""
    module, _, name = code.rpartition(".")
    return getattr(import_module(f"task_arithmetic.{module}"), name)


STAGES: dict[str, Declared] = {}  # command → declaration, in the order of a run


def stage(
    code: str | dict[str, str],
    on_device: bool | tuple[str, ...] = False,
    stored: bool = False,
    hashed: bool = False,
    modal: bool = False,
    by_method: bool = False,
) -> Callable[[type[Stage]], type[Stage]]:
    """Declare a stage: a class whose fields are its options, in the order of its documentation.

    Raises:
        TypeError: a field that is of none of the kinds.
    """

    def declare(cls: type[Stage]) -> type[Stage]:
        options: dict[str, Option] = {}
        for name, kind in get_type_hints(cls).items():
            if get_origin(kind) in (Union, UnionType):  # X | None
                kind = next(k for k in get_args(kind) if k is not type(None))
            if many := get_origin(kind) is list:
                (kind,) = get_args(kind)
            if kind not in KINDS:
                raise TypeError(
                    f"The stage {cls.__name__} has {name}: {kind}: declare it as one of "
                    f"{', '.join(str(k.__name__) for k in KINDS)}; a file is an Input or an Output."
                )
            required = not hasattr(cls, name)
            options[name] = Option(name, kind, many, required, getattr(cls, name, None))
        command = "".join(f"-{c.lower()}" if c.isupper() else c for c in cls.__name__).lstrip("-")
        devices = tuple(MODALITIES) if on_device is True else tuple(on_device or ())
        text = (cls.__doc__ or "").strip()
        kept = stored, hashed, modal, by_method
        STAGES[command] = Declared(command, text, code, options, devices, *kept)
        return cls

    return declare
