"""Window number -> recording and start time, from cumulative counts: no list of all windows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]


@dataclass(frozen=True)
class Clock:
    """Where one modality of one recording has samples: enough to place windows."""

    start: float
    stop: float
    rate: float | None


@dataclass(frozen=True)
class WindowIndex:
    """Segments in which windows follow each other at a constant stride."""

    recording: NDArray[np.intp]
    start: NDArray[np.float64]
    cumulative: NDArray[np.int64]
    before: NDArray[np.int64]
    stride: float

    def __len__(self) -> int:
        return int(self.cumulative[-1]) if len(self.cumulative) else 0

    def locate(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Recording number and start time in seconds of each window."""
        segment = np.searchsorted(self.cumulative, indices, side="right")
        start = self.start[segment] + (indices - self.before[segment]) * self.stride
        return self.recording[segment], start.round(9)

    def range_of(self, recording: int) -> tuple[int, int]:
        """First window and one past the last window of a recording; they are contiguous."""
        mine = np.flatnonzero(self.recording == recording)
        if not mine.size:
            return 0, 0
        return int(self.before[mine[0]]), int(self.cumulative[mine[-1]])


def build_index(
    clocks: Sequence[Sequence[Clock]],
    intervals: Sequence[Sequence[Interval]] | None,
    *,
    window: float,
    stride: float,
    lag: float,
) -> WindowIndex:
    """Place windows wholly inside every interval and inside every modality's extent."""
    owners, starts, counts = [], [], []
    for number, mine in enumerate(clocks):
        extent = max(c.start for c in mine), min(c.stop for c in mine)
        allowed = [extent] if intervals is None else intervals[number]
        for low, high in allowed:
            start, count = _place(_intersect((low, high), extent), mine, window, stride, lag)
            if count > 0:
                owners.append(number)
                starts.append(start)
                counts.append(count)
    cumulative = np.cumsum(counts, dtype=np.int64)
    return WindowIndex(
        recording=np.asarray(owners, np.intp),
        start=np.asarray(starts, np.float64),
        cumulative=cumulative,
        before=cumulative - np.asarray(counts, np.int64),
        stride=stride,
    )


def _intersect(a: Interval, b: Interval) -> Interval:
    return max(a[0], b[0]), min(a[1], b[1])


def _place(
    interval: Interval, clocks: Sequence[Clock], window: float, stride: float, lag: float
) -> tuple[float, int]:
    """First start and number of windows; behaviour, read `lag` earlier, stays inside as well."""
    low = interval[0] + max(lag, 0.0)
    high = interval[1] + min(lag, 0.0)
    rates = [(c.start, c.rate) for c in clocks if c.rate is not None]
    # Rounding to the nearest sample may reach half a sample back: then start one half later.
    slack = [0.5 / r for s, r in rates if _nearest(low, s, r) < (low - s) * r - 1e-6]
    low = round(low + max(slack, default=0.0), 9)
    count = int(np.floor((high - low - window) / stride + 1e-9)) + 1
    while count > 0 and _overshoots(low + (count - 1) * stride, interval[1], rates, window):
        count -= 1
    return low, count


def _nearest(t: float, origin: float, rate: float) -> int:
    return round((t - origin) * rate)


def _overshoots(
    start: float, stop: float, rates: Sequence[tuple[float, float]], window: float
) -> bool:
    """Whether the last sample of a window lies at or after `stop`, for any modality."""
    return any(_last_time(start, origin, rate, window) > stop - 1e-9 for origin, rate in rates)


def _last_time(start: float, origin: float, rate: float, window: float) -> float:
    return origin + (_nearest(start, origin, rate) + round(window * rate) - 1) / rate
