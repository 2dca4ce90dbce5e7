"""A Markdown extension: $…$, and $$ on lines of their own, become MathML, which browsers draw by
themselves. What latex2mathml does not know ends the build."""

import re
from html import escape
from typing import Any

from latex2mathml.converter import convert
from markdown import Extension, Markdown
from markdown.inlinepatterns import InlineProcessor
from markdown.preprocessors import Preprocessor

DISPLAY = re.compile(r"^([ ]*)\$\$[ ]*\n?(.+?)\n?[ ]*\$\$[ ]*$", re.M | re.S)
INLINE = r"(?<![\\$\w])\$(?![\s$])([^$]*[^$\s\\])\$(?![\w$])"


def mathml(latex: str, display: str) -> str:
    """The equation as MathML. Raises ValueError: it has what latex2mathml does not know."""
    latex = " ".join(latex.split())
    try:
        made = convert(latex, display=display)
    except Exception as error:
        raise ValueError(f"${latex}$ is no equation: {type(error).__name__} {error}") from error
    if unknown := re.findall(r">[^<]*(\\\w+|\\)[^<]*<", made):
        raise ValueError(f"${latex}$ has {', '.join(unknown)}, which latex2mathml does not know")
    return made.replace("<math ", f'<math alttext="{escape(latex)}" ', 1)


class _Display(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        def stored(found: re.Match[str]) -> str:
            made = f'<div class="equation">{mathml(found[2], "block")}</div>'
            return f"\n{found[1]}{self.md.htmlStash.store(made)}\n"

        return DISPLAY.sub(stored, "\n".join(lines)).split("\n")


class _Inline(InlineProcessor):
    def handleMatch(  # type: ignore[override]  # noqa: N802
        self, m: re.Match[str], data: str
    ) -> tuple[str, int, int]:
        return self.md.htmlStash.store(mathml(m[1], "inline")), m.start(0), m.end(0)


class Equations(Extension):
    """Fences have been taken out before $$ is looked for, and `code` before $."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        md.preprocessors.register(_Display(md), "equations", 22)
        md.inlinePatterns.register(_Inline(INLINE, md), "equation", 185)


def makeExtension(**options: Any) -> Equations:  # noqa: N802
    return Equations(**options)
