"""Draw docs/assets/latent_circuits.png: a planted circuit, and what two kinds of trials say of it.

Usage: python docs/figures/latent_circuits.py
"""

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

PAPER, INK = "#fbfaf7", "#22252b"
DOCS = Path(__file__).resolve().parent.parent
NAMES = ["motion\ncontext", "colour\ncontext", "motion", "colour", "choice 1", "choice 2"]


def draw(ax: Axes, weights: torch.Tensor, title: str, flagged: torch.Tensor | None = None) -> Any:
    """One matrix of weights, dots where they are flagged."""
    image = ax.imshow(weights.numpy(), cmap="RdBu_r", vmin=-1.3, vmax=1.3)
    if flagged is not None:
        rows, columns = flagged.nonzero().T.tolist()
        ax.scatter(columns, rows, s=14, color=INK, lw=0)
    ax.set_xticks(range(6), NAMES, rotation=90, fontsize=7)
    ax.set_yticks(range(6), NAMES, fontsize=7)
    ax.set_title(title, fontsize=9)
    ax.tick_params(length=0)
    return image


def main() -> None:
    """Run the guide's blocks, then draw what they found."""
    mpl.use("Agg")
    page = (DOCS / "how-to" / "latent-circuits.md").read_text()
    found: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL)[:3]:
        exec(block, found)
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.4), layout="constrained", facecolor=PAPER)
    image = draw(axes[0], found["wiring"], "planted")
    for ax, circuit, fit, title in (
        (axes[1], found["circuit"], found["found"], "fitted to the task"),
        (axes[2], found["circuit_white"], found["found_white"], "fitted to white inputs"),
    ):
        r2 = float(fit.r2.max())
        flags = fit.identifiability.flagged
        draw(ax, circuit.w_rec.detach(), f"{title}, R2 = {r2:.3f}", flags)
    figure.colorbar(image, ax=axes, label="weight, from column to row", shrink=0.9)
    figure.savefig(DOCS / "assets" / "latent_circuits.png", dpi=120)


if __name__ == "__main__":
    main()
