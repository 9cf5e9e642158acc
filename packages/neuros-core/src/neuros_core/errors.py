"""Validation in words: every check says what was given and what is needed.

The checks read only `ndim`, `shape` and NumPy's view of an array, so they serve any array that
`numpy.asarray` reads without a copy. They raise `ValueError`; they never repair.
"""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "check_choice",
    "check_finite",
    "check_ndim",
    "check_probability_vector",
    "check_sorted",
    "check_unique",
]


def check_ndim(name: str, x: NDArray[np.generic], ndim: int, axes: str = "") -> None:
    """Raise unless `x` has `ndim` axes.

    Args:
        name: What the caller calls the array.
        x: Any array.
        ndim: The number of axes needed.
        axes: The names of the axes for the message, such as `"(time, channel)"`.

    Raises:
        ValueError: With the number of axes and the shape that were given.

    Examples:
        >>> check_ndim("data", np.zeros(3), 2, "(time, channel)")
        Traceback (most recent call last):
        ValueError: data needs 2 axes (time, channel), got 1: shape (3,)
    """
    if x.ndim != ndim:
        wanted = f"{ndim} axes {axes}".rstrip()
        raise ValueError(f"{name} needs {wanted}, got {x.ndim}: shape {tuple(x.shape)}")


def check_finite(name: str, x: ArrayLike) -> None:
    """Raise when `x` holds NaN or an infinity.

    Raises:
        ValueError: With the number of bad values and the index of the first.

    Examples:
        >>> check_finite("mean", [1.0, float("nan")])
        Traceback (most recent call last):
        ValueError: mean needs finite values, got 1 NaN or infinite of 2, the first at index (1,)
    """
    bad = ~np.isfinite(np.asarray(x))
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{name} needs finite values, got {int(bad.sum())} NaN or infinite of {bad.size}, "
            f"the first at index {first}"
        )


def check_sorted(name: str, x: NDArray[np.floating]) -> None:
    """Raise unless the values of a vector never decrease.

    Raises:
        ValueError: With the position of the first step down.

    Examples:
        >>> check_sorted("times", np.array([0.0, 2.0, 1.0]))
        Traceback (most recent call last):
        ValueError: times needs non-decreasing values, got 1.0 after 2.0 at index 2; sort it first
    """
    down = np.flatnonzero(x[1:] < x[:-1])
    if down.size:
        i = int(down[0]) + 1
        raise ValueError(
            f"{name} needs non-decreasing values, got {x[i]} after {x[i - 1]} at index {i}; "
            "sort it first"
        )


def check_unique(name: str, values: Sequence[str]) -> None:
    """Raise when a name occurs twice.

    Raises:
        ValueError: With the names that repeat.

    Examples:
        >>> check_unique("names", ["a", "b", "a"])
        Traceback (most recent call last):
        ValueError: names needs every name once, got repeated: 'a'
    """
    if len(set(values)) != len(values):
        repeated = sorted({v for v in values if list(values).count(v) > 1})
        raise ValueError(
            f"{name} needs every name once, got repeated: {', '.join(map(repr, repeated))}"
        )


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raise unless `value` is one of `choices`.

    Raises:
        ValueError: With what was given and every choice.

    Examples:
        >>> check_choice("method", "foo", ("mean", "median"))
        Traceback (most recent call last):
        ValueError: method needs one of 'mean', 'median', got 'foo'
    """
    if value not in choices:
        raise ValueError(f"{name} needs one of {', '.join(map(repr, choices))}, got {value!r}")


def check_probability_vector(name: str, w: NDArray[np.floating], *, atol: float = 1e-9) -> None:
    """Raise unless the entries along the last axis are non-negative and sum to one.

    Raises:
        ValueError: With the smallest entry or the sum farthest from one.

    Examples:
        >>> check_probability_vector("weights", np.array([0.5, 0.4]))
        Traceback (most recent call last):
        ValueError: weights needs entries that sum to 1 within 1e-09, got a sum of 0.9
    """
    check_finite(name, w)
    if (w < 0).any():
        raise ValueError(f"{name} needs entries >= 0, got {float(w.min())}")
    total = np.atleast_1d(w.sum(-1))
    worst = float(total[np.abs(total - 1).argmax()])
    if abs(worst - 1) > atol:
        raise ValueError(f"{name} needs entries that sum to 1 within {atol}, got a sum of {worst}")
