"""Wavelet energies per octave, without padding, and their law for fractional Gaussian noise."""

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuros_mechint.fractals._fractional_motion import noise_autocovariance
from neuros_mechint.fractals._whittle import Family, expand

__all__ = ["log2_bias", "log2_variance", "octave_counts", "octave_energies", "octave_family"]

# Daubechies' filter with three vanishing moments: it takes polynomials of degree 2 away.
_ROOT10 = math.sqrt(10)
_ROOT = math.sqrt(5 + 2 * _ROOT10)
_LOWPASS = tuple(
    value / (16 * math.sqrt(2))
    for value in (
        1 + _ROOT10 + _ROOT,
        5 + _ROOT10 + 3 * _ROOT,
        10 - 2 * _ROOT10 + 2 * _ROOT,
        10 - 2 * _ROOT10 - 2 * _ROOT,
        5 + _ROOT10 - 3 * _ROOT,
        1 + _ROOT10 - _ROOT,
    )
)
_TAPS = len(_LOWPASS)
# Fewer coefficients tell nothing of a variance.
_FEWEST = 4


def _filters() -> Float[Tensor, "2 1 tap"]:
    low = torch.tensor(_LOWPASS, dtype=torch.float64)
    sign = torch.tensor([1.0, -1.0] * (_TAPS // 2), dtype=torch.float64)
    return torch.stack([low, low.flip(0) * sign])[:, None]


def octave_counts(n: int) -> tuple[int, ...]:
    """Return the number of wavelet coefficients of each octave that no edge touches.

    Args:
        n: samples of a signal.

    Returns:
        One count per octave, finest first; octaves of fewer than four are left out.

    Examples:
        >>> octave_counts(64)
        (30, 13, 4)
    """
    counts = []
    while n >= _TAPS:
        n = (n - _TAPS) // 2 + 1
        if n < _FEWEST:
            break
        counts.append(n)
    return tuple(counts)


def octave_energies(x: Float[Tensor, "batch time"]) -> Float[Tensor, "batch octave"]:
    """Mean square of the wavelet coefficients of each octave.

    Args:
        x: signals, float64.

    Returns:
        Octaves as in `octave_counts`.

    Examples:
        >>> parabola = torch.arange(64, dtype=torch.float64)[None] ** 2
        >>> bool((octave_energies(parabola) < 1e-18).all())
        True
    """
    filters, energies = _filters().to(x.device), []
    for _ in octave_counts(x.shape[-1]):
        both = nn.functional.conv1d(x[:, None], filters, stride=2)
        x = both[:, 0]
        energies.append(both[:, 1].square().mean(-1))
    return torch.stack(energies, -1)


@lru_cache(maxsize=16)
def octave_family(n: int, first: int) -> Family:
    r"""Exact variances $V_j(H) = \sum_l r_H(l)\,(h_j \star h_j)(l)$ of the octaves.

    Args:
        n: samples of a signal.
        first: the finest octave that is used, counted from 1.

    Returns:
        The family over the octaves, weighted by their numbers of coefficients.

    Examples:
        >>> octave_family(256, 1).weights.shape
        torch.Size([5])
    """
    counts = octave_counts(n)[first - 1 :]
    lags = [_autocorrelation(j) for j in range(first, first + len(counts))]

    def log_variance(H: Float[Tensor, " exponent"]) -> Float[Tensor, "exponent octave"]:
        longest = torch.arange(max(map(len, lags)), dtype=torch.float64)
        r = noise_autocovariance(longest, H[:, None])
        columns = [r[:, : len(a)] @ a for a in lags]
        return torch.stack(columns, -1).log()

    return expand(log_variance, torch.tensor(counts, dtype=torch.float64))


def _autocorrelation(octave: int) -> Float[Tensor, " lag"]:
    """Autocorrelation of the equivalent filter of an octave, with both signs of the lag added."""
    low, high = _filters()[:, 0]
    whole = torch.ones(1, dtype=torch.float64)
    for j in range(octave):
        taps = high if j == octave - 1 else low
        spaced = torch.zeros((_TAPS - 1) * 2**j + 1, dtype=torch.float64)
        spaced[:: 2**j] = taps
        size = len(whole) + len(spaced) - 1
        whole = torch.fft.irfft(torch.fft.rfft(whole, size) * torch.fft.rfft(spaced, size), size)
    size = 2 * len(whole)
    both = torch.fft.irfft(torch.fft.rfft(whole, size).abs().square(), size)[: len(whole)]
    return torch.cat([both[:1], 2 * both[1:]])


def log2_bias(counts: Float[Tensor, " octave"]) -> Float[Tensor, " octave"]:
    r"""Bias of $\log_2$ of a mean of squares, $\psi(n/2)/\ln 2 - \log_2(n/2)$.

    Args:
        counts: coefficients of each octave.

    Returns:
        The bias under independent normal coefficients.

    Examples:
        >>> round(log2_bias(torch.tensor([2.0])).item(), 4)  # Euler's constant over -ln 2
        -0.8327
    """
    return torch.digamma(counts / 2) / math.log(2) - torch.log2(counts / 2)


def log2_variance(counts: Float[Tensor, " octave"]) -> Float[Tensor, " octave"]:
    r"""Variance of $\log_2$ of a mean of squares, $\zeta(2, n/2) / \ln^2 2$.

    Args:
        counts: coefficients of each octave.

    Returns:
        The variance under independent normal coefficients.

    Examples:
        >>> round(log2_variance(torch.tensor([2.0])).item() * math.log(2) ** 2, 4)  # pi^2 / 6
        1.6449
    """
    trigamma: Tensor = torch.special.polygamma(1, counts / 2)
    return trigamma / math.log(2) ** 2
