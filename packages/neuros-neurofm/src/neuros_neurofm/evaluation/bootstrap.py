"""How sure a score is, when neighbouring samples resemble each other."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from neuros_neurofm.evaluation._arrays import Array, Data, as_float64

__all__ = ["BootstrapInterval", "block_bootstrap"]


class BootstrapInterval(NamedTuple):
    """A statistic and its interval.

    Attributes:
        estimate: The statistic of the data as they are.
        low: Lower end of the interval.
        high: Upper end of the interval.
        resampled: The statistic of every resample, (resample,).
    """

    estimate: float
    low: float
    high: float
    resampled: Array


def block_bootstrap(
    statistic: Callable[..., float],
    arrays: Sequence[Data],
    *,
    block_length: int,
    generator: Generator,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> BootstrapInterval:
    r"""Percentile interval of a statistic by the moving-block bootstrap.

    A resample is made of $\lceil n / b \rceil$ blocks of $b$ successive samples, each beginning
    anywhere with equal probability, cut to $n$ samples. All arrays are resampled with the same
    blocks, so the difference of two scores on the same data is a paired one: pass
    `lambda y, a, b: score(y, a) - score(y, b)`. The blocks must be several times longer than the
    correlation of what is scored; too short ones give intervals that are too narrow. NaN may mark
    missing entries where the statistic allows it.

    Args:
        statistic: Called with the arrays, returns a number.
        arrays: One or more arrays that share their first axis, (time, ...).
        block_length: Samples per block, in [1, n].
        generator: Where the randomness comes from.
        n_resamples: Number of resamples, >= 1.
        level: Coverage of the interval, in (0, 1).

    Returns:
        The estimate, the interval and the resampled values.

    Raises:
        ValueError: No array, lengths that differ, a number out of its range, or a statistic that
            is not finite.

    Examples:
        >>> import numpy as np
        >>> x = np.arange(100.0) % 2
        >>> interval = block_bootstrap(
        ...     np.mean, [x], block_length=10, generator=np.random.default_rng(0))
        >>> interval.estimate, interval.low, interval.high
        (0.5, 0.5, 0.5)

    References:
        Kuensch, H. R. (1989). The jackknife and the bootstrap for general stationary observations.
        Annals of Statistics 17. https://doi.org/10.1214/aos/1176347265
    """
    data = [as_float64("arrays", x) for x in arrays]
    n = _common_length(data)
    if not 1 <= block_length <= n:
        raise ValueError(f"block_length must lie in [1, n = {n}], got {block_length}")
    if n_resamples < 1 or not 0 < level < 1:
        raise ValueError(
            f"n_resamples must be >= 1 and level in (0, 1), got {n_resamples} and {level}"
        )
    estimate = _finite(statistic(*data))
    n_blocks = -(-n // block_length)
    offsets = np.arange(block_length)
    resampled = np.empty(n_resamples)
    for k in range(n_resamples):
        starts = generator.integers(n - block_length + 1, size=n_blocks)
        rows = (starts[:, None] + offsets).ravel()[:n]
        resampled[k] = _finite(statistic(*(x[rows] for x in data)))
    tail = 0.5 * (1.0 - level)
    low, high = np.quantile(resampled, [tail, 1.0 - tail])
    return BootstrapInterval(estimate, float(low), float(high), resampled)


def _common_length(data: Sequence[Array]) -> int:
    if not data:
        raise ValueError("arrays must hold at least one array, got none")
    shapes = [x.shape for x in data]
    if any(x.ndim == 0 for x in data) or len({s[0] for s in shapes}) > 1 or not shapes[0][0]:
        raise ValueError(
            f"arrays must share a first axis of at least one sample, got shapes {shapes}"
        )
    return len(data[0])


def _finite(value: float) -> float:
    if not np.isfinite(value):
        raise ValueError(
            f"statistic must be finite on every resample, got {value}; use longer blocks or data"
        )
    return float(value)
