"""What fluctuations of fractional Gaussian noise are expected to be, and their bias undone."""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["corrected", "expected_squares", "polynomials"]

# Exponents of the table between which the slope is interpolated.
_N_EXPONENTS = 199


def expected_squares(
    sizes: tuple[int, ...], order: int, H: Float[Tensor, " exponent"]
) -> Float[Tensor, "exponent scale"]:
    r"""Expectation of $F^2(n)$ for fractional Gaussian noise of unit variance.

    $$E F^2(n) = \frac1n \sum_{l=1}^{n-1} l^{2H} a_n(l)$$

    with $a_n(l)$ the sum over the orthonormal polynomials of their autocorrelation at lag $l$:
    the trend takes constants away, so that only $E (y_s - y_t)^2 = |s - t|^{2H}$ enters.

    Args:
        sizes: window sizes n.
        order: degree of the trend.
        H: exponents, float64.

    Returns:
        One row per exponent.

    Examples:
        >>> H = torch.tensor([0.5], dtype=torch.float64)
        >>> # A random walk of n steps about its mean: (n - 1 / n) / 6.
        >>> round(expected_squares((4,), 0, H).item(), 9)
        0.625
    """
    columns = []
    for n in sizes:
        spectrum = torch.fft.rfft(polynomials(n, order), n=2 * n, dim=0).abs().square().sum(-1)
        autocorrelation = torch.fft.irfft(spectrum, n=2 * n)[1:n]
        lags = torch.arange(1, n, dtype=torch.float64)
        columns.append(torch.pow(lags, 2 * H[:, None]) @ autocorrelation / n)
    return torch.stack(columns, dim=-1)


def corrected(
    alpha: Float[Tensor, "*batch"], sizes: tuple[int, ...], order: int
) -> Float[Tensor, "*batch"]:
    """Return the exponents whose expected fluctuations have the slopes `alpha`.

    Args:
        alpha: fitted slopes, float64.
        sizes: window sizes of the fit.
        order: degree of the trend.

    Returns:
        H in (0, 1); a slope that no noise has stays as it is.

    Examples:
        >>> slope = torch.tensor([0.55, 1.5], dtype=torch.float64)
        >>> corrected(slope, (4, 8, 16, 32), 1).round(decimals=2)
        tensor([0.4800, 1.5000], dtype=torch.float64)
    """
    slopes, exponents = (table.to(alpha.device) for table in _table(sizes, order))
    inside = (alpha > slopes[0]) & (alpha < slopes[-1])
    upper = torch.searchsorted(slopes, alpha.detach().contiguous()).clamp(1, len(slopes) - 1)
    low, high = slopes[upper - 1], slopes[upper]
    share = (alpha - low) / (high - low)
    found = exponents[upper - 1] + share * (exponents[upper] - exponents[upper - 1])
    return torch.where(inside, found, alpha)


@lru_cache(maxsize=256)
def polynomials(n: int, order: int) -> Float[Tensor, "time degree"]:
    """Return orthonormal polynomials of degree 0 to `order` on n samples.

    Args:
        n: samples, more than `order`.
        order: largest degree.

    Returns:
        One column per degree, float64.

    Examples:
        >>> polynomials(4, 0).abs().flatten().tolist()
        [0.5, 0.5, 0.5, 0.5]
    """
    t = torch.linspace(-1, 1, n, dtype=torch.float64)
    # Normal equations of the powers themselves would lose half of the digits.
    basis: Tensor = torch.linalg.qr(torch.pow(t[:, None], torch.arange(order + 1))).Q
    return basis


@lru_cache(maxsize=16)
def _table(
    sizes: tuple[int, ...], order: int
) -> tuple[Float[Tensor, " exponent"], Float[Tensor, " exponent"]]:
    """Slopes that noise of each exponent is expected to show, ascending, and the exponents."""
    H = torch.linspace(0.001, 0.999, _N_EXPONENTS, dtype=torch.float64)
    log_n = torch.tensor(sizes, dtype=torch.float64).log()
    centred = log_n - log_n.mean()
    logs = expected_squares(sizes, order, H).log() / 2
    return logs @ centred / centred.square().sum(), H
