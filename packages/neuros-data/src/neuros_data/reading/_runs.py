"""A label for each sample as intervals over which it stays the same."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuros_core import Intervals
from neuros_data.reading._clock import Clock


def runs_of(labels: NDArray[Any], clock: Clock) -> Intervals:
    """Intervals of equal labels; the last ends with its last sample.

    Args:
        labels: One label a sample, shape (time,).
        clock: Where the samples lie.
    """
    n = len(labels)
    edges = np.flatnonzero(np.r_[True, labels[1:] != labels[:-1], True])
    if clock.times is None:
        times = clock.start + np.arange(n + 1) / float(clock.rate or 1.0)
    else:
        step = float(np.median(np.diff(clock.times))) if n > 1 else 0.0
        times = np.r_[clock.times, clock.times[-1] + step]
    return Intervals(times[edges[:-1]], times[edges[1:]], {"label": labels[edges[:-1]]})
