"""Draw docs/assets/neurons_and_networks.png: what the blocks of the guide compute.

Usage: python docs/figures/neurons_and_networks.py
"""

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

PAPER, INK, BLUE, RED, GREY = "#fbfaf7", "#22252b", "#2f6f9f", "#b5483a", "#b9b6ae"
DOCS = Path(__file__).resolve().parent.parent


def draw_neuron(ax: Axes, found: dict[str, Any]) -> None:
    """Potential of the Hodgkin-Huxley neuron over 50 ms, with its crossings of 0 mV."""
    voltage = found["out"].voltage
    ax.plot(0.025 * torch.arange(1, len(voltage) + 1), voltage, color=INK, lw=1)
    times = found["crossing_times"](voltage, 0.025).times
    ax.plot(times, torch.zeros_like(times), "o", color=RED, ms=4)
    ax.set(title="A neuron", xlabel="time (ms)", ylabel="potential (mV)")


def draw_synapses(ax: Axes, found: dict[str, Any]) -> None:
    """Conductance after the same spikes, of both presets."""
    depressing, facilitating = found["conductance"].values()
    ax.fill_between(range(len(depressing)), depressing, color=GREY, lw=0, label="depressing")
    ax.plot(facilitating, color=BLUE, lw=1, label="facilitating")
    ax.set(title="Five spikes at two synapses", xlabel="time (ms)", ylabel="conductance")
    ax.legend(frameon=False, fontsize=8)


def draw_window(ax: Axes, found: dict[str, Any]) -> None:
    """Change of a weight by one pair of spikes."""
    for sign, colour in ((-1, BLUE), (1, RED)):
        lag = sign * torch.linspace(0.01, 100, 200)
        change = 1000 * found["rule"].window(lag)
        ax.fill_between(lag, change, color=colour, alpha=0.25, lw=0)
        ax.plot(lag, change, color=colour, lw=1.2)
    ax.axhline(0, color=GREY, lw=0.8)
    ax.set(title="Which synapses grow", xlabel="post - pre (ms)", ylabel="change (1/1000)")


def draw_network(ax: Axes, found: dict[str, Any]) -> None:
    """Spikes of one trial of the trained network, and the two pulses."""
    time, unit = found["seen"].spikes[0].detach().nonzero().T
    n_exc = found["law"].n_exc
    for here, colour in ((unit < n_exc, RED), (unit >= n_exc, BLUE)):
        ax.scatter(time[here], unit[here], s=3, color=colour, lw=0)
    for channel, colour in enumerate((INK, GREY)):
        on = found["x"][0, :, channel].nonzero().flatten()
        ax.plot(
            [int(on[0]), int(on[-1]) + 1], [106, 106], color=colour, lw=4, solid_capstyle="butt"
        )
    ax.set(
        title="A network and its two pulses",
        xlabel="time (ms)",
        ylabel="neuron",
        xlim=(0, 40),
        ylim=(-2, 111),
    )


def main() -> None:
    """Run the guide's blocks, then draw what they found."""
    mpl.use("Agg")
    page = (DOCS / "how-to" / "neurons-and-networks.md").read_text()
    found: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, found)
    mpl.rcParams.update({"font.size": 8, "axes.titlesize": 9})
    figure, axes = plt.subplots(1, 4, figsize=(10.4, 2.8), layout="constrained", facecolor=PAPER)
    draws = (draw_neuron, draw_synapses, draw_window, draw_network)
    for ax, draw in zip(axes, draws, strict=True):
        ax.set_facecolor(PAPER)
        ax.spines[["top", "right"]].set_visible(False)
        draw(ax, found)
    figure.savefig(DOCS / "assets" / "neurons_and_networks.png", dpi=120)


if __name__ == "__main__":
    main()
