"""Detrended fluctuation analysis of a signal."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuros_mechint.fractals._conventions import (
    ArrayT,
    Signals,
    centred,
    deliver,
    map_rows,
    read_signals,
    warn_degenerate,
)
from neuros_mechint.fractals._dfa_expectation import corrected, polynomials

__all__ = ["DFAResult", "DetrendedFluctuationAnalysis"]

# A block, its profile, its squares and a copy of its windows share the second-level cache.
_BLOCK_SAMPLES = 2**17
_ROUNDING = 8 * torch.finfo(torch.float64).eps


class DFAResult(NamedTuple):
    """Scaling exponent and the curve it was fitted to.

    Attributes:
        alpha: slope of ln F against ln n, of the shape of the signals without time.
        fluctuations: F(n), with the scales last.
    """

    alpha: Tensor
    fluctuations: Tensor


class DetrendedFluctuationAnalysis:
    r"""Scaling of the residual of local polynomial trends with the size of the window.

    The profile $y$ is the cumulative sum of the centred signal. $F^2(n)$ is the mean, over windows
    of $n$ samples, of the mean square that a polynomial of degree `order` leaves, and $\alpha$ is
    the slope of $\ln F(n)$ against $\ln n$. For stationary noise $\alpha = H$, for a path
    $\alpha = H + 1$, for $1/f^\beta$ noise $\alpha = (\beta + 1) / 2$.

    Args:
        min_window: smallest window, at least `order + 2`.
        max_window: largest window; a quarter of the signal when None.
        n_windows: number of window sizes, spaced evenly in the logarithm (fewer where they round
            to the same number).
        scales: the window sizes themselves, instead of the three above.
        order: degree of the trend.
        overlap: windows every n // 2 samples, the last one included.
        two_sided: without overlap, take windows from the start and again from the end where the
            window does not divide the signal.
        bias_correction: replace $\alpha$ by the H whose expected fluctuations, known in closed
            form, have the fitted slope. Windows below about ten samples bend the curve upwards
            otherwise. A slope outside the range of noise, as of a path, is left as it is.

    Raises:
        ValueError: if a window is smaller than `order + 2`, the order is below 0, or there are
            fewer than two window sizes.

    Examples:
        >>> noise = torch.randn(4096, generator=torch.Generator().manual_seed(0))
        >>> dfa = DetrendedFluctuationAnalysis()
        >>> round(dfa.compute(noise).alpha.item(), 1)
        0.5
        >>> round(dfa.compute(noise.cumsum(0)).alpha.item(), 1)
        1.5

    References:
        Peng et al. (1994). Mosaic organization of DNA nucleotides. Physical Review E 49.
        https://doi.org/10.1103/PhysRevE.49.1685
        Kantelhardt et al. (2002). Multifractal detrended fluctuation analysis of nonstationary
        time series. Physica A 316. https://doi.org/10.1016/S0378-4371(02)01383-3
    """

    def __init__(
        self,
        *,
        min_window: int = 10,
        max_window: int | None = None,
        n_windows: int = 16,
        scales: Sequence[int] | None = None,
        order: int = 1,
        overlap: bool = False,
        two_sided: bool = True,
        bias_correction: bool = False,
    ) -> None:
        smallest = min_window if scales is None else min(scales, default=0)
        if order < 0 or smallest < order + 2:
            raise ValueError(
                f"order must be at least 0 and windows at least order + 2 = {order + 2} samples, "
                f"got order = {order} and a window of {smallest}"
            )
        if n_windows < 2 or (scales is not None and len(set(scales)) < 2):
            given = n_windows if scales is None else len(set(scales))
            raise ValueError(f"a slope needs at least 2 different windows, got {given}")
        self.min_window = min_window
        self.max_window = max_window
        self.n_windows = n_windows
        self.order = order
        self.overlap = overlap
        self.two_sided = two_sided
        self.bias_correction = bias_correction
        self._scales = None if scales is None else tuple(sorted({int(n) for n in scales}))

    def __repr__(self) -> str:
        return (
            f"DetrendedFluctuationAnalysis(min_window={self.min_window}, "
            f"max_window={self.max_window}, n_windows={self.n_windows}, scales={self._scales}, "
            f"order={self.order}, overlap={self.overlap}, two_sided={self.two_sided}, "
            f"bias_correction={self.bias_correction})"
        )

    def scales(self, n: int) -> Int[Tensor, " scale"]:
        """Return the window sizes for signals of `n` samples.

        Args:
            n: samples of a signal.

        Returns:
            Ascending sizes.

        Raises:
            ValueError: if the signal is shorter than the largest window, or too short for two.

        Examples:
            >>> DetrendedFluctuationAnalysis(n_windows=4).scales(1000).tolist()
            [10, 29, 85, 250]
        """
        return torch.tensor(self._sizes(n))

    def compute(self, x: ArrayT, *, dim: int = -1) -> DFAResult:
        """Estimate the exponent of each signal.

        Args:
            x: signals, any unit.
            dim: the time axis.

        Returns:
            The exponents, and the fluctuations in the unit of the signals; NumPy arrays for an
            array. A constant signal gives nan, one warning, and no gradient.

        Raises:
            ValueError: if `x` is too short or not finite.
            TypeError: if `x` is not a real tensor or array.

        Examples:
            >>> result = DetrendedFluctuationAnalysis(scales=[8, 16]).compute(torch.randn(3, 64))
            >>> result.alpha.shape, result.fluctuations.shape
            (torch.Size([3]), torch.Size([3, 2]))
        """
        signals, sizes, squares = self._squares(x, dim)
        usable = (squares > 0).all(-1)
        logs = torch.where(usable[..., None], squares, 1.0).log() / 2
        alpha = (logs * slope_weights(sizes).to(logs.device)).sum(-1)
        if self.bias_correction:
            alpha = corrected(alpha, sizes, self.order)
        alpha = torch.where(usable, alpha, math.nan)
        warn_degenerate(~usable, "are constant, or polynomials that the trend takes away")
        # The root of zero has no derivative.
        safe = torch.where(squares > 0, squares, 1.0).sqrt()
        fluctuations = torch.where(squares > 0, safe, 0.0)
        return DFAResult(
            deliver(signals, alpha.to(signals.dtype)),
            deliver(signals, fluctuations.to(signals.dtype)),
        )

    def curve(self, x: ArrayT, *, dim: int = -1) -> tuple[ArrayT, ArrayT]:
        """Return the points through which the line is fitted.

        Args:
            x: signals as in `compute`.
            dim: the time axis.

        Returns:
            ln n, `(scale,)`, and ln F(n), of the shape of `x` without `dim` followed by the
            scales; minus infinity where F is zero.

        Raises:
            ValueError: as in `compute`.
            TypeError: as in `compute`.

        Examples:
            >>> log_n, log_f = DetrendedFluctuationAnalysis(scales=[4, 8]).curve(torch.randn(64))
            >>> log_n.exp().tolist()
            [4.0, 8.0]
        """
        signals, sizes, squares = self._squares(x, dim)
        log_n = torch.tensor(sizes, dtype=torch.float64).log()
        return (
            deliver(signals, log_n.to(signals.dtype)),
            deliver(signals, (squares.log() / 2).to(signals.dtype)),
        )

    def _sizes(self, n: int) -> tuple[int, ...]:
        if self._scales is not None:
            sizes = self._scales
        else:
            largest = n // 4 if self.max_window is None else self.max_window
            sizes = _spaced(self.min_window, max(largest, 1), self.n_windows)
        if len(sizes) < 2 or sizes[-1] > n:
            raise ValueError(
                f"x needs samples for windows of {self.min_window if not sizes else sizes[0]} and "
                f"more along its time axis, got {n} samples with windows {sizes}; pass a longer "
                "signal, or smaller windows by min_window, max_window or scales"
            )
        return sizes

    def _squares(self, x: object, dim: int) -> tuple[Signals, tuple[int, ...], Tensor]:
        """Read the signals; return the window sizes and F^2(n), in float64."""
        signals = read_signals(x, dim)
        sizes = self._sizes(signals.length)

        def rows_to_squares(rows: Tensor) -> tuple[Tensor, ...]:
            return (self._of_rows(rows, sizes),)

        squares = map_rows(signals, rows_to_squares, block_samples=_BLOCK_SAMPLES)[0]
        return signals, sizes, squares

    def _of_rows(
        self, rows: Float[Tensor, "batch time"], sizes: tuple[int, ...]
    ) -> Float[Tensor, "batch scale"]:
        # In double precision: what a trend leaves is a small difference of large sums.
        profile = centred(rows).cumsum_(-1)
        energy = torch.nn.functional.pad(profile.square().cumsum_(-1), (1, 0))
        parts = [self._mean_square(profile, energy, n) for n in sizes]
        return torch.stack(parts, dim=-1)

    def _mean_square(
        self, profile: Float[Tensor, "batch time"], energy: Float[Tensor, "batch edge"], n: int
    ) -> Float[Tensor, " batch"]:
        """F^2(n): what the polynomials leave is the energy of all windows less that of trends."""
        # The same basis for each signal: a batched product reads windows where they lie.
        basis = polynomials(n, self.order).to(profile.device).T.expand(len(profile), -1, -1)
        kept, whole, count = profile.new_zeros(len(profile)), profile.new_zeros(len(profile)), 0
        for start, stride, windows in self._layouts(profile.shape[-1], n):
            stop = start + (windows - 1) * stride + n
            parts = profile[:, start:stop].unfold(-1, n, stride)
            kept = kept + torch.bmm(basis, parts.mT).flatten(1).square().sum(-1)
            if stride == n:
                # Adjoining windows: all energies between their ends cancel.
                whole = whole + (energy[:, stop] - energy[:, start])
            else:
                last = energy[:, start + n : stop + 1 : stride]
                whole = whole + (last - energy[:, start : stop - n + 1 : stride]).sum(-1)
            count += windows
        left = whole - kept
        # Less than the rounding of the two sums is nothing.
        return torch.where(left > _ROUNDING * whole, left, 0.0) / (count * n)

    def _layouts(self, length: int, n: int) -> list[tuple[int, int, int]]:
        """Start, stride and number of windows of each regular set of windows."""
        if self.overlap:
            stride = n // 2
            windows = (length - n) // stride + 1
            rest = (length - n) % stride
            return [(0, stride, windows), *([(length - n, stride, 1)] if rest else [])]
        windows = length // n
        layouts = [(0, n, windows)]
        if self.two_sided and length % n:
            layouts.append((length - windows * n, n, windows))
        return layouts


def slope_weights(sizes: Sequence[int] | Sequence[float]) -> Float[Tensor, " scale"]:
    """Return the vector whose product with logarithms at `sizes` is their least-squares slope.

    Args:
        sizes: at least two different sizes.

    Returns:
        Weights of sum 0, float64.

    Examples:
        >>> weights = slope_weights((1, 2, 4))
        >>> round((weights * torch.tensor([0.0, 3.0, 6.0])).sum().item() * math.log(2), 12)
        3.0
    """
    log_n = torch.tensor(sizes, dtype=torch.float64).log()
    offsets = log_n - log_n.mean()
    return offsets / offsets.square().sum()


def _spaced(smallest: int, largest: int, count: int) -> tuple[int, ...]:
    if largest < smallest:
        return ()
    steps = torch.linspace(math.log(smallest), math.log(largest), count, dtype=torch.float64)
    return tuple(sorted({round(math.exp(step)) for step in steps.tolist()}))
