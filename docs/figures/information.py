"""Draw docs/assets/information.png: what the correlation misses, and a value beside its null.

Usage: python docs/figures/information.py
"""

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

PAPER, INK, MARK = "#fbfaf7", "#22252b", "#b3432b"
DOCS = Path(__file__).resolve().parent.parent


def main() -> None:
    """Run the guide's blocks, then draw what they found."""
    mpl.use("Agg")
    page = (DOCS / "how-to" / "information.md").read_text()
    found: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, found)
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.2), layout="constrained", facecolor=PAPER)
    measure, x = found["MutualInformation"], found["x"]
    for ax, name, label in ((axes[0], "y", "a line"), (axes[1], "bent", "a parabola")):
        ax.scatter(x, found[name], s=3, color=INK, alpha=0.4, lw=0)
        values = [float(measure(method=m).compute(x, found[name])) for m in ("gaussian", "ksg1")]
        ax.set_title(f"{label}: gaussian {values[0]:.2f}, ksg1 {values[1]:.2f} nats", fontsize=9)
        ax.set_xlabel("x")
        ax.set_ylabel(name)
    edges = [0.005 * (k - 1) for k in range(52)]
    null = found["found"].null.numpy()
    axes[2].hist(null, bins=edges, color=INK, label="reordered samples")
    axes[2].axvline(float(found["found"].value), color=MARK, label="x and y")
    axes[2].set_xlabel("gcmi (nats)")
    axes[2].set_ylabel("draws")
    axes[2].set_title("a value beside its null", fontsize=9)
    axes[2].legend(frameon=False, loc="center")
    figure.savefig(DOCS / "assets" / "information.png", dpi=120)


if __name__ == "__main__":
    main()
