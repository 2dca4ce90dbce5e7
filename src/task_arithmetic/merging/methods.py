"""The merging methods that there are: the modules of this room that have a METHOD."""

import importlib
import pkgutil

from ..errors import UserError, nearest
from .method import Method

# Modules of this room that are no method.
HELPERS = (
    "affine coefficients grams layer_scale lazy linear matrices merge method methods pieces".split()
)


def names() -> list[str]:
    """The names of all methods, sorted; imports none of them."""
    package = importlib.import_module(f"{__package__}")
    found = {module.name for module in pkgutil.iter_modules(package.__path__)}
    return sorted(name for name in found - set(HELPERS) if not name.startswith("_"))


def find(name: str) -> Method:
    """The method of this name. Raises UserError: there is none."""
    known = names()
    if name not in known:
        raise UserError(
            f"There is no merging method {name!r}{nearest(name, known)}: choose one of "
            f"{', '.join(known)}."
        )
    try:
        method = importlib.import_module(f"{__package__}.{name}").METHOD
    except Exception as error:  # a file of one's own may be anything
        raise _no_method(name, f"{type(error).__name__}: {error}") from None
    if not isinstance(method, Method) or method.name != name:
        raise _no_method(name, f"its METHOD is {getattr(method, 'name', method)!r}")
    return method


def _no_method(name: str, why: str) -> UserError:
    return UserError(
        f"merging/{name}.py is no merging method ({why}): correct it; a module that is none has a "
        "name that begins with _."
    )
