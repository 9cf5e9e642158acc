"""Run every benchmark and write the measured ratios into docs/accuracy.md.

Usage: nox -s bench

A benchmark prints one line per comparison,
`BENCH | what | peer version | ratio R | bar B`, and asserts its bar.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

MARK = "<!-- written by `nox -s bench` from here on -->"


def main() -> int:
    """Run the benchmarks one package at a time, then rewrite the table."""
    root = Path(__file__).resolve().parent.parent
    rows, status = [], 0
    for folder in sorted(root.glob("packages/*/benchmarks")):
        files = [str(p) for p in sorted(folder.glob("bench_*.py"))]
        command = [sys.executable, "-m", "pytest", "-c", str(root / "pyproject.toml"), "-s"]
        command += ["-o", "python_functions=bench_* test_*", *sys.argv[1:], *files]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=False, env=environment
        )
        print(done.stdout)
        status |= done.returncode
        package = folder.parent.name
        found = re.findall(r"BENCH \| ([^{}\n]*)$", done.stdout, re.MULTILINE)
        cells = [re.sub(r"\| (?:ratio|bar) ", "| ", line.strip()) for line in found]
        rows += [f"| {package} | {line} |" for line in cells]
    page = root / "docs" / "accuracy.md"
    head = page.read_text().split(MARK)[0].rstrip()
    table = ["| package | what | peer, version | measured | bar |", "|---|---|---|---|---|"]
    page.write_text("\n".join([head, "", MARK, "", *table, *rows]) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
