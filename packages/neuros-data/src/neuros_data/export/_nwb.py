"""Recordings as NWB 2 files."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from neuros_core import Events, Intervals, Recording, Signal
from neuros_data._extras import need
from neuros_data.store import Store

_SPECIES = {
    "human": "Homo sapiens",
    "macaque": "Macaca mulatta",
    "mouse": "Mus musculus",
    "rat": "Rattus norvegicus",
}
# The format demands a date; a store does not keep one.
_UNKNOWN_DATE = datetime(1970, 1, 1, tzinfo=UTC)


def export_nwb(store: Store, folder: Path, recordings: Sequence[str]) -> list[Path]:
    """Write one file per recording: time series, units, intervals."""
    pynwb = need("pynwb", "nwb", "exporting to NWB")
    written = []
    for name in recordings:
        path = folder / f"{name}.nwb"
        recording = store.recordings[name]
        codings = {
            str(modality): part
            for modality, part in store.files.meta(name)["modalities"].items()
            if "scale" in part
        }
        file = _file(pynwb, recording, store.manifest)
        for modality, part in recording.modalities.items():
            if isinstance(part, Events):
                _add_units(file, part)
            elif isinstance(part, Intervals):
                file.add_time_intervals(_intervals(pynwb, str(modality), part))
            else:
                stored = codings.get(str(modality))
                raw = None if stored is None else store.files.array(name, stored["arrays"]["data"])
                file.add_acquisition(_series(pynwb, str(modality), part, stored, raw))
        _add_behaviour(pynwb, file, recording.behaviour)
        with pynwb.NWBHDF5IO(str(path), "w") as output:
            output.write(file)
        written.append(path)
    return written


def _file(pynwb: Any, recording: Recording, manifest: Mapping[str, Any]) -> Any:
    file = pynwb.NWBFile(
        session_description=f"{manifest.get('source', '')} {recording.session}".strip(),
        identifier=recording.id,
        session_start_time=_UNKNOWN_DATE,
        session_id=recording.session,
        notes="The date is a placeholder: the store keeps none.",
    )
    file.subject = pynwb.file.Subject(
        subject_id=recording.subject, species=_SPECIES.get(str(recording.species))
    )
    return file


def _clock(signal: Signal) -> dict[str, Any]:
    if signal.times is not None:
        return {"timestamps": np.asarray(signal.times)}
    return {"rate": float(signal.rate or 0.0), "starting_time": float(signal.start)}


def _series(
    pynwb: Any, name: str, signal: Signal, coding: Mapping[str, Any] | None, raw: Any
) -> Any:
    """A time series; integers of one scale stay integers, with the conversion beside them."""
    about = {
        "name": name,
        "unit": signal.unit,
        "description": "channels: " + ", ".join(signal.channels),
        **_clock(signal),
    }
    if coding is not None and len(set(coding["scale"])) == len(set(coding["offset"])) == 1:
        conversion, offset = float(coding["scale"][0]), float(coding["offset"][0])
        return pynwb.TimeSeries(data=np.asarray(raw), conversion=conversion, offset=offset, **about)
    values = np.asarray(signal.data)
    if signal.valid is not None:
        values = np.where(signal.valid, values, np.nan)
    return pynwb.TimeSeries(data=values, **about)


def _add_units(file: Any, events: Events) -> None:
    for name, column in events.table.items():
        file.add_unit_column(name, f"column of the source: {name}", data=[])
        del column
    file.add_unit_column("unit_name", "name of the unit in its source", data=[])
    window = [[0.0, float(events.duration or 0.0)]]
    for k, unit in enumerate(events.units):
        cells = {name: _plain(column[k]) for name, column in events.table.items()}
        times = np.asarray(events.times)[np.asarray(events.unit_ids) == k]
        file.add_unit(id=k, spike_times=times, obs_intervals=window, unit_name=unit, **cells)


def _intervals(pynwb: Any, name: str, intervals: Intervals) -> Any:
    table = pynwb.epoch.TimeIntervals(name=name, description=f"intervals: {name}")
    for column in intervals.columns:
        table.add_column(column, f"column of the source: {column}")
    for k in range(len(intervals)):
        cells = {column: _plain(values[k]) for column, values in intervals.columns.items()}
        table.add_row(
            start_time=float(intervals.start[k]), stop_time=float(intervals.end[k]), **cells
        )
    return table


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _add_behaviour(pynwb: Any, file: Any, behaviour: Mapping[str, Signal | Intervals]) -> None:
    signals = {name: part for name, part in behaviour.items() if isinstance(part, Signal)}
    if signals:
        module = file.create_processing_module("behavior", "behaviour and stimuli")
        for name, signal in signals.items():
            module.add(_series(pynwb, name, signal, None, None))
    for name, part in behaviour.items():
        if isinstance(part, Intervals):
            file.add_time_intervals(_intervals(pynwb, name, part))
