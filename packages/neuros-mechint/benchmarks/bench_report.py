"""A report of fifty tables and fifty figures is written in two seconds of CPU time."""

import time
from pathlib import Path

import numpy as np
import pandas as pd

from neuros_mechint.reporting import Report


def bench_fifty_tables_and_fifty_figures(tmp_path: Path) -> None:
    paths = "".join(f'<path id="p{i}" d="M0 {i}L9 {i}" style="fill: none"/>' for i in range(300))
    frame = pd.DataFrame(np.random.default_rng(0).standard_normal((100, 8)))
    start = time.process_time()
    report = Report("Fifty")
    for _ in range(50):
        report.add_table(frame)
        report.add_figure(f"<svg>{paths}</svg>")
    report.save(tmp_path / "fifty.html")
    seconds = time.process_time() - start
    print(f"BENCH | 50 tables and 50 SVG figures | CPU seconds | ratio {seconds:.2f} | bar 2")
    assert seconds < 2
