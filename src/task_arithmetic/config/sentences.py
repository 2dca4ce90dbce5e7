"""Holding content to its form, and the first mistake in it said in one sentence."""

from collections.abc import Iterable, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ..errors import UserError, nearest
from .kinds import COLUMN, GIVEN, HUB, WORD, Section

Form = TypeVar("Form", bound=Section)

TYPES = {
    "mapping": "a mapping (`key: value` lines)",
    "list": "a list",
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "NoneType": "null",
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
    if kind in ("extra_forbidden", "invalid_key"):
        *parents, key = map(str, error["loc"])
        section = _place(form, error["loc"][:-1])
        known = list(section.chosen.model_fields)
        under = f" under {section.path}" if parents else ""
        near = nearest(key, known) or f"; known: {_list(known)}"
        return f"Unknown key {key!r}{under} in {where}{near}."
    path, kinds, chosen = _place(form, error["loc"])
    here = f"{path} in {where}"
    if kind == "missing":
        return f"{path} is missing in {where}; add it."
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
    if kind == "literal_error" and len(kinds) > 1:
        return f"{here} must be a list, or the word {get_args(chosen)[0]}; found {value!r}."
    if kind == "literal_error":
        choices = get_args(chosen)
        near = nearest(str(value), list(choices))
        return f"{here} must be {_list(choices, 'or')}; found {found(value)}{near}."
    if kind == "string_pattern_mismatch":
        return f"{here} must {PATTERNS[limits['pattern']]}; found {value!r}."
    if kind == "string_too_short":
        return f"{here} must not be empty; give a text."
    if kind == "string_too_long":
        return f"{here} must have at most {limits['max_length']} letters; found {len(value)}."
    names = [_name(kind) for kind in kinds]
    words = _list([TYPES[name] for name in names], "or")
    return f"{here} must be {words}; found {found(value)}{_hint(value, names)}."


class _Place(NamedTuple):
    path: str  # as people write it: finetune.crop_scale[1]
    kinds: list[Any]  # what may stand there: types, of which NoneType is null
    chosen: Any  # the one that the value was held to


def _place(form: type[Section], location: Sequence[int | str]) -> _Place:
    """Where pydantic's location is: keys and indices and, where a value may be of several kinds,
    the tag of the one that it was held to."""
    path = ""
    kinds: list[Any] = [form]
    chosen: Any = form
    for part, following in zip(location, [*location[1:], None], strict=False):
        if following == "[key]":  # a mistake in the key of a mapping: it is said of the mapping
            return _Place(path, [str], str)
        if chosen is None:
            chosen = next(kind for kind in kinds if _tag(kind) == part)
            continue
        if isinstance(chosen, type) and issubclass(chosen, Section):
            field = chosen.model_fields[str(part)]
            kinds = _kinds(field.annotation, GIVEN in field.metadata)
        else:
            kinds = _kinds(get_args(chosen)[-1])
        listed = get_origin(chosen) is list
        path += f"[{part}]" if listed else f".{part}" if path else f"{part}"
        some = [kind for kind in kinds if kind is not NoneType]
        chosen = some[0] if len(some) == 1 else None
    return _Place(path, kinds, chosen)


def _kinds(annotation: Any, given: bool = False) -> list[Any]:
    """The types that an annotation allows, one by one; given: other than null."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kinds(inner[0], given or GIVEN in inner)
    if origin in (Union, UnionType):
        return [x for kind in inner for x in _kinds(kind) if not (given and x is NoneType)]
    return [annotation]


def _name(kind: Any) -> str:
    """A type's name in TYPES."""
    origin = get_origin(kind) or kind
    if origin is Literal:
        return "str"
    mapping = origin is dict or (isinstance(origin, type) and issubclass(origin, Section))
    return "mapping" if mapping else origin.__name__


def _tag(kind: Any) -> str:
    return {"int": "number", "float": "number"}.get(_name(kind), _name(kind))


def found(value: object) -> str:
    """A value in words: its kind and, where short, itself."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return f"{value}".lower()
    if isinstance(value, dict | list):
        return TYPES["mapping" if isinstance(value, dict) else "list"]
    return f"the text {value!r}" if isinstance(value, str) else f"{value}"


def _hint(value: object, names: list[str]) -> str:
    """How to write a number that YAML reads as a text, e.g. 1e-5 as 1.0e-5."""
    if not isinstance(value, str) or not {"int", "float"} & set(names):
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    digits, exponent, power = value.lower().partition("e")
    if "float" in names and exponent and "." not in digits:
        return f" (YAML reads an exponent only after a decimal point: write {digits}.0e{power})"
    if "float" in names and exponent and power[:1] not in "+-":
        return f" (YAML reads an exponent only with its sign: write {digits}e+{power})"
    return f" (write {number:g} without quotes)"


def _list(items: Iterable[str], last: str = "and") -> str:
    *most, final = items
    return f"{', '.join(most)} {last} {final}" if most else final
