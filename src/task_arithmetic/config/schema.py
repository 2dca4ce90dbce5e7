"""Holding a configuration or a definition to its schema, each violation said in one sentence."""

import math
import unicodedata
from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker, validators
from jsonschema.exceptions import ValidationError

from ..errors import UserError, nearest

# JSON lets 2.0 pass as an integer; a number of steps must be written as one.
Validator = validators.extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    ),
)
FORMATS = FormatChecker(())  # `format: name` in a schema
NAME_BYTES = 100  # a file system allows 255, of which suffixes and temporary names need some


@FORMATS.checks("name")
def is_name(value) -> bool:
    """Whether a text may name a task, encoder, mode, pair or run, which become parts of paths:
    letters of any alphabet with their marks, digits, '.', '_' and '-', with neither '.' nor '-' at
    the beginning."""
    return (
        not isinstance(value, str)
        or (  # what is no text has its own sentence
            all(unicodedata.category(c)[0] in "LM" or c.isdecimal() or c in "._-" for c in value)
            and (value[:1].isalnum() or value[:1] == "_")
            and len(value.encode()) <= NAME_BYTES
        )
    )


def composed(content):
    """The texts of a configuration in Unicode's composed form (NFC): `é` may be one letter, as
    keyboards type it, or `e` and an accent, as some systems store it in names of files."""
    if isinstance(content, dict):
        return {composed(key): composed(value) for key, value in content.items()}
    if isinstance(content, list):
        return [composed(value) for value in content]
    return unicodedata.normalize("NFC", content) if isinstance(content, str) else content


def check_schema(content: dict, schema: dict, where: str) -> None:
    """Raise the first violation as a UserError: unknown keys first, since a mistyped key is also
    a missing one."""
    errors = list(Validator(schema, format_checker=FORMATS).iter_errors(content))
    if errors:
        errors.sort(key=lambda error: error.validator != "additionalProperties")
        raise UserError(_sentence(errors[0], where))
    for path, value in _leaves(content):
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{path} in {where} must be a finite number; found {value}.")


def _leaves(content, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(content, list):
        for i, value in enumerate(content):
            yield from _leaves(value, f"{path}[{i}]")
    else:
        yield path, content


def _sentence(error: ValidationError, where: str) -> str:
    path = ""
    for part in error.absolute_path:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    here, value, limit = f"{path} in {where}", error.instance, error.validator_value
    match error.validator:
        case "additionalProperties":
            known = list(error.schema["properties"])
            key = next(str(key) for key in value if key not in known)
            place = f" under {path}" if path else ""
            near = nearest(key, known)
            return f"Unknown key {key!r}{place} in {where}{near or f'; known: {_list(known)}'}."
        case "required":
            key = next(key for key in limit if key not in value)
            return f"{f'{path}.' if path else ''}{key} is missing in {where}; add it."
        case "type":
            return f"{here} must be {_types(limit)}; found {found(value)}{_hint(value, limit)}."
        case "enum":
            near = nearest(str(value), [str(choice) for choice in limit])
            return f"{here} must be {_list(limit, 'or')}; found {found(value)}{near}."
        case "minimum":
            return f"{here} must be at least {limit}; found {value}."
        case "maximum":
            return f"{here} must be at most {limit}; found {value}."
        case "exclusiveMinimum":
            return f"{here} must be above {limit}; found {value}."
        case "minItems" | "maxItems":
            words = "at least" if error.validator == "minItems" else "at most"
            if error.schema.get("minItems") == error.schema.get("maxItems"):
                words = "exactly"
            return f"{here} must have {words} {limit} entries; found {len(value)}."
        case "uniqueItems":
            twice = next(item for i, item in enumerate(value) if item in value[:i])
            return f"{here} has {twice!r} twice; remove one."
        case "format":
            return (
                f"{here} must be a name of letters, digits, '.', '_' and '-', with neither '.' nor "
                f"'-' at its beginning, of at most {NAME_BYTES} bytes; found {value!r}."
            )
        case "not":
            return f"{here} cannot be {value!r}, which is kept for what runs share; rename it."
        case "pattern" if path == "hub":
            return f"{here} must be owner/name; found {value!r}."
    return f"{here} is not allowed: {error.message}."


TYPES = {
    "object": "a mapping (`key: value` lines)",
    "array": "a list",
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}


def _types(types: str | list[str]) -> str:
    return _list([TYPES[name] for name in ([types] if isinstance(types, str) else types)], "or")


def found(value) -> str:
    """A value in words: its kind and, where short, itself."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return f"{value}".lower()
    if isinstance(value, dict | list):
        return TYPES["object" if isinstance(value, dict) else "array"]
    return f"the text {value!r}" if isinstance(value, str) else f"{value}"


def _hint(value, types) -> str:
    """How to write a number that YAML reads as a text, e.g. 1e-5 as 1.0e-5."""
    types = {types} if isinstance(types, str) else set(types)
    if not isinstance(value, str) or not types & {"number", "integer"}:
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    digits, exponent, power = value.lower().partition("e")
    if "number" in types and exponent and "." not in digits:
        return f" (YAML reads an exponent only after a decimal point: write {digits}.0e{power})"
    if "number" in types and exponent and power[:1] not in "+-":
        return f" (YAML reads an exponent only with its sign: write {digits}e+{power})"
    return f" (write {number:g} without quotes)"


def _list(items, last: str = "and") -> str:
    *most, final = (str(item) for item in items)
    return f"{', '.join(most)} {last} {final}" if most else final
