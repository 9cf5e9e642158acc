"""Draw docs/assets/spectral_prior.png: the same model trained with and without SpectralPrior.

Usage: python docs/figures/spectral_prior.py

The model, its data and its objectives are those of docs/how-to/shape-latents.md.
"""

from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from torch import Tensor, nn

from neuros_mechint.fractals import SpectralPrior, SpectralSlope
from neuros_neurofm.losses import BehaviorLoss, CombinedLoss

# A page of its own colour: the same picture in light and dark.
PAPER, INK, SOFT = "#fbfaf7", "#22252b", "#8b8f98"
COLOURS = {0.0: "#2f6db5", 0.3: "#c2571a"}
NAMES = {0.0: "without prior", 0.3: "SpectralPrior, target 1"}
STEPS = 100


class Autoencoder(nn.Module):
    """Twelve channels through four latents."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv1d(12, 4, 17, padding=8)
        self.decoder = nn.Conv1d(4, 12, 17, padding=8)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Latents and reconstruction."""
        latents = self.encoder(x.mT).mT
        return {"latents": latents, "decoder": self.decoder(latents.mT).mT}


def recordings() -> Tensor:
    """Four white sources, mixed into twelve channels."""
    generator = torch.Generator().manual_seed(0)
    sources = torch.randn(8, 256, 4, generator=generator)
    return sources @ torch.randn(4, 12, generator=generator) / 2


def train(weight: float, x: Tensor) -> tuple[list[float], list[float], Tensor]:
    """Slope and error over the steps, and the latents at the end."""
    torch.manual_seed(0)
    model = Autoencoder()
    loss = CombinedLoss([BehaviorLoss(), SpectralPrior(target_beta=1.0, weight=weight)])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    slope, slopes, errors = SpectralSlope(), [], []
    for _ in range(STEPS + 1):
        optimizer.zero_grad()
        outputs = model(x)
        loss(outputs, {"behavior": x}).backward()
        optimizer.step()
        slopes.append(slope.compute(outputs["latents"].detach(), dim=1).mean().item())
        errors.append(loss.terms["behavior"].item() / x.var().item())
    return slopes, errors, outputs["latents"].detach()


def draw_spectrum(ax: Axes, latents: Tensor, weight: float) -> None:
    """Mean spectrum of the latents and its fitted line."""
    fit = SpectralSlope().fit(latents, dim=1)
    share = (fit.psd / fit.psd.mean(-1, keepdim=True)).mean((0, 1))
    beta = fit.beta.mean().item()
    line = fit.freqs**-beta
    line = line * (share.log().mean() - line.log().mean()).exp()
    ax.loglog(fit.freqs, share, color=COLOURS[weight], lw=1)
    ax.loglog(fit.freqs, line, color=COLOURS[weight], lw=1, ls="--")
    at = {0.0: (0.017, 0.55), 0.3: (0.027, 5.0)}[weight]
    ax.annotate(f"{NAMES[weight]}\nslope {beta:.2f}", at, color=COLOURS[weight], fontsize=8)


def main() -> None:
    """Draw the three panels."""
    mpl.rcParams.update({"font.size": 9, "text.color": INK})
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.1), facecolor=PAPER)
    x = recordings()
    for weight, colour in COLOURS.items():
        slopes, errors, latents = train(weight, x)
        axes[0].plot(slopes, color=colour, lw=1.4)
        axes[1].semilogy(errors, color=colour, lw=1.4)
        draw_spectrum(axes[2], latents, weight)
    axes[0].axhline(1.0, color=SOFT, lw=0.8, ls=":")
    axes[0].set(xlabel="step", ylabel="spectral slope of the latents")
    axes[1].set(xlabel="step", ylabel="error / variance of the data")
    axes[2].set(xlabel="frequency (cycles per sample)", ylabel="power / mean", ylim=(0.2, 10))
    axes[2].set_xticks([0.02, 0.05, 0.1, 0.2, 0.4], ["0.02", "0.05", "0.1", "0.2", "0.4"])
    axes[2].set_yticks([0.3, 1, 3, 10], ["0.3", "1", "3", "10"])
    axes[2].minorticks_off()
    titles = ("The prior moves the slope", "at little cost", "Latents after training")
    for ax, title in zip(axes, titles, strict=True):
        ax.set_facecolor(PAPER)
        ax.set_title(title, loc="left", fontsize=10)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
    figure.tight_layout()
    assets = Path(__file__).parents[1] / "assets"
    figure.savefig(assets / "spectral_prior.png", dpi=150, facecolor=PAPER)


if __name__ == "__main__":
    main()
