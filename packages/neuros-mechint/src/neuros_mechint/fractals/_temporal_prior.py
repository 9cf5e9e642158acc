r"""Objective on the self-similarity of latents in time."""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from neuros_mechint.fractals._conventions import map_rows, require_length
from neuros_mechint.fractals._prior_latents import (
    Pool,
    Reduction,
    check_weight,
    read_latents,
    zero_penalty,
)
from neuros_mechint.fractals._psd import scale_rows
from neuros_mechint.fractals._spectral_options import check_choice

__all__ = ["TemporalScaleInvariance"]

_BLOCK_SAMPLES = 2**17


class TemporalScaleInvariance(nn.Module):
    r"""Pull every latent channel towards self-similarity: the same law at each scale of averaging.

    $$\mathcal{L} = w \,\overline{\operatorname{var}_s\!\left[\ln \sigma_s - (a + b \ln s)\right]}$$

    with $\sigma_s$ the standard deviation of the means of $s$ consecutive samples and $a + b \ln s$
    the least-squares line. Fractional Gaussian noise has $\sigma_s = \sigma\, s^{H-1}$: its
    expected penalty vanishes for every $H$, as the sampling error of $\sigma_s$ does, like one
    over the length. Blocks begin at every sample, which leaves a quarter of the sampling error of
    blocks side by side. The exponent is free; `SpectralPrior` moves it.

    What is much slower than the longest block looks self-similar: over blocks of 1 to 8 samples
    a sinusoid of 200 samples is a ramp and costs nothing, one of 20 samples costs 2.7e-3, an
    autoregression of 0.9 costs 1e-4. Choose scales around the time constants that are not wanted.
    The value does not change with the unit or the offset of a channel; a constant channel adds 0
    and receives no gradient. Half precision and autocast are computed in float32.

    Args:
        scales: block lengths in samples, rising, at least three: through two points goes a line.
        weight: factor of the penalty; 0 returns 0 without computing anything.
        pool: `"channel"` takes every channel of every item by itself; `"batch"` averages each
            channel's normalised variances over the batch first. Sampling error falls with the
            batch then: take it where sequences are shorter than some ten thousand samples.
        reduction: `"mean"` gives a scalar; `"none"` the penalty of each channel.

    Raises:
        ValueError: if an option is unknown or out of range.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> white = torch.randn(8, 4096, 2, generator=generator)
        >>> prior = TemporalScaleInvariance(weight=1.0, pool="batch")
        >>> wave = torch.sin(torch.arange(4096) * 0.3)[None, :, None].expand(8, -1, 2)
        >>> prior(white).item() < 1e-5 < 1e-3 < prior(wave).item()
        True

    References:
        Beran (1994). Statistics for long-memory processes. Chapman & Hall.
        https://doi.org/10.1201/9780203738481
        Taqqu, Teverovsky & Willinger (1995). Estimators for long-range dependence: an empirical
        study. Fractals 3. https://doi.org/10.1142/S0218348X95000692
    """

    name: ClassVar[str] = "temporal_scale_invariance"
    reads: ClassVar[str] = "latents"

    def __init__(
        self,
        *,
        scales: Sequence[int] = (1, 2, 4, 8),
        weight: float = 0.01,
        pool: Pool = "channel",
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_weight(weight)
        check_choice("pool", pool, Pool)
        check_choice("reduction", reduction, Reduction)
        scales = tuple(scales)
        rising = all(a < b for a, b in pairwise(scales))
        if len(scales) < 3 or scales[0] < 1 or not rising:
            raise ValueError(
                f"scales must be at least three rising lengths of at least 1 sample, got {scales}"
            )
        self.scales = scales
        self.weight = weight
        self.pool = pool
        self.reduction = reduction

    def extra_repr(self) -> str:
        """Return the options, as the constructor takes them.

        Returns:
            Comma-separated assignments.

        Examples:
            >>> TemporalScaleInvariance().extra_repr()[:20]
            'scales=(1, 2, 4, 8),'
        """
        names = ("scales", "weight", "pool", "reduction")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def forward(self, latents: Tensor) -> Tensor:
        r"""Weigh the bend of $\ln \sigma_s$ over $\ln s$.

        Args:
            latents: `(batch, time, channel)`, real, finite, at least twice the longest block.

        Returns:
            The weighted penalty: a scalar, or with `reduction="none"` `(batch, channel)`, or
            `(channel,)` where `pool="batch"`.

        Raises:
            ValueError: if the latents are not three-dimensional, too short or not finite.
            TypeError: if the latents are not a real tensor.

        Examples:
            >>> TemporalScaleInvariance(reduction="none")(torch.randn(2, 64, 3)).shape
            torch.Size([2, 3])
        """
        signals = read_latents(latents)
        if self.weight == 0:
            return zero_penalty(signals, self.reduction, self.pool)
        longest = self.scales[-1]
        require_length(signals, 2 * longest, f"twice the longest block of {longest} samples")
        shares, silent = map_rows(signals, self._shares, block_samples=_BLOCK_SAMPLES)
        if self.pool == "batch":
            shares, silent = _average(shares, silent)
        penalty = torch.where(silent, 0.0, self._bend(shares))
        penalty = self.weight * penalty
        return penalty.mean() if self.reduction == "mean" else penalty

    def _shares(
        self, rows: Float[Tensor, "batch time"]
    ) -> tuple[Float[Tensor, "batch scale"], Bool[Tensor, " batch"]]:
        """Variance of block means in units of the signal's, and True for constant rows."""
        scaled, _, constant = scale_rows(rows)
        deviation = scaled - scaled.mean(-1, keepdim=True)
        # A spread of one in place of zero keeps the quotient finite.
        whole = torch.where(constant, 1.0, deviation.square().mean(-1))
        variances = [self._variance(deviation, s) for s in self.scales]
        return torch.stack(variances, dim=-1) / whole[:, None], constant

    def _variance(self, deviation: Float[Tensor, "batch time"], s: int) -> Float[Tensor, " batch"]:
        means = nn.functional.avg_pool1d(deviation[:, None], s, stride=1)[:, 0]
        return (means - means.mean(-1, keepdim=True)).square().mean(-1)

    def _bend(self, shares: Float[Tensor, "*fit scale"]) -> Float[Tensor, "*fit"]:
        """Mean squared residual of ln sigma from its line in ln s."""
        # Means that cancel, as of an alternation, stand at the rounding level of the signal.
        floor = torch.finfo(shares.dtype).eps
        y = 0.5 * torch.maximum(shares, shares.new_tensor(floor)).log()
        z = torch.tensor(self.scales, dtype=torch.float64).log()
        z = ((z - z.mean()) / (z - z.mean()).square().sum().sqrt()).to(y)
        y = y - y.mean(-1, keepdim=True)
        # Not a matrix product: autocast would round that to half precision.
        residual = y - (y * z).sum(-1, keepdim=True) * z
        return residual.square().mean(-1)


def _average(
    shares: Float[Tensor, "batch channel scale"], silent: Bool[Tensor, "batch channel"]
) -> tuple[Float[Tensor, "channel scale"], Bool[Tensor, " channel"]]:
    """Mean of each channel over the items that vary."""
    heard = (~silent).to(shares)[..., None]
    return (shares * heard).sum(0) / heard.sum(0).clamp(min=1), silent.all(0)
