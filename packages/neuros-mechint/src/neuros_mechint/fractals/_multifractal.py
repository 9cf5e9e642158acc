"""Multifractal spectrum of a signal or of a measure."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, SupportsIndex, overload

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from neuros_mechint.fractals._conventions import (
    ArrayT,
    Number,
    Signals,
    centred,
    deliver,
    map_rows,
    read_signals,
    warn_degenerate,
)
from neuros_mechint.fractals._dfa import slope_weights
from neuros_mechint.fractals._leaders import leader_counts, leader_octaves, leader_weights
from neuros_mechint.fractals._multifractal_moments import (
    Level,
    Moments,
    fluctuation_level,
    log_statistics,
    mass_level,
    moments_of,
    window_squares,
)
from neuros_mechint.fractals._multifractal_options import (
    Kind,
    Method,
    check_options,
    read_moments,
    read_scales,
    require_fit,
    sizes_for,
)

__all__ = ["LogCumulants", "Multifractal", "MultifractalSpectrum", "spectrum_of"]

# Moments closer to 0 take the limit there: (tau + 1) / q would divide rounding by q.
_NEAR_ZERO = 1e-6
# The powers of all moments of one scale stand beside a block.
_BLOCK_SAMPLES = 2**17
_DEGENERATE = {
    "mfdfa": "are constant, or polynomials that the trend takes away",
    "leaders": "are constant, or polynomials that the wavelet does not see",
    "measure": "have no mass",
}


class Multifractal(NamedTuple):
    r"""Multifractal spectra; NumPy arrays where the signals were, also found as `result["tau"]`.

    Attributes:
        q: moments, ascending, `(q,)`.
        tau: scaling exponents $\tau(q)$, `(*batch, q)`.
        alpha: singularity strengths $d\tau/dq$, `(*batch, q)`.
        f_alpha: spectrum $f(\alpha) = q \alpha - \tau$, `(*batch, q)`.
        h: generalised Hurst exponents $(\tau + 1) / q$, `(*batch, q)`.
        width: largest less smallest $\alpha$, `(*batch)`.
        n_dropped: windows, boxes or leaders that moments of $q \le 0$ leave out, summed over the
            scales, `(*batch)`.
    """

    q: Tensor | NDArray[Any]
    tau: Tensor | NDArray[Any]
    alpha: Tensor | NDArray[Any]
    f_alpha: Tensor | NDArray[Any]
    h: Tensor | NDArray[Any]
    width: Tensor | NDArray[Any]
    n_dropped: Tensor | NDArray[Any]

    @overload
    def __getitem__(self, key: SupportsIndex, /) -> Any: ...
    @overload
    def __getitem__(self, key: slice, /) -> tuple[Any, ...]: ...
    @overload
    def __getitem__(self, key: str, /) -> Any: ...
    def __getitem__(self, key: SupportsIndex | slice | str, /) -> Any:
        """Return a part by its name, or by its place as in any tuple.

        Args:
            key: the name or the place.

        Returns:
            The part.

        Raises:
            KeyError: if no part has the name.
        """
        if not isinstance(key, str):
            return tuple.__getitem__(self, key)
        if key not in self._fields:
            raise KeyError(f"no part is called {key!r}; the parts are {', '.join(self._fields)}")
        return getattr(self, key)


class LogCumulants(NamedTuple):
    r"""Expansion $\tau(q) = -1 + c_1 q + c_2 q^2 / 2 + \dots$ at $q = 0$.

    Attributes:
        c1: slope of the mean of the logarithms of the fluctuations, `(*batch)`.
        c2: slope of their variance, `(*batch)`; 0 for a monofractal, negative for a multifractal.
    """

    c1: Tensor | NDArray[Any]
    c2: Tensor | NDArray[Any]


class MultifractalSpectrum:
    r"""How the moments of local fluctuations scale: $\overline{F^q(s)} \propto s^{q h(q)}$.

    From $\tau(q) = q\,h(q) - 1$ follow the strengths $\alpha = d\tau/dq$ of singularities and the
    dimension $f(\alpha) = q \alpha - \tau$ of the times that have them. $\alpha$ is the derivative
    of the fitted slope itself, not a difference over q. The fluctuations are

    - `"mfdfa"`: residuals of polynomials in windows of the profile (both ends, least-squares
      line over the scales). For noise with exponent H, $h(2) = H$.
    - `"leaders"`: wavelet leaders of the profile (Daubechies, three vanishing moments, from the
      third octave on, octaves weighing as their number of leaders). Unmoved by parabolic
      drifts, and right for negative moments of smooth data too.
    - `"measure"`: masses of boxes of a measure, for which $\tau$, $\alpha$ and f are those of
      Chhabra and Jensen. A constant is a measure, the uniform one.

    A window is left out of moments $q \le 0$ where its squared fluctuation is below 1e-12 of the
    median of its scale: one flat run of samples would be all that they see. `n_dropped` counts
    those. The results change neither with the unit nor, measures apart, with the offset of the
    signal and have exact gradients.

    Args:
        q: moments; 21 from -5 to 5 when None.
        method: as above.
        kind: `"noise"`: the profile is the cumulative sum of the centred signal. `"path"`: the
            signal is the profile. For `"mfdfa"` and `"leaders"`.
        order: degree of the polynomials, for `"mfdfa"`.
        scales: sizes in samples: of windows (16 from 10 to a quarter of the signal when None), of
            boxes, which divide the signal (powers of `base` when None), or 2 to the power of the
            octaves (8 and more when None).
        base: of the sizes of boxes, for `"measure"`.

    Raises:
        ValueError: if an option is unknown, out of range, or of another method.

    Examples:
        >>> from neuros_mechint.fractals import MultiplicativeCascade
        >>> mass = MultiplicativeCascade().generate(10, weights=[0.75, 0.25], dtype=torch.float64)
        >>> result = MultifractalSpectrum(method="measure", q=[0, 1, 2]).compute(mass)
        >>> result.tau.round(decimals=6).add(0.0).tolist()  # -log2(0.75 ** q + 0.25 ** q)
        [-1.0, 0.0, 0.678072]
        >>> noise = torch.randn(4096, generator=torch.Generator().manual_seed(0))
        >>> round(MultifractalSpectrum(q=[1, 2]).compute(noise)["h"][1].item(), 1)
        0.5

    References:
        Kantelhardt et al. (2002). Multifractal detrended fluctuation analysis of nonstationary
        time series. Physica A 316. https://doi.org/10.1016/S0378-4371(02)01383-3
        Chhabra & Jensen (1989). Direct determination of the f(alpha) singularity spectrum.
        Physical Review Letters 62. https://doi.org/10.1103/PhysRevLett.62.1327
        Jaffard (2004). Wavelet techniques in multifractal analysis. Proceedings of Symposia in
        Pure Mathematics 72. https://doi.org/10.1090/pspum/072.2/2112122
        Wendt, Abry & Jaffard (2007). Bootstrap for empirical multifractal analysis. IEEE Signal
        Processing Magazine 24. https://doi.org/10.1109/MSP.2007.4286563
    """

    def __init__(
        self,
        *,
        q: Sequence[Number] | Tensor | NDArray[np.floating[Any]] | None = None,
        method: Method = "mfdfa",
        kind: Kind = "noise",
        order: int = 1,
        scales: Sequence[int] | None = None,
        base: int = 2,
    ) -> None:
        check_options(method, kind, order, base)
        self.q = read_moments(q)
        self.method = method
        self.kind = kind
        self.order = order
        self.base = base
        self._scales = read_scales(scales, method, order)

    def __repr__(self) -> str:
        return (
            f"MultifractalSpectrum(q={self.q}, method={self.method!r}, kind={self.kind!r}, "
            f"order={self.order}, scales={self._scales}, base={self.base})"
        )

    def scales(self, n: int) -> Tensor:
        """Return the sizes for signals of `n` samples.

        Args:
            n: samples of a signal.

        Returns:
            Ascending sizes.

        Raises:
            ValueError: if the signal is too short for two of them, or no size divides it.

        Examples:
            >>> MultifractalSpectrum(method="leaders").scales(1000).tolist()
            [8, 16, 32, 64]
        """
        return torch.tensor(self._sizes(n, "n"))

    def compute(self, x: ArrayT, *, dim: int = -1) -> Multifractal:
        r"""Estimate the spectrum of each signal.

        Args:
            x: signals, any unit; for `method="measure"` masses, at least 0.
            dim: the time axis.

        Returns:
            The spectra. A signal without fluctuations at some scale, as a constant, gives nan, one
            warning, and no gradient. For measures with empty boxes $h(0)$ is nan, as the moments
            near 0 then count the boxes that are not empty.

        Raises:
            ValueError: if `x` is too short, not finite, or a measure with negative masses.
            TypeError: if `x` is not a real tensor or array.

        Examples:
            >>> result = MultifractalSpectrum().compute(torch.randn(3, 256))
            >>> result.h.shape, result.width.shape
            (torch.Size([3, 21]), torch.Size([3]))
        """
        signals, sizes = self._read(x, dim)
        line = self._line(sizes, signals.length)
        # Fitted block by block: the moments of all scales are a hundred times their spectrum.
        *parts, usable, dropped = map_rows(
            signals, lambda rows: self._spectra(rows, sizes, line), block_samples=_BLOCK_SAMPLES
        )
        tau, alpha, h, width = (_masked(part, usable) for part in parts)
        if self.method == "measure":
            holes = (dropped > 0)[..., None] & (_values(self.q, h).abs() < _NEAR_ZERO)
            h = torch.where(holes, math.nan, h)
        warn_degenerate(~usable, _DEGENERATE[self.method])
        q = _values(self.q, tau)
        found = [q, tau, alpha, q * alpha - tau, h, width]
        floats: list[Tensor] = [deliver(signals, part.to(signals.dtype)) for part in found]
        return Multifractal._make([*floats, dropped.numpy() if signals.is_array else dropped])

    def log_cumulants(self, x: ArrayT, *, dim: int = -1) -> LogCumulants:
        r"""Estimate the first two coefficients of $\tau$ at $q = 0$, without moments.

        Args:
            x: signals as in `compute`.
            dim: the time axis.

        Returns:
            The coefficients; nan as in `compute`.

        Raises:
            ValueError: as in `compute`.
            TypeError: as in `compute`.

        Examples:
            >>> from neuros_mechint.fractals import MultiplicativeCascade
            >>> mass = MultiplicativeCascade().generate(12, weights=[0.75, 0.25])
            >>> c = MultifractalSpectrum(method="measure").log_cumulants(mass)
            >>> round(c.c1.item(), 4)  # -(log2(0.75) + log2(0.25)) / 2
            1.2075
        """
        signals, sizes = self._read(x, dim)
        mean, variance, usable = map_rows(
            signals,
            lambda rows: log_statistics(self._levels(rows, sizes)),
            block_samples=_BLOCK_SAMPLES,
        )
        line = self._line(sizes, signals.length).to(mean.device)
        found = [_masked((part * line).sum(-1), usable) for part in (mean, variance)]
        warn_degenerate(~usable, _DEGENERATE[self.method])
        return LogCumulants(*(deliver(signals, part.to(signals.dtype)) for part in found))

    def curve(self, x: ArrayT, *, dim: int = -1) -> tuple[ArrayT, ArrayT]:
        r"""Return the points through which the lines of slope $h(q)$ are fitted.

        Args:
            x: signals as in `compute`.
            dim: the time axis.

        Returns:
            $\ln s$, `(scale,)`, and $\ln (\overline{F^q(s)})^{1/q}$, of the shape of `x` without
            `dim` followed by `(q, scale)`; nan for a signal without fluctuations.

        Raises:
            ValueError: as in `compute`.
            TypeError: as in `compute`.

        Examples:
            >>> log_s, log_f = MultifractalSpectrum(scales=[8, 16]).curve(torch.randn(5, 64))
            >>> log_s.shape, log_f.shape
            (torch.Size([2]), torch.Size([5, 21, 2]))
        """
        signals, sizes, moments = self._moments(x, dim)
        log_f = _over_q(moments.log_means, moments.tilted, _values(self.q, moments.tilted)[:, None])
        log_f = torch.where(moments.usable[..., None, None], log_f, math.nan)
        log_s = torch.tensor(sizes, dtype=torch.float64).log()
        return (
            deliver(signals, log_s.to(signals.dtype)),
            deliver(signals, log_f.to(signals.dtype)),
        )

    def _sizes(self, n: int, name: str) -> tuple[int, ...]:
        if self._scales is None:
            return sizes_for(n, self.method, self.order, self.base, name)
        require_fit(self._scales, n, self.method, name)
        return self._scales

    def _line(self, sizes: tuple[int, ...], n: int) -> Float[Tensor, " scale"]:
        """Vector whose product with logarithms at the scales is their slope."""
        if self.method != "leaders":
            return slope_weights(sizes)
        octaves = tuple(size.bit_length() - 1 for size in sizes)
        counts = leader_counts(n)
        return leader_weights(octaves, tuple(counts[octave - 1] for octave in octaves))

    def _read(self, x: object, dim: int) -> tuple[Signals, tuple[int, ...]]:
        signals = read_signals(x, dim)
        return signals, self._sizes(signals.length, signals.name)

    def _moments(self, x: object, dim: int) -> tuple[Signals, tuple[int, ...], Moments]:
        """Read the signals; return the sizes and the moments, in float64."""
        signals, sizes = self._read(x, dim)
        parts = map_rows(
            signals, lambda rows: self._row_moments(rows, sizes), block_samples=_BLOCK_SAMPLES
        )
        return signals, sizes, Moments(*parts)

    def _spectra(
        self, rows: Float[Tensor, "batch time"], sizes: tuple[int, ...], line: Tensor
    ) -> tuple[Tensor, ...]:
        moments = self._row_moments(rows, sizes)
        return *spectrum_of(moments, self.q, line), moments.usable, moments.dropped

    def _row_moments(self, rows: Float[Tensor, "batch time"], sizes: tuple[int, ...]) -> Moments:
        is_measure = self.method == "measure"
        return moments_of(self._levels(rows, sizes), self.q, share_of_all=is_measure)

    def _levels(self, rows: Float[Tensor, "batch time"], sizes: tuple[int, ...]) -> Iterator[Level]:
        if self.method == "measure":
            return _masses(rows.double(), sizes)
        path = centred(rows)
        path = path if self.kind == "path" else path.cumsum(-1)
        if self.method == "mfdfa":
            return (fluctuation_level(window_squares(path, n, self.order)) for n in sizes)
        octaves = [size.bit_length() - 1 for size in sizes]
        leaders = leader_octaves(path, octaves[-1])
        return (fluctuation_level(leaders[octave - 1].square()) for octave in octaves)


def spectrum_of(
    moments: Moments, q: Sequence[Number], line: Float[Tensor, " scale"]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fit the lines through moments.

    Args:
        moments: of every scale.
        q: the moments' orders.
        line: vector whose product with logarithms at the scales is their slope.

    Returns:
        tau, alpha and h, `(*batch, q)`, and the width, `(*batch)`.

    Examples:
        >>> logs = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
        >>> moments = moments_of([Level(s * logs, None, None) for s in (1, 2)], [1.0, 2.0])
        >>> spectrum_of(moments, [1.0, 2.0], torch.tensor([-1.0, 1.0]).double())[0]
        tensor([[0., 1.]], dtype=torch.float64)
    """
    line = line.to(moments.tilted.device)
    # Not matrix products: autocast would round those to half precision.
    slope = (moments.log_means * line).sum(-1)
    alpha = (moments.tilted * line).sum(-1)
    h = _over_q(slope, alpha, _values(q, alpha))
    return slope - 1, alpha, h, alpha.amax(-1) - alpha.amin(-1)


def _over_q(value: Tensor, limit: Tensor, q: Tensor) -> Tensor:
    near = q.abs() < _NEAR_ZERO
    return torch.where(near, limit, value / torch.where(near, 1.0, q))


def _values(q: Sequence[Number], like: Tensor) -> Float[Tensor, " q"]:
    return torch.tensor(q, dtype=like.dtype, device=like.device)


def _masked(part: Tensor, usable: Tensor) -> Tensor:
    """Nan for the items that have no spectrum."""
    shape = usable.shape + (1,) * (part.ndim - usable.ndim)
    return torch.where(usable.view(shape), part, math.nan)


def _masses(rows: Float[Tensor, "batch time"], sizes: tuple[int, ...]) -> Iterator[Level]:
    if bool((rows < 0).any()):
        raise ValueError(
            f"x must hold masses of at least 0 for method 'measure', got {float(rows.min()):g}; "
            "take squares, or another method for signals of both signs"
        )
    largest = rows.detach().amax(-1, keepdim=True)
    # The scale of the unit does not matter: slopes leave a factor out.
    masses = rows / torch.where(largest > 0, largest, 1.0)
    return (mass_level(masses.reshape(len(rows), -1, n).sum(-1)) for n in sizes)
