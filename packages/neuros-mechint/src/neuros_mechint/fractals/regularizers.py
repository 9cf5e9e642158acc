r"""Training objectives that shape the fractal structure of activations."""

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from neuros_mechint.fractals._conventions import Signals, map_rows, read_signals
from neuros_mechint.fractals._power_law import Design, design_for, fit_whittle
from neuros_mechint.fractals._psd import (
    Band,
    difference_gain,
    powerless,
    scale_rows,
    select_band,
    taper_power,
)
from neuros_mechint.fractals._spectral_options import (
    check_choice,
    check_range,
    check_rate,
    default_range,
    require_bins,
)

__all__ = ["SpectralPrior"]

# Several buffers of the size of a block live at once.
_BLOCK_SAMPLES = 2**17
_Key = tuple[int, torch.dtype, torch.device]
_Loss = Literal["squared", "huber"]
_Pool = Literal["channel", "batch"]
_Reduction = Literal["mean", "none"]


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
        pool: _Pool = "channel",
        reduction: _Reduction = "mean",
    ) -> None:
        super().__init__()
        check_rate(fs)
        check_choice("loss", loss, _Loss)
        check_choice("pool", pool, _Pool)
        check_choice("reduction", reduction, _Reduction)
        if freq_range is not None:
            check_range(freq_range, fs)
        if not math.isfinite(target_beta):
            raise ValueError(f"target_beta must be finite, got {target_beta}")
        if not (weight >= 0 and math.isfinite(weight)):
            raise ValueError(f"weight must be finite and at least 0, got {weight}")
        self.target_beta = target_beta
        self.weight = weight
        self.freq_range = freq_range
        self.fs = fs
        self.loss = loss
        self.pool = pool
        self.reduction = reduction
        self._prepared: tuple[_Key, Band, Design] | None = None

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
        if not isinstance(latents, Tensor):
            raise TypeError(f"latents must be a torch.Tensor, got {type(latents).__name__}")
        if latents.ndim != 3:
            raise ValueError(
                f"latents must have shape (batch, time, channel), got {tuple(latents.shape)}"
            )
        signals = read_signals(latents, 1, name="latents")
        if self.weight == 0:
            return latents.new_zeros(self._shape(signals), dtype=signals.dtype)
        band, design = self._prepare(signals)
        if self.pool == "channel":
            (penalty,) = map_rows(
                signals,
                lambda rows: (self._penalty(*self._spectra(rows, band), design),),
                block_samples=_BLOCK_SAMPLES,
            )
        else:
            spectra, silent = map_rows(
                signals, lambda rows: self._spectra(rows, band), block_samples=_BLOCK_SAMPLES
            )
            penalty = self._penalty(*_average(spectra, silent), design)
        penalty = self.weight * penalty
        return penalty.mean() if self.reduction == "mean" else penalty

    def _prepare(self, signals: Signals) -> tuple[Band, Design]:
        n = signals.length
        key = (n, signals.dtype, signals.view.device)
        # One entry is enough: latents keep their length from step to step.
        if self._prepared is None or self._prepared[0] != key:
            band = select_band(n, self.fs, self.freq_range or default_range(n, self.fs))
            require_bins(band, n, self.fs, self.freq_range)
            self._prepared = (key, band, design_for(band, signals.dtype, signals.view.device))
        return self._prepared[1:]

    def _shape(self, signals: Signals) -> torch.Size:
        if self.reduction == "mean":
            return torch.Size()
        batch, channels, _ = signals.view.shape
        return torch.Size((batch, channels) if self.pool == "channel" else (channels,))

    def _spectra(
        self, rows: Float[Tensor, "batch time"], band: Band
    ) -> tuple[Float[Tensor, "batch freq"], Bool[Tensor, " batch"]]:
        """Periodograms, and True for rows without power in the band."""
        scaled, _, constant = scale_rows(rows)
        # The side lobes of the untapered window fall off as f**-2: whichever of x and its
        # difference is expected to be flatter at the target leaks less.
        steep = self.target_beta > 1
        measured = scaled.diff(dim=-1) if steep else scaled
        psd = taper_power(measured, None, band, rows.shape[-1])
        silent = constant | powerless(psd)
        if steep:
            psd = psd / difference_gain(band, self.fs).to(psd)
        return torch.where(silent[:, None], 1.0, psd), silent

    def _penalty(
        self, psd: Float[Tensor, "fit freq"], silent: Bool[Tensor, " fit"], design: Design
    ) -> Float[Tensor, " fit"]:
        beta, _ = fit_whittle(psd, design)
        target = torch.full_like(beta, self.target_beta)
        distance = nn.functional.mse_loss if self.loss == "squared" else nn.functional.huber_loss
        return torch.where(silent, 0.0, distance(beta, target, reduction="none"))


def _average(
    psd: Float[Tensor, "batch channel freq"], silent: Bool[Tensor, "batch channel"]
) -> tuple[Float[Tensor, "channel freq"], Bool[Tensor, " channel"]]:
    """Mean normalised spectrum of each channel over the items that have one."""
    shares = psd / psd.mean(-1, keepdim=True)
    heard = (~silent).to(psd)
    count = heard.sum(0)
    total = (shares * heard[..., None]).sum(0)
    # A channel that is silent in every item keeps a flat spectrum, so that its fit is finite.
    silent_everywhere = count == 0
    mean = total / count.clamp(min=1)[:, None]
    return torch.where(silent_everywhere[:, None], 1.0, mean), silent_everywhere
