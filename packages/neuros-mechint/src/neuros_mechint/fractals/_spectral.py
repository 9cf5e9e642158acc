"""Exponent of a power-law spectrum."""

import math
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from neuros_mechint.fractals._conventions import (
    ArrayT,
    Signals,
    deliver,
    map_rows,
    read_signals,
    require_length,
    warn_degenerate,
)
from neuros_mechint.fractals._knee import fit_knee
from neuros_mechint.fractals._power_law import (
    Design,
    design_for,
    fit_ols,
    fit_robust,
    fit_whittle,
    floored_log,
)
from neuros_mechint.fractals._psd import (
    Band,
    Detrend,
    Method,
    detrend_rows,
    difference_gain,
    powerless,
    scale_rows,
    select_band,
    taper_power,
    tapers_for,
)
from neuros_mechint.fractals._spectral_options import (
    check_choice,
    check_hole,
    check_range,
    check_rate,
    default_range,
    require_bins,
)

__all__ = ["SpectralFit", "SpectralSlope"]

Fit = Literal["whittle", "ols", "robust"]
_NO_POWER = "are constant or have no power in the fitted band"
_SHORTEST_SEGMENT = 16
# Slope of the first pass above which leakage through the tapers' side lobes calls for whitening.
_STEEP = 1.5


class SpectralFit(NamedTuple):
    r"""A fitted spectrum $S(f) = A / (f_k^\beta + f^\beta)$; NumPy arrays where the signals were.

    Attributes:
        beta: exponent, `(*batch)`.
        log_amplitude: $\ln A$, `(*batch)`.
        knee: $f_k$ in Hz, 0 where the spectrum is a plain power law, `(*batch)`.
        r2: squared correlation of $\ln P$ with the fitted $\ln S$, `(*batch)`.
        freqs: fitted frequencies in Hz, `(freq,)`.
        psd: one-sided power density at `freqs`, squared unit per Hz, `(*batch, freq)`.
    """

    beta: Tensor | NDArray[Any]
    log_amplitude: Tensor | NDArray[Any]
    knee: Tensor | NDArray[Any]
    r2: Tensor | NDArray[Any]
    freqs: Tensor | NDArray[Any]
    psd: Tensor | NDArray[Any]


class _Plan(NamedTuple):
    """What one shape of input needs: bins, their design, windows of the signal (and its steps)."""

    band: Band
    design: Design
    tapers: tuple[Tensor | None, ...]
    segment: int


class SpectralSlope:
    r"""Exponent $\beta$ of a power spectrum $S(f) = A f^{-\beta}$; positive for red noise.

    The estimate changes neither with the unit nor with the offset of the signal and is
    differentiable. 16-bit floats are computed and returned in float32.

    Args:
        fs: sampling rate in Hz.
        freq_range: lowest and highest fitted frequency in Hz, both included, within (0, fs / 2];
            None is (4 fs / n, 0.4 fs).
        method: spectral estimate. `"periodogram"` has the smallest variance but saturates near
            $\beta = 2$; `"hann"` is one Hann window; `"welch"` averages Hann windows of `nperseg`
            samples with 50 % overlap; `"multitaper"` averages five Slepian tapers of
            time-half-bandwidth 3; `"auto"` is multitaper, and where that gives more than 1.5 the
            spectrum is measured on the first difference and divided by the gain of differencing,
            which holds up to $\beta = 3$ and beyond.
        fit: `"whittle"` is maximum likelihood; `"ols"` least squares in log-log; `"robust"` a
            redescending line, which narrow peaks do not tilt.
        detrend: what is removed first (from each segment, for welch): the mean or a line.
        knee: fit $S(f) = A / (f_k^\beta + f^\beta)$ with $f_k \ge 0$ by maximum likelihood.
        exclude: bands in Hz to leave out, such as line noise; ends included.
        nperseg: samples of a segment, for `method="welch"` only; None is min(256, n).

    Raises:
        ValueError: if an option is unknown or contradicts another, or `freq_range` lies outside
            (0, fs / 2].

    Examples:
        >>> walk = torch.randn(64, 4096, generator=torch.Generator().manual_seed(0)).cumsum(-1)
        >>> slopes = SpectralSlope(freq_range=(0.001, 0.1), method="auto").compute(walk)
        >>> round(slopes.mean().item(), 1)
        2.0

    References:
        Whittle (1953). Estimation and information in stationary time series. Arkiv foer Matematik
        2. https://doi.org/10.1007/BF02590998
        Thomson (1982). Spectrum estimation and harmonic analysis. Proceedings of the IEEE 70.
        https://doi.org/10.1109/PROC.1982.12433
    """

    def __init__(
        self,
        *,
        fs: float = 1.0,
        freq_range: tuple[float, float] | None = None,
        method: Method = "multitaper",
        fit: Fit = "whittle",
        detrend: Detrend = "constant",
        knee: bool = False,
        exclude: tuple[tuple[float, float], ...] = (),
        nperseg: int | None = None,
    ) -> None:
        check_rate(fs)
        check_choice("method", method, Method)
        check_choice("fit", fit, Fit)
        check_choice("detrend", detrend, Detrend)
        if freq_range is not None:
            check_range(freq_range, fs)
        for hole in exclude:
            check_hole(hole)
        if knee and fit != "whittle":
            raise ValueError(f"knee = True is fitted by fit = 'whittle' only, got fit = {fit!r}")
        if nperseg is not None:
            _check_segment(nperseg, method)
        self.fs = fs
        self.freq_range = freq_range
        self.method = method
        self.detrend = detrend
        self.knee = knee
        self.exclude = tuple(exclude)
        self.nperseg = nperseg
        # The constructor argument `fit` cannot share its name with the method.
        self._fit_method = fit

    def __repr__(self) -> str:
        return (
            f"SpectralSlope(fs={self.fs!r}, freq_range={self.freq_range!r}, "
            f"method={self.method!r}, fit={self._fit_method!r}, detrend={self.detrend!r}, "
            f"knee={self.knee!r}, exclude={self.exclude!r}, nperseg={self.nperseg!r})"
        )

    def compute(self, x: ArrayT, *, dim: int = -1) -> ArrayT:
        r"""Estimate the exponent of each signal.

        Args:
            x: signals, any unit, long enough for 8 frequencies within `freq_range`.
            dim: the time axis.

        Returns:
            $\beta$, of the shape of `x` without `dim`. A signal without power in the fitted band
            (such as a constant) gives nan, one warning, and no gradient.

        Raises:
            ValueError: if `x` is too short or not finite.
            TypeError: if `x` is not a real tensor or array.

        Examples:
            >>> import numpy as np
            >>> white = np.random.default_rng(0).standard_normal(100_000)
            >>> bool(abs(SpectralSlope().compute(white)) < 0.02)
            True
        """
        signals = read_signals(x, dim)
        plan = self._prepare(signals)
        # Without the densities, which take nearly half the memory of the signals.
        beta, degenerate = map_rows(signals, lambda rows: self._estimate(rows, plan)[::4])
        warn_degenerate(degenerate, _NO_POWER)
        result: ArrayT = deliver(signals, beta)
        return result

    def fit(self, x: ArrayT, *, dim: int = -1) -> SpectralFit:
        r"""Fit the spectrum of each signal and return all of its parameters.

        Args:
            x: signals as in `compute`.
            dim: the time axis.

        Returns:
            The fit; nan in every parameter of a signal without power in the fitted band.

        Raises:
            ValueError: if `x` is too short or not finite.
            TypeError: if `x` is not a real tensor or array.

        Examples:
            >>> import numpy as np
            >>> white = 3 * np.random.default_rng(0).standard_normal(100_000)
            >>> fit = SpectralSlope(fs=100.0).fit(white)
            >>> round(float(fit.psd.mean()), 2)  # 2 * variance / fs
            0.18
        """
        signals = read_signals(x, dim)
        plan = self._prepare(signals)
        beta, log_amplitude, log_knee, psd, degenerate = map_rows(
            signals, lambda rows: self._estimate(rows, plan)
        )
        warn_degenerate(degenerate, _NO_POWER)
        bent = ~log_knee.isnan()
        knee = torch.where(bent, torch.where(bent, log_knee, 0.0).exp(), 0.0)
        knee = torch.where(degenerate, math.nan, knee)
        r2 = _determination(psd, beta, log_knee, plan.design.log_freqs)
        parts = (beta, log_amplitude, knee, r2, plan.band.freqs.to(psd), psd)
        return SpectralFit(*(deliver(signals, part) for part in parts))

    def curve(self, x: ArrayT, *, dim: int = -1) -> tuple[ArrayT, ArrayT]:
        r"""Return the points through which the law is fitted.

        Args:
            x: signals as in `compute`.
            dim: the time axis.

        Returns:
            $\ln f$ of shape `(freq,)`, and $\ln P(f)$ of the shape of `x` without `dim` followed
            by `freq`; no power gives minus infinity.

        Raises:
            ValueError: if `x` is too short or not finite.
            TypeError: if `x` is not a real tensor or array.

        Examples:
            >>> import numpy as np
            >>> log_f, log_psd = SpectralSlope().curve(np.eye(1, 100)[0])
            >>> log_f.shape, log_psd.shape
            ((37,), (37,))
        """
        signals = read_signals(x, dim)
        plan = self._prepare(signals)
        psd = map_rows(signals, lambda rows: self._estimate(rows, plan))[3]
        return deliver(signals, plan.design.log_freqs.clone()), deliver(signals, psd.log())

    def _prepare(self, signals: Signals) -> _Plan:
        n = signals.length
        segment = (self.nperseg or min(256, n)) if self.method == "welch" else n
        require_length(signals, segment, "the length nperseg of one segment: lower nperseg")
        return _plan_for(
            method=self.method,
            n=n,
            segment=segment,
            fs=self.fs,
            freq_range=self.freq_range,
            exclude=self.exclude,
            dtype=signals.dtype,
            device=signals.view.device,
        )

    def _estimate(
        self, rows: Float[Tensor, "batch time"], plan: _Plan
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Exponent, ln A, ln f_k (nan: none), density per Hz, and True where there is no power."""
        scaled, scale, constant = scale_rows(rows)
        psd = self._density(scaled, plan)
        degenerate = constant | powerless(psd)
        safe = torch.where(degenerate[:, None], 1.0, psd)
        beta, log_amplitude, log_knee = self._fit_rows(safe, plan.design)
        # The fit saw the range [-1, 1] and a rate of 1: give the unit back.
        log_amplitude = log_amplitude + 2 * scale.log() - math.log(self.fs)
        density = psd * (scale.square() / self.fs)[:, None]
        beta, log_amplitude, log_knee = (
            torch.where(degenerate, math.nan, part) for part in (beta, log_amplitude, log_knee)
        )
        return beta, log_amplitude, log_knee, density, degenerate

    def _density(
        self, scaled: Float[Tensor, "batch time"], plan: _Plan
    ) -> Float[Tensor, "batch freq"]:
        n = scaled.shape[-1]
        band, design, tapers, segment = plan
        if self.method == "welch":
            segments = detrend_rows(scaled.unfold(-1, segment, segment // 2), self.detrend)
            return taper_power(segments, tapers[0], band, segment).mean(-2)
        psd = taper_power(detrend_rows(scaled, self.detrend), tapers[0], band, n)
        if self.method != "auto":
            return psd
        steep = fit_ols(psd.detach().clamp(min=torch.finfo(psd.dtype).tiny), design)[0] > _STEEP
        if not bool(steep.any()):
            return psd
        steps = detrend_rows(scaled.diff(dim=-1), self.detrend)
        gain = difference_gain(band, self.fs).to(psd)
        whitened = taper_power(steps, tapers[1], band, n)
        usable = steep & ~powerless(whitened)
        return torch.where(usable[:, None], whitened / gain, psd)

    def _fit_rows(
        self, psd: Float[Tensor, "batch freq"], design: Design
    ) -> tuple[Tensor, Tensor, Tensor]:
        fit = {"ols": fit_ols, "robust": fit_robust, "whittle": fit_whittle}[self._fit_method]
        beta, log_amplitude = fit(psd, design)
        log_knee = torch.full_like(beta, math.nan)
        if not self.knee:
            return beta, log_amplitude, log_knee
        bent_beta, bent_amplitude, log_knee = fit_knee(psd, design.log_freqs)
        bent = ~log_knee.isnan()
        beta = torch.where(bent, bent_beta, beta)
        return beta, torch.where(bent, bent_amplitude, log_amplitude), log_knee


@lru_cache(maxsize=16)
def _plan_for(
    *,
    method: Method,
    n: int,
    segment: int,
    fs: float,
    freq_range: tuple[float, float] | None,
    exclude: tuple[tuple[float, float], ...],
    dtype: torch.dtype,
    device: torch.device,
) -> _Plan:
    """Prepare one shape of input; kept, because that costs more than a small batch."""
    band = select_band(segment, fs, freq_range or default_range(n, fs), exclude)
    require_bins(band, n, fs, freq_range)
    sizes = (n, n - 1) if method == "auto" else (segment,)
    windows = [tapers_for(method, size) for size in sizes]
    tapers = tuple(
        None if window is None else torch.tensor(window, dtype=dtype, device=device)
        for window in windows
    )
    return _Plan(band, design_for(band, dtype, device), tapers, segment)


def _determination(
    psd: Float[Tensor, "*batch freq"],
    beta: Float[Tensor, "*batch"],
    log_knee: Float[Tensor, "*batch"],
    log_freqs: Float[Tensor, " freq"],
) -> Float[Tensor, "*batch"]:
    """Squared correlation of ln P with the fitted ln S; nan where beta is."""
    degenerate, bent = beta.isnan(), ~log_knee.isnan()
    # Stand-ins where a term is not defined: torch.where alone would let nan into the gradient.
    psd = torch.where(degenerate[..., None], log_freqs.exp(), psd)
    slope = torch.where(bent, beta, 1.0)[..., None]
    knee = torch.where(bent, log_knee, log_freqs[0])[..., None]
    law = torch.where(bent[..., None], torch.logaddexp(slope * knee, slope * log_freqs), log_freqs)
    x = floored_log(psd)
    x = x - x.mean(-1, keepdim=True)
    y = law - law.mean(-1, keepdim=True)
    r2 = (x * y).sum(-1).square() / (x.square().sum(-1) * y.square().sum(-1))
    return torch.where(degenerate, math.nan, r2)


def _check_segment(nperseg: int, method: str) -> None:
    if method != "welch":
        raise ValueError(f"nperseg is used by method = 'welch' only, got method = {method!r}")
    if nperseg < _SHORTEST_SEGMENT:
        raise ValueError(f"nperseg must be at least {_SHORTEST_SEGMENT}, got {nperseg}")
