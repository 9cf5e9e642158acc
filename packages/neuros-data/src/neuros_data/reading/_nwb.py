"""NWB 2: spikes, electrical series, fluorescence, behaviour and intervals, through pynwb."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuros_core import Events, Modality, Signal
from neuros_data._extras import need
from neuros_data.reading._assemble import mark_valid
from neuros_data.reading._clock import Clock, settle_clock
from neuros_data.reading._draft import Block, Draft, Options, listed
from neuros_data.reading._hdf5 import open_hdf5
from neuros_data.reading._kinds import kind_of_name
from neuros_data.reading._nwb_tables import read_intervals, table_columns
from neuros_data.reading._units import parse_unit

_SPECIES = {
    "homo sapiens": "human",
    "human": "human",
    "macaca": "macaque",
    "rhesus": "macaque",
    "mus musculus": "mouse",
    "mouse": "mouse",
    "rattus": "rat",
    "rat": "rat",
    "caenorhabditis elegans": "worm",
    "c. elegans": "worm",
}
_SERIES = frozenset(str(m) for m in Modality if m is not Modality.SPIKE)
_WIDEBAND = 10_000.0  # Hz; above, an electrical series is raw voltage and no field potential


def species_of(text: str) -> str:
    """Our name of a species; empty where there is none, `other` for one we do not list.

    Examples:
        >>> species_of("Mus musculus"), species_of("")
        ('mouse', '')
    """
    plain = text.strip().lower()
    known = [ours for theirs, ours in _SPECIES.items() if plain.startswith(theirs)]
    return known[0] if known else ("other" if plain else "")


def read_nwb(path: Path, options: Options) -> Draft:
    """Read an NWB 2 file."""
    _check_version(path)
    pynwb = need("pynwb", "nwb", "reading NWB")
    draft = Draft(provenance={"format": "NWB"})
    import warnings

    # Cached specifications older than pynwb's own warn about themselves, not about the data.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pynwb.NWBHDF5IO(str(path), "r", load_namespaces=True) as io:
            file = io.read()
            _identify(file, draft)
            _units(file, draft, options)
            series = dict(_series(file))
            _check_data(series, options, path)
            for name, item in series.items():
                _add(name, item, draft, options)
            for name, table in sorted((file.intervals or {}).items()):
                draft.behaviour[name] = read_intervals(table)
    if draft.events is None and not draft.blocks and options.modality is not None:
        raise ValueError(
            f"{path} has no {options.modality}; it has the series {listed(series) or 'none'}"
        )
    return draft


def _check_version(path: Path) -> None:
    with open_hdf5(path, "NWB") as file:
        version = str(file.attrs.get("nwb_version", ""))
        if not version and "nwb_version" in file:
            version = "1"
    if not version:
        raise ValueError(f"{path} is HDF5 but not NWB: it has no nwb_version")
    if not version.lstrip("NWB-").startswith("2"):
        raise ValueError(
            f"{path} is NWB {version}; NWB 2 is read here. Files of the Allen 2-photon archive are "
            "read by its source: neuros-data download allen-2p"
        )


def _identify(file: Any, draft: Draft) -> None:
    subject = file.subject
    draft.subject = str(getattr(subject, "subject_id", None) or "")
    draft.species = species_of(str(getattr(subject, "species", None) or ""))
    if not draft.subject:
        draft.notes.append("the file names no subject; the file's name stands for it")
    draft.session = str(file.session_id or "")
    draft.provenance["identifier"] = str(file.identifier)
    draft.provenance["began"] = file.session_start_time.isoformat()
    draft.provenance["description"] = str(file.session_description)


def _units(file: Any, draft: Draft, options: Options) -> None:
    if file.units is None or options.modality not in (None, "spike") or options.data is not None:
        return
    if "spike_times" not in file.units.colnames:
        draft.notes.append("the units have no spike times")
        return
    trains = [np.asarray(t, np.float64) for t in file.units["spike_times"][:]]
    times = np.concatenate(trains) if trains else np.empty(0)
    ids = np.repeat(np.arange(len(trains), dtype=np.int32), [len(t) for t in trains])
    # Trains are sorted one by one: a stable sort keeps simultaneous spikes in the order of units.
    order = np.argsort(times, kind="stable")
    times, ids = times[order], ids[order]
    timed = np.isfinite(times)
    if not timed.all():
        draft.notes.append(f"spikes: {int((~timed).sum())} without a finite time are left out")
    names = [str(i) for i in file.units.id[:]]
    draft.events = Events(
        times[timed], ids[timed], len(trains), names, table=table_columns(file.units)
    )


def _series(file: Any) -> Iterator[tuple[str, Any]]:
    """Every time series by its path, those of processing modules after the acquired."""
    yield from _below("", file.acquisition)
    yield from _below("", file.stimulus)
    for name, module in sorted(file.processing.items()):
        yield from _below(f"{name}/", module.data_interfaces)


def _below(prefix: str, items: Any) -> Iterator[tuple[str, Any]]:
    for name, item in sorted(items.items()):
        inner = next(
            (
                found
                for kind in (
                    "electrical_series",
                    "roi_response_series",
                    "spatial_series",
                    "time_series",
                )
                if hasattr(found := getattr(item, kind, None), "items")
            ),
            None,
        )
        if inner is not None:
            yield from _below(f"{prefix}{name}/", inner)
        elif hasattr(item, "data") and hasattr(item, "timestamps"):
            yield f"{prefix}{name}", item


def _check_data(series: dict[str, Any], options: Options, path: Path) -> None:
    if options.data is not None and options.data not in series:
        raise ValueError(
            f"{path} has no series {options.data!r}; it has {listed(series, 40) or 'none'}"
        )
    if options.modality in (None, "spike") or options.data is not None:
        return
    fitting = [n for n, item in series.items() if _kind(n, item) in ("", options.modality)]
    open_ones = [n for n in fitting if _kind(n, series[n]) == options.modality] or fitting
    if len(open_ones) > 1:
        raise ValueError(
            f"{path} has several series that could be {options.modality}; pass data= one of: "
            f"{listed(open_ones, 40)}"
        )


def _kind(name: str, item: Any) -> str:
    """Modality, `""` for an electrical series that may be several, `"behaviour"` for the others."""
    if type(item).__name__ == "RoiResponseSeries":
        return "calcium"
    if type(item).__name__ != "ElectricalSeries":
        # NWB has no type for EEG, EMG or BOLD: files hold them as series of that name.
        plain = name.rpartition("/")[2].lower()
        return plain if plain in _SERIES else "behaviour"
    found = [k for part in name.replace("_", "/").split("/") if (k := kind_of_name(part))]
    return found[-1] if found else ""


def _add(name: str, item: Any, draft: Draft, options: Options) -> None:
    """File one series under a modality, as a behaviour, or say that it is left out."""
    kind = _kind(name, item)
    chosen = options.data == name
    if chosen:
        kind = str(options.modality or (kind if kind != "behaviour" else "") or "")
    elif kind != "behaviour":
        kind = _unforced(name, kind, item, draft, options)
    data = item.data
    if kind == "skip" or data is None or len(getattr(data, "shape", ())) not in (1, 2):
        return
    if kind == "behaviour" and data.dtype.kind not in "biuf":
        return
    block = _block(name, item, kind, draft, options)
    if kind == "behaviour":
        draft.behaviour[name.rpartition("/")[2]] = Signal(
            block.data,
            rate=block.rate,
            times=block.times,
            start=block.start,
            unit=block.units[0] if block.units else "a.u.",
            channels=block.channels,
            valid=mark_valid(block.data, flat=False),
        )
    else:
        draft.blocks.append(block)


def _unforced(name: str, kind: str, item: Any, draft: Draft, options: Options) -> str:
    """What becomes of a neural series that the caller did not name."""
    if options.data is not None:
        return "skip"
    if options.modality is not None and kind in ("", options.modality):
        return str(options.modality)
    taken = any(kind in block.kinds for block in draft.blocks)
    if options.modality is None and kind and not taken:
        return kind
    rate = "" if item.rate is None or item.rate < _WIDEBAND else f" of {item.rate:g} Hz"
    draft.notes.append(
        f"the series {name!r}{rate} is left out; data={name!r} with modality= reads it"
    )
    return "skip"


def _block(name: str, item: Any, kind: str, draft: Draft, options: Options) -> Block:
    raw = np.asarray(item.data[:])
    raw = raw[:, None] if raw.ndim == 1 else raw
    clock = _clock(name, item, options)
    draft.notes += clock.notes
    raw = raw if clock.keep is None else raw[clock.keep]
    n = raw.shape[1]
    unit = parse_unit(str(item.unit or ""))
    gains = getattr(item, "channel_conversion", None)
    scale = np.full(n, float(item.conversion))
    scale = scale if gains is None else scale * np.asarray(gains[:], np.float64)
    offset = np.full(n, float(item.offset or 0.0))
    plain = bool((scale == 1).all() and (offset == 0).all()) and unit.factor == 1.0
    counts = raw.dtype.kind in "iu" and not plain
    return Block(
        raw if plain else (raw * scale + offset) * unit.factor,
        _channels(item, n),
        [kind] * n,
        [unit.name] * n,
        rate=clock.rate,
        times=clock.times,
        start=clock.start,
        scale=scale * unit.factor if counts else None,
        offset=offset * unit.factor if counts else None,
        counts=raw if counts else None,
    )


def _channels(item: Any, n: int) -> list[str]:
    """Names from the electrodes, the regions or the description of an export; numbers without."""
    written = str(item.description or "").partition("channels: ")[2].split(", ")
    if len(written) == len(set(written)) == n and all(written):
        return written
    region = getattr(item, "electrodes", None) or getattr(item, "rois", None)
    if region is None:
        return [str(i) for i in range(n)]
    rows = [int(i) for i in region.data[:]]
    ids: NDArray[Any] = np.asarray(region.table.id[:])
    names = [str(ids[row]) for row in rows]
    return names if len(names) == n and len(set(names)) == n else [str(i) for i in range(n)]


def _clock(name: str, item: Any, options: Options) -> Clock:
    if item.rate is not None:
        return Clock(float(item.rate), None, float(item.starting_time or 0.0), None, ())
    return settle_clock(np.asarray(item.timestamps[:]), name, repair=options.repair)
