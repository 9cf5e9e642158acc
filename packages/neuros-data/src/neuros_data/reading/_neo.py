"""Files of electrophysiology systems (Blackrock, Intan, Neuralynx, SpikeGLX and more), through Neo.

Garcia et al. 2014, doi:10.3389/fninf.2014.00010.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuros_core import Events, Intervals
from neuros_data._extras import need
from neuros_data.reading._clock import settle_clock
from neuros_data.reading._draft import Block, Draft, Options, listed
from neuros_data.reading._kinds import kind_of_name
from neuros_data.reading._units import parse_unit

# Neo guesses by suffix too, but .nev and .smr belong to two systems each.
_FILES = {
    ".abf": "Axon",
    ".axgd": "Axograph",
    ".axgx": "Axograph",
    ".brw": "Biocam",
    ".edr": "WinEdr",
    ".nev": "Blackrock",
    ".nex": "NeuroExplorer",
    ".nix": "NIX",
    ".ns1": "Blackrock",
    ".ns2": "Blackrock",
    ".ns3": "Blackrock",
    ".ns4": "Blackrock",
    ".ns5": "Blackrock",
    ".ns6": "Blackrock",
    ".pl2": "Plexon2",
    ".plx": "Plexon",
    ".rec": "SpikeGadgets",
    ".rhd": "Intan",
    ".rhs": "Intan",
    ".smr": "Spike2",
    ".smrx": "Ced",
    ".trc": "Micromed",
    ".wcp": "WinWcp",
    ".xml": "NeuroScope",
}
# What a folder of each system holds, somewhere in it.
_FOLDERS = (
    ("structure.oebin", "OpenEphysBinary"),
    ("*.continuous", "OpenEphys"),
    ("*.ap.meta", "SpikeGLX"),
    ("*.lf.meta", "SpikeGLX"),
    ("*.nidq.meta", "SpikeGLX"),
    ("*.ncs", "Neuralynx"),
    ("*.tsq", "Tdt"),
    ("spike_clusters.npy", "Phy"),
)
SUFFIXES = tuple(_FILES)
# At such rates action potentials were recorded, and the file is many times that of the LFP.
_WIDEBAND = 5_000.0


def system_of(folder: Path) -> str:
    """The system that wrote a folder, `""` where it is none that is known."""
    found = (system for pattern, system in _FOLDERS if next(folder.rglob(pattern), None))
    return next(found, "")


def read_neo(path: Path, options: Options) -> Draft:
    """Read a file, or a folder, of a recording system."""
    system = system_of(path) if path.is_dir() else _FILES[path.suffix.lower()]
    rawio = need("neo.rawio", "ephys", f"reading {system}")
    draft = Draft(provenance={"format": system})
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            made = getattr(rawio, f"{system}RawIO")
            where = "dirname" if made.rawmode == "one-dir" else "filename"
            reader = made(**{where: str(path)})
            reader.parse_header()
        except Exception as error:
            raise ValueError(f"{path} cannot be read as {system}: {error}") from error
        _fill(draft, reader, options, path)
    told = (str(w.message) for w in heard if issubclass(w.category, (UserWarning, RuntimeWarning)))
    draft.notes += list(dict.fromkeys(told))
    return draft


def _fill(draft: Draft, reader: Any, options: Options, path: Path) -> None:
    blocks, segments = reader.block_count(), range(reader.segment_count(0))
    if blocks > 1:
        draft.notes.append(f"the file holds {blocks} blocks; the first is read")
    streams = [str(name) for name in reader.header["signal_streams"]["name"]]
    if options.data is not None and options.data not in streams:
        raise ValueError(
            f"{path} has no stream {options.data!r}; it has {listed(streams) or 'none'}"
        )
    left = []
    for i, name in enumerate(streams):
        if _chosen(reader, i, options):
            draft.blocks.append(_stream(reader, i, segments, draft.notes))
        else:
            left.append(f"{name!r} of {_channels(reader, i)['sampling_rate'][0]:g} Hz")
    if left and options.data is None and options.modality != "spike":
        draft.notes.append(f"left out, data= reads one of them: {', '.join(left)}")
    if options.modality in (None, "spike") and options.data is None:
        draft.events = _spikes(reader, segments)
    draft.behaviour |= dict(_events(reader, segments))


def _channels(reader: Any, stream: int) -> Any:
    """The rows of the stream's channels in the header."""
    every = reader.header["signal_channels"]
    return every[every["stream_id"] == reader.header["signal_streams"][stream]["id"]]


def _chosen(reader: Any, stream: int, options: Options) -> bool:
    if options.data is not None:
        return bool(reader.header["signal_streams"][stream]["name"] == options.data)
    if options.modality == "spike":
        return False
    return bool(_channels(reader, stream)["sampling_rate"][0] < _WIDEBAND)


def _stream(reader: Any, stream: int, segments: range, notes: list[str]) -> Block:
    """The channels of one stream; integers stay beside their samples in SI units."""
    channels = _channels(reader, stream)
    pieces = [
        np.asarray(reader.get_analogsignal_chunk(0, s, stream_index=stream)) for s in segments
    ]
    raw = np.concatenate(pieces)
    units = [parse_unit(str(unit)) for unit in channels["units"]]
    factor = np.array([unit.factor for unit in units])
    gain, offset = (channels[name].astype(np.float64) for name in ("gain", "offset"))
    is_counts = raw.dtype.kind in "iu"
    rate = float(channels["sampling_rate"][0])
    starts = [float(reader.get_signal_t_start(0, s, stream)) for s in segments]
    name = str(reader.header["signal_streams"][stream]["name"])
    times = np.concatenate(
        [t + np.arange(len(p)) / rate for t, p in zip(starts, pieces, strict=True)]
    )
    if (np.diff(times) < 0).any():
        raise ValueError(
            f"the segments of stream {name!r} overlap in time, as sweeps that all start at 0 do; "
            "put them on one clock with Neo and pass arrays"
        )
    clock = settle_clock(times, name) if len(pieces) > 1 else None
    notes += () if clock is None else clock.notes
    names = [str(n) for n in channels["name"]]
    return Block(
        (raw * gain + offset) * factor,
        names,
        ["stim" if "SYNC" in name else kind_of_name(n) or kind_of_name(name) for n in names],
        [unit.name for unit in units],
        rate=rate if clock is None else clock.rate,
        times=None if clock is None else clock.times,
        start=starts[0] if clock is None else clock.start,
        scale=gain * factor if is_counts else None,
        offset=offset * factor if is_counts else None,
        counts=raw if is_counts else None,
    )


def _spikes(reader: Any, segments: range) -> Events | None:
    units = reader.header["spike_channels"]
    if not len(units):
        return None
    trains = [
        np.concatenate(
            [
                reader.rescale_spike_timestamp(
                    reader.get_spike_timestamps(0, s, u), dtype="float64"
                )
                for s in segments
            ]
        )
        for u in range(len(units))
    ]
    times = np.concatenate(trains)
    ids = np.repeat(np.arange(len(trains), dtype=np.int32), [len(t) for t in trains])
    order = np.lexsort((ids, times))
    end = max(float(reader.segment_t_stop(0, s)) for s in segments)
    last = float(times.max(initial=0.0))
    # A stop that cannot be told is given as infinite by some systems.
    duration = max(end, last) if np.isfinite(end) else last
    return Events(times[order], ids[order], len(trains), _unit_names(units), duration=duration)


def _unit_names(units: Any) -> list[str]:
    names = [str(n) for n in units["name"]]
    return names if len(set(names)) == len(names) else [str(n) for n in units["id"]]


def _events(reader: Any, segments: range) -> Iterator[tuple[str, Intervals]]:
    for i, channel in enumerate(reader.header["event_channels"]):
        found = [_times_of(reader, s, i) for s in segments]
        start, lasting, labels = (np.concatenate(part) for part in zip(*found, strict=True))
        if len(start):
            order = np.argsort(start, kind="stable")
            name = str(channel["name"]) or f"events {i}"
            columns = {"label": labels[order]}
            yield name, Intervals(start[order], (start + lasting)[order], columns)


def _times_of(
    reader: Any, segment: int, channel: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.str_]]:
    stamps, durations, labels = reader.get_event_timestamps(0, segment, channel)
    start = np.asarray(reader.rescale_event_timestamp(stamps, "float64", channel), np.float64)
    lasting = np.zeros(len(start))
    if durations is not None:
        lasting = np.asarray(reader.rescale_epoch_duration(durations, "float64", channel))
    return start, lasting, np.asarray(labels).astype(np.str_)
