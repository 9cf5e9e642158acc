"""Power-law kernels of fractional integration and their approximation by exponentials."""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from neuros_neurofm.ops._validation import check_positive, check_tensor

__all__ = ["fractional_kernel", "power_law_modes"]

# The slowest rate, in units of 1 / horizon, and the fastest: slower first rates cost resolution,
# faster ones leave the last steps of small exponents unfitted. tests/ops/test_fractional.py holds
# the error over the horizon.
_SLOWEST, _FASTEST = 0.01, 12.0

# All early lags are fitted, then about this many at equal ratios.
_DENSE_LAGS, _SPARSE_LAGS = 64, 400


def _alpha_tensor(alpha: float | Tensor, *, zero: bool) -> tuple[Float[Tensor, ""], torch.dtype]:
    """`alpha` in float64 on its device, and the dtype that results are given in."""
    if isinstance(alpha, Tensor):
        check_tensor("alpha", alpha, 0, "(one number)")
        dtype = torch.float64 if alpha.dtype == torch.float64 else torch.float32
        tensor = alpha.double()
    else:
        dtype = torch.get_default_dtype()
        tensor = torch.tensor(alpha, dtype=torch.float64)
    value = float(tensor.detach())
    if not 0 <= value < 1 or (value == 0 and not zero):
        interval = "0 <= alpha < 1" if zero else "0 < alpha < 1"
        raise ValueError(f"alpha needs {interval}, got {value}")
    return tensor, dtype


def check_method(method: str) -> None:
    """Raise unless `method` names a kernel."""
    if method not in {"gl", "power"}:
        raise ValueError(f"method needs to be 'gl' (Gruenwald-Letnikov) or 'power', got {method!r}")


def log_gl_kernel(alpha: Float[Tensor, ""], length: int) -> Float[Tensor, " lag"]:
    r"""Logarithm of the Gruenwald-Letnikov weights of order $\nu = 1 - \alpha$.

    $w_j / w_{j-1} = (j - 1 + \nu) / j = 1 - \alpha / j$; the sum of logarithms keeps 13 digits over
    10 000 lags, where differences of log-gamma functions keep 11.
    """
    j = torch.arange(1, length, dtype=alpha.dtype, device=alpha.device)
    return torch.cat([alpha.new_zeros(1), torch.log1p(-alpha / j).cumsum(0)])


def fractional_kernel(alpha: float | Tensor, length: int, method: str = "gl") -> Tensor:
    r"""Weights of the fractional integral of order $\nu = 1 - \alpha$: a memory $t^{-\alpha}$.

    Convolved with a series (`causal_fft_conv`) they give its fractional integral at unit sampling
    step. `method="gl"`, the Gruenwald-Letnikov weights $w_0 = 1$,
    $w_j = w_{j-1} (j - 1 + \nu) / j$, are those of $(1 - z)^{-\nu}$: orders add up exactly, and
    order 1 is the cumulative sum. `method="power"` samples the Riemann-Liouville kernel,
    $n^{-\alpha} / \Gamma(1 - \alpha)$ for $n = 1 \ldots L$; both agree at long lags.

    Args:
        alpha: exponent of the decay, $0 \le \alpha < 1$; a number, or a tensor without axes whose
            gradient is then known.
        length: number of weights $L$, in samples.
        method: "gl" or "power".

    Returns:
        The weights (lag,), computed in float64 and returned in the dtype of `alpha` (half
        precision: float32; a number: the default dtype), on its device.

    Raises:
        ValueError: If `alpha`, `length` or `method` does not fit.
        TypeError: If `alpha` is a tensor that is not of floating point.

    Examples:
        Order 1 ($\alpha = 0$) is the cumulative sum, order 1/2 decays as the square root.

        >>> fractional_kernel(0.0, 4).tolist()
        [1.0, 1.0, 1.0, 1.0]
        >>> fractional_kernel(0.5, 4).tolist()
        [1.0, 0.5, 0.375, 0.3125]

    References:
        Podlubny, I. (1999). Fractional differential equations. Academic Press, chapter 7.

        Lubich, C. (1986). Discretized fractional calculus. SIAM Journal on Mathematical Analysis,
        17(3), 704-719. doi:10.1137/0517050
    """
    check_positive("length", length)
    check_method(method)
    tensor, dtype = _alpha_tensor(alpha, zero=True)
    if method == "gl":
        logarithm = log_gl_kernel(tensor, length)
    else:
        n = torch.arange(1, length + 1, dtype=tensor.dtype, device=tensor.device)
        logarithm = -tensor * n.log() - torch.lgamma(1 - tensor)
    return logarithm.exp().to(dtype)


def mode_rates(n_modes: int, horizon: int) -> NDArray[np.float64]:
    """Rates at equal ratios; they do not depend on the exponent, so neither does a state."""
    return np.geomspace(_SLOWEST / horizon, _FASTEST, n_modes)


def _fitted_lags(horizon: int) -> NDArray[np.int64]:
    dense = np.arange(min(horizon, _DENSE_LAGS))
    if horizon <= _DENSE_LAGS:
        return dense
    sparse = np.geomspace(_DENSE_LAGS, horizon - 1, _SPARSE_LAGS).round().astype(np.int64)
    return np.unique(np.concatenate([dense, sparse]))


def _target(
    alpha: float, method: str, horizon: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logarithm of the kernel at lags 0..horizon-1 and its derivative by `alpha`."""
    if method == "power":
        log_t = np.log(np.arange(1, horizon + 1))
        return -alpha * log_t, -log_t
    j = np.arange(1, horizon)
    zero = np.zeros(1)
    value = np.concatenate([zero, np.cumsum(np.log1p(-alpha / j))])
    slope = np.concatenate([zero, np.cumsum(-1 / (j - alpha))])
    return value, slope


@lru_cache(maxsize=64)
def _fit(
    alpha: float, method: str, n_modes: int, horizon: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Weights of the modes at lags 0, 1, ... and their derivatives by `alpha`.

    A positive mixture of exponentials exists, since both kernels are completely monotone:
    $t^{-\alpha} = \Gamma(\alpha)^{-1} \int_0^\infty s^{\alpha-1} e^{-st} ds$, whose trapezoid
    rule in $\log s$ these rates are. Non-negative least squares on the relative error also
    accounts for what lies beyond the first and the last rate.
    """
    from scipy.optimize import nnls

    lags = _fitted_lags(horizon)
    value, slope = _target(alpha, method, horizon)
    design = np.exp(-np.outer(lags, mode_rates(n_modes, horizon)) - value[lags][:, None])
    scale = np.linalg.norm(design, axis=0)
    weights = nnls(design / scale, np.ones(len(lags)), maxiter=100 * n_modes)[0]
    active = weights > 0
    # The kernel's derivative, fitted by the same modes; relative to the kernel it is `slope`.
    slopes = np.zeros(n_modes)
    slopes[active] = np.linalg.lstsq((design / scale)[:, active], slope[lags], rcond=1e-12)[0]
    return weights / scale, slopes / scale


def lag_modes(
    alpha: Float[Tensor, ""], method: str, n_modes: int, horizon: int
) -> tuple[Float[Tensor, " mode"], Float[Tensor, " mode"]]:
    r"""Weights and rates of $\sum_k w_k e^{-\lambda_k j}$ at lags $j \ge 0$, in float64.

    The sum follows the weights of "gl", or $(j + 1)^{-\alpha}$ for "power".
    """
    fitted, slopes = (
        torch.as_tensor(part, device=alpha.device)
        for part in _fit(float(alpha.detach()), method, n_modes, horizon)
    )
    # Adds zero to the value and the fitted slope to the derivative.
    weights = fitted + slopes * (alpha - alpha.detach())
    return weights, torch.as_tensor(mode_rates(n_modes, horizon), device=alpha.device)


def mode_kernel(
    weights: Float[Tensor, " mode"], rates: Float[Tensor, " mode"], length: int
) -> Float[Tensor, " lag"]:
    """The sum of the modes at lags 0, 1, ..., `length` - 1."""
    lags = torch.arange(length, dtype=rates.dtype, device=rates.device)
    return torch.exp(-lags[:, None] * rates) @ weights


def power_law_modes(
    alpha: float | Tensor, n_modes: int = 32, horizon: int = 10_000
) -> tuple[Tensor, Tensor]:
    r"""Exponentials whose sum is a power law, $t^{-\alpha} \approx \sum_k w_k e^{-\lambda_k t}$.

    The sum holds for $t = 1 \ldots$ `horizon`, with $w_k \ge 0$; later it decays exponentially. A
    recurrence of `n_modes` numbers then replaces a convolution over all of the past. The largest
    relative error at the default horizon and $0.1 \le \alpha \le 0.95$ is below 1e-5 with 32 modes
    and below 2e-3 with 16. Rates lie at equal ratios and depend on `n_modes` and `horizon` only;
    weights are fitted in float64 and remembered for the exponents last used.

    Args:
        alpha: exponent, $0 < \alpha < 1$; a number, or a tensor without axes: the gradient of the
            weights is then that of the modes fitted to $\partial t^{-\alpha} / \partial \alpha$.
        n_modes: number of exponentials.
        horizon: last step to be followed, in samples.

    Returns:
        Weights (mode,) and rates (mode,) per sample, in the dtype of `alpha` (half precision:
        float32; a number: the default dtype), on its device.

    Raises:
        ValueError: If `alpha`, `n_modes` or `horizon` does not fit.
        TypeError: If `alpha` is a tensor that is not of floating point.

    Examples:
        $100^{-1/2} = 0.1$.

        >>> import torch
        >>> weights, rates = power_law_modes(0.5)
        >>> round(float((weights * torch.exp(-rates * 100)).sum()), 5)
        0.1

    References:
        Beylkin, G., & Monzon, L. (2010). Approximation by exponential sums revisited. Applied and
        Computational Harmonic Analysis, 28(2), 131-149. doi:10.1016/j.acha.2009.08.011
    """
    check_positive("n_modes", n_modes)
    check_positive("horizon", horizon)
    tensor, dtype = _alpha_tensor(alpha, zero=False)
    weights, rates = lag_modes(tensor, "power", n_modes, horizon)
    # Lag 0 is t = 1.
    return (weights * rates.exp()).to(dtype), rates.to(dtype)
