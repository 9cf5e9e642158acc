"""Surrogate gradients of one number, for a compiler.

Each takes the distance to threshold x, the number 1 in the dtype of x, the slope k, and two
constants of its own that `slope_constants` makes of k.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["SLOPES", "slope_constants"]


def _fast_sigmoid(x: Any, one: Any, k: Any, _p: Any, _q: Any) -> Any:
    root = one + k * abs(x)
    return one / (root * root)


def _sigmoid(x: Any, one: Any, k: Any, _p: Any, _q: Any) -> Any:
    tail = np.exp(-abs(k * x))
    return k * tail / ((one + tail) * (one + tail))


def _atan(x: Any, one: Any, _k: Any, p: Any, q: Any) -> Any:
    return q / (one + (p * x) * (p * x))


def _triangle(x: Any, one: Any, k: Any, _p: Any, _q: Any) -> Any:
    return k * max(one - k * abs(x), one - one)


def _gaussian(x: Any, _one: Any, k: Any, p: Any, q: Any) -> Any:
    return p * np.exp(-(k * x) * (k * x) * q)


def _boxcar(x: Any, one: Any, k: Any, p: Any, _q: Any) -> Any:
    return p if abs(k * x) <= one else one - one


def _straight_through(_x: Any, one: Any, _k: Any, _p: Any, _q: Any) -> Any:
    return one


SLOPES: dict[str, Callable[..., Any]] = {
    "fast_sigmoid": _fast_sigmoid,
    "sigmoid": _sigmoid,
    "atan": _atan,
    "triangle": _triangle,
    "gaussian": _gaussian,
    "boxcar": _boxcar,
    "straight_through": _straight_through,
}


def slope_constants(kind: str, k: float) -> tuple[float, float, float]:
    """The slope, and what the function of a kind computes from it at every call."""
    p, q = {
        "atan": (math.pi * k / 2, k / 2),
        "gaussian": (k / math.sqrt(2 * math.pi), 0.5),
        "boxcar": (k / 2, 0.0),
    }.get(kind, (0.0, 0.0))
    return k, p, q
