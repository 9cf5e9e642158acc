"""Run every benchmark of one environment of peers and write the ratios into docs/accuracy.md.

Usage: nox -s bench, which calls `run_benchmarks.py PEER` in the environment of each peer

A benchmark prints one line per comparison,
`BENCH | what | peer version | ratio R | bar B`, and asserts its bar.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

MARK = "<!-- written by `nox -s bench` from here on -->"
HEAD = "| package | what | peer, version | measured | bar |\n|---|---|---|---|---|"


def measure(folder: Path, root: Path, chosen: list[str]) -> tuple[int, list[str]]:
    """Run the benchmarks of one package; return pytest's status and the rows of the table."""
    files = [str(p) for p in sorted(folder.glob("bench_*.py"))]
    command = [sys.executable, "-m", "pytest", "-c", str(root / "pyproject.toml"), "-s"]
    command += ["-o", "python_functions=bench_* test_*", *chosen, *files]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
    print(done.stdout)
    found = re.findall(r"BENCH \| ([^{}\n]*)$", done.stdout, re.MULTILINE)
    cells = [re.sub(r"\| (?:ratio|bar) ", "| ", line.strip()) for line in found]
    # Status 5: no benchmark of this package has this peer.
    return done.returncode % 5, [f"| {folder.parent.name} | {line} |" for line in cells]


def main() -> int:
    """Run the benchmarks one package at a time, then rewrite this peer's table."""
    root, peer = Path(__file__).resolve().parent.parent, sys.argv[1]
    chosen = [*([] if peer == "shared" else ["-k", peer]), *sys.argv[2:]]
    rows, status = [], 0
    for folder in sorted(root.glob("packages/*/benchmarks")):
        failed, found = measure(folder, root, chosen)
        status |= failed
        rows += found
    page = root / "docs" / "accuracy.md"
    head, _, written = page.read_text().partition(MARK)
    tables = dict(re.findall(r"(?ms)^## Environment: (\S+)\n\n(.*?)(?=\n## |\Z)", written))
    tables[peer] = "\n".join([HEAD, *rows]) + "\n"
    parts = [f"## Environment: {name}\n\n{tables[name]}" for name in sorted(tables)]
    page.write_text("\n".join([head.rstrip(), "", MARK, "", *parts]))
    return status


if __name__ == "__main__":
    sys.exit(main())
