"""Draw docs/assets/fractal_patterns.png: sets, a process and trees of known dimension.

Usage: python docs/figures/fractal_patterns.py
"""

from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from torch import Tensor

from neuros_mechint.fractals import DendriteGrowthSimulator, FractalPatterns, FractionalOU

# A page of its own colour: the same picture in light and dark.
PAPER, INK = "#fbfaf7", "#22252b"
COLOURS = ("#c2571a", "#7a7a76", "#2f6db5")
FERN = [
    [[0.0, 0.0, 0.0], [0.0, 0.16, 0.0]],
    [[0.85, 0.04, 0.0], [-0.04, 0.85, 1.6]],
    [[0.2, -0.26, 0.0], [0.23, 0.22, 1.6]],
    [[-0.15, 0.28, 0.0], [0.26, 0.24, 0.44]],
]


def show(ax: Axes, image: Tensor, title: str, colours: str = "bone_r") -> None:
    """One image, small values drawn apart."""
    # The outside of a set takes few of the iterations: a root spreads it out.
    ax.imshow(image.pow(0.25), cmap=colours, vmin=0, vmax=1, interpolation="none")
    ax.set_title(title)
    ax.axis("off")


def draw_processes(ax: Axes) -> None:
    """Mean-reverting paths of three Hurst exponents, one above the other."""
    for k, (H, colour) in enumerate(zip((0.2, 0.5, 0.8), COLOURS, strict=True)):
        process = FractionalOU(H=H, theta=5.0, sigma=1.0)
        path = process.simulate(2000, generator=torch.Generator().manual_seed(1))
        path = path / process.stationary_variance**0.5
        ax.plot(torch.arange(2000) / 1000, path - 6 * k, color=colour, lw=0.6)
        ax.text(2.05, -6 * k, f"H = {H}", color=colour, va="center", fontsize=8)
    ax.set(title="fractional Ornstein-Uhlenbeck", xlabel="time in s", yticks=[])
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)


def draw_tree(ax: Axes, dimension: float) -> None:
    """One tree, its root below."""
    simulator = DendriteGrowthSimulator(target_fd=dimension)
    tree = simulator.grow(11, generator=torch.Generator().manual_seed(1))
    ends = torch.stack([tree.positions[tree.parents[1:]], tree.positions[1:]], 1)
    ax.add_collection(LineCollection(list(ends.numpy()), colors=INK, linewidths=0.4))
    ax.autoscale()
    ax.set_aspect("equal")
    ax.set_title(f"dendrite, D = {dimension}")
    ax.axis("off")


def main() -> None:
    """Draw all panels."""
    mpl.rcParams.update({"font.size": 9, "axes.titlesize": 10, "text.color": INK})
    figure, axes = plt.subplots(2, 4, figsize=(11, 5.8), facecolor=PAPER)
    for ax in axes.flat:
        ax.set_facecolor(PAPER)
    patterns = FractalPatterns()
    show(axes[0, 0], patterns.generate_mandelbrot(600), "Mandelbrot")
    show(axes[0, 1], patterns.generate_julia(600, -0.12 + 0.74j), "Julia, c = -0.12 + 0.74i")
    carpet = patterns.generate_sierpinski(order=5, kind="carpet")
    show(axes[0, 2], carpet, "carpet, D = 1.893")
    fern = patterns.generate_ifs(600, FERN, 2_000_000, generator=torch.Generator().manual_seed(0))
    show(axes[0, 3], fern, "fern, by the chaos game", "Greens")
    draw_processes(axes[1, 0])
    for ax, dimension in zip(axes[1, 1:], (1.3, 1.5, 1.7), strict=True):
        draw_tree(ax, dimension)
    figure.tight_layout()
    assets = Path(__file__).parents[1] / "assets"
    figure.savefig(assets / "fractal_patterns.png", dpi=150, facecolor=PAPER)


if __name__ == "__main__":
    main()
