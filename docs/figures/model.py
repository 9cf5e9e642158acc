"""Draw docs/assets/model.png: what becomes of three recordings in MultiModalNeuroFMX.

Usage: python docs/figures/model.py

Token times and windows are those of the model itself.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from neuros_neurofm import MultiModalNeuroFMX

# A page of its own colour: the same picture in light and dark.
PAPER, INK, SOFT = "#fbfaf7", "#22252b", "#8b8f98"
COLOURS = {"spike": "#2f6db5", "lfp": "#c2571a", "calcium": "#3b8a4f", "latent": "#6b4fa0"}
WINDOW, N_LATENTS, CHOSEN = 0.48, 12, 8
STEP = WINDOW / N_LATENTS
ROWS = {"spike": 8.2, "lfp": 6.6, "calcium": 5.0}
GRID, HEADS = 3.3, 1.2


def recordings(generator: torch.Generator) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Counts, a field potential, and a slow indicator sampled at times of its own."""
    t = torch.arange(480) / 1000
    lfp = torch.sin(2 * torch.pi * 18 * t) * torch.exp(-(((t - 0.25) / 0.12) ** 2))
    lfp = lfp + 0.25 * torch.randn(480, generator=generator)
    counts = torch.poisson(torch.full((1, 48, 6), 0.22), generator=generator)
    times = torch.tensor([0.05, 0.09, 0.15, 0.18, 0.27, 0.29, 0.36, 0.43], dtype=torch.float64)
    slow = torch.tensor([0.1, 0.2, 0.5, 0.9, 0.7, 0.6, 0.4, 0.3]).view(1, -1, 1)
    return {"spike": counts, "lfp": lfp.view(1, -1, 1), "calcium": slow}, times


def draw_streams(ax: Axes, x: dict[str, torch.Tensor], times: torch.Tensor) -> None:
    """The samples of each recording."""
    for unit, counts in enumerate(x["spike"][0].T.numpy()):
        at = (np.flatnonzero(counts) + 0.5) / 100
        y = ROWS["spike"] + 0.15 + 0.13 * unit
        ax.vlines(at, y, y + 0.1, color=COLOURS["spike"], lw=1.4)
    trace = x["lfp"][0, :, 0].numpy()
    ax.plot(np.arange(480) / 1000, ROWS["lfp"] + 0.55 + 0.28 * trace, color=COLOURS["lfp"], lw=0.9)
    points = ROWS["calcium"] + 0.15 + 0.75 * x["calcium"][0, :, 0].numpy()
    ax.plot(times, points, "o-", color=COLOURS["calcium"], lw=0.9, ms=4)


def draw_tokens(ax: Axes, name: str, times: np.ndarray, token_s: float) -> None:
    """The tokens at their time stamps, and those that the chosen latent sees."""
    late = (CHOSEN + 1) * STEP
    early = late - 2 * max(STEP, token_s)
    seen = (times > early + 1e-9) & (times <= late + 1e-9)
    y = ROWS[name] - 0.25
    ax.plot([early, late], [y, y], color=COLOURS[name], lw=11, alpha=0.22, solid_capstyle="butt")
    face = np.where(seen[:, None], mpl.colors.to_rgba(COLOURS[name]), mpl.colors.to_rgba(PAPER))
    ax.scatter(times, np.full(times.shape, y), s=38, marker="s", c=face,
               edgecolors=COLOURS[name], zorder=3)  # fmt: skip
    for t in times[seen]:
        ax.plot([t, late], [y - 0.12, GRID + 0.2], color=COLOURS[name], lw=0.6, alpha=0.7)


def box(ax: Axes, x: float, y: float, text: str, *, width: float = 0.095) -> None:
    """A labelled box with its centre at (x, y)."""
    patch = FancyBboxPatch(
        (x - width / 2, y - 0.42),
        width,
        0.84,
        fc=PAPER,
        ec=COLOURS["latent"],
        lw=1.4,
        boxstyle="round,pad=0.004,rounding_size=0.01",
        mutation_aspect=14,
    )
    ax.add_patch(patch)
    ax.text(x, y, text, ha="center", va="center", fontsize=8, color=INK, linespacing=1.3)


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    """An arrow."""
    style = {"arrowstyle": "-|>", "color": colour, "lw": 1.1, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=style)


def draw_latents(ax: Axes) -> None:
    """The grid, with the state that runs along it."""
    grid = np.arange(1, N_LATENTS + 1) * STEP
    for j, t in enumerate(grid):
        face = COLOURS["latent"] if j == CHOSEN else PAPER
        ax.scatter(t, GRID, s=120, c=face, edgecolors=COLOURS["latent"], lw=1.4, zorder=3)
        if j:
            arrow(ax, (t - STEP + 0.007, GRID), (t - 0.007, GRID), COLOURS["latent"])
    ax.text(grid[CHOSEN] + 0.004, GRID - 0.45, r"latent $\tau_j$", fontsize=8, color=INK)


def draw_heads(ax: Axes) -> None:
    """What is read from the latents."""
    top, drop = GRID - 0.62, HEADS + 0.48
    reads = [
        "decoder\nbehaviour at\nany time",
        "encoder\nevery channel,\nevery sample",
        "forecast\nthe samples\nafter the end",
        "PopT, pooled:\ncontrast, domain\n(reversed)",
        "diffusion\nnew latents\n(optional)",
    ]
    places = np.linspace(0.05, 0.49, len(reads))
    ax.plot([places[0], places[-1]], [top, top], color=SOFT, lw=1)
    for x, text in zip(places, reads, strict=True):
        arrow(ax, (x, top), (x, drop), SOFT)
        box(ax, x, HEADS, text)


def main() -> None:
    """Run the tokenizers and draw."""
    generator = torch.Generator().manual_seed(3)
    x, times = recordings(generator)
    rates = {"spike": 100.0, "lfp": 1000.0}
    torch.manual_seed(0)
    model = MultiModalNeuroFMX(
        16, 1, N_LATENTS, 16, modalities=tuple(x), sampling_rates=rates, window=WINDOW
    ).eval()
    plt.rcParams |= {"font.family": "DejaVu Sans", "figure.facecolor": PAPER}
    figure, ax = plt.subplots(figsize=(8.6, 6.4))
    draw_streams(ax, x, times)
    for name, samples in x.items():
        own = times if name == "calcium" else None
        tokens = model.tokenizers[name](samples, times=own)
        token_s = model.tokenizers[name].core.size / rates.get(name, samples.shape[1] / WINDOW)
        draw_tokens(ax, name, tokens.times[0].numpy(), token_s)
    draw_latents(ax)
    draw_heads(ax)
    labels = {
        ROWS["spike"] + 0.5: ("spikes", "100 Hz bins"),
        ROWS["lfp"] + 0.55: ("LFP", "1 kHz"),
        ROWS["calcium"] + 0.5: ("calcium", "own times"),
        GRID: ("latents", "fusion, then\nMamba"),
        HEADS: ("read-outs", ""),
    }
    for y, (title, note) in labels.items():
        ax.text(-0.02, y + (0.1 if note else 0), title, ha="right", va="center", fontsize=10,
                color=INK, weight="bold")  # fmt: skip
        ax.text(-0.02, y - 0.16, note, ha="right", va="top", fontsize=7.5, color=INK)
    for name, y in ROWS.items():
        ax.text(0.493, y - 0.25, "tokens", fontsize=7.5, va="center", color=COLOURS[name])
    arrow(ax, (0.0, 9.35), (0.53, 9.35), SOFT)
    ax.text(0.533, 9.35, "time", fontsize=8, va="center", color=INK)
    ax.set(xlim=(-0.115, 0.57), ylim=(0.6, 9.6))
    ax.axis("off")
    target = Path(__file__).resolve().parents[1] / "assets" / "model.png"
    figure.savefig(target, dpi=130, bbox_inches="tight", pad_inches=0.12)


if __name__ == "__main__":
    main()
