"""Prove the isolation of the packages: plant each kind of fault in a copy and see `nox` fail.

Usage: python tools/plant_faults.py ENVDIR (by `nox -s isolation`)

A sibling import, an undeclared import and an unused dependency; each run of the session `lint`
must fail and name the module.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IGNORED = shutil.ignore_patterns(".git", ".nox", ".venv", "site", "dist", ".*_cache", "__pycache__")
INIT = "packages/neuros-sourceweigher/src/neuros_sourceweigher/__init__.py"
METADATA = "packages/neuros-sourceweigher/pyproject.toml"
FAULTS = {
    "sibling import": (INIT, "import neuros_mechint\n", "'neuros_mechint'"),
    "undeclared import": (INIT, "import yaml\n", "'yaml'"),
    "unused dependency": (METADATA, 'dependencies = ["tabulate>=0.9", ', "'tabulate'"),
}


def plant(copy: Path, file: str, text: str) -> None:
    """Write one fault into the copy: an import after the docstring, or one more dependency."""
    path = copy / file
    before = path.read_text()
    if text.startswith("import"):
        head, quotes, tail = before.partition('"""\n')
        path.write_text(f"{head}{quotes}\n{text}{tail}")
    else:
        path.write_text(before.replace("dependencies = [", text, 1))


def main() -> int:
    """Plant every fault in turn."""
    nox = [sys.executable, "-m", "nox", "-R", "--envdir", sys.argv[1], "-s", "lint"]
    status = 0
    for fault, (file, text, named) in FAULTS.items():
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "copy"
            shutil.copytree(ROOT, copy, ignore=IGNORED)
            plant(copy, file, text)
            done = subprocess.run(nox, cwd=copy, capture_output=True, text=True, check=False)
        seen = done.returncode != 0 and named in done.stdout + done.stderr
        print(f"{fault}: nox {'fails and names' if seen else 'DOES NOT NAME'} {named}")
        if not seen:
            status = 1
            print(done.stdout + done.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
