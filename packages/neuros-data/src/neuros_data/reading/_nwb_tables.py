"""Tables of an NWB file: columns with one value a row."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuros_core import Intervals

_TIMES = frozenset({"start_time", "stop_time", "spike_times", "waveform_mean", "waveform_sd"})


def table_columns(table: Any) -> dict[str, NDArray[Any]]:
    """Columns of numbers and text; lists of text are joined, other columns are left out."""
    found = {}
    for name in table.colnames:
        if name in _TIMES:
            continue
        values = _plain(table[name][:])
        if values is not None:
            found[name] = values
    return found


def _plain(column: Any) -> NDArray[Any] | None:
    values = list(column)
    names = [_name(value) for value in values]
    if values and all(name is not None for name in names):
        return np.array(names)
    try:
        array = np.asarray(values)
    except ValueError:
        # Rows of different length: no column with one value a row.
        return None
    return array if array.ndim == 1 and array.dtype.kind in "biuf" else None


def _name(value: Any) -> str | None:
    """Text as it is, a list of text joined, an object by its name."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list | tuple | np.ndarray) and np.asarray(value).dtype.kind in "OUS":
        parts = [_name(v) for v in value]
        return ", ".join(p for p in parts if p is not None)
    name = getattr(value, "name", None)
    return name if isinstance(name, str) else None


def read_intervals(table: Any) -> Intervals:
    """Trials, epochs and the like; rows without both ends have no place in time."""
    start = np.asarray(table["start_time"][:], np.float64)
    stop = np.asarray(table["stop_time"][:], np.float64)
    whole = np.isfinite(start) & np.isfinite(stop) & (stop >= start)
    columns = {name: values[whole] for name, values in table_columns(table).items()}
    return Intervals(start[whole], stop[whole], columns)
