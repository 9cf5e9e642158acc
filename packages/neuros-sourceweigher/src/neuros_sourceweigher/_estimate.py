"""The estimate itself: from moments to a metric, and from a metric to certified weights."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuros_core.errors import check_choice
from neuros_sourceweigher._metric import (
    Metric,
    diagonal_metric,
    efficient_metric,
    identity_metric,
)
from neuros_sourceweigher._moments import Moments
from neuros_sourceweigher.simplex import SimplexSolution, solve_simplex_ls

__all__: list[str] = []

Array = NDArray[np.float64]

# Two-step estimation, repeated: what a fourth step changes is far below the standard error.
_STEPS = 3


class Matching(NamedTuple):
    """How to match: which moments, in which metric."""

    moments: str
    metric: str
    shrinkage: float | None  # None: estimated

    @classmethod
    def read(cls, moments: str, metric: str, shrinkage: float | str) -> "Matching":
        """Check the settings that callers pass."""
        check_choice("moments", moments, ("mean", "mean+cov"))
        check_choice("metric", metric, ("identity", "diagonal", "efficient"))
        return cls(moments, metric, read_number("shrinkage", shrinkage, 1.0))


class Matched(NamedTuple):
    """Moments, the metric in which they are compared, and the columns (p, K) in that metric."""

    moments: Moments
    metric: Metric
    columns: Array


def match(moments: Moments, how: Matching, prior: Array | None) -> Matched:
    """Bring the moments into their metric; the efficient one is found in a few steps."""
    if how.metric == "identity":
        return Matched(moments, identity_metric(len(moments.columns)), moments.columns)
    if how.metric == "diagonal":
        metric = diagonal_metric(moments)
        return Matched(moments, metric, metric.whiten(moments.columns))
    for source in moments.sources:
        moments.cov(source)
    columns, support = moments.columns, None
    for _ in range(_STEPS):
        w = solve(columns, 0.0, prior).weights
        metric = efficient_metric(moments, w, how.shrinkage)
        columns = metric.whiten(moments.columns)
        if support is not None and np.abs(w - support).max() <= 1e-9:
            break
        support = w
    return Matched(moments, metric, columns)


def solve(columns: Array, ridge: float, prior: Array | None) -> SimplexSolution:
    """Return the certified weights (K,) whose mixture of `columns` (p, K) is shortest."""
    return solve_simplex_ls(columns, np.zeros(len(columns)), ridge=ridge, prior=prior)


def read_number(name: str, value: float | str, largest: float) -> float | None:
    """Return a number in [0, largest], or None for `"auto"`."""
    if value == "auto":
        return None
    if isinstance(value, str) or not 0 <= value <= largest or value == np.inf:
        bound = "a finite number >= 0" if largest == np.inf else f"a number in [0, {largest:g}]"
        raise ValueError(f"{name} needs {bound} or 'auto', got {value!r}")
    return float(value)
