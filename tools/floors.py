"""Turn every `name>=version` of one package into `name==version`, and print the file's path.

Usage: python tools/floors.py neuros-X

The constraints hold the package's dependencies and all its extras. Packages of this repository
are left to their wheels.
"""

import re
import sys
import tempfile
import tomllib
from pathlib import Path


def main() -> int:
    """Write the constraints file."""
    name = sys.argv[1]
    root = Path(__file__).resolve().parent.parent / "packages" / name
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project.get("optional-dependencies", {}).values()
    requirements = [*project["dependencies"], *(r for extra in extras for r in extra)]
    pins = []
    for requirement in requirements:
        match = re.fullmatch(
            r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)", requirement.split(";")[0].strip()
        )
        if match:
            pins.append(f"{match[1]}=={match[2]}")
        elif not requirement.startswith("neuros-"):
            print(f"{name}: {requirement!r} needs the form name>=version", file=sys.stderr)
            return 1
    path = Path(tempfile.mkdtemp()) / f"floors-{name}.txt"
    path.write_text("\n".join(pins) + "\n")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
