"""Behaviour readers: values at a window's queries, as block means or interval labels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from neuros_data._readers import Affine, Meta

ArrayReader = Callable[[Mapping[str, Any]], NDArray[Any]]
Values = tuple[NDArray[np.float64], NDArray[np.bool_]]


@runtime_checkable
class BehaviourReader(Protocol):
    """Values (query, dim) and their validity (query,) in blocks between edges of time."""

    def read(self, edges: NDArray[np.float64]) -> Values:
        """Read (batch, query + 1) edges in seconds into (batch, query, dim), (batch, query)."""
        ...


@dataclass(frozen=True)
class SignalBehaviour:
    """Mean of the valid samples in each block of a signal."""

    part: Meta
    array: ArrayReader
    statistics: Affine | None

    def _bounds(self, edges: NDArray[np.float64]) -> NDArray[np.intp]:
        """First sample at or after each edge; -1e-6 samples absorb rounding of the edges."""
        arrays = self.part["arrays"]
        if "times" in arrays:
            return np.searchsorted(self.array(arrays["times"]), edges)
        at = (edges - self.part["start"]) * self.part["rate"]
        bounds: NDArray[np.intp] = np.ceil(at - 1e-6).astype(np.intp)
        return bounds.clip(0, arrays["data"]["shape"][0])

    def read(self, edges: NDArray[np.float64]) -> Values:
        bounds = self._bounds(edges)
        dim = len(self.part["channels"])
        first, n = bounds[:, :-1].ravel(), np.diff(bounds, axis=1).ravel()
        block = np.repeat(np.arange(len(n)), n)
        sample = first[block] + np.arange(len(block)) - np.repeat(np.cumsum(n) - n, n)
        data = self.array(self.part["arrays"]["data"])[sample].astype(np.float64)
        valid = self._valid(sample)
        total = np.stack(
            [np.bincount(block[valid], data[valid, d], minlength=len(n)) for d in range(dim)], -1
        )
        counted = np.bincount(block[valid], minlength=len(n))
        # A block counts only when every one of its samples was measured: no mean over a gap.
        whole = (counted == n) & (n > 0)
        mean = self._physical(total / np.maximum(counted, 1)[:, None])
        shape = (edges.shape[0], edges.shape[1] - 1)
        return mean.reshape(*shape, dim), whole.reshape(shape)

    def _valid(self, sample: NDArray[np.intp]) -> NDArray[np.bool_]:
        entry = self.part["arrays"].get("valid")
        if entry is None:
            return np.ones(len(sample), bool)
        flags: NDArray[np.bool_] = np.asarray(self.array(entry)[sample].all(axis=1))
        return flags

    def _physical(self, mean: NDArray[np.float64]) -> NDArray[np.float64]:
        if "scale" in self.part:
            mean = mean * np.asarray(self.part["scale"]) + np.asarray(self.part["offset"])
        if self.statistics is not None:
            mean = (mean - self.statistics[0]) / self.statistics[1]
        return mean


@dataclass(frozen=True)
class IntervalBehaviour:
    """Value of one column in the interval that holds the middle of each block."""

    start: NDArray[np.float64]
    end: NDArray[np.float64]
    column: NDArray[Any]

    def read(self, edges: NDArray[np.float64]) -> Values:
        middle = (edges[:, :-1] + edges[:, 1:]) / 2
        order = np.argsort(self.start, kind="stable")
        i = np.searchsorted(self.start[order], middle, side="right") - 1
        held = order[i.clip(0)]
        inside = (i >= 0) & (middle < self.end[held])
        values = np.where(inside, self.column[held].astype(np.float64), np.nan)
        return values[..., None], inside


def dimension(part: Meta) -> int:
    """Values per query: channels of a signal, one column of intervals."""
    return len(part["channels"]) if part["kind"] == "signal" else 1


def find_behaviour(meta: Meta, name: str) -> tuple[Meta, str | None] | None:
    """The behaviour `name` or `name.column`, and the column; None when the recording lacks it."""
    behaviours = meta["behaviour"]
    if name in behaviours:
        return behaviours[name], None
    base, _, column = name.rpartition(".")
    if base in behaviours and column in behaviours[base].get("columns", {}):
        return behaviours[base], column
    return None


def behaviour_reader(
    part: Meta, column: str | None, array: ArrayReader, statistics: Affine | None
) -> BehaviourReader:
    """Build the reader of one behaviour of one recording."""
    if part["kind"] == "signal":
        return SignalBehaviour(part, array, statistics)
    columns = part["columns"]
    if column is None:
        if len(columns) != 1:
            raise ValueError(
                "a behaviour of intervals needs a column to read, written 'name.column'; "
                f"it has {', '.join(sorted(columns)) or 'none'}"
            )
        column = next(iter(columns))
    values = array(part["arrays"][columns[column]])
    if values.dtype.kind not in "iufb":
        raise ValueError(
            f"column {column!r} needs numbers to be a target, got {values.dtype}; code its labels"
        )
    return IntervalBehaviour(array(part["arrays"]["start"]), array(part["arrays"]["end"]), values)
