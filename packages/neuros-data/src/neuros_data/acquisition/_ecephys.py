"""The parts of an Allen Neuropixels file (NWB 2): units, stimuli, running, pupil."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuros_core import Events, Intervals, Signal
from neuros_data.acquisition._clock import put_on_clock
from neuros_data.acquisition._hdf5 import is_column, read_column
from neuros_data.acquisition._stimuli import join_stimuli
from neuros_data.acquisition._units import merge_spikes

ELECTRODES = "general/extracellular_ephys/electrodes"
_SERIES = {
    "running_speed": ("processing/running/running_speed", "m/s", 0.01, ("speed",)),
    "pupil_area": ("processing/raw_gaze_mapping/pupil_area", "m^2", 1.0, ("area",)),
}
_COLUMNS = (
    "presence_ratio",
    "amplitude_cutoff",
    "isi_violations",
    "firing_rate",
    "snr",
    "amplitude",
    "quality",
)
_MICRO = 1e-6
_TIMES = ("start_time", "stop_time")
_UNREAD = frozenset({"tags", "timeseries", *_TIMES})


def read_electrodes(file: Any) -> dict[str, NDArray[Any]]:
    """Id, atlas region, probe and depth in metres of every channel."""
    group = file[ELECTRODES]
    found = {"id": read_column(group["id"]), "region": read_column(group["location"])}
    found["probe"] = read_column(group["group_name"])
    depth = group.get("probe_vertical_position")
    found["depth"] = (
        np.full(len(found["id"]), np.nan) if depth is None else read_column(depth) * _MICRO
    )
    return found


def read_units(file: Any, keep: Any, *, duration: float) -> tuple[Events, tuple[str, ...]]:
    """Units that pass quality control, spikes as events.

    Args:
        file: The open file.
        keep: From the table of all units to a mask, shape (unit,).
        duration: Seconds observed.
    """
    group = file["units"]
    number = read_column(group["id"]).astype(np.int64)
    table = {name: read_column(group[name]) for name in _COLUMNS if name in group}
    if "amplitude" in table:
        table["amplitude"] = table["amplitude"] * _MICRO
    table |= _channels_of(group, read_electrodes(file))
    good = np.flatnonzero(keep(table))
    ends = group["spike_times_index"][()].astype(np.int64)
    starts = np.concatenate([[0], ends[:-1]])
    spikes = group["spike_times"]
    times = [spikes[starts[u] : ends[u]] for u in good.tolist()]
    ids = [np.full(len(t), i) for i, t in enumerate(times)]
    events = merge_spikes(
        times,
        ids,
        names=number[good].astype(str).tolist(),
        table={name: column[good] for name, column in table.items()},
        duration=duration,
    )
    return events, (f"{len(good)} of {len(number)} units pass quality control",)


def _channels_of(group: Any, electrodes: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Region, probe and depth of each unit's largest channel."""
    wanted = read_column(group["peak_channel_id"]).astype(np.int64)
    order = np.argsort(electrodes["id"])
    place = order[np.searchsorted(electrodes["id"], wanted, sorter=order)]
    return {name: electrodes[name][place] for name in ("region", "probe", "depth")}


def read_behaviour(file: Any) -> tuple[dict[str, Signal | Intervals], tuple[str, ...]]:
    """Stimuli, running speed, pupil and invalid times, those that the file has."""
    behaviour: dict[str, Signal | Intervals] = {}
    notes: list[str] = []
    for name, (where, unit, factor, channels) in _SERIES.items():
        if where not in file:
            notes.append(f"{name} absent")
            continue
        group = file[where]
        data = np.asarray(group["data"][()], dtype=np.float64) * factor
        signal, said = put_on_clock(
            group["timestamps"][()], data, name=name, unit=unit, channels=channels
        )
        notes += said
        if signal is not None:
            behaviour[name] = signal
    tables = file.get("intervals", {})
    shown = [_table(tables[name]) for name in sorted(tables) if name.endswith("_presentations")]
    if shown:
        behaviour["stimuli"] = join_stimuli(shown)
    else:
        notes.append("stimuli absent")
    if "invalid_times" in tables:
        behaviour["invalid_times"] = join_stimuli([_table(tables["invalid_times"])])
    return behaviour, tuple(notes)


def _table(group: Any) -> dict[str, NDArray[Any]]:
    """A table of intervals without its ragged columns."""
    columns = {
        name: read_column(group[name])
        for name in group
        if name not in _UNREAD
        and name != "id"
        and not name.endswith("_index")
        and f"{name}_index" not in group
        and is_column(group[name])
    }
    return {
        "start": group["start_time"][()].astype(np.float64),
        "end": group["stop_time"][()].astype(np.float64),
        **columns,
    }
