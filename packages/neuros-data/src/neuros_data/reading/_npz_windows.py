"""Windows as `export --to npz` writes them, put back where they were cut."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuros_core import Events, Intervals, Modality, Signal
from neuros_data.reading._assemble import mark_valid
from neuros_data.reading._clock import settle_clock
from neuros_data.reading._draft import Block, Draft, Options
from neuros_data.reading._kinds import kind_of_name
from neuros_data.reading._units import parse_unit

_NEEDED = frozenset({"x", "times", "channels", "rate"})


def is_window_file(arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Whether the arrays are `x` (window, time, channel) with times, channels and rate."""
    return arrays.keys() >= _NEEDED and arrays["x"].ndim == 3


def read_window_arrays(arrays: Mapping[str, NDArray[Any]], path: Path, options: Options) -> Draft:
    """Put windows back on one clock; what no window covers is NaN and not valid.

    Args:
        arrays: `x` (window, time, channel); `times` of the windows' starts (window,) or of every
            sample (window, time); `channels`; `rate`; optionally `y` and other labels, one a
            window, `unit`, `subject`, `session` and `meta` (JSON).
        path: The file, for messages.
        options: What `read` was told.

    Raises:
        ValueError: When the times do not belong to the windows.
    """
    meta = _meta(arrays, path)
    draft = Draft(
        subject=_text(arrays, "subject"),
        session=_text(arrays, "session"),
        species=str(meta.get("species", "")),
    )
    draft.provenance["meta"] = meta
    if "event_times" in arrays:
        draft.events, told = _spikes(arrays)
        draft.notes += told
    else:
        draft.blocks.append(_block(arrays, path, options, str(meta.get("modality") or "")))
    starts, seconds = _spans(arrays, path)
    order = np.argsort(starts, kind="stable")
    labels = (
        {
            name: value[order]
            for name, value in arrays.items()
            if name not in _NEEDED and value.ndim == 1 and len(value) == len(starts)
        }
        if "event_times" not in arrays
        else {}
    )
    draft.behaviour["window"] = Intervals(starts[order], (starts + seconds)[order], labels)
    if "y_times" in arrays:
        _behaviour(arrays, draft)
    return draft


def _spikes(arrays: Mapping[str, NDArray[Any]]) -> tuple[Events, list[str]]:
    """The exact spikes that stand beside their counts."""
    names = [str(name) for name in arrays["channels"]]
    order = np.argsort(arrays["event_times"], kind="stable")
    times = arrays["event_times"][order].astype(np.float64)
    return Events(times, arrays["event_units"][order], len(names), names), []


def _block(
    arrays: Mapping[str, NDArray[Any]], path: Path, options: Options, modality: str
) -> Block:
    x, rate = arrays["x"], float(arrays["rate"])
    unit = parse_unit(options.unit or _text(arrays, "unit"))
    names = [str(name) for name in arrays["channels"]]
    kind = str(options.modality or modality)
    block = Block(
        x,
        names,
        [kind or kind_of_name(name) for name in names],
        [unit.name] * len(names),
    )
    if np.isfinite(rate):
        starts, _ = _spans(arrays, path)
        block.rate = rate
        block.start = float(starts.min(initial=np.inf)) if len(starts) else 0.0
        block.data = _stitched(x, np.rint((starts - block.start) * rate).astype(np.int64))
    else:
        block.times, block.data = _in_order(arrays["times"], x)
    block.data = block.data if unit.factor == 1.0 else block.data * unit.factor
    return block


def _in_order(
    times: NDArray[Any], values: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Samples of all windows in time, each once: windows may overlap, short ones end in NaN."""
    flat = times.astype(np.float64).ravel()
    kept, first = np.unique(flat, return_index=True)
    timed = np.isfinite(kept)
    return kept[timed], values.reshape(len(flat), -1)[first[timed]]


def _behaviour(arrays: Mapping[str, NDArray[Any]], draft: Draft) -> None:
    """`y` (window, query, behaviour) with its times and names."""
    times, values = _in_order(arrays["y_times"], arrays["y"])
    clock = settle_clock(times, "y")
    names = [str(n) for n in arrays.get("y_names", np.arange(values.shape[1]).astype(str))]
    for name, column in zip(names, values.T, strict=True):
        draft.behaviour[name] = Signal(
            column[:, None],
            rate=clock.rate,
            times=clock.times,
            start=clock.start,
            channels=(name,),
            valid=mark_valid(column[:, None], flat=False),
        )


def _spans(
    arrays: Mapping[str, NDArray[Any]], path: Path
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Start and length in seconds of each window."""
    x, rate, times = arrays["x"], float(arrays["rate"]), arrays["times"]
    starts = _starts(times, len(x), x.shape[1], path)
    if np.isfinite(rate):
        return starts, np.full(len(x), x.shape[1] / rate)
    return starts, np.nanmax(times, axis=1) - starts


def _starts(times: NDArray[Any], n_windows: int, n_time: int, path: Path) -> NDArray[np.float64]:
    if times.shape == (n_windows, n_time) and n_time:
        return times[:, 0].astype(np.float64)
    if times.shape == (n_windows,):
        return times.astype(np.float64)
    raise ValueError(
        f"{path}: times needs shape ({n_windows},), the start of each window, or "
        f"({n_windows}, {n_time}), got {times.shape}"
    )


def _stitched(x: NDArray[Any], first: NDArray[np.int64]) -> NDArray[Any]:
    """Windows (window, time, channel) at their first samples; between them NaN."""
    n_windows, n_time, n_channels = x.shape
    total = int(first.max()) + n_time if n_windows else 0
    wide = x.astype(np.float32) if x.dtype.kind in "biu" else x
    joined = np.full((total, n_channels), np.nan, wide.dtype)
    for start, window in zip(first, wide, strict=True):
        joined[start : start + n_time] = window
    return joined


def _text(arrays: Mapping[str, NDArray[Any]], name: str) -> str:
    return str(arrays[name]) if name in arrays else ""


def _meta(arrays: Mapping[str, NDArray[Any]], path: Path) -> dict[str, Any]:
    text = _text(arrays, "meta")
    try:
        found = json.loads(text) if text else {}
    except ValueError as error:
        raise ValueError(f"{path}: meta is not valid JSON: {error}") from error
    is_object = isinstance(found, dict)
    if not is_object:
        raise ValueError(f"{path}: meta needs a JSON object, got {type(found).__name__}")
    meta: dict[str, Any] = found
    if meta.get("modality") not in (None, *(str(m) for m in Modality)):
        raise ValueError(f"{path}: meta names the modality {meta['modality']!r}, which is unknown")
    return meta
