"""Resolve one version of every third-party package and write constraints.txt.

Usage: nox -s lock (on Python 3.11)

Reads the five packages' dependencies and extras, and the dependency groups that share their
environments; the groups `peers-*` are resolved where they are used.
"""

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

SHARED_GROUPS = ("build", "test", "lint", "types", "docs")
TORCH = "torch==2.13.0"


def requirements(root: Path) -> list[str]:
    """Every third-party requirement of the five packages and the shared groups."""
    groups = tomllib.loads((root / "pyproject.toml").read_text())["dependency-groups"]
    wanted = {TORCH, *(r for name in SHARED_GROUPS for r in groups[name])}
    for path in root.glob("packages/*/pyproject.toml"):
        project = tomllib.loads(path.read_text())["project"]
        extras = project.get("optional-dependencies", {}).values()
        wanted |= {*project["dependencies"], *(r for extra in extras for r in extra)}
    return sorted(r for r in wanted if not r.startswith("neuros-"))


def main() -> int:
    """Run pip-compile and drop what belongs to one machine."""
    root = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "all.in", Path(folder) / "all.txt"
        source.write_text("\n".join(requirements(root)) + "\n")
        options = ["--strip-extras", "--no-emit-index-url", "--no-emit-find-links", "--no-annotate"]
        command = [sys.executable, "-m", "piptools", "compile", "--no-header", "--quiet"]
        command += ["--no-emit-trusted-host", *options, "-o", str(target), str(source)]
        subprocess.run(command, check=True, env=os.environ)
        pins = [line for line in target.read_text().splitlines() if "==" in line]
    # A local build tag (torch's +cpu) would bind everybody to this machine's kind of build.
    text = "\n".join(re.sub(r"\+\w+", "", pin) for pin in pins)
    (root / "constraints.txt").write_text(f"# Written by `nox -s lock`, on Python 3.11.\n{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
