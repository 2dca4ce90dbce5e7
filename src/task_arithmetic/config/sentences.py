"""Holding content to its form, and the first mistake in it said in one sentence."""

import re
from collections.abc import Iterable, Iterator
from types import NoneType
from typing import Any, TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ..errors import UserError, nearest
from .kinds import COLUMN, GIVEN, HUB, WORD, Section

Form = TypeVar("Form", bound=Section)

MAPPING = "a mapping (`key: value` lines)"
OF_UNION = ("function-", "list[", "literal[")  # what names of the ways of a union begin with
TAGS = {"mapping": MAPPING, "list": "a list", "str": "a text", "number": "a number"}  # of unions
KINDS = {  # pydantic's error → what is to stand there
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "a text",
    "list_type": "a list",
    "dict_type": MAPPING,
    "model_type": MAPPING,
    "bool_type": "true or false",
}
BOUNDS = {  # pydantic's error → its bound, and in words
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}
PATTERNS = {HUB: "be owner/name", COLUMN: "have no brace", WORD: "not be blank"}
FIRST = {"extra_forbidden": 0, "invalid_key": 0, "missing": 1}  # pydantic's error → its rank


def hold(form: type[Form], content: dict[str, Any], where: str) -> Form:
    """Content in its form.

    Args:
        where: what the content is, such as "the configuration".
    Raises:
        UserError: the first mistake; unknown keys first, since a mistyped key is also a missing
            one, then missing ones.
    """
    try:
        return form.model_validate(content)
    except ValidationError as error:
        mistakes = error.errors(include_url=False)
        first = min(mistakes, key=lambda mistake: FIRST.get(mistake["type"], 2))
        raise UserError(_sentence(form, first, where)) from None


def _sentence(form: type[Section], error: ErrorDetails, where: str) -> str:
    kind, value, limits = error["type"], error["input"], error.get("ctx", {})
    *parents, key = error["loc"]
    section = _section(form, parents)
    if kind in ("extra_forbidden", "invalid_key"):
        known = list(section.model_fields)
        under = f" under {_path(parents)}" if parents else ""
        if not known:
            return (
                f"{_path(parents)} in {where} takes no options: write {{}} instead of {str(key)!r}."
            )
        near = nearest(str(key), known) or f"; known: {_list(known)}"
        return f"Unknown key {str(key)!r}{under} in {where}{near}."
    here = f"{_path(error['loc'])} in {where}"
    if kind == "missing":
        return f"{_path(error['loc'])} is missing in {where}; add it."
    if kind == "value_error":
        return f"{here} {limits['error']}."
    if kind == "finite_number":
        return f"{here} must be a finite number; found {value}."
    if kind in BOUNDS:
        bound, words = BOUNDS[kind]
        return f"{here} must be {words} {limits[bound]:g}; found {value}."
    if kind in ("too_short", "too_long"):  # but of pairs there is no upper bound
        limit = limits.get("min_length", limits.get("max_length"))
        words = "at least" if limit == 1 else "exactly"
        return f"{here} must have {words} {limit} entries; found {len(value)}."
    if kind == "literal_error":
        choices = re.findall("'(.*?)'", limits["expected"])
        if len(choices) == 1:  # beside a list
            return f"{here} must be a list, or the word {choices[0]}; found {value!r}."
        near = nearest(str(value), choices)
        return f"{here} must be {_list(choices, 'or')}; found {found(value)}{near}."
    if kind == "string_pattern_mismatch":
        return f"{here} must {PATTERNS[limits['pattern']]}; found {value!r}."
    if kind == "string_too_short":
        return f"{here} must not be empty; give a text."
    if kind == "string_too_long":
        return f"{here} must have at most {limits['max_length']} letters; found {len(value)}."
    some = [TAGS[tag] for tag in re.findall("'(.*?)'", limits.get("expected_tags", ""))]
    field = section.model_fields.get(str(key))
    if field and NoneType in get_args(field.annotation) and GIVEN not in field.metadata:
        some.append("null")
    some = [*filter(None, [KINDS.get(kind)]), *some]
    return f"{here} must be {_list(some, 'or')}; found {found(value)}{_hint(value, kind)}."


def _path(location: Iterable[int | str]) -> str:
    """A place as people write it: finetune.crop_scale[1]. A union's tag is no part of it, and a
    mistake in the key of a mapping is said of the mapping."""
    path = ""
    parts = [*location, ""]
    for part, following in zip(parts, parts[1:], strict=False):
        of_union = isinstance(part, str) and part.startswith(OF_UNION)
        if following != "[key]" and part not in (*TAGS, "[key]") and not of_union:
            path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.removeprefix(".")


def _section(form: type[Section], location: Iterable[int | str]) -> type[Section]:
    """The section that holds what is at a place."""
    for part in location:
        if field := form.model_fields.get(str(part)):
            form = next(_sections(field.annotation), form)
    return form


def _sections(annotation: Any) -> Iterator[type[Section]]:
    """The sections that an annotation allows."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)


def found(value: object) -> str:
    """A value in words: its kind and, where short, itself."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return f"{value}".lower()
    if isinstance(value, dict | list):
        return MAPPING if isinstance(value, dict) else "a list"
    return f"the text {value!r}" if isinstance(value, str) else f"{value}"


def _hint(value: object, kind: str) -> str:
    """How to write a number that YAML reads as a text, e.g. 1e-5 as 1.0e-5."""
    if not isinstance(value, str) or kind not in ("int_type", "float_type"):
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    digits, exponent, power = value.lower().partition("e")
    if kind == "float_type" and exponent and "." not in digits:
        return f" (YAML reads an exponent only after a decimal point: write {digits}.0e{power})"
    if kind == "float_type" and exponent and power[:1] not in "+-":
        return f" (YAML reads an exponent only with its sign: write {digits}e+{power})"
    return f" (write {number:g} without quotes)"


def _list(items: Iterable[str], last: str = "and") -> str:
    *most, final = items
    return f"{', '.join(most)} {last} {final}" if most else final
