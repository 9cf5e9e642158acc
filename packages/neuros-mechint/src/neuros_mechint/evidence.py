"""How sure a score is: intervals that respect how the data is nested."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuros_mechint._bootstrap import as_rng, cluster_codes, percentile_interval, weight_blocks

__all__ = ["BootstrapInterval", "hierarchical_bootstrap"]

Statistic = Callable[[NDArray[np.float64]], float]


class BootstrapInterval(NamedTuple):
    """A statistic and where it lies.

    Attributes:
        estimate: The statistic of the data.
        low: Lower end of the interval.
        high: Upper end.
        samples: The statistic of every resampled data set, shape (n_bootstrap,).
    """

    estimate: float
    low: float
    high: float
    samples: NDArray[np.float64]


def hierarchical_bootstrap(
    values: Tensor | NDArray[np.floating] | Sequence[float],
    clusters: Any = None,
    statistic: Statistic | None = None,
    *,
    n_bootstrap: int = 2000,
    confidence: float = 0.95,
    resample: str = "outermost",
    generator: np.random.Generator | torch.Generator | None = None,
) -> BootstrapInterval:
    r"""Confidence interval of a statistic of data that comes in clusters.

    Rows of one subject resemble each other, so the number of subjects, not of rows, says how sure a
    score is. `resample="outermost"` draws whole outermost clusters with replacement; what varies
    inside them comes along, counted once (Ren 2010). Its quantiles are moved outwards to
    $\Phi(\sqrt{n / (n - 1)}\, t_{n - 1})$, which makes up for the narrowness of a bootstrap of few
    clusters n (Hesterberg 2015). `resample="all"` draws at every level, outermost first (Saravanan
    2020), and takes plain quantiles: wide where inner levels vary most, narrow where clusters are
    few.

    Args:
        values: One row per observation, shape (row,) or (row, ...).
        clusters: Labels of the rows, shape (row,); several levels, outermost first, as a sequence
            or mapping of label arrays or a DataFrame. An inner label counts within its outer one
            only. None: every row is its own cluster.
        statistic: Function of resampled rows; None is their mean.
        n_bootstrap: How many data sets are drawn.
        confidence: Coverage aimed at, between 0 and 1.
        resample: Levels that are drawn, `"outermost"` or `"all"`.
        generator: Source of the draws; None starts one from seed 0.

    Returns:
        The interval.

    Raises:
        ValueError: When values are empty or not finite, labels do not fit the rows, there are fewer
            than two outermost clusters, the mean is asked of rows that are no numbers, or a number
            is out of range.

    Examples:
        >>> values = np.array([1.0, 1.0, 1.0, 3.0, 3.0, 3.0])
        >>> subject = ["a", "a", "a", "b", "b", "b"]
        >>> found = hierarchical_bootstrap(values, subject)
        >>> found.estimate, found.low, found.high
        (2.0, 1.0, 3.0)

    References:
        Ren, S., Lai, H., Tong, W., Aminzadeh, M., Hou, X. & Lai, S. (2010). Nonparametric
        bootstrapping for hierarchical data. Journal of Applied Statistics 37, 1487-1498.
        doi:10.1080/02664760903046102

        Hesterberg, T. C. (2015). What teachers should know about the bootstrap. The American
        Statistician 69, 371-386. doi:10.1080/00031305.2015.1089789

        Saravanan, V., Berman, G. J. & Sober, S. J. (2020). Application of the hierarchical
        bootstrap to multi-level data in neuroscience. Neurons, Behavior, Data Analysis and
        Theory 3(5). doi:10.1101/819334
    """
    data = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, np.float64)
    _check(data, n_bootstrap, confidence, resample, averaged=statistic is None)
    levels, rng = cluster_codes(clusters, len(data)), as_rng(generator)
    every = resample == "all"
    if statistic is None:
        estimate = float(data.mean())
        samples = _resampled_means(data, levels, n_bootstrap, rng, every=every)
    else:
        estimate = float(statistic(data))
        blocks = weight_blocks(levels, n_bootstrap, rng, every=every)
        drawn = (statistic(np.repeat(data, w, axis=0)) for block in blocks for w in block)
        samples = np.fromiter(drawn, np.float64, n_bootstrap)
    n_clusters = None if every else int(levels[0].max()) + 1
    return BootstrapInterval(
        estimate, *percentile_interval(samples, confidence, n_clusters), samples
    )


def _resampled_means(
    data: NDArray[np.float64],
    levels: list[NDArray[np.int64]],
    n_bootstrap: int,
    rng: np.random.Generator,
    *,
    every: bool,
) -> NDArray[np.float64]:
    sizes = np.ones(len(data))
    if not every:
        # Whole clusters come together, so their sums are all that is needed.
        sizes = np.bincount(levels[0]).astype(np.float64)
        data = np.bincount(levels[0], data).astype(np.float64)
        levels = [np.arange(len(data))]
    blocks = weight_blocks(levels, n_bootstrap, rng, every=every)
    return np.concatenate([(w @ data) / (w @ sizes) for w in blocks])


def _check(
    data: NDArray[np.float64], n_bootstrap: int, confidence: float, resample: str, *, averaged: bool
) -> None:
    if data.ndim == 0 or data.size == 0:
        raise ValueError(f"values needs at least one row, got shape {data.shape}")
    if averaged and data.ndim > 1:
        raise ValueError(
            f"values of shape {data.shape} need a statistic; the mean is that of one number a row"
        )
    if not np.isfinite(data).all():
        raise ValueError("values needs finite numbers, got NaN or infinity")
    if n_bootstrap < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"n_bootstrap >= 1 and 0 < confidence < 1 are needed, got {n_bootstrap}, {confidence}"
        )
    if resample not in {"outermost", "all"}:
        raise ValueError(f"resample needs 'outermost' or 'all', got {resample!r}")
