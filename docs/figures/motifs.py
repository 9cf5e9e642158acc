"""Draw docs/assets/motifs.png: triads against two kinds of chance, and an E/I diagram.

Usage: python docs/figures/motifs.py
"""

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

PAPER, INK, MARK, GREY = "#fbfaf7", "#22252b", "#b3432b", "#9a9a94"
DOCS = Path(__file__).resolve().parent.parent


def main() -> None:
    """Run the guide's blocks, then draw what they found."""
    mpl.use("Agg")
    page = (DOCS / "how-to" / "motifs.md").read_text()
    found: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, found)
    figure, axes = plt.subplots(
        1, 2, figsize=(9.6, 3.6), width_ratios=(2, 1), layout="constrained", facecolor=PAPER
    )
    names = found["fair"].names
    # The kinds that connect their three nodes.
    kept = range(3, len(names))
    for shift, (result, colour, name) in enumerate(
        (
            ("naive", GREY, "hubs, null keeps the number of edges"),
            ("fair", INK, "hubs, null keeps every degree"),
            ("found", MARK, "planted 030T, null keeps every degree"),
        )
    ):
        places = [k + 0.26 * (shift - 1) for k in range(len(kept))]
        axes[0].bar(places, found[result].z[3:], 0.26, color=colour, label=name)
    axes[0].axhline(0, color=INK, lw=0.8)
    axes[0].set_xticks(range(len(kept)), names[3:], fontsize=8)
    axes[0].set_ylabel("z")
    axes[0].legend(frameon=False, fontsize=8)
    axes[0].spines[["top", "right"]].set_visible(False)
    found["diagram"].plot(axes[1])
    figure.savefig(DOCS / "assets" / "motifs.png", dpi=120)


if __name__ == "__main__":
    main()
