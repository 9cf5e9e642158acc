"""Cross-frequency coupling: amplitude of a fast rhythm by the phase of a slow one."""

import math
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from neuros_mechint._arrays import Array, Number, as_real, one_of
from neuros_mechint.multiscale._spectra import constant_channels
from neuros_mechint.multiscale._surrogates import (
    check_surrogates,
    phase_shifted,
    surrogate_p_values,
)

__all__ = ["PAC", "CrossFrequencyCoupling"]

Band = tuple[Number, Number]

# Share of a band's width over which its filter rises and falls, on either side.
_EDGE = 0.25


class PAC(NamedTuple):
    """Phase-amplitude coupling.

    Attributes:
        values: Coupling, (..., channels); with `cross=True` (..., channels, channels),
            [amplitude, phase].
        p_values: Share of surrogates at least as large, shaped as values; None without surrogates.
    """

    values: Tensor
    p_values: Tensor | None


class CrossFrequencyCoupling:
    r"""Phase-amplitude coupling: does a fast amplitude follow a slow phase.

    `"tort"`: with $P_b$ the share of the mean amplitude in phase bin b of n,
    $\sum_b P_b \ln(n P_b) / \ln n$: 0 where the amplitude is the same at all phases, 1 where
    it lives in one bin. `"mvl"`: $|\langle A e^{i\phi} \rangle|$, in the unit of the signal.

    Bands are cut from the spectrum of the signal with raised-cosine edges that reach a quarter of
    the width beyond them, without delay. One period of the slowest phase is left out at either end.
    The amplitude band must be wide enough for the side bands, that is at least twice the phase's
    frequency; a narrow one cannot show a modulation. A constant channel has the value 0, with a
    warning.

    Args:
        method: `"tort"` or `"mvl"`.
        sampling_rate: Samples per second.
        phase_band: Lowest and highest frequency of the phase, Hz.
        amplitude_band: Lowest and highest frequency of the amplitude, Hz.
        n_bins: Bins of the phase; only of `"tort"`.
        cross: Whether all pairs of channels are compared.
        epochs: Whether x holds epochs; all of them count together.

    Examples:
        A rhythm of 60 Hz that grows and vanishes with one of 6 Hz, and one that does not:

        >>> t = torch.arange(4000) / 500
        >>> slow, fast = torch.cos(6.2832 * 6 * t), torch.cos(6.2832 * 60 * t)
        >>> x = torch.stack([slow + (1 + slow) * fast, slow + fast])
        >>> pac = CrossFrequencyCoupling(
        ...     "mvl", sampling_rate=500.0, phase_band=(4, 8), amplitude_band=(45, 75)
        ... )
        >>> [round(v, 2) for v in pac.compute(x).values.tolist()]  # <(1 + cos) e^(i phi)> = 1/2
        [0.5, 0.0]

    References:
        Tort, Komorowski, Eichenbaum & Kopell (2010). Measuring phase-amplitude coupling between
        neuronal oscillations of different frequencies. Journal of Neurophysiology 104, 1195.
        doi:10.1152/jn.00106.2010

        Canolty et al. (2006). High gamma power is phase-locked to theta oscillations in human
        neocortex. Science 313, 1626. doi:10.1126/science.1128115
    """

    def __init__(
        self,
        method: Literal["tort", "mvl"] = "tort",
        *,
        sampling_rate: Number,
        phase_band: Band,
        amplitude_band: Band,
        n_bins: int = 18,
        cross: bool = False,
        epochs: bool = False,
    ) -> None:
        one_of("method", method, get_args(Literal["tort", "mvl"]))
        if not 0 < sampling_rate < float("inf"):
            raise ValueError(f"sampling_rate must be positive and finite, got {sampling_rate}")
        for name, (low, high) in (("phase_band", phase_band), ("amplitude_band", amplitude_band)):
            if not 0 < low < high <= sampling_rate / 2:
                raise ValueError(
                    f"{name} must be 0 < low < high <= sampling_rate / 2 = {sampling_rate / 2:g} "
                    f"Hz, got ({low}, {high})"
                )
        if amplitude_band[0] < phase_band[1]:
            raise ValueError(
                f"amplitude_band must lie above phase_band, got {amplitude_band} and {phase_band}"
            )
        if n_bins < 2:
            raise ValueError(f"n_bins must be at least 2, got {n_bins}")
        self.method = method
        self.sampling_rate = sampling_rate
        self.phase_band = phase_band
        self.amplitude_band = amplitude_band
        self.n_bins = n_bins
        self.cross = cross
        self.epochs = epochs

    def __repr__(self) -> str:
        return (
            f"CrossFrequencyCoupling({self.method!r}, sampling_rate={self.sampling_rate}, "
            f"phase_band={self.phase_band}, amplitude_band={self.amplitude_band}, "
            f"n_bins={self.n_bins}, cross={self.cross}, epochs={self.epochs})"
        )

    def compute(
        self, x: Array, *, surrogates: int = 0, generator: torch.Generator | None = None
    ) -> PAC:
        """Coupling of amplitude to phase, in every channel or between all.

        Args:
            x: Signals (..., channels, time), or (..., epochs, channels, time).
            surrogates: Draws for p-values, in which all phases of the slow signal are anew. A slow
                rhythm without any drift stays in step with itself, so it has no small p-value.
            generator: Source of the draws; None starts one from seed 0.

        Returns:
            Values and p-values.

        Raises:
            TypeError: When x is not a real tensor or array.
            ValueError: When x is shorter than three periods of the slowest phase or not finite, or
                surrogates is negative.

        Warns:
            UserWarning: When a channel is constant.
        """
        check_surrogates(surrogates)
        period = math.ceil(float(self.sampling_rate) / float(self.phase_band[0]))
        names: tuple[str, ...] = ("channels", "time")
        names = ("epochs", *names) if self.epochs else names
        data = as_real("x", x, axes=names, at_least=(1,) * (len(names) - 1) + (2,))
        if data.shape[-1] < 3 * period:
            raise ValueError(
                f"x needs at least three periods of {self.phase_band[0]} Hz = {3 * period} samples "
                f"along its last axis, got {data.shape[-1]}; pass a longer signal"
            )
        data = data if self.epochs else data.unsqueeze(-3)
        dead = constant_channels(data, stacklevel=2)
        if self.cross:
            dead = dead.unsqueeze(-1) | dead.unsqueeze(-2)
        size = _modulus(self._band(data, self.amplitude_band, period))

        def measure(signals: Tensor) -> Tensor:
            return self._measure(self._band(signals, self.phase_band, period), size)

        values = measure(data).masked_fill(dead, 0.0)
        p_values = surrogate_p_values(
            values, lambda source: measure(phase_shifted(data, source)), surrogates, generator, dead
        )
        return PAC(values, p_values)

    def _band(
        self, x: Float[Tensor, "*batch epoch channel time"], band: Band, margin: int
    ) -> Complex[Tensor, "*batch channel sample"]:
        """Analytic signal of a band, epochs after one another, without their ends."""
        n = x.shape[-1]
        freqs: Tensor = torch.fft.rfftfreq(
            n, 1 / float(self.sampling_rate), dtype=x.dtype, device=x.device
        )
        low, high = band
        edge = min(_EDGE * (high - low), low)
        outside = torch.maximum(low - freqs, freqs - high).clamp(0, edge)
        gain = (torch.pi / 2 * outside / edge).cos().square()
        gain[outside >= edge] = 0
        if n % 2 == 0:
            gain[-1] /= 2  # The highest frequency has no negative twin to stand for.
        half = torch.fft.rfft(x - x.mean(-1, keepdim=True)) * 2 * gain
        analytic: Tensor = torch.fft.ifft(half, n=n)[..., margin : n - margin]
        return analytic.movedim(-3, -2).flatten(-2)

    def _measure(
        self,
        slow: Complex[Tensor, "*batch channel sample"],
        size: Float[Tensor, "*batch channel sample"],
    ) -> Tensor:
        n = slow.shape[-1]
        if self.method == "mvl":
            modulus = _modulus(slow)
            unit = torch.where(modulus > 0, slow / modulus.where(modulus > 0, 1.0), 0.0)
            return _modulus(self._paired(size.to(unit.dtype), unit)) / n
        bins = ((slow.angle() / (2 * torch.pi) + 0.5) * self.n_bins).floor().long()
        bins = bins.clamp(max=self.n_bins - 1)
        # One product of matrices per bin: one-hot phases of all bins at once would not fit.
        means = []
        for b in range(self.n_bins):
            inside = (bins == b).to(size.dtype)
            counts = inside.sum(-1).clamp(min=1)
            means.append(
                self._paired(size, inside) / (counts.unsqueeze(-2) if self.cross else counts)
            )
        mean = torch.stack(means, -1)
        total = mean.sum(-1, keepdim=True)
        share = mean / total.where(total > 0, 1.0)
        gain: Tensor = torch.special.xlogy(share, share * self.n_bins).sum(-1)
        return gain / math.log(self.n_bins)

    def _paired(self, size: Tensor, by_phase: Tensor) -> Tensor:
        """Sums over samples, per channel or (amplitude, phase)."""
        return size @ by_phase.mT if self.cross else (size * by_phase).sum(-1)


def _modulus(value: Complex[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    size: Tensor = value.abs()
    return size
