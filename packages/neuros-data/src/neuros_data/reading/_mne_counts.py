"""The integers behind samples that MNE-Python gives as floats, where a file holds integers.

What is returned reproduces every sample: where the lattice does not hold, there is none.
"""

import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuros_data.format import Quantization, quantize

# A GDF header tells units by a code of its version; the samples themselves tell the factor.
_FACTORS = (1.0, 1e-3, 1e-6)
_GDF_INTEGERS = frozenset({1, 2, 3, 4, 5, 6, 279, 535})


class Counts(NamedTuple):
    """Integers (time, channel) with the step and the value of 0 of each channel."""

    values: NDArray[Any]
    scale: NDArray[np.float64]
    offset: NDArray[np.float64]


def counts_of(raw: Any, data: NDArray[np.float64]) -> Counts | None:
    """The integers of a file whose channels have a calibration, such as BrainVision and FIF.

    Args:
        raw: What MNE-Python read.
        data: Its samples, shape (time, channel).
    """
    if raw.orig_format not in {"short", "int"}:
        return None
    steps = np.array([ch["cal"] * ch["range"] for ch in raw.info["chs"]], np.float64)
    return _on_lattice(data, steps, np.zeros(len(steps)))


def counts_of_gdf(path: Path, data: NDArray[np.float64]) -> Counts | None:
    """The integers of a GDF file.

    Args:
        path: The file.
        data: Its samples, shape (time, channel).
    """
    with path.open("rb") as file:
        fixed = file.read(256)
        n = struct.unpack("<H", fixed[252:254])[0]
        table = file.read(256 * n)
    codes = np.frombuffer(table, "<i4", n, offset=220 * n)
    if n != data.shape[1] or not _GDF_INTEGERS.issuperset(codes.tolist()):
        return None
    digital = "<f8" if float(fixed[4:8]) >= 1.9 else "<i8"
    low, high = (np.frombuffer(table, "<f8", n, offset=at * n) for at in (104, 112))
    d_low, d_high = (
        np.frombuffer(table, digital, n, offset=at * n).astype(np.float64) for at in (120, 128)
    )
    if not (np.isfinite([low, high, d_low, d_high]).all() and (d_high != d_low).all()):
        return None
    step = (high - low) / (d_high - d_low)
    zero = low - d_low * step
    found = (_on_lattice(data, step * factor, zero * factor) for factor in _FACTORS)
    return next((counts for counts in found if counts is not None), None)


def _on_lattice(
    data: NDArray[np.float64], scale: NDArray[np.float64], offset: NDArray[np.float64]
) -> Counts | None:
    if not (np.isfinite(scale).all() and scale.all()):
        return None
    try:
        values, _, _ = quantize(data, Quantization(scale, offset))
    except ValueError:
        return None
    return Counts(values, scale, offset)
