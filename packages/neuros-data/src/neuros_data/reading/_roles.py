"""Which of a file's arrays are samples, clocks, spikes or names, told from their own names."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuros_core import Modality
from neuros_data.reading._draft import listed
from neuros_data.reading._units import seconds_of_name

Arrays = Mapping[str, NDArray[Any]]

_SAMPLES = {
    "spike": ("spikes", "rates", "counts", "spike_counts", "spike_rates"),
    "lfp": ("lfp",),
    "calcium": ("dff", "calcium", "fluorescence", "df_f"),
    "eeg": ("eeg",),
    "fmri": ("bold", "fmri"),
    "ecog": ("ecog",),
    "emg": ("emg",),
}
_PLAIN = ("x", "data", "signal", "signals", "samples")
_SPIKE_TIMES = frozenset({"spike_times", "spikes_times", "spikes.times", "spiketimes"})
_SPIKE_UNITS = frozenset(
    {"spike_units", "spike_clusters", "spike_ids", "spikes.clusters", "unit_ids", "spike_unit_ids"}
)
_RATES = frozenset(
    {"rate", "fs", "sfreq", "srate", "sample_rate", "sampling_rate", "samplerate", "frequency"}
)
_STEPS = frozenset({"dt", "tr", "step", "sampling_interval"})
_CLOCKS = frozenset({"time", "times", "t", "timestamps", "timestamp", "tstamps"})
_NAMES = ("channels", "channel_names", "ch_names", "unit_names", "labels", "names", "regions")
_SUFFIXES = ("_us", "_ms", "_s", "_sec", "_hz", "_uv", "_mv", "_v", "_ns")


def leaf(name: str) -> str:
    """The last part of an array's path, in small letters."""
    return name.replace(".", "/").rpartition("/")[2].lower()


def bare(name: str) -> str:
    """An array's name without folder and unit: `gcamp/Time_ms` is `time`."""
    plain = leaf(name)
    for suffix in _SUFFIXES:
        plain = plain.removesuffix(suffix)
    return plain


def is_number(value: NDArray[Any]) -> bool:
    """Whether an array holds numbers."""
    return value.dtype.kind in "biuf"


def find_spikes(arrays: Arrays) -> tuple[str, str | None] | None:
    """Names of the spike times and of the unit of each spike (None where all are one unit's)."""
    times = [n for n in arrays if n.lower() in _SPIKE_TIMES or bare(n) in _SPIKE_TIMES]
    if len(times) != 1 or not is_number(arrays[times[0]]):
        return None
    size = arrays[times[0]].size
    units = [n for n in arrays if {n.lower(), leaf(n)} & _SPIKE_UNITS and arrays[n].size == size]
    return times[0], units[0] if units else None


def samples_by_name(arrays: Arrays, modality: Modality | None) -> list[tuple[str, str]]:
    """Candidates (modality, array): called like a modality's samples, with at least two values."""
    wanted = [str(modality)] if modality is not None else list(_SAMPLES)
    return [
        (kind, name)
        for kind in wanted
        for name, value in arrays.items()
        if value.size > 1
        and is_number(value)
        and any(bare(name) == known for known in _SAMPLES[kind])
    ]


def choose_samples(arrays: Arrays, modality: Modality | None, path: str) -> tuple[str, str]:
    """The one array of samples and its modality.

    Raises:
        ValueError: When the names leave a choice; the message says which argument decides.
    """
    found = samples_by_name(arrays, modality)
    if len(found) == 1:
        return found[0]
    tables = [n for n, v in arrays.items() if is_number(v) and v.ndim >= 2 and min(v.shape) > 1]
    plain = [n for n, v in arrays.items() if leaf(n) in _PLAIN and v.size > 1 and is_number(v)]
    for names in (plain, tables):
        if modality is not None and not found and len(names) == 1:
            return str(modality), names[0]
    shapes = [f"{name} {list(value.shape)}" for name, value in arrays.items() if value.size > 1]
    if modality is None and not found:
        raise ValueError(
            f"{path} does not say what it records; pass modality= one of "
            f"{listed([str(m) for m in Modality])}, and data= one of its arrays: {listed(shapes)}"
        )
    if modality is None and len({kind for kind, _ in found}) > 1:
        raise ValueError(
            f"{path} may hold {listed(sorted({k for k, _ in found}))}; pass modality= to choose"
        )
    raise ValueError(
        f"{path} holds several arrays that could be the samples; pass data= one of: "
        f"{listed(shapes)}"
    )


def find_rate(arrays: Arrays) -> tuple[float, str] | None:
    """The rate that a single number gives, as a rate or as a step, and its name."""
    for name, value in arrays.items():
        if value.size != 1 or not is_number(value):
            continue
        number = float(value.ravel()[0])
        if bare(name) in _RATES and number > 0:
            return number, name
        if bare(name) in _STEPS and number > 0:
            return 1.0 / (number * seconds_of_name(name)), name
    return None


def find_clock(arrays: Arrays, name: str, sizes: tuple[int, ...]) -> str | None:
    """The time stamps of an array: called after it, or the only ones of the right length."""
    clocks = [
        n
        for n, v in arrays.items()
        if n != name
        and is_number(v)
        and v.size > 1
        and v.size in sizes
        and max(v.shape) == v.size
        and (
            bare(n) in _CLOCKS
            or bare(n).rpartition("_")[2] in _CLOCKS
            or bare(n).partition("_")[0] in _CLOCKS
        )
        and bare(n) not in _SPIKE_TIMES
    ]
    stem = bare(name).partition("_")[0]
    own = [n for n in clocks if bare(n).startswith(stem + "_")]
    general = [n for n in clocks if bare(n) in _CLOCKS or leaf(n).startswith("time")]
    chosen = own or general or []
    return chosen[0] if len(chosen) == 1 else None


def clock_names(arrays: Arrays) -> set[str]:
    """Every array that is called like time stamps."""
    return {
        n
        for n in arrays
        if bare(n) in _CLOCKS
        or bare(n).rpartition("_")[2] in _CLOCKS
        or (bare(n).partition("_")[0] in _CLOCKS and arrays[n].ndim == 1)
    }


def find_names(arrays: Arrays, n_channels: int) -> tuple[str, ...] | None:
    """Channel names: an array of text, as long as there are channels."""
    for name, value in arrays.items():
        text = value.dtype.kind == "U" and value.size == n_channels and n_channels > 0
        if text and value.ndim > 0 and leaf(name) in _NAMES:
            return tuple(str(v).strip() for v in np.ravel(value))
    return None
