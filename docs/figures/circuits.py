"""Draw docs/assets/circuits.png: a planted circuit, and first-order scores beside exact ones.

Usage: python docs/figures/circuits.py
"""

from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from torch import nn

from neuros_mechint.circuits import Circuit, CircuitDiscovery

# A page of its own colour: the same picture in light and dark.
PAPER, INK, SOFT = "#fbfaf7", "#22252b", "#c9c9c4"
UP, DOWN = "#c2571a", "#2f6db5"
METHODS = {"eap": "#c2571a", "eap_ig": "#3b8a4f"}


def planted() -> Circuit:
    """The circuit of docs/how-to/circuits.md."""
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 4))
    net = net.double().eval()
    weights = {
        0: {(0, 0): 1.0, (1, 1): -1.0, (3, 0): 1.0},
        2: {(2, 0): 1.0, (2, 1): 0.5, (5, 4): 1.0},
        4: {(0, 2): 2.0, (0, 5): 1.0},
    }
    with torch.no_grad():
        for k, entries in weights.items():
            net[k].weight.zero_()
            net[k].bias.zero_()
            for place, weight in entries.items():
                net[k].weight[place] = weight
    generator = torch.Generator().manual_seed(0)
    clean, corrupted = torch.randn(2, 8, 4, dtype=torch.float64, generator=generator)
    search = CircuitDiscovery(net, metric=lambda y: y[:, 0])
    return search.discover(clean, corrupted, method="exact", threshold=1e-6)


def draw_circuit(ax: Axes, circuit: Circuit) -> None:
    """Every edge of the graph, and the kept ones with their scores."""
    graph = circuit.graph
    layers: dict[int, list[str]] = {}
    for node in graph.nodes:
        layers.setdefault(graph.layer(node), []).append(node)
    place = {
        node: (layer, k - (len(names) - 1) / 2)
        for layer, names in layers.items()
        for k, node in enumerate(sorted(names))
    }
    for u, v in graph.edges:
        if (u, v) not in circuit.edges:
            ax.plot(*zip(place[u], place[v], strict=True), color=SOFT, lw=0.5, zorder=1)
    for u, v in sorted(circuit.edges):
        score = circuit.scores[u, v]
        colour = UP if score > 0 else DOWN
        ends = [*zip(place[u], place[v], strict=True)]
        ax.plot(*ends, color=colour, lw=1.2 + 2 * abs(score), zorder=2)
        # Nearer to the start, as edges meet at their ends.
        x, y = ((2 * a + b) / 3 for a, b in ends)
        box = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.8}
        ax.text(x, y, f"{score:+.2f}", color=colour, fontsize=8, ha="center", va="center", bbox=box)
    for node, (x, y) in place.items():
        kept = node in circuit.nodes
        ax.scatter(x, y, s=95, c=INK if kept else PAPER, edgecolors=INK if kept else SOFT, zorder=3)
    for layer, name in enumerate(["input", "layer 0", "layer 2", "layer 4"]):
        ax.text(layer, -3.2, name, ha="center", fontsize=8, color=INK)
    ax.set(ylim=(-3.5, 3.1), title="5 of 84 edges carry the difference")
    ax.axis("off")


def draw_scores(ax: Axes) -> None:
    """First-order scores of all edges beside the exact ones, in one network that saturates."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    net = net.double().eval()
    with torch.no_grad():
        for k in (0, 2, 4):
            net[k].weight.copy_(torch.randn(net[k].weight.shape, generator=generator))
            net[k].bias.zero_()
    clean, corrupted = torch.randn(2, 16, 4, dtype=torch.float64, generator=generator)
    search = CircuitDiscovery(net)
    exact = search.discover(clean, corrupted + 1, method="exact", n_edges=1).scores
    limit = 1.1 * max(map(abs, exact.values()))
    ax.plot([-limit, limit], [-limit, limit], color=SOFT, lw=1, zorder=1)
    for method, colour in METHODS.items():
        scores = search.discover(clean, corrupted + 1, method=method, n_edges=1).scores
        pairs = [(exact[edge], scores[edge]) for edge in exact]
        share = torch.corrcoef(torch.tensor(pairs).T)[0, 1].item()
        ax.scatter(*zip(*pairs, strict=True), s=14, c=colour, label=f"{method}, r = {share:.2f}")
    ax.set(xlabel="exact score of an edge", ylabel="first-order score",
           title="all 104 edges of a network that saturates")  # fmt: skip
    ax.legend(frameon=False)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def main() -> None:
    """Draw both panels."""
    mpl.rcParams.update({"font.size": 9, "axes.titlesize": 10, "text.color": INK})
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.9), width_ratios=(1.25, 1), facecolor=PAPER)
    for ax in axes:
        ax.set_facecolor(PAPER)
    draw_circuit(axes[0], planted())
    draw_scores(axes[1])
    figure.tight_layout()
    assets = Path(__file__).parents[1] / "assets"
    figure.savefig(assets / "circuits.png", dpi=150, facecolor=PAPER)


if __name__ == "__main__":
    main()
