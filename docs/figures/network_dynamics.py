"""Draw docs/assets/network_dynamics.png: a training, its drift, eigenvalues before and after.

Usage: python docs/figures/network_dynamics.py
"""

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from matplotlib.patches import Circle

PAPER, INK, MARK, GREY = "#fbfaf7", "#22252b", "#b3432b", "#9a9a94"
DOCS = Path(__file__).resolve().parent.parent


def main() -> None:
    """Run the guide's blocks, then draw what they found."""
    mpl.use("Agg")
    page = (DOCS / "how-to" / "network-dynamics.md").read_text()
    found: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL)[:3]:
        exec(block, found)
    figure, axes = plt.subplots(1, 2, figsize=(9.0, 3.4), layout="constrained", facecolor=PAPER)
    axes[0].plot(torch.stack(found["losses"]), color=GREY, lw=1, label="loss")
    steps = found["found"].steps
    axes[0].plot(steps, found["drift"].distances[0], color=MARK, label="distance from the start")
    axes[0].axvline(200, color=INK, lw=0.8, ls=":")
    axes[0].text(204, 0.5, "the noise grows", fontsize=8, color=INK)
    axes[0].set_xlabel("updates")
    axes[0].set_ylim(0, None)
    axes[0].set_xlim(0, 300)
    axes[0].legend(frameon=False, loc="center", bbox_to_anchor=(0.4, 0.7), fontsize=8)
    axes[0].set_title("when did it change?", fontsize=9)
    for k, (colour, name) in {0: (GREY, "before"), -1: (MARK, "after")}.items():
        values = found["wiring"].eigenvalues[k]
        axes[1].scatter(values.real, values.imag, s=16, color=colour, label=name)
    axes[1].add_patch(Circle((0, 0), 1, fill=False, color=INK, lw=0.8))
    axes[1].set_aspect("equal")
    axes[1].set_xlabel("real part")
    axes[1].set_ylabel("imaginary part")
    axes[1].legend(frameon=False, loc="upper left", fontsize=8)
    axes[1].set_title("eigenvalues of the recurrent weights, unit circle", fontsize=9)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(DOCS / "assets" / "network_dynamics.png", dpi=120)


if __name__ == "__main__":
    main()
