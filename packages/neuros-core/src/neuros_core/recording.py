"""One recording session in memory: signals, events and intervals on one clock.

Times are seconds from the start of the recording. A missing modality is an absent key and a
missing sample is `valid=False`; zeros are data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray

from neuros_core.errors import check_finite, check_ndim, check_sorted, check_unique
from neuros_core.modality import Modality, Species

__all__ = ["Batch", "Events", "Intervals", "Recording", "Signal"]

ArrayT = TypeVar("ArrayT")


@dataclass(frozen=True, slots=True, eq=False)
class Signal:
    """Samples of several channels, on a regular clock (`rate`) or an irregular one (`times`).

    Args:
        data: Samples, shape (time, channel), in `unit`. Any real dtype, kept as it is.
        rate: Sampling rate in Hz; exactly one of `rate` and `times` is given.
        times: Time of each sample in seconds, shape (time,), increasing.
        unit: SI unit of the samples, or `"a.u."`.
        channels: One name per channel; by default `"0"`, `"1"`, ...
        valid: True where a sample was measured, shape (time, channel); None means everywhere.
        start: Time in seconds of the first sample of a regular signal.

    Raises:
        ValueError: When shapes disagree, names repeat, or the clock is missing or given twice.

    Examples:
        >>> s = Signal(np.zeros((1000, 2)), rate=250.0, unit="V")
        >>> s.duration, s.channels
        (4.0, ('0', '1'))
    """

    data: NDArray[Any]
    rate: float | None = None
    times: NDArray[np.float64] | None = None
    unit: str = "a.u."
    channels: Sequence[str] = ()
    valid: NDArray[np.bool_] | None = None
    start: float = 0.0

    def __post_init__(self) -> None:
        check_ndim("data", self.data, 2, "(time, channel)")
        n_samples, n_channels = self.data.shape
        names = tuple(self.channels) or tuple(str(i) for i in range(n_channels))
        object.__setattr__(self, "channels", names)
        if len(names) != n_channels:
            raise ValueError(
                f"channels needs {n_channels} names, one per channel, got {len(names)}"
            )
        check_unique("channels", names)
        if (self.rate is None) == (self.times is None):
            raise ValueError("a signal needs exactly one of rate and times")
        if self.rate is not None and not (np.isfinite(self.rate) and self.rate > 0):
            raise ValueError(f"rate needs a positive number of Hz, got {self.rate}")
        if self.times is not None:
            _check_times(self.times, n_samples)
        if self.valid is not None and self.valid.shape != self.data.shape:
            raise ValueError(
                f"valid needs the shape of data {self.data.shape}, got {self.valid.shape}"
            )

    @property
    def duration(self) -> float:
        """Seconds covered: samples / rate, or last time minus first for an irregular clock."""
        if self.times is not None:
            return float(self.times[-1] - self.times[0]) if len(self.times) else 0.0
        return len(self.data) / float(self.rate or 1.0)


def _check_times(times: NDArray[np.float64], n_samples: int) -> None:
    if times.shape != (n_samples,):
        raise ValueError(f"times needs shape ({n_samples},), got {times.shape}")
    check_finite("times", times)
    check_sorted("times", times)


@dataclass(frozen=True, slots=True, eq=False)
class Events:
    """A point process: spikes (or other events) of several units; binning is left to the reader.

    Args:
        times: Event times in seconds, shape (event,), sorted.
        unit_ids: Unit of each event, shape (event,), integers in [0, n_units).
        n_units: Number of units, silent ones included.
        units: One name per unit; by default `"0"`, `"1"`, ...
        duration: Seconds observed; by default the time of the last event.
        table: Named columns with one value per unit (region, quality, ...).

    Raises:
        ValueError: When times are unsorted, an id is out of range or lengths disagree.

    Examples:
        >>> e = Events(np.array([0.1, 0.2]), np.array([0, 2]), n_units=3, duration=1.0)
        >>> e.units, e.duration
        (('0', '1', '2'), 1.0)
    """

    times: NDArray[np.float64]
    unit_ids: NDArray[np.integer[Any]]
    n_units: int
    units: Sequence[str] = ()
    duration: float | None = None
    table: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_times(self.times, len(self.times))
        if self.unit_ids.shape != self.times.shape:
            raise ValueError(
                f"unit_ids needs one id per event, shape {self.times.shape}, "
                f"got {self.unit_ids.shape}"
            )
        if (
            self.unit_ids.size
            and not 0 <= int(self.unit_ids.min()) <= int(self.unit_ids.max()) < self.n_units
        ):
            raise ValueError(
                f"unit_ids needs ids in [0, {self.n_units}), got "
                f"[{self.unit_ids.min()}, {self.unit_ids.max()}]"
            )
        names = tuple(self.units) or tuple(str(i) for i in range(self.n_units))
        object.__setattr__(self, "units", names)
        if len(names) != self.n_units:
            raise ValueError(f"units needs {self.n_units} names, got {len(names)}")
        check_unique("units", names)
        last = float(self.times[-1]) if self.times.size else 0.0
        if self.duration is None:
            object.__setattr__(self, "duration", last)
        elif self.duration < last:
            raise ValueError(
                f"duration needs at least the last event, {last} s; got {self.duration}"
            )
        for name, column in self.table.items():
            if len(column) != self.n_units:
                raise ValueError(
                    f"table column {name!r} needs {self.n_units} values, got {len(column)}"
                )


@dataclass(frozen=True, slots=True, eq=False)
class Intervals:
    """Named stretches of time: trials, stimuli, epochs.

    Args:
        start: Start of each interval in seconds, shape (interval,).
        end: End of each interval in seconds, shape (interval,), not before its start.
        columns: Named columns with one value per interval.

    Raises:
        ValueError: When lengths disagree or an interval ends before it starts.

    Examples:
        >>> side = {"side": np.array(["L", "R"])}
        >>> len(Intervals(np.array([0.0, 1.0]), np.array([0.5, 2.0]), side))
        2
    """

    start: NDArray[np.float64]
    end: NDArray[np.float64]
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_ndim("start", self.start, 1, "(interval,)")
        check_finite("start", self.start)
        check_finite("end", self.end)
        if self.end.shape != self.start.shape:
            raise ValueError(f"end needs shape {self.start.shape}, got {self.end.shape}")
        if (self.end < self.start).any():
            i = int((self.end < self.start).argmax())
            raise ValueError(
                f"end needs values not before start, got interval {i} from {self.start[i]} "
                f"to {self.end[i]}"
            )
        for name, column in self.columns.items():
            if len(column) != len(self.start):
                raise ValueError(
                    f"column {name!r} needs {len(self.start)} values, got {len(column)}"
                )

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """One session of one subject: any subset of modalities and behaviours on one clock.

    Args:
        id: Name of the recording, unique in its store.
        subject: Who was recorded; splits by subject never divide it.
        session: Which session of the subject.
        species: Species of the subject.
        modalities: Neural data by modality; a missing modality is an absent key.
        behaviour: Named behaviours, stimuli and labels.
        provenance: Where it comes from: source, licence, checksums.

    Raises:
        ValueError: When `id` is empty or there is neither neural data nor behaviour.

    Examples:
        >>> lfp = Signal(np.zeros((10, 1)), rate=10.0)
        >>> r = Recording("r1", "s1", "1", Species.RAT, {Modality.LFP: lfp})
        >>> r.duration
        1.0
    """

    id: str
    subject: str
    session: str
    species: Species
    modalities: Mapping[Modality, Signal | Events | Intervals]
    behaviour: Mapping[str, Signal | Intervals] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("a recording needs a non-empty id")
        if not self.modalities and not self.behaviour:
            raise ValueError(f"recording {self.id!r} needs at least one modality or behaviour")
        known = {Modality(key): value for key, value in self.modalities.items()}
        object.__setattr__(self, "modalities", known)

    @property
    def duration(self) -> float:
        """Seconds from the recording's start to the end of its last modality or behaviour."""
        return max(_end(part) for part in (*self.modalities.values(), *self.behaviour.values()))


def _end(part: Signal | Events | Intervals) -> float:
    if isinstance(part, Signal):
        if part.times is not None:
            return float(part.times[-1]) if len(part.times) else 0.0
        return part.start + part.duration
    if isinstance(part, Events):
        return float(part.duration or 0.0)
    return float(part.end.max()) if len(part) else 0.0


class Batch(TypedDict, Generic[ArrayT], total=False):
    """What one batch of windows holds, as NumPy arrays or tensors: a plain dict with these keys.

    Every key is optional: an absent modality is an absent key, and a modality that only some rows
    have is all False in `masks` for the others.

    Attributes:
        spike: Counts, shape (batch, time, unit). The other modalities are signals, shape
            (batch, time, channel), each at its own rate over the same seconds.
        masks: Modality -> bool, shape (batch, time, channel); True where a sample is valid.
        units: Modality -> channel names, the same for every row.
        rates: Modality -> sampling rate in Hz.
        times: Modality -> sample times in seconds from the window's start, shape (batch, time).
        behavior: Values to decode, shape (batch, query, dim).
        behavior_times: Their times in seconds from the window's start, shape (batch, query).
        behavior_mask: True where a value is valid, shape (batch, query).
        future: Modality -> samples after the window, shape (batch, horizon, channel).
        targets: Modality -> values to reconstruct, shape (batch, time, channel).
        masked: Modality -> bool, True where a value is hidden from the model and is a target.
        species: Domain label of each row, shape (batch,), -100 where unknown.
        source: Source data set of each row, shape (batch,).
        recording_index: Recording of each row, shape (batch,).
        start_time: Start of each window in seconds from its recording's start, shape (batch,).

    Examples:
        >>> batch: Batch[np.ndarray] = {"lfp": np.zeros((2, 100, 3)), "rates": {"lfp": 1000.0}}
        >>> sorted(batch)
        ['lfp', 'rates']
    """

    spike: ArrayT
    lfp: ArrayT
    calcium: ArrayT
    eeg: ArrayT
    fmri: ArrayT
    ecog: ArrayT
    emg: ArrayT
    masks: Mapping[str, ArrayT]
    units: Mapping[str, Sequence[str]]
    rates: Mapping[str, float]
    times: Mapping[str, ArrayT]
    behavior: ArrayT
    behavior_times: ArrayT
    behavior_mask: ArrayT
    future: Mapping[str, ArrayT]
    targets: Mapping[str, ArrayT]
    masked: Mapping[str, ArrayT]
    species: ArrayT
    source: ArrayT
    recording_index: ArrayT
    start_time: ArrayT
