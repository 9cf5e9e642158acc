"""Hold a release tag against the version and the changelog of its package.

Usage: python tools/check_release.py neuros-X-vA.B.C

Prints `package=` and `module=` lines for the workflow, or says what disagrees.
"""

import re
import sys
import tomllib
from pathlib import Path


def main() -> int:
    """Check the tag."""
    match = re.fullmatch(r"(neuros-[a-z]+)-v(\d+\.\d+\.\d+)", sys.argv[1])
    if match is None:
        print(f"{sys.argv[1]!r} needs the form neuros-NAME-vA.B.C", file=sys.stderr)
        return 1
    name, tagged = match.groups()
    root = Path(__file__).resolve().parent.parent / "packages" / name
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    if version != tagged:
        print(f"the tag says {tagged}, {name}'s pyproject.toml {version}", file=sys.stderr)
        return 1
    section = re.search(
        rf"^## {re.escape(version)}\b.*\n((?:(?!## ).*\n?)*)",
        (root / "CHANGELOG.md").read_text(),
        re.MULTILINE,
    )
    if section is None or not section[1].strip():
        print(f"{name}'s CHANGELOG.md has no text under '## {version}'", file=sys.stderr)
        return 1
    print(f"package={name}\nmodule={name.replace('-', '_')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
