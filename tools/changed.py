"""Print, as JSON, the packages that a change can break.

Usage: python tools/changed.py BASE

neuros-core, a file at the root, `.github` or `tools` touch all five; another package touches
itself; `docs` alone touches none.
"""

import json
import subprocess
import sys
from pathlib import Path


def touched(files: list[str], packages: list[str]) -> list[str]:
    """The packages whose checks a change to `files` needs."""
    hit = set()
    for file in files:
        parts = file.split("/")
        if parts[0] in {"docs", "examples"}:
            continue
        if parts[0] == "packages" and parts[1] != "neuros-core":
            hit.add(parts[1])
        else:
            return packages
    return sorted(hit & set(packages))


def main() -> int:
    """Ask git for the changed files and print the list."""
    root = Path(__file__).resolve().parent.parent
    command = ["git", "-C", str(root), "diff", "--name-only", f"{sys.argv[1]}...HEAD"]
    files = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    packages = sorted(p.parent.name for p in root.glob("packages/*/pyproject.toml"))
    print(json.dumps(touched(files, packages)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
