"""The parcels of an atlas: their names, and those without a voxel."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from neuros_core import Events, Intervals, Signal


def check_atlas(n_rois: int, networks: int, resolution_mm: int) -> None:
    """Raise when Schaefer's atlas does not come with these."""
    if n_rois not in range(100, 1001, 100):
        raise ValueError(f"n_rois needs 100 to 1000 in steps of 100, got {n_rois}")
    if networks not in (7, 17):
        raise ValueError(f"networks needs 7 or 17, got {networks}")
    if resolution_mm not in (1, 2):
        raise ValueError(f"resolution_mm needs 1 or 2, got {resolution_mm}")


def read_names(path: Path, n_rois: int) -> Sequence[str]:
    """Names of the parcels 1, 2, ... from the table beside the atlas.

    Raises:
        ValueError: When it does not number `n_rois` parcels.
    """
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line]
    if [row[0] for row in rows] != [str(i + 1) for i in range(n_rois)]:
        raise ValueError(f"{path} needs the parcels 1 to {n_rois}, got {len(rows)} lines")
    return [row[1] for row in rows]


def on_all_parcels(signal: Signal | Events | Intervals, names: Sequence[str]) -> Signal:
    """One channel a parcel: those without a voxel are NaN and `valid=False`.

    Args:
        signal: One channel a label of the image, named by its number.
        names: Names of the parcels 1, 2, ...

    Raises:
        TypeError: When it is no signal.
    """
    if not isinstance(signal, Signal):
        raise TypeError(f"parcels need a signal, got {type(signal).__name__}")
    shape = (len(signal.data), len(names))
    data, valid = np.full(shape, np.nan), np.zeros(shape, bool)
    column = [int(label) - 1 for label in signal.channels]
    data[:, column] = signal.data
    valid[:, column] = True if signal.valid is None else signal.valid
    return Signal(
        data, signal.rate, unit=signal.unit, channels=tuple(names), valid=valid, start=signal.start
    )
