r"""Objective on the spectral exponent of latents."""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from neuros_mechint.fractals._prior_latents import (
    Pool,
    Reduction,
    SlopePlan,
    channel_exponents,
    check_weight,
    plan_slopes,
    read_latents,
    zero_penalty,
)
from neuros_mechint.fractals._spectral_options import check_choice, check_range, check_rate

__all__ = ["SpectralPrior"]

_Loss = Literal["squared", "huber"]


class SpectralPrior(nn.Module):
    r"""Pull the spectral exponent of every latent channel towards a target.

    $$\mathcal{L} = w \,\overline{(\hat\beta - \beta^*)^2}$$

    with $\hat\beta$ the maximum-likelihood exponent of $S(f) = A f^{-\beta}$ on the periodogram of
    one channel of one item. For a target above 1 the periodogram is taken of the first difference
    and divided by the gain of differencing, which keeps leakage out of steep spectra. The value
    does not change with the unit or the offset of a channel; the gradient is exact. A constant
    channel adds 0 and receives no gradient. Half precision and autocast are computed in float32.

    Args:
        target_beta: exponent to reach: 0 white, 1 pink, 2 Brownian.
        weight: factor of the penalty; 0 returns 0 without computing anything.
        freq_range: lowest and highest fitted frequency in Hz, within (0, fs / 2]; None is
            (4 fs / n, 0.4 fs).
        fs: sampling rate of the latents in Hz.
        loss: `"squared"`, or `"huber"`: half the square below a distance of 1, linear beyond.
        pool: `"channel"` fits every channel of every item; `"batch"` averages each channel's
            normalised spectrum over the batch first, so that single items may differ.
        reduction: `"mean"` gives a scalar; `"none"` the penalty of each fit.

    Raises:
        ValueError: if an option is unknown or out of range.

    Examples:
        >>> white = torch.randn(8, 1024, 4, generator=torch.Generator().manual_seed(0))
        >>> round(SpectralPrior(target_beta=1.0, weight=1.0)(white).item(), 1)
        1.0
        >>> SpectralPrior(weight=0.0)(white)
        tensor(0.)

    References:
        Whittle (1953). Estimation and information in stationary time series. Arkiv foer Matematik
        2. https://doi.org/10.1007/BF02590998
    """

    name: ClassVar[str] = "spectral_prior"
    reads: ClassVar[str] = "latents"

    def __init__(
        self,
        *,
        target_beta: float = 1.0,
        weight: float = 0.01,
        freq_range: tuple[float, float] | None = None,
        fs: float = 1.0,
        loss: _Loss = "squared",
        pool: Pool = "channel",
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_rate(fs)
        check_choice("loss", loss, _Loss)
        check_choice("pool", pool, Pool)
        check_choice("reduction", reduction, Reduction)
        if freq_range is not None:
            check_range(freq_range, fs)
        if not math.isfinite(target_beta):
            raise ValueError(f"target_beta must be finite, got {target_beta}")
        check_weight(weight)
        self.target_beta = target_beta
        self.weight = weight
        self.freq_range = freq_range
        self.fs = fs
        self.loss = loss
        self.pool = pool
        self.reduction = reduction
        self._plans: dict[object, SlopePlan] = {}

    def extra_repr(self) -> str:
        """Return the options, as the constructor takes them.

        Returns:
            Comma-separated assignments.

        Examples:
            >>> SpectralPrior(weight=0.1).extra_repr()[:28]
            'target_beta=1.0, weight=0.1,'
        """
        names = ("target_beta", "weight", "freq_range", "fs", "loss", "pool", "reduction")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def forward(self, latents: Tensor) -> Tensor:
        r"""Weigh the distance of the latents' exponents from the target.

        Args:
            latents: `(batch, time, channel)`, real, finite.

        Returns:
            The weighted penalty: a scalar, or with `reduction="none"` `(batch, channel)`, or
            `(channel,)` where `pool="batch"`.

        Raises:
            ValueError: if the latents are not three-dimensional, too short or not finite.
            TypeError: if the latents are not a real tensor.

        Examples:
            >>> SpectralPrior(reduction="none")(torch.randn(2, 64, 3)).shape
            torch.Size([2, 3])
        """
        signals = read_latents(latents)
        if self.weight == 0:
            return zero_penalty(signals, self.reduction, self.pool)
        plan = plan_slopes(
            signals,
            self._plans,
            fs=self.fs,
            freq_range=self.freq_range,
            fold=self.target_beta,
            steep=self.target_beta > 1,
        )
        beta, silent = channel_exponents(signals, plan, self.pool)
        target = torch.full_like(beta, self.target_beta)
        distance = nn.functional.mse_loss if self.loss == "squared" else nn.functional.huber_loss
        penalty = torch.where(silent, 0.0, distance(beta, target, reduction="none"))
        penalty = self.weight * penalty
        return penalty.mean() if self.reduction == "mean" else penalty
