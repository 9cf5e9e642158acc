"""Run the benchmarks of one environment of peers and write the ratios into docs/accuracy.md.

Usage: nox -s bench, which calls `run_benchmarks.py PEER [NAME ...]` in the environment of each peer

A benchmark prints one line per comparison,
`BENCH | what | peer version | ratio R | bar B`, and asserts its bar. Each file has a table of its
own; with names (`nox -s "bench(shared)" -- csd coupling`: bench_csd.py and bench_coupling.py) the
tables of the other files stay as they are.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

MARK = "<!-- written by `nox -s bench` from here on -->"
HEAD = "| what | peer, version | measured | bar |\n|---|---|---|---|"


def measure(file: Path, root: Path, peer: str) -> tuple[int, list[str]]:
    """Run the benchmarks of one file; return pytest's status and the rows of its table."""
    command = [sys.executable, "-m", "pytest", "-c", str(root / "pyproject.toml"), "-s"]
    command += ["-o", "python_functions=bench_* test_*", str(file)]
    command += [] if peer == "shared" else ["-k", peer]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
    print(done.stdout, flush=True)
    found = re.findall(r"BENCH \| ([^{}\n]*)$", done.stdout, re.MULTILINE)
    cells = [re.sub(r"\| (?:ratio|bar) ", "| ", line.strip()) for line in found]
    # Status 5: no benchmark of this file has this peer.
    return done.returncode % 5, [f"| {line} |" for line in cells]


def title(file: Path, peer: str) -> str:
    """Name the table of one file in one environment."""
    subject = file.stem.removeprefix("bench_").replace("_", " ")
    return f"{file.parts[-3]}: {subject}" + ("" if peer == "shared" else f", beside {peer}")


def main() -> int:
    """Run the benchmarks one file at a time and rewrite the table of each."""
    root, (peer, *names) = Path(__file__).resolve().parent.parent, sys.argv[1:]
    page = root / "docs" / "accuracy.md"
    status = 0
    for file in sorted(root.glob("packages/*/benchmarks/bench_*.py")):
        if names and file.stem.removeprefix("bench_") not in names:
            continue
        failed, rows = measure(file, root, peer)
        status |= failed
        head, _, written = page.read_text().partition(MARK)
        tables = dict(re.findall(r"(?ms)^## ([^\n]+)\n\n(.*?)(?=\n## |\Z)", written))
        tables.pop(title(file, peer), None)
        if rows:
            tables[title(file, peer)] = "\n".join([HEAD, *rows]) + "\n"
        parts = [f"## {name}\n\n{tables[name]}" for name in sorted(tables)]
        page.write_text("\n".join([head.rstrip(), "", MARK, "", *parts]))
    return status


if __name__ == "__main__":
    sys.exit(main())
