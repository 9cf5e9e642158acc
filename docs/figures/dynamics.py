"""Draw docs/assets/dynamics.png: where two units settle, how Hénon's orbits part, which modes.

Usage: python docs/figures/dynamics.py
"""

import math
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

PAPER, INK, BLUE, RED, GREY = "#fbfaf7", "#22252b", "#2f6f9f", "#b5483a", "#b9b6ae"
DOCS = Path(__file__).resolve().parent.parent


def draw_flow(ax: Axes, found: dict[str, Any]) -> None:
    """Arrows of one step, and the fixed points by their number of unstable directions."""
    axis = torch.linspace(-1.2, 1.2, 15)
    grid = torch.cartesian_prod(axis, axis)
    move = found["settle"](grid, None) - grid
    ax.quiver(*grid.T.numpy(), *move.T.numpy(), color=GREY, angles="xy", scale=6, width=0.004)
    points = found["points"]
    for n_unstable, face, name in ((0, BLUE, "stable"), (1, PAPER, "saddle"), (2, RED, "unstable")):
        here = points.points[points.n_unstable == n_unstable].T.numpy()
        ax.scatter(*here, s=42, color=face, edgecolor=INK, lw=1, zorder=3, label=name)
    ax.set(title="Where does it settle?", xlabel="unit 1", ylabel="unit 2", aspect="equal")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3, frameon=False, fontsize=7)


def draw_exponents(ax: Axes, found: dict[str, Any]) -> None:
    """Running estimates of both exponents, one line per orbit."""
    running = found["exponents"].convergence
    steps = torch.linspace(0, 1000, running.shape[1] + 1)[1:].numpy()
    for k, color in enumerate((RED, BLUE)):
        ax.plot(steps, running[..., k].T.numpy(), color=color, lw=0.5, alpha=0.35)
        ax.axhline((0.41922, -1.62319)[k], color=INK, lw=1, ls="--")
    ax.axhline(0, color=GREY, lw=0.8)
    ax.set(title="Is it chaotic?", xlabel="steps", ylabel="exponent, nats per step")


def draw_modes(ax: Axes, found: dict[str, Any]) -> None:
    """Eigenvalues in the complex plane, with the unit circle."""
    turn = torch.linspace(0, 2 * math.pi, 200)
    ax.plot(turn.cos().numpy(), turn.sin().numpy(), color=GREY, lw=1)
    modes = found["modes"]
    values = modes.eigenvalues.numpy()
    ax.scatter(values.real, values.imag, s=36, color=BLUE, edgecolor=INK, lw=0.8, zorder=3)
    for value, frequency in zip(values, modes.frequencies.tolist(), strict=True):
        where = (0.74 * value.real, 0.74 * value.imag)
        ax.annotate(f"{frequency:+.2f}", where, ha="center", va="center", fontsize=8)
    ax.set(title="Which modes?", xlabel="real part", ylabel="imaginary part", aspect="equal")


def main() -> None:
    """Run the guide's blocks, then draw what they found."""
    mpl.use("Agg")
    page = (DOCS / "how-to" / "dynamics.md").read_text()
    found: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, found)
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.7), layout="constrained", facecolor=PAPER)
    for ax, draw in zip(axes, (draw_flow, draw_exponents, draw_modes), strict=True):
        ax.set_facecolor(PAPER)
        ax.spines[["top", "right"]].set_visible(False)
        draw(ax, found)
    figure.savefig(DOCS / "assets" / "dynamics.png", dpi=120)


if __name__ == "__main__":
    main()
