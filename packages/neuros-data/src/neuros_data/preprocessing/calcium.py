"""Relative change of fluorescence over a baseline of the past."""

from bisect import bisect_left, insort
from dataclasses import dataclass, replace
from math import isnan

import numpy as np
from numpy.typing import NDArray

from neuros_core import Signal
from neuros_data.preprocessing._marks import regular_rate, remarked, unmarked
from neuros_data.preprocessing.step import check_positive

__all__ = ["DeltaF"]

Samples = NDArray[np.float64]


@dataclass(frozen=True)
class DeltaF:
    r"""Relative change of fluorescence, $(F - F_0) / F_0$ with a running percentile as $F_0$.

    $F$ is the fluorescence less `neuropil` times that of the neuropil. $F_0$ is the percentile of
    the last `window` seconds, the present sample included, without interpolation between ranks; in
    the first `window` seconds it is over what there is so far. No value depends on a later sample.
    A sample that was not measured has no part in $F_0$ and stays invalid; so does one whose
    baseline is not positive, for which a relative change means nothing.

    Args:
        window: Length of the baseline in seconds.
        percentile: In [0, 100].
        neuropil: Share of the neuropil that is subtracted, in [0, 1].

    Raises:
        ValueError: When a number is out of range.

    Examples:
        >>> f = Signal(np.array([[10.0], [10.0], [20.0], [10.0]]), rate=1.0)
        >>> DeltaF(window=3.0).apply(f).data.ravel().tolist()
        [0.0, 0.0, 1.0, 0.0]
    """

    window: float = 60.0
    percentile: float = 8.0
    neuropil: float = 0.7

    def __post_init__(self) -> None:
        check_positive("window", self.window)
        if not 0 <= self.percentile <= 100:
            raise ValueError(f"percentile needs a number in [0, 100], got {self.percentile}")
        if not 0 <= self.neuropil <= 1:
            raise ValueError(f"neuropil needs a share in [0, 1], got {self.neuropil}")

    def apply(self, signal: Signal, neuropil: Signal | None = None) -> Signal:
        """Relative change of every channel.

        Args:
            signal: Fluorescence on a regular clock.
            neuropil: Fluorescence around each cell, of the same shape; None subtracts nothing.

        Returns:
            The same shape in float64, with unit `"dF/F"`.

        Raises:
            ValueError: When the clock is irregular or the neuropil has another shape.
        """
        rate = regular_rate(signal, "a running baseline")
        f = unmarked(signal)
        if neuropil is not None:
            if neuropil.data.shape != signal.data.shape:
                raise ValueError(
                    f"neuropil needs the shape of the signal {signal.data.shape}, got "
                    f"{neuropil.data.shape}"
                )
            f -= self.neuropil * unmarked(neuropil)
        size = max(round(self.window * rate), 1)
        columns = [running_percentile(column, size, self.percentile) for column in f.T]
        baseline = np.stack(columns, axis=1) if columns else np.zeros_like(f)
        out = np.full_like(f, np.nan)
        np.divide(f - baseline, baseline, out=out, where=baseline > 0)
        return replace(remarked(signal, out), unit="dF/F")

    def support(self, rate: float) -> float:
        """The length of the baseline.

        Args:
            rate: Rate in Hz, which does not matter.

        Returns:
            Seconds to the past; nothing reaches from the future.

        Examples:
            >>> DeltaF().support(30.0)
            60.0
        """
        del rate  # the baseline is given in seconds
        return self.window

    def output_rate(self, rate: float) -> float:
        """The rate is not changed.

        Args:
            rate: Rate in Hz.

        Returns:
            The same.
        """
        return rate


def running_percentile(x: Samples, size: int, percentile: float) -> Samples:
    """Percentile of the last `size` samples, the present one included; NaN has no part in it.

    Args:
        x: Samples, shape (time,).
        size: Samples of a full window.
        percentile: In [0, 100]; the element of that rank, rounded down.

    Returns:
        Shape (time,); NaN while no sample has been measured within the window.

    Examples:
        >>> running_percentile(np.array([3.0, 1.0, np.nan, 5.0]), 2, 50).tolist()
        [3.0, 1.0, 1.0, 5.0]
    """
    if np.isnan(x).any() or len(x) < size:
        return _one_by_one(x, size, percentile)
    from scipy.ndimage import rank_filter

    out = np.empty_like(x)
    out[:size] = _one_by_one(x[:size], size, percentile)
    rank = int((size - 1) * percentile / 100)
    # The origin moves the window so that it ends with the present sample.
    full = rank_filter(x, rank, size=size, origin=(size - 1) // 2)
    out[size - 1 :] = full[size - 1 :]
    return out


def _one_by_one(x: Samples, size: int, percentile: float) -> Samples:
    """The same by a sorted list, in which a window may hold fewer samples than `size`."""
    held: list[float] = []
    out = np.full_like(x, np.nan)
    values = x.tolist()
    for i, value in enumerate(values):
        if i >= size and not isnan(values[i - size]):
            del held[bisect_left(held, values[i - size])]
        if not isnan(value):
            insort(held, value)
        if held:
            out[i] = held[int((len(held) - 1) * percentile / 100)]
    return out
