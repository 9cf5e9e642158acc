"""A pytest plugin (`-p doc_blocks`) that runs every fenced Python block of Markdown files.

The blocks of one file share a namespace. Comment lines that follow a line with `print(` are what
that block must print; a block that prints anything else fails.
"""

import contextlib
import io
from pathlib import Path

from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser


def promised(source: str) -> list[str]:
    """The comment lines that follow a print."""
    lines, printing = [], False
    for line in source.splitlines():
        if printing and line.startswith("# "):
            lines.append(line.removeprefix("# ").rstrip())
        else:
            printing = "print(" in line
    return lines


class PrintingBlock(CodeBlockParser):
    """Python blocks, with what they print."""

    language = "python"

    def evaluate(self, example: Example) -> str | None:
        """Run one block and compare its output with the comments."""
        out = io.StringIO()
        code = compile(example.parsed, f"{example.path}:{example.line}", "exec", dont_inherit=True)
        with contextlib.redirect_stdout(out):
            exec(code, example.namespace)  # noqa: S102 - running the documents is the purpose
        expected = promised(example.parsed)
        printed = [line.rstrip() for line in out.getvalue().splitlines()]
        if expected != printed:
            return f"the block promises {expected}, it prints {printed}"
        return None


ROOT = str(Path(__file__).resolve().parent.parent)
pytest_collect_file = Sybil([PrintingBlock()], patterns=["**/*.md"], path=ROOT).pytest()
