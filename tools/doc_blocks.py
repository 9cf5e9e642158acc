"""A pytest plugin (`-p doc_blocks`) that runs every fenced Python block of Markdown files.

The blocks of one file share a namespace. Comment lines that follow a statement with `print(` are
what that block must print; a block that prints anything else fails.
"""

import ast
import contextlib
import io
import itertools
import tempfile
from pathlib import Path

from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser


def promised(source: str) -> list[str]:
    """The comment lines that follow a statement with a print in it."""
    lines, expected = source.splitlines(), []
    for statement in ast.parse(source).body:
        calls = (node for node in ast.walk(statement) if isinstance(node, ast.Call))
        if any(getattr(call.func, "id", "") == "print" for call in calls):
            after = lines[statement.end_lineno :]
            comments = itertools.takewhile(lambda line: line.startswith("# "), after)
            expected += [line.removeprefix("# ").rstrip() for line in comments]
    return expected


class PrintingBlock(CodeBlockParser):
    """Python blocks, with what they print."""

    language = "python"

    def evaluate(self, example: Example) -> str | None:
        """Run one block and compare its output with the comments."""
        out = io.StringIO()
        code = compile(example.parsed, f"{example.path}:{example.line}", "exec", dont_inherit=True)
        # What a block writes goes into a folder of its document.
        folder = example.namespace.setdefault("_folder", tempfile.mkdtemp())
        with contextlib.redirect_stdout(out), contextlib.chdir(folder):
            exec(code, example.namespace)
        expected = promised(example.parsed)
        printed = [line.rstrip() for line in out.getvalue().splitlines()]
        if expected != printed:
            return f"the block promises {expected}, it prints {printed}"
        return None


ROOT = str(Path(__file__).resolve().parent.parent)
pytest_collect_file = Sybil([PrintingBlock()], patterns=["*.md", "**/*.md"], path=ROOT).pytest()
