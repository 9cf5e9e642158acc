r"""What a column of current does to a probe along its axis: matrices in closed form.

The potential of discs of diameter d is $\phi(z) = \frac{1}{2\sigma} \int C(z') g(z - z') dz'$ with
$g(u) = \sqrt{u^2 + (d/2)^2} - |u|$. Lengths are in units of the electrode spacing, which leaves
$\phi = \frac{h^2}{2\sigma} F C$ and F a function of the number of electrodes and of d / 2h alone.
"""

from collections.abc import Callable
from functools import lru_cache
from math import comb
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "INVERSES",
    "delta",
    "disc",
    "inverse",
    "second_difference",
    "smoothing",
    "spline",
    "step",
]

_Matrix: TypeAlias = NDArray[np.float64]


def disc(u: NDArray[Any], radius: float) -> _Matrix:
    """Potential g(u) of a disc at the distance u along its axis."""
    size = np.abs(u)
    found: _Matrix = radius**2 / (np.hypot(u, radius) + size)
    return found


def delta(n: int, radius: float) -> _Matrix:
    """F of thin discs at the electrodes (Pettersen 2006, eq. 4).

    Examples:
        >>> delta(2, 0.75)
        array([[0.75, 0.25],
               [0.25, 0.75]])
    """
    return disc(_distances(n), radius)


def step(n: int, radius: float) -> _Matrix:
    """F of cylinders that reach half a spacing to either side of an electrode.

    Examples:
        Beneath a wide disc the potential falls off in straight lines:

        >>> round(float(step(1, 1000.0)[0, 0]), 3)
        999.75
    """
    lower, upper = _distances(n) - 0.5, _distances(n) + 0.5
    found: _Matrix = _moments(upper, radius)[0] - _moments(lower, radius)[0]
    return found


def spline(n: int, radius: float) -> _Matrix:
    """F of a natural cubic spline that is 0 one spacing beyond either end of the probe.

    Examples:
        >>> spline(3, 2.5).shape
        (3, 3)
    """
    # Electrodes from the left end of each of the n + 1 intervals, (n, n + 1).
    away: _Matrix = np.arange(1.0, n + 1)[:, None] - np.arange(n + 1)[None, :]
    inside = _moments(1 - away, radius) - _moments(-away, radius)
    # s^m = (u + a)^m with s in [0, 1] from the left end and u = s - a from the electrode.
    powers = [sum(comb(m, p) * away ** (m - p) * inside[p] for p in range(m + 1)) for m in range(4)]
    found: _Matrix = sum(
        power @ coefficients
        for power, coefficients in zip(powers, _spline_coefficients(n), strict=True)
    )
    return found


def second_difference(n: int, *, repeated: bool) -> _Matrix:
    """The matrix of -(x[i + 1] - 2 x[i] + x[i - 1]); repeated ends keep all n rows.

    Examples:
        >>> second_difference(3, repeated=False)
        array([[-1.,  2., -1.]])
    """
    full = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    if not repeated:
        return full[1:-1]
    full[0, 0] = full[-1, -1] = 1.0
    return full


def smoothing(positions: NDArray[np.float64], width: float) -> _Matrix:
    """Gaussian averaging along the probe; every row sums to 1.

    Examples:
        >>> smoothing(np.arange(3.0), 1e-3).round(3).tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    weight = np.exp(-0.5 * ((positions[:, None] - positions[None, :]) / width) ** 2)
    found: _Matrix = weight / weight.sum(1, keepdims=True)
    return found


INVERSES: dict[str, Callable[[int, float], _Matrix]] = {
    "delta": delta,
    "step": step,
    "spline": spline,
}


@lru_cache(maxsize=64)
def inverse(method: str, n: int, radius: float) -> _Matrix:
    """Inverse of F, kept for the geometries last used.

    Examples:
        >>> inverse("delta", 2, 0.75).round(3).tolist()
        [[1.5, -0.5], [-0.5, 1.5]]
    """
    found: _Matrix = np.linalg.inv(INVERSES[method](n, radius)).astype(np.float64)
    found.setflags(write=False)
    return found


def _distances(n: int) -> _Matrix:
    place = np.arange(n, dtype=np.float64)
    return place[:, None] - place[None, :]


def _moments(u: NDArray[np.float64], radius: float) -> _Matrix:
    r"""Antiderivatives of $u^m g(u)$, 0 at u = 0, for m = 0, 1, 2, 3, stacked.

    Written so that the roots, which grow with u, never meet in a difference.
    """
    r2 = radius**2
    size = np.abs(u)
    root = np.hypot(u, radius)
    tail = r2 / (root + size)
    arc = np.arcsinh(u / radius)
    zero = 0.5 * (u * tail + r2 * arc)
    # (root^3 - |u|^3 - R^3) / 3 with root = |u| + tail
    first = (tail * (root**2 + root * size + size**2) - radius**3) / 3
    # u root^3 / 4 - R^2 (u root + R^2 asinh) / 8 - u |u|^3 / 4
    second = u * tail * (root**2 + root * size + size**2) / 4 - r2 * (u * root + r2 * arc) / 8
    # root^5 / 5 - R^2 root^3 / 3 - |u|^5 / 5 + 2 R^5 / 15
    fifth = tail * (root**4 + root**3 * size + root**2 * size**2 + root * size**3 + size**4)
    third = fifth / 5 - r2 * root**3 / 3 + 2 * radius**5 / 15
    return np.stack([zero, first, second, third])


def _spline_coefficients(n: int) -> tuple[_Matrix, _Matrix, _Matrix, _Matrix]:
    """Powers 0 to 3 on each of the n + 1 intervals from the n inner values, (n + 1, n) each."""
    values = np.eye(n + 2)[:, 1:-1]
    bend = np.zeros_like(values)
    # Natural: no second derivative at the ends; inside its values solve a tridiagonal system.
    system = 4 * np.eye(n) + np.eye(n, k=1) + np.eye(n, k=-1)
    bend[1:-1] = np.linalg.solve(system, 6 * np.diff(values, 2, axis=0))
    left, right = bend[:-1], bend[1:]
    slope = np.diff(values, axis=0) - (2 * left + right) / 6
    return values[:-1], slope, left / 2, (right - left) / 6
