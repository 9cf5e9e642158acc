"""Markdown extension of the site: formulas in `$...$` and `$$...$$` become MathML.

Browsers draw MathML by themselves, so that a page needs no script and no network.
"""

import re

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor


class _Formula(InlineProcessor):
    """One formula; what LaTeX would refuse ends the build."""

    def handleMatch(self, m: re.Match[str], _data: str) -> tuple[str, int, int]:
        display = "block" if m["block"] else "inline"
        tex = " ".join((m["block"] or m["inline"]).split())
        return self.md.htmlStash.store(convert(tex, display=display)), m.start(0), m.end(0)


class FormulaExtension(Extension):
    """Registers the pattern after code spans and before backslash escapes."""

    def extendMarkdown(self, md: Markdown) -> None:
        """Add the pattern."""
        pattern = r"\$\$(?P<block>.+?)\$\$|(?<![\\$\w])\$(?P<inline>[^$\s](?:[^$]*[^$\s])?)\$(?!\d)"
        md.inlinePatterns.register(_Formula(pattern, md), "formula", 185)


def makeExtension(**options: object) -> FormulaExtension:
    """What Markdown calls."""
    return FormulaExtension(**options)
