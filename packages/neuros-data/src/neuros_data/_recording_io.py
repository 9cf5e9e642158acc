"""One recording as a folder: `meta.json` beside its `.npy` arrays, and back."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuros_core import Events, Intervals, Modality, Recording, Signal, Species
from neuros_data.errors import CorruptStoreError
from neuros_data.format import (
    SCHEMA,
    Quantization,
    dequantize,
    narrow,
    quantize,
    write_array,
    write_json,
)

Meta = dict[str, Any]
ArrayReader = Callable[[Mapping[str, Any]], NDArray[Any]]


def write_recording(
    folder: Path,
    recording: Recording,
    *,
    quantization: Mapping[str, Quantization],
    float64: frozenset[str],
) -> None:
    """Write every array of a recording, then its `meta.json`, into an empty folder."""
    writer = _Writer(folder, quantization, float64)
    modalities = {
        str(name): writer.part(str(name), part)
        for name, part in sorted(recording.modalities.items())
    }
    behaviour = {
        name: writer.part(f"behaviour{i}", part, key=name)
        for i, (name, part) in enumerate(sorted(recording.behaviour.items()))
    }
    meta = {
        "schema": ".".join(map(str, SCHEMA)),
        "id": recording.id,
        "subject": recording.subject,
        "session": recording.session,
        "species": str(recording.species),
        "duration": recording.duration,
        "modalities": modalities,
        "behaviour": behaviour,
        **writer.provenance(recording.provenance),
    }
    write_json(folder / "meta.json", meta)


class _Writer:
    """Writes the parts of one recording and returns their metadata."""

    def __init__(
        self, folder: Path, quantization: Mapping[str, Quantization], float64: frozenset[str]
    ) -> None:
        self._folder = folder
        self._quantization = quantization
        self._float64 = float64

    def _save(self, prefix: str, name: str, array: NDArray[Any]) -> dict[str, Any]:
        return write_array(self._folder / f"{prefix}.{name}.npy", array)

    def part(self, prefix: str, part: Signal | Events | Intervals, key: str = "") -> Meta:
        key = key or prefix
        if isinstance(part, Signal):
            return self._signal(prefix, key, part)
        if isinstance(part, Events):
            return self._events(prefix, part)
        return self._intervals(prefix, part)

    def _signal(self, prefix: str, key: str, signal: Signal) -> Meta:
        stored, coding = self._encode(key, signal.data)
        arrays = {"data": self._save(prefix, "data", stored)}
        valid = _validity(signal)
        if valid is not None:
            arrays["valid"] = self._save(prefix, "valid", valid)
        if signal.times is not None:
            arrays["times"] = self._save(prefix, "times", signal.times.astype(np.float64))
        return {
            "kind": "signal",
            "rate": None if signal.rate is None else float(signal.rate),
            "start": float(signal.start),
            "stop": _stop(signal),
            "unit": signal.unit,
            "channels": list(signal.channels),
            "arrays": arrays,
            "content": content_hash(stored),
            **coding,
        }

    def _encode(self, key: str, data: NDArray[Any]) -> tuple[NDArray[Any], Meta]:
        if key in self._quantization:
            how = self._quantization[key]
            stored, scale, offset = quantize(data, how)
            coding = {"scale": scale.tolist(), "offset": offset.tolist(), "lossy": how.lossy}
            return stored, coding
        if data.dtype.kind in "iub":
            return narrow(data), {}
        return data.astype(np.float64 if key in self._float64 else np.float32), {}

    def _events(self, prefix: str, events: Events) -> Meta:
        units = events.unit_ids.astype(np.int32)
        times = events.times.astype(np.float64)
        # Compressed rows: unit u owns the events order[offsets[u] : offsets[u + 1]], in time order.
        order = np.argsort(units, kind="stable")
        offsets = np.searchsorted(units[order], np.arange(events.n_units + 1))
        arrays = {
            "times": self._save(prefix, "times", times),
            "units": self._save(prefix, "units", units),
            "order": self._save(prefix, "order", narrow(order)),
            "offsets": self._save(prefix, "offsets", offsets.astype(np.int64)),
        }
        table = {}
        for i, (name, column) in enumerate(sorted(events.table.items())):
            table[name] = f"table{i}"
            arrays[f"table{i}"] = self._save(prefix, f"table{i}", np.asarray(column))
        return {
            "kind": "events",
            "n_units": events.n_units,
            "units": list(events.units),
            "duration": float(events.duration or 0.0),
            "table": table,
            "arrays": arrays,
            "content": content_hash(times, units),
        }

    def _intervals(self, prefix: str, intervals: Intervals) -> Meta:
        arrays = {
            "start": self._save(prefix, "start", intervals.start.astype(np.float64)),
            "end": self._save(prefix, "end", intervals.end.astype(np.float64)),
        }
        columns = {}
        for i, (name, column) in enumerate(sorted(intervals.columns.items())):
            columns[name] = f"column{i}"
            arrays[f"column{i}"] = self._save(prefix, f"column{i}", np.asarray(column))
        return {"kind": "intervals", "columns": columns, "arrays": arrays, "content": None}

    def provenance(self, provenance: Mapping[str, Any]) -> Meta:
        arrays = {}
        plain = {}
        for i, (name, value) in enumerate(sorted(provenance.items())):
            if isinstance(value, np.ndarray):
                arrays[name] = self._save("provenance", f"array{i}", value)
            else:
                plain[name] = value
        try:
            json.dumps(plain, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise TypeError(f"provenance needs arrays and what JSON can hold: {error}") from error
        return {"provenance": plain, "provenance_arrays": arrays}


def _stop(signal: Signal) -> float:
    """End in seconds: one median step after the last sample of an irregular clock."""
    if signal.times is None:
        return round(float(signal.start) + signal.duration, 9)
    if len(signal.times) < 2:
        return float(signal.times[-1]) if len(signal.times) else 0.0
    return float(signal.times[-1] + np.median(np.diff(signal.times)))


def _validity(signal: Signal) -> NDArray[np.bool_] | None:
    """Measured and finite samples; None when that is every sample."""
    valid = np.isfinite(signal.data) if signal.data.dtype.kind == "f" else None
    if signal.valid is not None:
        valid = signal.valid if valid is None else valid & signal.valid
    return None if valid is None or bool(valid.all()) else valid


def content_hash(*arrays: NDArray[Any]) -> str | None:
    """Hash of samples without names, units or clocks; None for too little to tell recordings by.

    Empty and constant arrays occur in unrelated recordings and say nothing about identity.
    """
    first = arrays[0]
    if first.size < 2 or bool((first == first.flat[0]).all()):
        return None
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.newbyteorder('<').str}{array.shape}".encode())
        plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        digest.update(plain.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def read_recording(meta: Meta, array: ArrayReader) -> Recording:
    """Rebuild a recording whose arrays stay on disk until they are read."""
    provenance = dict(meta["provenance"])
    for name, entry in meta["provenance_arrays"].items():
        provenance[name] = array(entry)
    return Recording(
        id=meta["id"],
        subject=meta["subject"],
        session=meta["session"],
        species=Species(meta["species"]),
        modalities={
            Modality(name): _read_part(part, array) for name, part in meta["modalities"].items()
        },
        behaviour={
            name: _read_behaviour(name, part, array) for name, part in meta["behaviour"].items()
        },
        provenance=provenance,
    )


def _read_part(part: Meta, array: ArrayReader) -> Signal | Events | Intervals:
    arrays = part["arrays"]
    if part["kind"] == "signal":
        return _read_signal(part, array)
    if part["kind"] == "events":
        return Events(
            times=array(arrays["times"]),
            unit_ids=array(arrays["units"]),
            n_units=part["n_units"],
            units=tuple(part["units"]),
            duration=part["duration"],
            table={name: array(arrays[key]) for name, key in part["table"].items()},
        )
    return Intervals(
        start=array(arrays["start"]),
        end=array(arrays["end"]),
        columns={name: array(arrays[key]) for name, key in part["columns"].items()},
    )


def _read_behaviour(name: str, part: Meta, array: ArrayReader) -> Signal | Intervals:
    read = _read_part(part, array)
    if isinstance(read, Events):
        raise CorruptStoreError(f"behaviour {name!r} needs a signal or intervals, got events")
    return read


def _read_signal(part: Meta, array: ArrayReader) -> Signal:
    arrays = part["arrays"]
    data = array(arrays["data"])
    if "scale" in part:
        data = dequantize(data, np.asarray(part["scale"]), np.asarray(part["offset"]))
    return Signal(
        data=data,
        rate=part["rate"],
        times=array(arrays["times"]) if "times" in arrays else None,
        unit=part["unit"],
        channels=tuple(part["channels"]),
        valid=array(arrays["valid"]) if "valid" in arrays else None,
        start=part["start"],
    )
