"""Arrays as users have them, checked and brought to one form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Arrays",
    "Given",
    "Recording",
    "Scale",
    "TargetCode",
    "group",
    "is_several",
    "name_sessions",
    "read_recordings",
    "read_targets",
    "same_width",
]

Arrays: TypeAlias = Any
"""One array-like, or a list of them."""

Recording: TypeAlias = NDArray[np.float64]


class Given(NamedTuple):
    """What a call learns from, one entry per recording."""

    recordings: list[Recording]
    targets: list[NDArray[Any] | None]
    names: list[str]


@dataclass(frozen=True, slots=True)
class Scale:
    """Level and spread of every column of a training set; a column that stands still has spread 1.

    Attributes:
        mean: (column,).
        std: (column,).
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    @classmethod
    def of(cls, recordings: Sequence[Recording]) -> "Scale":
        """That of all rows together; NaN is left out."""
        x = np.concatenate(recordings)
        there = np.isfinite(x)
        n = np.maximum(there.sum(axis=0), 1)
        mean = np.where(there, x, 0.0).sum(axis=0) / n
        std = np.sqrt(np.where(there, x - mean, 0.0).__pow__(2).sum(axis=0) / n)
        return cls(mean, np.where(std > 0, std, 1.0))

    def apply(self, x: Recording) -> Recording:
        """In units of the spread, from the level."""
        return (x - self.mean) / self.std

    def undo(self, z: Recording) -> Recording:
        """Back to the units of the data."""
        return z * self.std + self.mean


@dataclass(frozen=True, slots=True)
class TargetCode:
    """How targets are written for the model: scaled numbers, or the index of a label.

    Attributes:
        classes: The labels in order; None for numbers.
        scale: That of the numbers; None for labels.
        flat: Whether the targets came as (time,).
    """

    classes: NDArray[Any] | None
    scale: Scale | None
    flat: bool

    @classmethod
    def of(cls, targets: Sequence[NDArray[Any] | None], classes: Arrays = None) -> "TargetCode":
        """That of training targets; `classes` names labels that are yet to come."""
        given = [y for y in targets if y is not None]
        if not given:
            return cls(None, None, flat=True)
        if is_label(given[0]):
            known = np.unique(np.concatenate(given) if classes is None else np.asarray(classes))
            return cls(known, None, flat=True)
        columns = [as_columns(y) for y in given]
        return cls(None, Scale.of(columns), flat=given[0].ndim == 1)

    @property
    def width(self) -> int:
        """Outputs that the decoder needs."""
        if self.classes is not None:
            return len(self.classes)
        return 0 if self.scale is None else len(self.scale.mean)

    def encode(self, y: NDArray[Any]) -> NDArray[Any]:
        """(time, dim) numbers with NaN where missing, or (time,) indices.

        Raises:
            ValueError: Targets of another kind or width, or an unknown label.
        """
        if self.classes is not None:
            return self._indices(y)
        columns = as_columns(y)
        if self.scale is None or is_label(y) or columns.shape[1] != self.width:
            raise ValueError(
                f"y must be {self.width} continuous variables as in the first fit, got shape "
                f"{y.shape} of {y.dtype}; labels and other variables need a fit of their own"
            )
        return self.scale.apply(columns)

    def decode(self, out: NDArray[np.float64]) -> NDArray[Any]:
        """The decoder's output (time, width) as targets are given."""
        if self.classes is not None:
            return np.asarray(self.classes[out.argmax(axis=1)])
        y = out if self.scale is None else self.scale.undo(out)
        return y[:, 0] if self.flat else y

    def _indices(self, y: NDArray[Any]) -> NDArray[Any]:
        classes = np.asarray(self.classes)
        unknown = np.setdiff1d(np.unique(y), classes) if is_label(y) else np.unique(y)
        if unknown.size or y.ndim != 1:
            raise ValueError(
                f"y must hold the labels {classes[:8].tolist()} of the first fit, got "
                f"{unknown[:8].tolist()} in shape {y.shape}; name all labels in "
                "partial_fit(..., classes=) or fit anew"
            )
        return np.searchsorted(classes, y)


def is_label(y: NDArray[Any]) -> bool:
    """Whether targets are labels: (time,) integers, booleans or strings."""
    return y.ndim == 1 and y.dtype.kind in "iubUS"


def as_columns(y: NDArray[Any]) -> Recording:
    """(time, dim) in float64."""
    return y.astype(np.float64).reshape(len(y), -1)


def read_recordings(X: Arrays, *, counts: bool) -> list[Recording]:
    """X as a list of recordings (time, channel); NaN marks a sample that is missing.

    Raises:
        TypeError: X is sparse, or not of numbers.
        ValueError: A recording that is not (time, channel), is empty, has infinite values or a
            count below 0.
    """
    parts = X if _is_list_of_recordings(X) else [X]
    return [_read_recording(part, counts=counts) for part in parts]


def read_targets(y: Arrays, lengths: Sequence[int], *, several: bool) -> list[Any]:
    """One array of targets per recording of these lengths, None where there are none.

    Raises:
        ValueError: Another number of targets than of recordings or samples, more than two axes, or
            targets of different kinds.
    """
    if y is None:
        return [None] * len(lengths)
    parts = list(y) if several else [y]
    if len(parts) != len(lengths):
        raise ValueError(
            f"X holds {len(lengths)} recordings, y holds {len(parts)}; give one y per recording "
            "(None for one without targets)"
        )
    targets = [
        None if part is None else _read_target(part, n)
        for part, n in zip(parts, lengths, strict=True)
    ]
    kinds = {(is_label(t), t.shape[1:]) for t in targets if t is not None}
    if len(kinds) > 1:
        raise ValueError(f"all y must be of one kind and width, got (label, width) {sorted(kinds)}")
    return targets


def name_sessions(
    sessions: str | Sequence[str] | None, n: int, default: Sequence[str]
) -> list[str]:
    """The session of each of n recordings.

    Raises:
        ValueError: Another number of names, or an empty one.
    """
    given = default if sessions is None else sessions
    names = [given] * n if isinstance(given, str) else [str(name) for name in given]
    if len(names) != n or not all(names):
        raise ValueError(
            f"sessions must name each of the {n} recordings, got {names}; one name alone stands "
            "for all of them"
        )
    return names


def same_width(names: Sequence[str], recordings: Sequence[Recording]) -> dict[str, int]:
    """Channels per session.

    Raises:
        ValueError: Recordings of one session with different numbers of channels.
    """
    widths: dict[str, int] = {}
    for name, x in zip(names, recordings, strict=True):
        if widths.setdefault(name, x.shape[1]) != x.shape[1]:
            raise ValueError(
                f"the recordings of session {name!r} have {widths[name]} and {x.shape[1]} "
                "channels; one session has the same units throughout: give the other a name of "
                "its own"
            )
    return widths


def group(names: Sequence[str], values: Sequence[Any]) -> Mapping[str, list[Any]]:
    """The values of each session, in the order of first appearance."""
    groups: dict[str, list[Any]] = {}
    for name, value in zip(names, values, strict=True):
        groups.setdefault(name, []).append(value)
    return groups


def _is_list_of_recordings(X: Arrays) -> bool:
    return isinstance(X, list | tuple) and len(X) > 0 and np.ndim(X[0]) == 2


def is_several(X: Arrays) -> bool:
    """Whether X is a list of recordings."""
    return _is_list_of_recordings(X)


def _read_recording(part: Arrays, *, counts: bool) -> Recording:
    if hasattr(part, "toarray"):
        raise TypeError("X is sparse, dense data is required; convert it with X.toarray()")
    x = np.asarray(part)
    if np.iscomplexobj(x):
        raise ValueError("Complex data not supported: X must be real")
    if x.ndim != 2:
        raise ValueError(
            f"Expected 2D array (time, channel), got {x.ndim}D array instead, of shape {x.shape}. "
            "Reshape your data with X[:, None] for one channel, or pass trials as list(X)"
        )
    if 0 in x.shape:
        raise ValueError(
            f"Found array with {x.shape[0]} sample(s) and {x.shape[1]} feature(s) "
            f"(shape={x.shape}) while a minimum of 1 is required."
        )
    try:
        x = x.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise type(error)(f"X must hold numbers; argument must be real, {error}") from error
    if np.isinf(x).any():
        raise ValueError("X holds infinity; mark samples that are missing with NaN")
    if counts and (x < 0).any():
        raise ValueError(
            "Negative values in data passed to NeuroFMEstimator: X of modality 'spike' holds "
            "counts; choose the modality of your recording"
        )
    return x


def _read_target(part: Arrays, n: int) -> NDArray[Any]:
    y = np.asarray(part)
    if y.dtype == object:
        # Strings of a table come as objects; numbers among them are refused by the cast.
        y = y.astype(str) if all(isinstance(v, str) for v in y.flat) else y.astype(np.float64)
    if y.ndim not in {1, 2} or len(y) != n:
        raise ValueError(
            f"y must be (time,) or (time, dim) with time = {n} as in X, got shape {y.shape}"
        )
    if y.dtype.kind == "f" and (np.isinf(y).any() or np.isnan(y).all()):
        raise ValueError("y holds infinity or nothing but NaN; mark what is not known with NaN")
    return y
