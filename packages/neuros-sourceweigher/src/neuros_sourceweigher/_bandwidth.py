"""A bandwidth for Gaussian kernels from the distances of the data."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import pdist

from neuros_core.errors import check_finite, check_ndim

__all__: list[str] = []


def median_bandwidth(x: ArrayLike, *, max_points: int = 2000, seed: int = 0) -> float:
    r"""Median distance between samples, the usual scale $h$ of $\exp(-\|x - y\|^2 / 2 h^2)$.

    Args:
        x: (n, d) samples of all domains together.
        max_points: Larger samples are reduced to this many, drawn without replacement.
        seed: Of the draw.

    Returns:
        The median of all pairwise distances, in the unit of `x`.

    Raises:
        ValueError: For fewer than two samples, NaN, infinity, or when half of the pairs are equal.

    Examples:
        >>> median_bandwidth([[0.0], [1.0], [3.0]])
        2.0

    References:
        Garreau, Jitkrittum & Kanagawa 2017, Large sample analysis of the median heuristic,
        arXiv:1707.07269.
    """
    points = np.asarray(x, dtype=np.float64)
    check_ndim("x", points, 2, "(n, d)")
    check_finite("x", points)
    if len(points) < 2 or max_points < 2:
        raise ValueError(
            f"x and max_points need two or more samples, got {len(points)} and {max_points}"
        )
    if len(points) > max_points:
        rng = np.random.default_rng(seed)
        points = points[rng.choice(len(points), max_points, replace=False)]
    median = float(np.median(pdist(points)))
    if not 0 < median < np.inf:
        raise ValueError(
            f"x needs samples of which most differ by a finite distance, got a median of {median:g}"
        )
    return median
