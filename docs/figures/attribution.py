"""Draw docs/assets/attribution.png: gaps of integrated gradients, and stimuli of one unit.

Usage: python docs/figures/attribution.py
"""

from pathlib import Path

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from torch import nn

from neuros_mechint.attribution import Attribution
from neuros_mechint.circuits import Naturalistic, OptimalStimulus

# A page of its own colour: the same picture in light and dark.
PAPER, INK, SOFT = "#fbfaf7", "#22252b", "#8b8f98"
SMOOTH, KINKED, NATURAL = "#2f6db5", "#c2571a", "#3b8a4f"
TOL = 1e-6


def network(activation: type[nn.Module]) -> nn.Module:
    """Three hidden layers with weights large enough to bend."""
    torch.manual_seed(1)
    layers = [m for _ in range(3) for m in (nn.Linear(24, 24), activation())]
    net = nn.Sequential(*layers, nn.Linear(24, 1)).double().eval()
    for parameter in net.parameters():
        parameter.data *= 2
    return net


def draw_gaps(ax: Axes, x: torch.Tensor) -> None:
    """Gap against the number of nodes, and where the refinement ends."""
    steps = [2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512]
    for name, activation, colour in (("tanh", nn.Tanh, SMOOTH), ("ReLU", nn.ReLU, KINKED)):
        explainer = Attribution(network(activation))
        gaps = [explainer.attribute(x, steps=n).delta.abs().max().item() for n in steps]
        ax.loglog(steps, [max(gap, 1e-16) for gap in gaps], "o-", color=colour, ms=3, lw=1.2)
        at = {"tanh": (5, 1e-9), "ReLU": (60, 3e-2)}[name]
        ax.annotate(name, at, color=colour)
    refined = Attribution(network(nn.ReLU)).attribute(x, tol=TOL)
    gap = max(refined.delta.abs().max().item(), 1e-16)
    ax.plot(refined.steps, gap, "D", color=KINKED, ms=6, mfc=PAPER)
    ax.annotate(
        "ReLU with\ntol=1e-6", (refined.steps, gap), xytext=(-34, 14), color=KINKED,
        textcoords="offset points",
    )  # fmt: skip
    ax.axhline(TOL, color=SOFT, lw=0.8, ls=":")
    ax.set(xlabel="points on the line", ylabel="gap of the sum", ylim=(3e-17, 3))
    ax.set_title("Completeness of integrated gradients", loc="left", fontsize=10)


def draw_stimuli(ax: Axes) -> None:
    """A unit's weights, and its optimal stimuli."""
    t = torch.arange(200, dtype=torch.float64)
    bump = torch.exp(-(((t - 100) / 18) ** 2)) * torch.sin(t / 6)
    w = bump + 0.12 * torch.randn(200, generator=torch.Generator().manual_seed(0)).double()
    unit = OptimalStimulus(lambda s: s @ w)
    start = 0.01 * torch.randn(200, generator=torch.Generator().manual_seed(1)).double()
    plain = unit.optimize((200,), start=start)
    natural = unit.optimize((200,), regularizers=[Naturalistic(beta=1.0)], start=start)
    rows = (
        ("weights of the unit", w / w.norm(), INK),
        ("best stimulus", plain.x[0], SMOOTH),
        ("best with a natural spectrum", natural.x[0] / natural.x[0].norm(), NATURAL),
    )
    for k, (name, values, colour) in enumerate(rows):
        ax.plot(t, values - 0.8 * k, color=colour, lw=1.1)
        ax.annotate(name, (0, 0.24 - 0.8 * k), color=colour, fontsize=9)
    ax.set(xlabel="time (samples)", yticks=[], ylim=(-2.1, 0.5))
    ax.set_title("Stimuli of a linear unit", loc="left", fontsize=10)


def main() -> None:
    """Write the picture."""
    x = torch.randn(4, 24, generator=torch.Generator().manual_seed(0)).double()
    with plt.rc_context({"axes.edgecolor": SOFT, "text.color": INK, "font.size": 9}):
        figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), facecolor=PAPER, layout="constrained")
        for ax in axes:
            ax.set_facecolor(PAPER)
            ax.spines[["top", "right"]].set_visible(False)
        draw_gaps(axes[0], x)
        draw_stimuli(axes[1])
        axes[1].spines["left"].set_visible(False)
        path = Path(__file__).resolve().parents[1] / "assets" / "attribution.png"
        figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
