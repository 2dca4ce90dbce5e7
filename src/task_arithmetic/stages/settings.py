"""Settings of a stage: its slice of the configuration, as config/settings.py writes it in JSON.
Each learning or measuring stage has its type beside its function."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Self, TypeVar

from ..errors import UserError, nearest

Kind = TypeVar("Kind")


def read(kind: type[Kind], given: Any, where: str = "The settings") -> Kind:
    """A dataclass from JSON. Raises UserError: a key that is none of its fields, or one that lacks;
    so nothing is overlooked."""
    if not isinstance(given, Mapping):
        raise UserError(f"{where} must be a mapping; found {given!r}.")
    known = {each.name: each for each in fields(kind)}  # type: ignore[arg-type]
    for key in given:
        if key not in known:
            raise UserError(f"{where} have {key!r}{nearest(key, known)}: remove it.")
    for name, each in known.items():
        if name not in given and each.default is MISSING and each.default_factory is MISSING:
            raise UserError(f"{where} have no {name!r}: add it.")
    return kind(**given)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the settings of all of them may say.

    Attributes:
        limit: split → only so many examples of it, drawn at random; None: all.
    """

    limit: Mapping[str, int] | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Settings from JSON. Raises UserError: a key that is none of theirs, or one is missing."""
        return read(cls, given)


@dataclass(frozen=True, kw_only=True)
class EncoderSettings(Settings):
    """Of what passes examples through an encoder.

    Attributes:
        modality: of the encoder. precision: of its passes: auto, bf16 or float32.
    """

    modality: str = "vision"
    precision: str = "float32"
