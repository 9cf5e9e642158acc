"""Power spectral densities of rows, and the frequencies that a fit uses."""

import math
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "Band",
    "Detrend",
    "Method",
    "detrend_rows",
    "difference_gain",
    "powerless",
    "scale_rows",
    "select_band",
    "taper_power",
    "tapers_for",
]

Detrend = Literal["constant", "linear"]
Method = Literal["periodogram", "hann", "welch", "multitaper", "auto"]

_TIME_HALF_BANDWIDTH = 3.0
_N_TAPERS = 5


class Band(NamedTuple):
    """Bins of a one-sided spectrum that enter a fit."""

    bins: Int[Tensor, " freq"]
    freqs: Float[Tensor, " freq"]
    # Power of one bin per squared amplitude: 2, and 1 at the Nyquist bin, which has no mirror.
    sides: Float[Tensor, " freq"]


def select_band(
    n_fft: int,
    fs: float,
    freq_range: tuple[float, float],
    exclude: tuple[tuple[float, float], ...] = (),
) -> Band:
    """Choose the bins of a real transform of `n_fft` samples; both ends are inclusive.

    Args:
        n_fft: length of the transform.
        fs: sampling rate in Hz.
        freq_range: lowest and highest frequency in Hz; zero frequency is never included.
        exclude: bands in Hz to leave out.

    Returns:
        The bins in float64.

    Examples:
        >>> select_band(10, 10.0, (2.0, 5.0), exclude=((3.0, 3.0),)).freqs
        tensor([2., 4., 5.], dtype=torch.float64)
    """
    bins = torch.arange(1, n_fft // 2 + 1)
    freqs = bins.double() * (fs / n_fft)
    keep = _within(freqs, freq_range)
    for hole in exclude:
        keep &= ~_within(freqs, hole)
    sides = torch.where(2 * bins == n_fft, 1.0, 2.0).double()
    return Band(bins[keep], freqs[keep], sides[keep])


def _within(freqs: Float[Tensor, " freq"], edges: tuple[float, float]) -> Bool[Tensor, " freq"]:
    # An end that names a bin must include it although k * fs / n is rounded.
    return (freqs >= edges[0] * (1 - 1e-9)) & (freqs <= edges[1] * (1 + 1e-9))


def scale_rows(
    rows: Float[Tensor, "batch time"],
) -> tuple[Float[Tensor, "batch time"], Float[Tensor, " batch"], Bool[Tensor, " batch"]]:
    """Bring rows into [-1, 1]; the affine map counts as a constant for the gradient.

    What follows is invariant to it or has the scale added back, so that the gradient stays exact.

    Args:
        rows: signals.

    Returns:
        The rows (0 where constant), half their ranges (1 where constant), and True where constant.

    Examples:
        >>> scale_rows(torch.tensor([[1.0, 3.0], [5.0, 5.0]]))[0]
        tensor([[-1.,  1.],
                [ 0.,  0.]])
    """
    # Two reductions: the fused aminmax along an axis is not vectorised, and ten times slower.
    raw = rows.detach()
    low, high = raw.amin(-1, keepdim=True), raw.amax(-1, keepdim=True)
    constant = low == high
    # Halves first, because the difference of two finite numbers can overflow.
    half_range = high / 2 - low / 2
    factor = torch.where(constant, 0.0, 1 / half_range)
    scaled = (rows - (low / 2 + high / 2)) * factor
    return scaled, torch.where(constant, 1.0, half_range).squeeze(-1), constant.squeeze(-1)


def detrend_rows(rows: Float[Tensor, "... time"], kind: Detrend) -> Float[Tensor, "... time"]:
    """Remove the mean or the least-squares line of each row.

    Args:
        rows: signals.
        kind: `"constant"` or `"linear"`.

    Returns:
        The residuals.

    Examples:
        >>> detrend_rows(torch.tensor([[0.0, 2.0, 4.0]]), "linear").abs().max().item() < 1e-6
        True
    """
    centred = rows - rows.mean(-1, keepdim=True)
    if kind == "constant":
        return centred
    n = rows.shape[-1]
    ramp = torch.linspace(-1, 1, n, dtype=rows.dtype, device=rows.device)
    ramp = ramp / ramp.square().sum().sqrt()
    return centred - (centred @ ramp)[..., None] * ramp


def taper_power(
    rows: Float[Tensor, "... time"],
    tapers: Float[Tensor, "taper time"] | None,
    band: Band,
    n_fft: int,
) -> Float[Tensor, "... freq"]:
    r"""Average $|\mathrm{rfft}(x h)|^2$ over tapers of unit energy, one-sided, per cycle/sample.

    Args:
        rows: signals.
        tapers: unit-energy windows of the length of the rows; None is one rectangular window.
        band: the bins to return.
        n_fft: transform length; rows are padded with zeros to it.

    Returns:
        Power density for a sampling rate of 1.

    Examples:
        >>> band = select_band(4, 1.0, (0.1, 0.5))
        >>> taper_power(torch.tensor([[1.0, -1.0, 1.0, -1.0]]), None, band, 4)
        tensor([[0., 4.]])
    """
    first, last = int(band.bins[0]), int(band.bins[-1])
    bins = slice(first, last + 1)
    parts = _bins_of(rows if tapers is None else rows * tapers[0], n_fft, bins)
    squares, count = parts.square(), rows.shape[-1] if tapers is None else len(tapers)
    for taper in () if tapers is None else tapers[1:]:
        parts = _bins_of(rows * taper, n_fft, bins)
        # In place: one pass per taper, and no part of the graph reads the sum.
        squares.addcmul_(parts, parts)
    total = squares[..., 0] + squares[..., 1]
    if last - first + 1 != len(band.bins):
        total = total[..., (band.bins - first).to(total.device)]
    sides = band.sides.to(total) / count
    power: Tensor = total * sides
    return power


def _bins_of(
    rows: Float[Tensor, "... time"], n_fft: int, bins: slice
) -> Float[Tensor, "... freq 2"]:
    """Real and imaginary part of some bins of the transform."""
    return torch.view_as_real(torch.fft.rfft(rows, n=n_fft)[..., bins])


def difference_gain(band: Band, fs: float) -> Float[Tensor, " freq"]:
    r"""Gain of the first difference on power, $4 \sin^2(\pi f / f_s)$.

    Args:
        band: the bins.
        fs: sampling rate in Hz.

    Returns:
        The gain at each bin.

    Examples:
        >>> difference_gain(select_band(4, 1.0, (0.5, 0.5)), 1.0)
        tensor([4.], dtype=torch.float64)
    """
    return 4 * torch.sin(band.freqs * (math.pi / fs)).square()


def powerless(psd: Float[Tensor, "batch freq"]) -> Bool[Tensor, " batch"]:
    """Tell which rows of range [-1, 1] have no power in the band beyond their rounding.

    Args:
        psd: one-sided density for a sampling rate of 1.

    Returns:
        True where there is none.

    Examples:
        >>> powerless(torch.tensor([[2.0, 2.0], [0.0, 1e-30]]))
        tensor([False,  True])
    """
    return psd.detach().mean(-1) / 2 < (8 * torch.finfo(psd.dtype).eps) ** 2


def tapers_for(method: Method, n: int) -> NDArray[np.float64] | None:
    """Return the unit-energy windows of a spectral method.

    Args:
        method: `"hann"` and `"welch"` share the periodic Hann window; `"multitaper"` and `"auto"`
            the five Slepian sequences of time-half-bandwidth 3.
        n: number of samples.

    Returns:
        Array `(taper, n)`, or None for the rectangular window of a periodogram.

    Examples:
        >>> tapers_for("multitaper", 64).shape
        (5, 64)
    """
    if method == "periodogram":
        return None
    if method in ("hann", "welch"):
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)
        return (window / np.linalg.norm(window))[None]
    return _slepian(n)


@lru_cache(maxsize=16)
def _slepian(n: int) -> NDArray[np.float64]:
    # Imported when used: scipy.signal alone costs more than half an import of torch.
    from scipy.signal.windows import dpss

    # A copy in C order: some tapers come back with negative strides.
    tapers = np.array(dpss(n, _TIME_HALF_BANDWIDTH, Kmax=_N_TAPERS), dtype=np.float64, order="C")
    tapers.setflags(write=False)  # the cache hands the same array to every caller
    return tapers
