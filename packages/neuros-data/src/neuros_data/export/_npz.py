"""Windows as `.npz` files that NumPy alone reads."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuros_data._parts import Interval
from neuros_data.split import Split
from neuros_data.store import Store

_BATCH = 256


class NpzOptions(NamedTuple):
    """How recordings are cut: seconds, the split's name, behaviours and seconds per bin."""

    window: float
    stride: float
    using: str | None
    behaviour: tuple[str, ...]
    bin: float


def export_npz(
    store: Store, folder: Path, recordings: Sequence[str], options: NpzOptions
) -> list[Path]:
    """Write one file for each recording, part of the split and modality."""
    split = _split(store, options.using)
    written = []
    for name in recordings:
        meta = store.files.meta(name)
        for part in _parts_of(split, name):
            for modality, content in meta["modalities"].items():
                if content["kind"] == "intervals":
                    continue
                arrays = _arrays(store, name, modality, part=part, split=split, options=options)
                if arrays is not None:
                    label = "" if part is None else f"_{part}"
                    path = folder / f"{name}{label}_{modality}.npz"
                    np.savez(path, allow_pickle=False, **arrays)
                    written.append(path)
    if not written:
        raise ValueError(f"no window of {options.window} s fits in any of the recordings")
    return written


def _split(store: Store, using: str | None) -> Split | None:
    if using is not None:
        return store.split(using)
    return store.split(store.splits[0]) if len(store.splits) == 1 else None


def _parts_of(split: Split | None, recording_id: str) -> list[str | None]:
    if split is None:
        return [None]
    return [part for part, held in split.parts.items() if recording_id in held]


def _arrays(
    store: Store,
    name: str,
    modality: str,
    *,
    part: str | None,
    split: Split | None,
    options: NpzOptions,
) -> dict[str, NDArray[Any]] | None:
    """All arrays of one file; None where no window fits."""
    meta = store.files.meta(name)
    content = meta["modalities"][modality]
    known = [b for b in options.behaviour if b.partition(".")[0] in meta["behaviour"]]
    try:
        view = store.windows(
            window=options.window,
            stride=options.stride,
            split=part,
            using=split,
            modalities=[modality],
            recordings=[name],
            bin=options.bin if content["kind"] == "events" else None,
            behaviour=known,
            behaviour_rate=_query_rate(meta, known, options.window),
            fill=np.nan,
        )
    except ValueError as error:
        if "no window of" in str(error):
            return None
        raise
    batches = [
        view.read_batch(np.arange(i, min(i + _BATCH, len(view))))
        for i in range(0, len(view), _BATCH)
    ]
    arrays = _signal(batches, modality)
    arrays |= _behaviour(batches, known)
    if content["kind"] == "events":
        arrays |= _events(store, name, content, split, part)
    return arrays | _labels(store, name, modality, part, view.channels(name)[modality])


def _query_rate(meta: Mapping[str, Any], names: Sequence[str], window: float) -> float | None:
    """Labels alone have no rate of their own: one query per window."""
    parts = [meta["behaviour"][name.partition(".")[0]] for name in names]
    return None if not parts or any(part.get("rate") for part in parts) else 1.0 / window


def _signal(batches: Sequence[Mapping[str, Any]], modality: str) -> dict[str, NDArray[Any]]:
    starts = np.concatenate([batch["start_time"] for batch in batches])
    rate = batches[0]["rates"].get(modality)
    if rate is None:
        # An irregular clock gives windows of different lengths: the shorter ones end in NaN.
        longest = max(batch[modality].shape[1] for batch in batches)
        x = np.concatenate([_longer(batch[modality], longest) for batch in batches])
        inside = np.concatenate([_longer(batch["times"][modality], longest) for batch in batches])
        return {"x": x, "times": starts[:, None] + inside, "rate": np.array(np.nan)}
    x = np.concatenate([batch[modality] for batch in batches])
    times = starts[:, None] + np.arange(x.shape[1]) / rate
    return {"x": x, "times": times, "rate": np.array(float(rate))}


def _longer(x: NDArray[Any], length: int) -> NDArray[Any]:
    padding = [(0, 0), (0, length - x.shape[1]), *[(0, 0)] * (x.ndim - 2)]
    return np.pad(x, padding, constant_values=np.nan)


def _behaviour(
    batches: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> dict[str, NDArray[Any]]:
    if not names:
        return {}
    starts = np.concatenate([batch["start_time"] for batch in batches])
    inside = np.concatenate([batch["behavior_times"] for batch in batches])
    return {
        "y": np.concatenate([batch["behavior"] for batch in batches]),
        "y_times": starts[:, None] + inside,
        "y_names": np.array(names),
    }


def _events(
    store: Store, name: str, content: Mapping[str, Any], split: Split | None, part: str | None
) -> dict[str, NDArray[Any]]:
    """The exact spikes, of this part alone."""
    times = np.asarray(store.files.array(name, content["arrays"]["times"]))
    units = np.asarray(store.files.array(name, content["arrays"]["units"]))
    kept = np.ones(len(times), bool)
    if split is not None and part is not None:
        kept = _inside(times, split.part(part)[name])
    return {"event_times": times[kept], "event_units": units[kept]}


def _inside(times: NDArray[np.float64], stretches: Sequence[Interval]) -> NDArray[np.bool_]:
    kept = np.zeros(len(times), bool)
    for start, stop in stretches:
        kept |= (times >= start) & (times < stop)
    return kept


def _labels(
    store: Store, name: str, modality: str, part: str | None, channels: Sequence[str]
) -> dict[str, NDArray[Any]]:
    meta = store.files.meta(name)
    content = meta["modalities"][modality]
    about = {
        "recording": name,
        "part": part,
        "modality": modality,
        "species": meta["species"],
        "provenance": meta["provenance"],
        "licence": store.manifest.get("licence", ""),
        "store": store.content_hash,
    }
    return {
        "channels": np.array(channels),
        "unit": np.array(content.get("unit", "count")),
        "subject": np.array(meta["subject"]),
        "session": np.array(meta["session"]),
        "meta": np.array(json.dumps(about, sort_keys=True)),
    }
