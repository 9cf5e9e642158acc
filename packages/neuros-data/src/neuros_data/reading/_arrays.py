"""Named arrays (NPZ, NPY, MAT, HDF5) into a draft: samples, spikes, behaviours, what is left."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuros_core import Events, Intervals, Signal
from neuros_data.reading._assemble import mark_valid
from neuros_data.reading._axes import lay_out, settle_axes
from neuros_data.reading._clock import Clock, settle_clock
from neuros_data.reading._draft import Block, Draft, Options, listed, unique_names
from neuros_data.reading._roles import (
    Arrays,
    choose_samples,
    clock_names,
    find_clock,
    find_names,
    find_rate,
    find_spikes,
    is_number,
    leaf,
    samples_by_name,
)
from neuros_data.reading._runs import runs_of
from neuros_data.reading._units import Unit, parse_unit, seconds_of_name, unit_of_name

_MOST_KEPT = 1_000_000  # values; a larger array without a clock is named, not kept


class ArrayDraft:
    """Sorts the arrays of one file."""

    def __init__(self, arrays: Arrays, path: Path, options: Options) -> None:
        self.arrays = {n: np.squeeze(v) if v.ndim == 2 else v for n, v in arrays.items()}
        self.path = path
        self.options = options
        self.draft = Draft()
        self.used: set[str] = set()
        self.other_forms: set[str] = set()
        self.rate = options.rate
        self._check_names()

    def build(self) -> Draft:
        """Read spikes, samples, behaviours, and what has no clock."""
        self._find_rate()
        spikes = self._wants_spikes()
        if spikes is not None:
            self._spikes(*spikes)
        if spikes is None or self.options.data or self._names_samples():
            self._samples()
        else:
            self._lone_behaviours(self.rate)
        self._rest()
        return self.draft

    def _check_names(self) -> None:
        asked = [self.options.data, self.options.times, *(self.options.behaviour or ())]
        for name in asked:
            if name is not None and name not in self.arrays:
                raise ValueError(
                    f"{self.path} has no array {name!r}; it has {listed(self.arrays, 40)}"
                )

    def _find_rate(self) -> None:
        found = find_rate(self.arrays)
        if found is None:
            return
        self.used.add(found[1])
        if self.rate is None and self.options.times is None:
            self.rate = found[0]

    def _wants_spikes(self) -> tuple[str, str | None] | None:
        wanted = self.options.modality in (None, "spike")
        found = find_spikes(self.arrays) if wanted else None
        return found if found and self.options.data in (None, found[0]) else None

    def _names_samples(self) -> bool:
        return self.options.modality is None and bool(samples_by_name(self.arrays, None))

    def _spikes(self, times_name: str, units_name: str | None) -> None:
        times = self.arrays[times_name].astype(np.float64).ravel() * seconds_of_name(times_name)
        owners = (
            np.zeros(len(times), np.int64)
            if units_name is None
            else self.arrays[units_name].ravel()
        )
        self.used |= {times_name, *([units_name] if units_name else [])}
        events, notes = point_process(times, owners, self._n_units())
        self.draft.notes += notes
        table = {
            leaf(n): v
            for n, v in self.arrays.items()
            if n not in self.used
            and v.ndim == 1
            and len(v) == events.n_units > 1
            and leaf(n).startswith(("unit", "cluster", "neuron"))
        }
        self.used |= {n for n in self.arrays if leaf(n) in table}
        self.draft.events = Events(
            events.times, events.unit_ids, events.n_units, events.units, table=table
        )
        self.options = _without_data(self.options, times_name)

    def _n_units(self) -> int | None:
        for name, value in self.arrays.items():
            if leaf(name) == "n_units" and value.size == 1:
                self.used.add(name)
                return int(value.ravel()[0])
        return None

    def _samples(self) -> None:
        if self.options.data is None:
            kind, name = choose_samples(self.arrays, self.options.modality, str(self.path))
        else:
            name = self.options.data
            kind = str(self.options.modality or self._kind_of(name))
        values = self.arrays[name]
        clock_name = self.options.times or find_clock(self.arrays, name, values.shape)
        n_stamps = None if clock_name is None else self.arrays[clock_name].size
        if n_stamps is not None and n_stamps not in values.shape:
            raise ValueError(
                f"{self.path}: {name!r} has shape {values.shape} but {clock_name!r} has {n_stamps} "
                "time stamps"
            )
        axes = settle_axes(name, values.shape, self.options.axes, n_stamps, str(self.path))
        laid = lay_out(values, axes)
        n_time = values.shape[axes.split().index("time")]
        self.used |= {name, *([clock_name] if clock_name else [])}
        clock = self._clock(clock_name, name, n_time, trials=laid.n_trials is not None)
        self._behaviours(clock, clock_name, values.shape, n_time)
        if laid.n_trials is not None:
            self._trials(laid.n_trials, n_time, float(clock.rate or 1.0))
        self.draft.blocks.append(self._block(name, kind, laid.data, clock))

    def _kind_of(self, name: str) -> str:
        found = [kind for kind, other in samples_by_name(self.arrays, None) if other == name]
        if not found:
            raise ValueError(f"{self.path} does not say what {name!r} records; pass modality=")
        return found[0]

    def _clock(self, clock_name: str | None, name: str, n_time: int, *, trials: bool) -> Clock:
        if self.rate is not None:
            return Clock(self.rate, None, 0.0, None, ())
        if clock_name is None:
            raise ValueError(
                f"{self.path} has no time stamps for {name!r} of {n_time} samples and no rate; "
                f"pass rate= in Hz or times= one of: {listed(self.arrays)}"
            )
        stamps = self.arrays[clock_name].ravel()
        if len(stamps) != n_time:
            raise ValueError(
                f"{self.path}: {name!r} has {n_time} samples but {clock_name!r} has "
                f"{len(stamps)} time stamps"
            )
        clock = settle_clock(
            stamps * seconds_of_name(clock_name), leaf(name), repair=self.options.repair
        )
        if trials and clock.rate is None:
            raise ValueError(
                f"{self.path}: trials need a regular clock, {clock_name!r} is not; pass rate= in Hz"
            )
        self.draft.notes += clock.notes
        return clock

    def _block(self, name: str, kind: str, data: NDArray[Any], clock: Clock) -> Block:
        data = data if clock.keep is None else data[clock.keep]
        unit = self._unit(name)
        factor = unit.factor * (1.0 if self.options.scale is None else self.options.scale)
        counts = data.dtype.kind in "biu"
        n = data.shape[1]
        if factor != 1.0:
            data = data.astype(np.float64) * factor
        names = find_names({k: v for k, v in self.arrays.items() if k not in self.used}, n)
        if names is not None:
            self.used |= {k for k, v in self.arrays.items() if v.dtype.kind == "U" and v.size == n}
        scaled = counts and factor != 1.0
        return Block(
            data,
            unique_names(names or [str(i) for i in range(n)]),
            [kind] * n,
            [unit.name] * n,
            rate=clock.rate,
            times=clock.times,
            start=clock.start,
            scale=np.full(n, factor) if scaled else None,
            offset=np.zeros(n) if scaled else None,
        )

    def _unit(self, name: str) -> Unit:
        if self.options.unit is not None:
            return parse_unit(self.options.unit)
        for other, value in self.arrays.items():
            if leaf(other) == "unit" and value.size == 1 and value.dtype.kind == "U":
                return parse_unit(str(value.ravel()[0]))
        return unit_of_name(name) or Unit("a.u.", 1.0)

    def _trials(self, n_trials: int, n_time: int, rate: float) -> None:
        edges = np.arange(n_trials + 1) * n_time / rate
        columns = {
            leaf(n): v
            for n, v in self.arrays.items()
            if n not in self.used and v.ndim == 1 and len(v) == n_trials
        }
        self.used |= {n for n in self.arrays if leaf(n) in columns}
        self.draft.behaviour["trial"] = Intervals(edges[:-1], edges[1:], columns)
        self.draft.notes.append(
            f"{n_trials} trials of {n_time / rate:g} s stand one after another; the time between "
            "them is not in the file"
        )

    def _behaviours(
        self, clock: Clock, clock_name: str | None, shape: tuple[int, ...], n_time: int
    ) -> None:
        """What has a value for each sample of the neural data."""
        for name, value in self._open():
            chosen = self.options.behaviour is not None and name in self.options.behaviour
            # Of the same shape: another form of the same samples, such as z-scores of them.
            alike = value.shape == shape and len(shape) > 1 and not chosen
            own = find_clock(self.arrays, name, (value.shape[0],))
            if alike:
                self.other_forms.add(name)
            elif value.shape[0] == n_time and own in (None, clock_name):
                self._add_behaviour(name, value, clock)

    def _lone_behaviours(self, rate: float | None) -> None:
        """Beside spikes: what the file's one rate puts on a clock."""
        for name, value in self._open():
            own = find_clock(self.arrays, name, (value.shape[0],))
            if rate is not None and own is None and is_number(value):
                self._add_behaviour(name, value, Clock(rate, None, 0.0, None, ()))

    def _open(self) -> list[tuple[str, NDArray[Any]]]:
        """What may still be a behaviour."""
        clocks = clock_names(self.arrays)
        asked = self.options.behaviour
        return [
            (n, v)
            for n, v in self.arrays.items()
            if n not in self.used | clocks
            and v.ndim in (1, 2)
            and len(v) > 1
            and (asked is None or n in asked)
        ]

    def _add_behaviour(self, name: str, value: NDArray[Any], clock: Clock) -> None:
        value = value if clock.keep is None else value[clock.keep]
        key = leaf(name) if leaf(name) not in self.draft.behaviour else name
        self.used.add(name)
        if not is_number(value):
            self.draft.behaviour[key] = runs_of(value, clock)
            return
        table = value[:, None] if value.ndim == 1 else value
        table = table.astype(np.int8) if table.dtype.kind == "b" else table
        self.draft.behaviour[key] = Signal(
            table,
            rate=clock.rate,
            times=clock.times,
            start=clock.start,
            channels=(key,) if table.shape[1] == 1 else (),
            valid=mark_valid(table, flat=False),
        )

    def _rest(self) -> None:
        """Behaviours with time stamps of their own; then what has no clock, into provenance."""
        for name, value in self._open():
            own = find_clock(self.arrays, name, (value.shape[0],))
            if own is not None and name not in self.other_forms:
                clock = settle_clock(
                    self.arrays[own] * seconds_of_name(own), leaf(name), repair=self.options.repair
                )
                self.draft.notes += clock.notes
                self._add_behaviour(name, value, clock)
                self.used.add(own)
        missing = [n for n in self.options.behaviour or () if n not in self.used]
        if missing:
            raise ValueError(
                f"{self.path}: {listed(missing)} cannot be a behaviour: there is no clock of that "
                "length"
            )
        self._keep_rest()

    def _keep_rest(self) -> None:
        left = []
        for name, value in self.arrays.items():
            if name in self.used:
                continue
            if name in self.other_forms or value.size > _MOST_KEPT:
                left.append(name)
            else:
                self.draft.provenance[name] = _plain(value)
        if left:
            self.draft.provenance["left_out"] = left


def _plain(value: NDArray[Any]) -> Any:
    if value.size == 1:
        found = value.ravel()[0].item()
        # JSON knows no NaN.
        return None if isinstance(found, float) and not np.isfinite(found) else found
    return value


def _without_data(options: Options, name: str) -> Options:
    return replace(options, data=None) if options.data == name else options


def point_process(
    times: NDArray[np.float64], owners: NDArray[Any], n_units: int | None = None
) -> tuple[Events, list[str]]:
    """Sorted events; units are numbered from 0 in the order of what the file calls them.

    Args:
        times: Seconds, shape (event,), in any order.
        owners: What the file calls the unit of each event, shape (event,).
        n_units: How many units there are when the owners are indices; None numbers those found.

    Returns:
        The events and what was repaired.
    """
    notes = []
    timed = np.isfinite(times)
    if not timed.all():
        notes.append(f"spikes: {int((~timed).sum())} without a finite time are left out")
        times, owners = times[timed], owners[timed]
    if (np.diff(times) < 0).any():
        notes.append("spikes: times were not in order; they are sorted")
        order = np.argsort(times, kind="stable")
        times, owners = times[order], owners[order]
    if n_units is None:
        names, ids = np.unique(owners, return_inverse=True)
        return Events(times, ids.astype(np.int32), len(names), [str(n) for n in names]), notes
    return Events(times, owners.astype(np.int32), n_units), notes
