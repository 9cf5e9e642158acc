"""Draw docs/assets/alignment.png: scores under their noise ceiling, and p-values of slow signals.

Usage: python docs/figures/alignment.py
"""

from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from torch import Tensor

from neuros_mechint.alignment import CKA, RSA, AlignmentValidator, NoiseCeiling

PAPER, INK, SOFT = "#fbfaf7", "#22252b", "#c9c9c4"
GOOD, PART = "#c2571a", "#2f6db5"


def draw_ceiling(ax: Axes, generator: torch.Generator) -> None:
    """A complete and a partial model beside ten subjects with more and more noise."""
    latents = torch.randn(24, 8, generator=generator, dtype=torch.float64)
    weights = torch.randn(8, 40, generator=generator, dtype=torch.float64)
    rsa = RSA(distance="euclidean", compare="pearson")
    levels = [1.0, 2.0, 4.0, 6.0, 8.0, 12.0]
    bounds, scores = [], []
    for level in levels:
        noise = torch.randn(10, 24, 40, generator=generator, dtype=torch.float64)
        rdms = rsa.rdm(latents @ weights + level * noise)
        ceiling = NoiseCeiling(compare="pearson").compute(rdms)
        bounds.append((float(ceiling.lower), float(ceiling.upper)))
        models = [rsa.rdm(latents @ weights), rsa.rdm(latents[:, :3] @ weights[:3])]
        scores.append([float(rsa.compare_rdms(m.expand_as(rdms), rdms).mean()) for m in models])
    lower, upper = zip(*bounds, strict=True)
    ax.fill_between(levels, lower, upper, color=SOFT, lw=0, label="noise ceiling")
    for k, (name, colour) in enumerate(
        (("the true geometry", GOOD), ("three of eight axes", PART))
    ):
        ax.plot(levels, [pair[k] for pair in scores], "o-", color=colour, label=name)
    ax.set(xlabel="noise of a subject", ylabel="similarity of the matrices", ylim=(0, 1.02),
           title="the same score, another ceiling")  # fmt: skip
    ax.legend(frameon=False)


def slow(generator: torch.Generator) -> Tensor:
    """A hundred pairs of unrelated signals that forget in ten samples."""
    steps = torch.randn(2, 100, 600, 2, generator=generator, dtype=torch.float64)
    x = torch.zeros_like(steps)
    for t in range(1, steps.shape[-2]):
        x[..., t, :] = 0.9 * x[..., t - 1, :] + steps[..., t, :]
    return x


def draw_p_values(ax: Axes, generator: torch.Generator) -> None:
    """Share of unrelated pairs below every p-value."""
    x, y = slow(generator)
    sides = ((None, PART, "single samples"), (60, GOOD, "blocks of 60 samples"))
    for block, colour, name in sides:
        found = AlignmentValidator(CKA(), n_perm=199, block=block).permutation_test(x, y)
        p = found.p_value.sort().values
        ax.step(p, torch.arange(1, 101) / 100, color=colour, label=name, where="post")
    ax.plot([0, 1], [0, 1], color=INK, lw=0.8, ls=":", label="what a p-value promises")
    ax.set(xlabel="p-value", ylabel="share of unrelated pairs below", title="slow signals")
    ax.legend(frameon=False, loc="lower right")


def main() -> None:
    """Draw both panels."""
    mpl.rcParams.update({"font.size": 9, "axes.titlesize": 10, "text.color": INK})
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.9), facecolor=PAPER)
    generator = torch.Generator().manual_seed(0)
    for ax, draw in zip(axes, (draw_ceiling, draw_p_values), strict=True):
        ax.set_facecolor(PAPER)
        ax.spines[["top", "right"]].set_visible(False)
        draw(ax, generator)
    figure.tight_layout()
    assets = Path(__file__).parents[1] / "assets"
    figure.savefig(assets / "alignment.png", dpi=150, facecolor=PAPER)


if __name__ == "__main__":
    main()
