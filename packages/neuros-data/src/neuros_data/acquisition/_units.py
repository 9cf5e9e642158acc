"""Spikes of many units into one point process."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuros_core import Events


def merge_spikes(
    times: Sequence[NDArray[Any]],
    units: Sequence[NDArray[Any]],
    *,
    names: Sequence[str],
    table: Mapping[str, NDArray[Any]],
    duration: float,
) -> Events:
    """Sort spikes by time; equal times keep the order of the units.

    Args:
        times: Seconds, one array per probe or unit.
        units: Number of each spike's unit among `names`, arrays like `times`.
        names: One name per unit.
        table: Columns with one value per unit.
        duration: Seconds observed; the last spike where that is later.

    Examples:
        >>> merge_spikes(
        ...     [np.array([0.3]), np.array([0.1])],
        ...     [np.array([0]), np.array([1])],
        ...     names=["a", "b"], table={}, duration=1.0,
        ... ).unit_ids.tolist()
        [1, 0]
    """
    t = np.concatenate([np.zeros(0), *times]).astype(np.float64)
    ids = np.concatenate([np.zeros(0, np.int32), *units]).astype(np.int32)
    timed = np.isfinite(t)
    t, ids = t[timed], ids[timed]
    order = np.lexsort((ids, t))
    last = float(t[order[-1]]) if len(t) else 0.0
    return Events(
        t[order],
        ids[order],
        len(names),
        units=tuple(names),
        duration=max(duration, last),
        table=dict(table),
    )
