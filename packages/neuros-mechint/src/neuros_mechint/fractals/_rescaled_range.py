"""Rescaled range of a signal against what white noise is expected to show."""

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["block_sizes", "expected_range", "rescaled_ranges"]

_SMALLEST = 16
_N_SIZES = 12


def block_sizes(n: int) -> tuple[int, ...]:
    """Return block sizes between 16 samples and half of the signal, even in the logarithm.

    Args:
        n: samples of a signal, at least 64.

    Returns:
        Ascending sizes.

    Examples:
        >>> block_sizes(128)[0], block_sizes(128)[-1]
        (16, 64)
    """
    steps = torch.linspace(math.log(_SMALLEST), math.log(n // 2), _N_SIZES, dtype=torch.float64)
    return tuple(sorted({round(math.exp(step)) for step in steps.tolist()}))


def rescaled_ranges(
    x: Float[Tensor, "batch time"], sizes: tuple[int, ...]
) -> Float[Tensor, "batch scale"]:
    """Mean over blocks of the range of cumulative deviations over the standard deviation.

    Args:
        x: centred signals, float64.
        sizes: block sizes.

    Returns:
        R/S per size; a block without variance does not count, and a signal of such blocks has 0.

    Examples:
        >>> rescaled_ranges(torch.tensor([[1.0, -1.0, 1.0, -1.0]]).double(), (4,)).item() > 0
        True
    """
    columns = []
    for n in sizes:
        count = x.shape[-1] // n
        blocks = x[:, : count * n].reshape(-1, count, n)
        mean = blocks.mean(-1, keepdim=True)
        deviation = blocks - mean
        spread = deviation.square().sum(-1) / (n - 1)
        # Rounding of the mean leaves a flat block a variance of a few last digits.
        noise = mean.detach().squeeze(-1).square() * 1e-28
        path = deviation.cumsum(-1)
        usable = spread > noise
        ratio = (path.amax(-1) - path.amin(-1)) / torch.where(usable, spread, 1.0).sqrt()
        kept = torch.where(usable, ratio, 0.0).sum(-1)
        columns.append(kept / usable.sum(-1).clamp(min=1))
    return torch.stack(columns, -1)


@lru_cache(maxsize=256)
def expected_range(n: int) -> float:
    r"""Expected R/S of n independent normal samples (Anis & Lloyd, with Peters' factor).

    $$E = \frac{n - 1/2}{n} \frac{\Gamma((n - 1)/2)}{\sqrt\pi\,\Gamma(n/2)}
      \sum_{i=1}^{n-1} \sqrt{(n - i) / i}$$

    Args:
        n: samples of a block, at least 2.

    Returns:
        The expectation.

    Examples:
        >>> round(expected_range(2), 6)
        0.75

    References:
        Anis & Lloyd (1976). The expected value of the adjusted rescaled Hurst range of
        independent normal summands. Biometrika 63. https://doi.org/10.1093/biomet/63.1.111
        Weron (2002). Estimating long-range dependence: finite sample properties and confidence
        intervals. Physica A 312. https://doi.org/10.1016/S0378-4371(02)00961-5
    """
    i = torch.arange(1, n, dtype=torch.float64)
    log_ratio = math.lgamma((n - 1) / 2) - math.lgamma(n / 2) - 0.5 * math.log(math.pi)
    return (n - 0.5) / n * math.exp(log_ratio) * float(torch.sqrt((n - i) / i).sum())
