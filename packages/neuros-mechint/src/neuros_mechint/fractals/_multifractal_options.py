"""Options of multifractal spectra: moments, scales, and which options go together."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from neuros_mechint.fractals._conventions import Number
from neuros_mechint.fractals._dfa import DetrendedFluctuationAnalysis
from neuros_mechint.fractals._leaders import leader_counts, shortest_for
from neuros_mechint.fractals._spectral_options import check_choice

__all__ = [
    "Kind",
    "Method",
    "check_options",
    "read_moments",
    "read_scales",
    "require_fit",
    "sizes_for",
]

Method = Literal["mfdfa", "measure", "leaders"]
Kind = Literal["noise", "path"]

_SMALLEST_WINDOW = 10
# Finer leaders have no coefficients below them and scale otherwise.
_FIRST_OCTAVE = 3


def check_options(method: Method, kind: Kind, order: int, base: int) -> None:
    """Refuse unknown options, and those of another method.

    Args:
        method: of the spectrum.
        kind: of the signals.
        order: degree of the trend.
        base: of the sizes of boxes.

    Raises:
        ValueError: if one does not fit.

    Examples:
        >>> check_options("mfdfa", "path", 2, 2)
    """
    check_choice("method", method, Method)
    check_choice("kind", kind, Kind)
    if order < 0 or base < 2:
        raise ValueError(
            f"order must be at least 0 and base at least 2, got order = {order}, base = {base}"
        )
    foreign = {
        "kind": (kind != "noise" and method == "measure", "'mfdfa' and 'leaders'"),
        "order": (order != 1 and method != "mfdfa", "'mfdfa'"),
        "base": (base != 2 and method != "measure", "'measure'"),
    }
    for name, (is_foreign, methods) in foreign.items():
        if is_foreign:
            raise ValueError(f"{name} is used by method {methods} only, got method {method!r}")


def read_moments(
    q: Sequence[Number] | Tensor | NDArray[np.floating[Any]] | None,
) -> tuple[float, ...]:
    """Return the orders of the moments, ascending.

    Args:
        q: as the caller gave them; None for 21 from -5 to 5.

    Returns:
        At least two different numbers.

    Raises:
        ValueError: if there are fewer, or one is not finite.

    Examples:
        >>> read_moments([2, 0, 2])
        (0.0, 2.0)
        >>> len(read_moments(None)), 0.0 in read_moments(None)
        (21, True)
    """
    if q is None:
        return tuple(k / 2 for k in range(-10, 11))
    given = q.tolist() if isinstance(q, Tensor | np.ndarray) else q
    values = sorted({float(value) for value in given})
    if len(values) < 2 or not all(map(math.isfinite, values)):
        raise ValueError(f"q must hold at least 2 different finite moments, got {values}")
    return tuple(values)


def read_scales(scales: Sequence[int] | None, method: Method, order: int) -> tuple[int, ...] | None:
    """Return the sizes that the caller chose, ascending.

    Args:
        scales: as given; None for those that `sizes_for` chooses.
        method: of the spectrum.
        order: degree of the trend.

    Returns:
        At least two different sizes, or None.

    Raises:
        ValueError: if there are fewer, one is too small, or no power of 2 where they are octaves.

    Examples:
        >>> read_scales([16, 4, 8], "leaders", 1)
        (4, 8, 16)
    """
    if scales is None:
        return None
    sizes = tuple(sorted({int(size) for size in scales}))
    smallest = {"mfdfa": order + 2, "measure": 1, "leaders": 2}[method]
    if len(sizes) < 2 or sizes[0] < smallest:
        raise ValueError(
            f"scales must hold at least 2 different sizes of at least {smallest} samples for "
            f"method {method!r}, got {sizes}"
        )
    if method == "leaders" and any(size & (size - 1) for size in sizes):
        raise ValueError(f"scales must be powers of 2 for method 'leaders', got {sizes}")
    return sizes


def require_fit(sizes: tuple[int, ...], n: int, method: Method, name: str) -> None:
    """Refuse sizes that signals of n samples cannot be cut into.

    Args:
        sizes: what `read_scales` returned.
        n: samples of a signal.
        method: of the spectrum.
        name: what the caller's argument is called, for the messages.

    Raises:
        ValueError: if n is too small, or a size of boxes does not divide it.

    Examples:
        >>> require_fit((3, 9), 27, "measure", "x")
    """
    last = sizes[-1]
    needed = shortest_for(last.bit_length() - 1) if method == "leaders" else last
    if n < needed:
        raise ValueError(
            f"{name} needs at least {needed} samples along its time axis for a scale of {last}, "
            f"got {n}; leave out the largest of scales or pass a longer signal"
        )
    if method == "measure" and any(n % size for size in sizes):
        raise ValueError(
            f"{name} needs a number of samples that all scales {sizes} divide, got {n}; crop it"
        )


def sizes_for(n: int, method: Method, order: int, base: int, name: str) -> tuple[int, ...]:
    """Return the sizes that signals of n samples are analysed at.

    Args:
        n: samples of a signal.
        method: of the spectrum.
        order: degree of the trend.
        base: of the sizes of boxes.
        name: what the caller's argument is called, for the messages.

    Returns:
        At least two sizes.

    Raises:
        ValueError: if n is too small or, for boxes, `base` does not divide it.

    Examples:
        >>> sizes_for(48, "measure", 1, 2, "x")
        (1, 2, 4, 8, 16)
    """
    if method == "measure":
        return _box_sizes(n, base, name)
    smallest = max(_SMALLEST_WINDOW, order + 2)
    needed = 4 * (smallest + 1) if method == "mfdfa" else shortest_for(_FIRST_OCTAVE + 1)
    if n < needed:
        raise ValueError(
            f"{name} needs at least {needed} samples along its time axis for two scales of method "
            f"{method!r}, got {n}; pass a longer signal or scales"
        )
    if method == "mfdfa":
        windows = DetrendedFluctuationAnalysis(min_window=smallest, order=order)
        return tuple(windows.scales(n).tolist())
    return tuple(2**octave for octave in range(_FIRST_OCTAVE, len(leader_counts(n)) + 1))


def _box_sizes(n: int, base: int, name: str) -> tuple[int, ...]:
    sizes = [1]
    while n % (sizes[-1] * base) == 0 and n > sizes[-1] * base:
        sizes.append(sizes[-1] * base)
    if len(sizes) < 2:
        raise ValueError(
            f"{name} needs a number of samples that base = {base} divides, more than {base} of "
            f"them, for method 'measure', got {n}; crop it, or choose base or scales"
        )
    return tuple(sizes)
