"""Refuse tests that cannot fail: no assertion, or an `except` around the error they should see.

Usage: python tools/check_tests.py

An assertion is `assert`, `pytest.raises`/`warns`/`fail`, or a call whose name holds `assert`,
`check` or `compare`.
"""

import ast
import sys
from pathlib import Path

CHECKS = ("assert", "check", "compare", "raises", "warns", "fail")


def asserts(function: ast.AST) -> bool:
    """Whether the function holds anything that can fail on purpose."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            # subprocess.run(..., check=True) fails where the child's own assertion does.
            words = [name, *(k.arg for k in node.keywords if k.arg == "check")]
            if any(check in word for word in words for check in CHECKS):
                return True
    return False


def faults(path: Path) -> list[str]:
    """One line for each test of the file that cannot fail."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            if not asserts(node):
                found.append(f"{path}:{node.lineno}: {node.name} asserts nothing")
            handlers = [h for part in node.body if isinstance(part, ast.Try) for h in part.handlers]
            found += [f"{path}:{h.lineno}: {node.name} catches the error" for h in handlers]
    return found


def main() -> int:
    """Check every test file of the repository."""
    root = Path(__file__).resolve().parent.parent
    files = sorted(p for p in root.glob("packages/*/tests/**/*.py") if p.name.startswith("test_"))
    found = [line for path in [*files, *root.glob("examples/test_*.py")] for line in faults(path)]
    print("\n".join(found) or f"{len(files)} test files: every test can fail")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
