r"""Morlet wavelets and the Gaussian low-pass of the scattering transform, in frequency.

Andén & Mallat (2014), section II and eq. 12-13: wavelets spaced by $2^{1/Q}$ above the frequency at
which their duration reaches $2^J$, and equally spaced with that duration below it. Widths, the
highest frequency and the normalisation by the L1 norm are those of Lostanlen (2017), section 2.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Wavelet", "gaussian", "half_support", "morlet", "wavelets"]

# Width of the low-pass in cycles per sample at scale 1.
SIGMA = 0.1
# A wavelet ends this many widths from its centre frequency: exp(-25 / 2) = 4e-6 of its peak.
_REACH = 5.0
# Share of the L1 norm of the low-pass outside its support.
_TAIL = 1e-3


class Wavelet(NamedTuple):
    """One wavelet.

    Attributes:
        xi: Centre frequency in cycles per sample.
        sigma: Width in cycles per sample.
        j: Its output may be subsampled by 2^j.
    """

    xi: float
    sigma: float
    j: int


def wavelets(J: int, Q: int) -> list[Wavelet]:
    """The filter bank, from the highest frequency to the lowest."""
    narrowest = SIGMA / 2**J
    # Neighbours cross at half their power, r = 2^(-1/2).
    ratio = 2.0 ** (-1.0 / Q)
    per_xi = (1 - ratio) / (1 + ratio) / math.sqrt(math.log(2.0))
    highest = max(1.0 / (1.0 + 2.0 ** (3.0 / Q)), 0.35)
    elbow = per_xi * highest
    pairs: list[tuple[float, float]] = []
    if elbow > narrowest:
        pairs.append((highest, per_xi * highest))
        while pairs[-1][1] > narrowest / ratio:
            pairs.append((pairs[-1][0] * ratio, pairs[-1][1] * ratio))
        elbow = pairs[-1][0]
    pairs += [(elbow * (1 - q / Q), narrowest) for q in range(1, Q)]
    return [Wavelet(xi, sigma, _subsampling(xi, sigma)) for xi, sigma in pairs]


def _subsampling(xi: float, sigma: float) -> int:
    # Twice the highest frequency of the wavelet must stay below the new sampling rate.
    return math.floor(-math.log2(min(xi + _REACH * sigma, 0.5))) - 1


def gaussian(n: int, sigma: float) -> NDArray[np.float64]:
    """Frequency response of the low-pass on `n` bins."""
    return _unit_norm(_bump(n, 0.0, sigma))


def morlet(n: int, xi: float, sigma: float) -> NDArray[np.float64]:
    """Frequency response of a Morlet wavelet on `n` bins; exactly 0 at frequency 0."""
    band, low = _bump(n, xi, sigma), _bump(n, 0.0, sigma)
    return _unit_norm(band - band[0] / low[0] * low)


def _bump(n: int, xi: float, sigma: float) -> NDArray[np.float64]:
    # Sampling in time repeats the spectrum; sigma <= 0.14, so that the neighbours suffice.
    f = np.arange(n) / n
    terms = [np.exp(-((f + p - xi) ** 2) / (2 * sigma**2)) for p in (-1, 0, 1)]
    total: NDArray[np.float64] = np.sum(terms, axis=0)
    return total


def _unit_norm(spectrum: NDArray[np.float64]) -> NDArray[np.float64]:
    response: NDArray[np.float64] = spectrum / np.abs(np.fft.ifft(spectrum)).sum()
    return response


def half_support(n: int, sigma: float) -> int:
    """Samples from the centre of the low-pass to where its tail is negligible; at most n / 2."""
    h = np.abs(np.fft.ifft(gaussian(n, sigma)))[: n // 2]
    tail = h[::-1].cumsum()[::-1]
    short = np.flatnonzero(tail <= _TAIL)
    return int(short[0]) + 1 if short.size else n // 2
