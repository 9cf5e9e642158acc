"""LFP of several probes, each with a clock of its own, on one clock."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuros_core import Signal
from neuros_data.acquisition._ecephys import ELECTRODES
from neuros_data.acquisition._fractional import FractionalFilter
from neuros_data.acquisition._hdf5 import open_hdf5, read_column

_BLOCK = 1 << 15


class Probe(NamedTuple):
    """Where one probe's LFP lies, and what it holds."""

    path: Path
    where: str
    times: NDArray[np.float64]
    channels: NDArray[np.int64]
    regions: NDArray[np.str_]
    factor: float


def open_probe(path: Path) -> Probe:
    """Find the LFP in a probe's file.

    Raises:
        ValueError: When the file cannot be read; the message names it.
    """
    with open_hdf5(path) as file:
        name = next(n for n in (*sorted(file["acquisition"]), "") if n.endswith("_lfp"))
        where = f"acquisition/{name}/{name}_data"
        table = file[ELECTRODES]
        # Older files say the unit of the samples in an attribute of the data set.
        factor = float(file[where]["data"].attrs.get("conversion", 1.0))
        return Probe(
            path,
            where,
            file[where]["timestamps"][()].astype(np.float64),
            read_column(table["id"]).astype(np.int64),
            read_column(table["location"]),
            factor,
        )


def read_lfp(probes: Sequence[Probe], rate: float, scratch: Path) -> tuple[Signal, float]:
    """LFP of all probes in volts on one regular clock, over the time that all of them cover.

    The samples lie in a file without a name in `scratch`, which goes with the array: sessions are
    larger than memory.

    Returns:
        The signal, one channel per site, and the filter's support in seconds.
    """
    start = max(float(p.times[0]) for p in probes)
    stop = min(float(p.times[-1]) for p in probes)
    n = int((stop - start) * rate) + 1
    width = sum(len(p.channels) for p in probes)
    with tempfile.TemporaryFile(dir=scratch) as file:
        out = np.memmap(file, dtype=np.float32, mode="w+", shape=(n, width))
    support, first = 0.0, 0
    for probe in probes:
        own_rate = (len(probe.times) - 1) / float(probe.times[-1] - probe.times[0])
        kernel = FractionalFilter(own_rate, rate)
        last = first + len(probe.channels)
        index = np.arange(len(probe.times), dtype=np.float64)
        with open_hdf5(probe.path) as opened:
            data = opened[probe.where]["data"]
            for begin in range(0, n, _BLOCK):
                instants = start + np.arange(begin, min(begin + _BLOCK, n)) / rate
                position = np.interp(instants, probe.times, index)
                block = kernel.apply(data, position, factor=probe.factor)
                out[begin : begin + len(block), first:last] = block
        support, first = max(support, kernel.support), last
    names = [str(c) for p in probes for c in p.channels.tolist()]
    return Signal(out.view(np.ndarray), rate=rate, unit="V", channels=names, start=start), support


def describe_sites(probes: Sequence[Probe]) -> dict[str, Any]:
    """Atlas region of every channel."""
    return {"lfp_region": np.concatenate([p.regions for p in probes])}
