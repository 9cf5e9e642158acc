"""Spikes as events: one entry per spike instead of one count per bin."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

__all__ = ["SpikeEvents", "Spikes", "bin_events", "spikes_of_counts", "whole_counts"]

# Of a bin: 0.64 s / 0.01 s must not become 65 bins by rounding.
_TOLERANCE = 1e-6


class SpikeEvents(NamedTuple):
    """Spikes of a batch of windows, in any order.

    A plain tuple `(times, units, rows)` is read in the same way. Bin i of a binned event starts at
    i / rate and ends before (i + 1) / rate.

    Attributes:
        times: Seconds from the start of the window, (event,).
        units: Unit of each spike, (event,), integers from 0.
        rows: Row of the batch of each spike, (event,), integers from 0.
        n_units: Number of units; None: those named by ids, or up to the largest that fires.
        duration: Seconds of the window; None: up to the end of the bin of the last spike.
        batch: Number of rows; None: up to the last row with a spike.

    Examples:
        >>> import torch
        >>> from neuros_neurofm.tokenizers import SpikeTokenizer
        >>> times, units, rows = torch.tensor([0.011, 0.018, 0.05]), [0, 0, 1], [0, 0, 0]
        >>> events = SpikeEvents(
        ...     times, torch.tensor(units), torch.tensor(rows), n_units=2, duration=0.06, batch=1
        ... )
        >>> counts = torch.tensor([[[0.0, 0.0], [2, 0], [0, 0], [0, 0], [0, 0], [0, 1]]])
        >>> tokenizer = SpikeTokenizer(8, sampling_rate=100.0)
        >>> torch.equal(tokenizer(events).values, tokenizer(counts).values)
        True
    """

    times: Tensor
    units: Tensor
    rows: Tensor
    n_units: int | None = None
    duration: float | None = None
    batch: int | None = None


class Spikes(NamedTuple):
    """Checked spikes: row, bin and unit, (event,) int64, and time, (event,) float64."""

    rows: Tensor
    bins: Tensor
    units: Tensor
    times: Tensor


def bin_events(modality: str, events: SpikeEvents, rate: float) -> tuple[Tensor, Spikes]:
    """Counts (batch, time, unit) in bins of 1 / rate seconds, and the bin of each spike.

    Raises:
        TypeError: times that are no floating-point tensor, or indices that are no integers.
        ValueError: unequal numbers, times that are NaN, negative or past the end, an index outside
            its range, or a size that no spike tells.
    """
    times, units, rows = _checked(modality, events)
    t = times.to(torch.float64)
    length = _length(modality, t, events.duration, rate)
    n_units = _size(modality, "n_units", units, events.n_units)
    batch = _size(modality, "batch", rows, events.batch)
    edges = torch.arange(length + 1, dtype=torch.float64, device=t.device) / rate
    bins = (torch.searchsorted(edges, t, right=True) - 1).clamp_max(length - 1)
    flat = (rows * length + bins) * n_units + units
    counts = flat.bincount(minlength=batch * length * n_units).to(torch.get_default_dtype())
    return counts.view(batch, length, n_units), Spikes(rows, bins, units, t)


def _checked(modality: str, events: SpikeEvents) -> tuple[Tensor, Tensor, Tensor]:
    times, units, rows = events.times, events.units, events.rows
    if not times.is_floating_point():
        raise TypeError(f"{modality}: times of events must be floating-point, got {times.dtype}")
    for name, index in (("units", units), ("rows", rows)):
        if index.dtype not in {torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8}:
            raise TypeError(f"{modality}: {name} of events must be integers, got {index.dtype}")
    shapes = [tuple(part.shape) for part in (times, units, rows)]
    if times.ndim != 1 or len(set(shapes)) > 1:
        raise ValueError(
            f"{modality}: times, units and rows of events must be (event,) and of equal length, "
            f"got {shapes}"
        )
    bad = int((~torch.isfinite(times)).sum())
    if bad:
        raise ValueError(f"{modality}: {bad} times of events are NaN or infinite; drop them")
    if bool((times < 0).any()):
        raise ValueError(
            f"{modality}: times of events must be >= 0 s from the start of the window, "
            f"got {float(times.min()):g}"
        )
    return times, units.long(), rows.long()


def _length(
    modality: str, times: Float64[Tensor, " event"], duration: float | None, rate: float
) -> int:
    """Number of bins."""
    if duration is None:
        if not times.numel():
            raise ValueError(f"{modality}: events without a spike need their duration in seconds")
        return math.floor(float(times.max()) * rate + _TOLERANCE) + 1
    if not (math.isfinite(duration) and duration > 0):
        raise ValueError(f"{modality}: duration of events must be > 0 s, got {duration}")
    if times.numel() and float(times.max()) >= duration:
        raise ValueError(
            f"{modality}: times of events must lie before the end of the window at {duration} s, "
            f"got {float(times.max()):g}"
        )
    return max(1, math.ceil(duration * rate - _TOLERANCE))


def _size(modality: str, name: str, index: Tensor, size: int | None) -> int:
    if size is None:
        if not index.numel():
            raise ValueError(f"{modality}: events without a spike need their {name}")
        size = int(index.max()) + 1
    if size < 1:
        raise ValueError(f"{modality}: {name} of events must be >= 1, got {size}")
    if index.numel() and (int(index.min()) < 0 or int(index.max()) >= size):
        raise ValueError(
            f"{modality}: events name {int(index.min())} to {int(index.max())}, but {name} = {size}"
        )
    return size


def whole_counts(modality: str, counts: Float[Tensor, "batch time unit"]) -> None:
    """A fraction of a spike is no event.

    Raises:
        ValueError: a count that is no whole number.
    """
    broken = int((counts != counts.round()).sum())
    if broken:
        raise ValueError(
            f"{modality}: {broken} counts are no whole numbers; event tokens need single spikes"
        )


def spikes_of_counts(
    counts: Float[Tensor, "batch time unit"], at: Float64[Tensor, "batch time"]
) -> Spikes:
    """One event per counted spike, at the time at which its bin is known."""
    rows, bins, units = counts.nonzero(as_tuple=True)
    repeats = counts[rows, bins, units].long()
    rows, bins, units = (index.repeat_interleave(repeats) for index in (rows, bins, units))
    return Spikes(rows, bins, units, at[rows, bins])
