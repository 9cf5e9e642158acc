"""Where a stationary process starts, given the fractional noise that drives it afterwards."""

import math
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint.fractals._draws import fast_length
from neuros_mechint.fractals._fractional_motion import noise_autocovariance
from neuros_mechint.fractals._ornstein_uhlenbeck_sum import decaying_sum

__all__ = ["past_covariance", "stationary_start"]

# Terms of the infinite sum that are added one by one; the rest is an integral.
_N_DIRECT = 2**14
# exp(-40) is below the last digit of what was summed.
_FAR = 40.0
_TOLERANCE = 1e-13
_MAX_SOLVER_STEPS = 500


def stationary_start(
    noise: Float[Tensor, "batch time"], H: float, kappa: float, generator: torch.Generator | None
) -> Float[Tensor, " batch"]:
    r"""Draw $Y_0 = \sum_{j \ge 0} e^{-\kappa j} \xi_{-j}$ given the noise after it.

    Both $Y_0$ and $\xi_1, \xi_2, \dots$ are Gaussian: $Y_0$ is its regression on what follows, plus
    an independent rest.

    Args:
        noise: fractional noise of unit variance, time last.
        H: its Hurst exponent.
        kappa: decay of a step.
        generator: source of randomness.

    Returns:
        One start per row.

    Examples:
        >>> noise = torch.zeros(2, 5, dtype=torch.float64)
        >>> stationary_start(noise, 0.5, 1.0, None).shape
        torch.Size([2])
    """
    weights, deviation = _regression(noise.shape[-1], H, kappa)
    rest = torch.empty_like(noise[:, 0]).normal_(0, deviation, generator=generator)
    return noise @ weights.to(noise) + rest


@lru_cache(maxsize=16)
def _regression(n: int, H: float, kappa: float) -> tuple[Float[Tensor, " time"], float]:
    """Weights of the noise and the standard deviation of the rest."""
    if H == 0.5:
        # White noise: the past knows nothing of the future.
        return torch.zeros(n, dtype=torch.float64), 1 / math.sqrt(-math.expm1(-2 * kappa))
    covariance = past_covariance(n, H, kappa)
    # Of a sum over the past with itself: twice its overlap with the present, less one term.
    variance = (1 + 2 * math.exp(-kappa) * float(covariance[0])) / -math.expm1(-2 * kappa)
    weights = _solve(covariance, H)
    return weights, math.sqrt(max(variance - float(weights @ covariance), 0.0))


def past_covariance(n: int, H: float, kappa: float) -> Float[Tensor, " lag"]:
    r"""Covariance of $\sum_{j \ge 0} e^{-\kappa j} \xi_{-j}$ with $\xi_k$, k = 1..n.

    Args:
        n: largest lag.
        H: Hurst exponent of the noise.
        kappa: decay of a step.

    Returns:
        $\sum_{j \ge 0} e^{-\kappa j} r(k + j)$.

    Examples:
        >>> bool(past_covariance(3, 0.5, 0.1).abs().max() < 1e-15)
        True
    """
    exponent = torch.tensor([[H]], dtype=torch.float64)
    n_direct = n + min(_N_DIRECT, math.ceil(_FAR / kappa))
    lags = torch.arange(1, n_direct + 1, dtype=torch.float64)
    r = noise_autocovariance(lags, exponent)[0]
    # S_k = r_k + exp(-kappa) S_{k+1}, from the far end.
    far = torch.tensor([_tail(n_direct + 1, exponent, kappa)], dtype=torch.float64)
    backwards = decaying_sum(torch.cat([far, r.flip(0)])[None], kappa)[0]
    return backwards.flip(0)[:n]


def _tail(first: int, H: Float[Tensor, "1 1"], kappa: float) -> float:
    r"""$\sum_{j \ge 0} e^{-\kappa j} r(first + j)$, by Euler and Maclaurin."""
    ends = [0.0]
    while ends[-1] < _FAR / kappa:
        ends.append(2 * ends[-1] + min(first, 1 / kappa))
    nodes, weights = np.polynomial.legendre.leggauss(24)
    low, high = np.array(ends[:-1]), np.array(ends[1:])
    t = torch.from_numpy(((high - low)[:, None] * (nodes + 1) / 2 + low[:, None]).ravel())
    w = torch.from_numpy(((high - low)[:, None] * weights / 2).ravel())
    integral = float((w * torch.exp(-kappa * t) * noise_autocovariance(first + t, H)[0]).sum())
    edge = float(noise_autocovariance(torch.tensor([float(first)]).double(), H)[0, 0])
    # At such lags r(t) is t^(2H - 2) up to a constant, to nine digits.
    slope = edge * ((2 * float(H) - 2) / first - kappa)
    return integral + edge / 2 - slope / 12


def _solve(right: Float[Tensor, " time"], H: float) -> Float[Tensor, " time"]:
    """Solve with the covariance matrix of the noise, by conjugate gradients."""
    n = len(right)
    half = fast_length(n)
    exponent = torch.tensor([[H]], dtype=torch.float64)
    r = noise_autocovariance(torch.arange(half + 1, dtype=torch.float64), exponent)[0]
    circle = torch.fft.rfft(torch.cat([r, r[1:-1].flip(0)])).real

    def times(spectrum: Tensor, v: Tensor) -> Tensor:
        product: Tensor = torch.fft.irfft(torch.fft.rfft(v, 2 * half) * spectrum, 2 * half)
        return product[:n]

    # The inverse of the circulant matrix that holds this one stands in for its inverse.
    inverse = 1 / circle.clamp(min=1e-12 * float(circle.max()))
    x, residual = torch.zeros_like(right), right.clone()
    z = times(inverse, residual)
    direction, energy = z, residual @ z
    for _ in range(_MAX_SOLVER_STEPS):
        if float(residual.norm()) <= _TOLERANCE * float(right.norm()):
            break
        image = times(circle, direction)
        step = energy / (direction @ image)
        x, residual = x + step * direction, residual - step * image
        z = times(inverse, residual)
        energy, before = residual @ z, energy
        direction = z + energy / before * direction
    return x
