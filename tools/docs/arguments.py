"""For mkdocstrings: in our docstrings several short entries of Args or Attributes may share a
line, `a: this. b: that.`; on a page each is one of its own."""

import re
from typing import Any

from griffe import Class, Docstring, Extension, Function

SECTION = re.compile(r"^(\s*)(Args|Attributes):\s*$")


class OneEach(Extension):
    """Let each parameter or attribute begin a line."""

    def on_function_instance(self, *, func: Function, **_: Any) -> None:
        _split(func.docstring, {each.name for each in func.parameters})

    def on_class_members(self, *, cls: Class, **_: Any) -> None:
        names = {*cls.members} | {each.name for each in cls.parameters}
        _split(cls.docstring, names)


def _split(docstring: Docstring | None, names: set[str]) -> None:
    if docstring is None or not names:
        return
    one = f"(?:{'|'.join(map(re.escape, sorted(names, key=len, reverse=True)))})"
    several = f"{one}(?:, {one})*"
    lines, within = [], None
    for line in docstring.value.split("\n"):
        depth = len(line) - len(line.lstrip())
        if found := SECTION.match(line):
            within = len(found[1])
        elif line.strip() and within is not None and depth <= within:
            within = None
        elif within is not None and line.strip():
            start = "\n" + " " * (within + 4)
            line = re.sub(rf"(?<=[.;]) ({several}): ", rf"{start}\1: ", line)
            if re.match(rf"{several}: ", line.lstrip()):
                line = " " * (within + 4) + line.lstrip()
        lines.append(line)
    docstring.value = "\n".join(lines)
