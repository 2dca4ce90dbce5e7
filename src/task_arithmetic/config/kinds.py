"""Kinds of values that a configuration holds, and what its sections are.

What is wrong with a value is said as a sentence goes on after its place: "tasks in the
configuration" … "has 'a' twice; remove one" (sentences.py).
"""

import unicodedata
from typing import Annotated, Any, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    Tag,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import CoreSchema

HUB, COLUMN, WORD = "^[^/]+/[^/]+$", "^[^{}]+$", r"\S"  # patterns: owner/name, no brace, not blank
NAME_BYTES = 100  # a file system allows 255, of which suffixes and temporary names need some


def is_name(text: str) -> bool:
    """Whether a text may name a task, encoder, mode, pair or run, which become parts of paths:
    letters of any alphabet with their marks, digits, '.', '_' and '-', with neither '.' nor '-' at
    the beginning."""
    return (
        all(unicodedata.category(c)[0] in "LM" or c.isdecimal() or c in "._-" for c in text)
        and (text[:1].isalnum() or text[:1] == "_")
        and len(text.encode()) <= NAME_BYTES
    )


def _named(text: str) -> str:
    if not is_name(text):
        raise ValueError(
            "must be a name of letters, digits, '.', '_' and '-', with neither '.' nor '-' at its "
            f"beginning, of at most {NAME_BYTES} bytes; found {text!r}"
        )
    return text


def _distinct(items: list[Any]) -> list[Any]:
    for place, item in enumerate(items):
        if item in items[:place]:
            raise ValueError(f"has {item!r} twice; remove one")
    return items


def _as_written(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    validate(value)
    return value


def kind_of(value: object) -> str:
    """The kind of a value, where a key may have more than one: its tag in such a union."""
    if isinstance(value, Section):
        return "mapping"
    name = type(value).__name__
    return {"dict": "mapping", "int": "number", "float": "number"}.get(name, name)


class _Given:
    """In an annotation: a key may be left out, and is None then, but its value cannot be null."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return handler(get_args(source)[0])


T = TypeVar("T")
GIVEN = _Given()
Maybe = Annotated[T | None, GIVEN]
BY_KIND = Discriminator(kind_of)
DISTINCT = AfterValidator(_distinct)
SOME, TWO = Field(min_length=1), Field(min_length=2, max_length=2)  # items
UNIQUE = Field(json_schema_extra={"uniqueItems": True})
AS_WRITTEN = WrapValidator(_as_written)  # a stage's settings have 1 where 1 stands, and not 1.0

Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Number = Annotated[float, AS_WRITTEN]
Positive = Annotated[float, Field(gt=0), AS_WRITTEN]
NotNegative = Annotated[float, Field(ge=0), AS_WRITTEN]
Share = Annotated[float, Field(ge=0, le=1), AS_WRITTEN]
SomeShare = Annotated[float, Field(gt=0, le=1), AS_WRITTEN]
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, AfterValidator(_named)]
Hub = Annotated[str, Field(pattern=HUB)]
Column = Annotated[str, Field(pattern=COLUMN)]
Word = Annotated[str, Field(pattern=WORD)]
Names = Annotated[list[Name], DISTINCT, UNIQUE]
Pair = Annotated[list[Name], TWO]
Texts = Annotated[list[Text], SOME]
Patterns = Annotated[Texts, DISTINCT, UNIQUE]

A = TypeVar("A")
B = TypeVar("B")
TextOr = Annotated[Annotated[Text, Tag("str")] | Annotated[A, Tag("number")], BY_KIND]
HubOr = Annotated[Annotated[Hub, Tag("str")] | Annotated[A, Tag("mapping")], BY_KIND]
ListOr = Annotated[Annotated[A, Tag("list")] | Annotated[B, Tag("str")], BY_KIND]
ListOrMapping = Annotated[Annotated[A, Tag("list")] | Annotated[B, Tag("mapping")], BY_KIND]


def key(says: str, default: Any = ...) -> Any:
    """A key of a section: what it says, and what it is where it is left out (`...`: it is not)."""
    return Field(default, description=says)


class Section(BaseModel):
    """A mapping without other keys than these, whose numbers are finite and written as such."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    def given(self) -> dict[str, Any]:
        """The mapping as it was written, without what it leaves out."""
        return self.model_dump(exclude_unset=True)


Model = TypeVar("Model", bound=Section)


def partly(model: type[Model]) -> type[Model]:
    """The same keys, each of which may be left out."""
    for field in model.model_fields.values():
        field.default = None
    model.model_rebuild(force=True)
    return model
