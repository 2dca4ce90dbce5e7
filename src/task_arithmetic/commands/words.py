"""What several commands read of their words."""

from typing import Any

import yaml

from ..errors import UserError


def read_options(words: list[str]) -> dict[str, Any]:
    """The options of a merging method, NAME=VALUE …, with values as YAML has them."""
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if not (name and equals):
            raise UserError(f"--option takes NAME=VALUE, such as keep=0.2; found {word!r}.")
    return found
