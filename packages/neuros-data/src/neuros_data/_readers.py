"""Readers: each fills its rows of a batch from one modality of one recording."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Meta = dict[str, Any]
ArrayReader = Callable[[Mapping[str, Any]], NDArray[Any]]
Rows = NDArray[np.intp]
Affine = tuple[NDArray[np.float64], NDArray[np.float64]]


@runtime_checkable
class Reader(Protocol):
    """Fills windows of one modality of one recording."""

    channels: tuple[str, ...]
    rate: float | None

    def length(self, starts: NDArray[np.float64], /) -> int:
        """Samples needed along time for windows that start there."""
        ...

    def fill(
        self,
        starts: NDArray[np.float64],
        rows: Rows,
        out: NDArray[np.float32],
        mask: NDArray[np.bool_] | None,
        times: NDArray[np.float64] | None,
    ) -> None:
        """Write samples, and where they are asked for validity and times, into `rows`."""
        ...


@dataclass(frozen=True)
class Scaling:
    r"""Stored value to batch value, $y = k a + b$ per channel: decoding and normalising at once."""

    factor: NDArray[np.float32]
    shift: NDArray[np.float32]

    @classmethod
    def of(cls, part: Meta, statistics: Affine | None) -> "Scaling | None":
        """Combine a part's integer coding with a normaliser's mean and scale; None for identity."""
        n = len(part["channels"])
        factor = np.asarray(part.get("scale", np.ones(n)), np.float64)
        shift = np.asarray(part.get("offset", np.zeros(n)), np.float64)
        if statistics is not None:
            mean, scale = statistics
            factor, shift = factor / scale, (shift - mean) / scale
        if (factor == 1).all() and (shift == 0).all():
            return None
        return cls(factor.astype(np.float32), shift.astype(np.float32))

    def tile(self, n_samples: int) -> "Scaling":
        """Repeat along time into one flat run, or keep one number where all channels agree.

        Measured on 256 x 64 samples: one flat product runs at the speed of a cast, a product that
        broadcasts over channels, or over blocks of time, takes twice as long.
        """
        return Scaling(_tiled(self.factor, n_samples), _tiled(self.shift, n_samples))


def _tiled(values: NDArray[np.float32], n_samples: int) -> NDArray[np.float32]:
    if (values == values[0]).all():
        return values[:1].reshape(())
    return np.tile(values, n_samples)


class RegularSignal:
    """Windows of a signal with a constant rate."""

    def __init__(
        self, part: Meta, array: ArrayReader, window: float, statistics: Affine | None
    ) -> None:
        self.channels = tuple(part["channels"])
        self.rate: float | None = float(part["rate"])
        self._hz = float(part["rate"])
        self._start = float(part["start"])
        self._n = round(window * self._hz)
        self._part = part
        self._array = array
        self._scaling = Scaling.of(part, statistics)
        self._flat = None if self._scaling is None else self._scaling.tile(self._n)

    def length(self, _starts: NDArray[np.float64]) -> int:
        return self._n

    def fill(
        self,
        starts: NDArray[np.float64],
        rows: Rows,
        out: NDArray[np.float32],
        mask: NDArray[np.bool_] | None,
        times: NDArray[np.float64] | None,
    ) -> None:
        data = self._array(self._part["arrays"]["data"])
        first = first_sample(starts, self._start, self._hz)
        width = len(self.channels)
        if out.shape[1:] == (self._n, width):
            self._fill_flat(data, first, rows, out)
        else:
            self._fill_padded(data, first, rows, out[:, :, :width])
        if times is not None:
            offset = self._start + first / self._hz - starts
            times[rows, : self._n] = offset[:, None] + np.arange(self._n) / self._hz
        if mask is not None:
            self._fill_mask(first, rows, mask[:, :, :width])

    def _fill_flat(
        self, data: NDArray[Any], first: Rows, rows: Rows, out: NDArray[np.float32]
    ) -> None:
        # One axis for time and channel: slices and products of vectors have the least overhead.
        width, run = len(self.channels), self._n * len(self.channels)
        source, target = data.reshape(-1), out.reshape(len(out), run)
        pairs = zip(rows.tolist(), (first * width).tolist(), strict=True)
        flat = self._flat
        if flat is None:
            for row, i in pairs:
                target[row] = source[i : i + run]
            return
        shift = flat.shift if flat.shift.any() else None
        for row, i in pairs:
            window = target[row]
            # Cast, then multiply in place: one mixed-type product takes twice as long as both.
            window[...] = source[i : i + run]
            np.multiply(window, flat.factor, out=window)
            if shift is not None:
                np.add(window, shift, out=window)

    def _fill_padded(
        self, data: NDArray[Any], first: Rows, rows: Rows, out: NDArray[np.float32]
    ) -> None:
        for row, i in zip(rows.tolist(), first.tolist(), strict=True):
            target = out[row, : self._n]
            target[...] = data[i : i + self._n]
            if self._scaling is not None:
                target *= self._scaling.factor
                target += self._scaling.shift

    def _fill_mask(self, first: Rows, rows: Rows, mask: NDArray[np.bool_]) -> None:
        valid = self._part["arrays"].get("valid")
        if valid is None:
            mask[rows, : self._n] = True
            return
        flags = self._array(valid)
        for row, i in zip(rows.tolist(), first.tolist(), strict=True):
            mask[row, : self._n] = flags[i : i + self._n]


def first_sample(starts: NDArray[np.float64], origin: float, rate: float) -> Rows:
    """Sample nearest to each start; samples are less than half a step from where they should be."""
    return np.rint((starts - origin) * rate).astype(np.intp)


class IrregularSignal:
    """Windows of a signal with a time for every sample; their lengths may differ."""

    def __init__(
        self, part: Meta, array: ArrayReader, window: float, statistics: Affine | None
    ) -> None:
        self.channels = tuple(part["channels"])
        self.rate: float | None = None
        self._window = window
        self._part = part
        self._array = array
        self._scaling = Scaling.of(part, statistics)

    def _bounds(self, starts: NDArray[np.float64]) -> tuple[Rows, Rows]:
        clock = self._array(self._part["arrays"]["times"])
        ends = np.round(starts + self._window, 9)
        return np.searchsorted(clock, starts), np.searchsorted(clock, ends)

    def length(self, starts: NDArray[np.float64]) -> int:
        first, stop = self._bounds(starts)
        return int((stop - first).max(initial=1))

    def fill(
        self,
        starts: NDArray[np.float64],
        rows: Rows,
        out: NDArray[np.float32],
        mask: NDArray[np.bool_] | None,
        times: NDArray[np.float64] | None,
    ) -> None:
        arrays = self._part["arrays"]
        data, clock = self._array(arrays["data"]), self._array(arrays["times"])
        valid = self._array(arrays["valid"]) if "valid" in arrays else None
        width = len(self.channels)
        first, stop = self._bounds(starts)
        for row, start, i, j in zip(rows, starts, first, stop, strict=True):
            target = out[row, : j - i, :width]
            target[...] = data[i:j]
            if self._scaling is not None:
                target *= self._scaling.factor
                target += self._scaling.shift
            if mask is not None:
                mask[row, : j - i, :width] = True if valid is None else valid[i:j]
            if times is not None:
                times[row, : j - i] = clock[i:j] - start


class SpikeCounts:
    """Windows of binned spikes: one vectorised pass over the spikes of all windows."""

    def __init__(self, part: Meta, array: ArrayReader, window: float, width: float) -> None:
        self.channels = tuple(part["units"])
        self.rate: float | None = 1.0 / width
        self._arrays = part["arrays"]
        self._array = array
        self._width = width
        self._n = round(window / width)

    def length(self, _starts: NDArray[np.float64]) -> int:
        return self._n

    def fill(
        self,
        starts: NDArray[np.float64],
        rows: Rows,
        out: NDArray[np.float32],
        mask: NDArray[np.bool_] | None,
        times: NDArray[np.float64] | None,
    ) -> None:
        n_units = len(self.channels)
        counts = count_events(
            self._array(self._arrays["times"]),
            self._array(self._arrays["units"]),
            starts,
            n_units=n_units,
            n_bins=self._n,
            width=self._width,
        )
        out[rows, : self._n, :n_units] = counts
        if mask is not None:
            mask[rows, : self._n, :n_units] = True
        if times is not None:
            times[rows, : self._n] = (np.arange(self._n) + 0.5) * self._width


def bin_edges(starts: NDArray[np.float64], n_bins: int, width: float) -> NDArray[np.float64]:
    """Edges of every window's bins, shape (batch, n_bins + 1), rounded to whole nanoseconds.

    0.1 + 2 * 0.1 exceeds 0.3 by one bit: without rounding a spike at 0.3 would fall one bin short.
    """
    edges = starts[:, None] + np.arange(n_bins + 1, dtype=np.float64) * width
    return edges.round(9)


def count_events(
    times: NDArray[np.float64],
    units: NDArray[np.int32],
    starts: NDArray[np.float64],
    *,
    n_units: int,
    n_bins: int,
    width: float,
) -> NDArray[np.intp]:
    """Counts in right-open bins, shape (batch, n_bins, n_units)."""
    edges = bin_edges(starts, n_bins, width)
    first = np.searchsorted(times, edges[:, 0])
    n_events = np.searchsorted(times, edges[:, -1]) - first
    window = np.repeat(np.arange(len(starts)), n_events)
    # Position of each event: its window's first event plus its rank within the window.
    rank = np.arange(len(window)) - np.repeat(np.cumsum(n_events) - n_events, n_events)
    event = first[window] + rank
    t = times[event]
    guess = np.floor((t - starts[window]) / width).astype(np.intp).clip(0, n_bins - 1)
    # Division is off by at most one bin at an edge; the edges themselves decide.
    bins = guess + (t >= edges[window, guess + 1]) - (t < edges[window, guess])
    flat = (window * n_bins + bins) * n_units + units[event]
    size = len(starts) * n_bins * n_units
    return np.bincount(flat, minlength=size).reshape(len(starts), n_bins, n_units)
