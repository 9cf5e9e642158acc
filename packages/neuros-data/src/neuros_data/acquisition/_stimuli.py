"""Presentations of several kinds of stimulus in one table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuros_core import Intervals

Table = Mapping[str, NDArray[Any]]


def join_stimuli(tables: Sequence[Table]) -> Intervals:
    """Stack tables whose columns differ and sort them by time.

    What a kind of stimulus does not have is NaN, or empty text.

    Args:
        tables: Each with the columns `start` and `end` in seconds; rows without a time are
            left out.

    Examples:
        >>> joined = join_stimuli([
        ...     {"start": np.array([2.0]), "end": np.array([3.0]), "angle": np.array([45.0])},
        ...     {"start": np.array([0.0]), "end": np.array([1.0])},
        ... ])
        >>> joined.start.tolist(), joined.columns["angle"].tolist()
        ([0.0, 2.0], [nan, 45.0])
    """
    names = sorted({name for table in tables for name in table})
    stacked = {name: _stack(name, tables) for name in names}
    start, end = stacked.pop("start"), stacked.pop("end")
    timed = np.flatnonzero(np.isfinite(start) & np.isfinite(end) & (end >= start))
    order = timed[np.lexsort((end[timed], start[timed]))]
    columns = {name: column[order] for name, column in stacked.items()}
    return Intervals(start[order], end[order], columns)


def _stack(name: str, tables: Sequence[Table]) -> NDArray[Any]:
    present = [table[name] for table in tables if name in table]
    if any(column.dtype.kind == "U" for column in present):
        return np.concatenate(
            [
                table[name].astype(np.str_) if name in table else _filled(table, "")
                for table in tables
            ]
        )
    return np.concatenate(
        [
            table[name].astype(np.float64) if name in table else _filled(table, np.nan)
            for table in tables
        ]
    )


def _filled(table: Table, value: str | float) -> NDArray[Any]:
    return np.full(len(table["start"]), value)
