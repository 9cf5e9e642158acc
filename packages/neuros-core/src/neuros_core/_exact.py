"""Checks that the exchanged dataclasses share: frozen arrays and versioned dictionaries."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuros_core.errors import check_finite, check_ndim, check_unique

__all__: list[str] = []


def as_real(name: str, x: ArrayLike, ndim: int) -> NDArray[Any]:
    """Return `x` as an array of `ndim` axes that holds real numbers."""
    given = np.asarray(x)
    if given.size and given.dtype.kind not in "iuf":
        raise ValueError(f"{name} needs real numbers, got dtype {given.dtype}")
    check_ndim(name, given, ndim)
    return given


def freeze(name: str, x: ArrayLike, ndim: int) -> NDArray[np.float64]:
    """Return a finite, read-only, C-contiguous float64 copy of `x` with `ndim` axes."""
    copy = np.array(as_real(name, x, ndim), dtype=np.float64, order="C")
    check_finite(name, copy)
    copy.flags.writeable = False
    return copy


def check_texts(name: str, values: Sequence[object]) -> tuple[str, ...]:
    """Return unique texts, none of them empty and at least one."""
    texts = tuple(v for v in values if isinstance(v, str) and v)
    if isinstance(values, str) or not values or len(texts) != len(values):
        raise ValueError(f"{name} needs at least one text, none of them empty, got {values!r}")
    check_unique(name, texts)
    return texts


def check_count(name: str, value: object) -> int:
    """Return `value` as an int >= 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} needs a whole number >= 1, got {value!r}")
    return int(value)


def check_schema(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `kind` found in `values`, which must carry schema 1 and nothing else."""
    given = dict(values)
    schema = given.pop("schema", None)
    if schema != 1:
        raise ValueError(
            f"{kind.__name__} needs schema 1, got {schema!r}; a newer neuros-core reads newer ones"
        )
    known = {f.name: f for f in fields(kind)}
    unknown = sorted(given.keys() - known.keys())
    missing = sorted(
        name
        for name, f in known.items()
        if name not in given and f.default is MISSING and f.default_factory is MISSING
    )
    if unknown or missing:
        raise ValueError(
            f"{kind.__name__} needs the fields {', '.join(known)}; got unknown: {unknown}, "
            f"missing: {missing}"
        )
    return given
