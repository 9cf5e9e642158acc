"""Samples that were measured and those that were not, through a step of preparation."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from neuros_core import Signal

Samples = NDArray[np.float64]


def unmarked(signal: Signal) -> Samples:
    """A copy in float64 with NaN wherever a sample was not measured, shape (time, channel)."""
    data = np.array(signal.data, dtype=np.float64)
    if signal.valid is not None:
        data[~signal.valid] = np.nan
    data[~np.isfinite(data)] = np.nan
    return data


def remarked(signal: Signal, data: Samples, *, rate: float | None = None) -> Signal:
    """The signal with other samples; NaN becomes `valid=False`.

    Args:
        signal: What the samples come from.
        data: New samples, NaN where there is no value, shape (time, channel).
        rate: Their rate where it is another one.
    """
    known = ~np.isnan(data)
    valid = None if bool(known.all()) else known
    if rate is None:
        return replace(signal, data=data, valid=valid)
    return replace(signal, data=data, valid=valid, rate=rate, times=None)


def regular_rate(signal: Signal, what: str) -> float:
    """The rate of a signal on a regular clock.

    Raises:
        ValueError: When the signal has time stamps instead.
    """
    if signal.rate is None:
        raise ValueError(
            f"{what} needs a regular clock, got time stamps; put the signal on one with "
            "Interpolate(rate) first"
        )
    return signal.rate


def stretches(known: NDArray[np.bool_]) -> Iterator[slice]:
    """Runs of True, shape (time,), in order.

    Examples:
        >>> list(stretches(np.array([True, False, True, True])))
        [slice(0, 1, None), slice(2, 4, None)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]])))
    for first, last in edges.reshape(-1, 2).tolist():
        yield slice(first, last)


def by_stretch(data: Samples, shortest: int, apply: Callable[[Samples], Samples]) -> Samples:
    """Apply a function of (time, channel) to every stretch between NaN, each by itself.

    Channels with the same NaN go through together. What is NaN stays NaN, and so becomes a
    stretch of fewer than `shortest` samples.
    """
    known = ~np.isnan(data)
    if known.all():
        return apply(data) if len(data) >= shortest else np.full_like(data, np.nan)
    out = np.full_like(data, np.nan)
    patterns, group = np.unique(known, axis=1, return_inverse=True)
    for number, pattern in enumerate(patterns.T):
        channels = np.flatnonzero(group.ravel() == number)
        for run in stretches(pattern):
            if run.stop - run.start >= shortest:
                out[run, channels] = apply(data[run, channels])
    return out
