"""Checks of what a caller passes to neurons."""

import math
from collections.abc import Mapping

from torch import Tensor

from neuros_mechint._arrays import Number

__all__ = ["check_dt", "floating", "positive"]


def floating(name: str, value: object) -> None:
    """Refuse what is not a floating tensor.

    Raises:
        TypeError: When it is none.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a floating tensor, got {type(value).__name__}")
    if not value.is_floating_point():
        raise TypeError(f"{name} must be a floating tensor, got {value.dtype}")


def check_dt(dt: float) -> None:
    """Refuse a time step that is no positive number.

    Raises:
        ValueError: When it is none.
    """
    if not 0 < dt < math.inf:
        raise ValueError(f"dt must be positive and finite, in ms, got {dt}")


def positive(numbers: Mapping[str, Number | Tensor], *, zero: bool = False) -> None:
    """Refuse numbers that are not positive.

    Raises:
        ValueError: When one is negative, or zero where that is not allowed.
    """
    for name, value in numbers.items():
        low = float(value.detach().min()) if isinstance(value, Tensor) else float(value)
        if low < 0 or (low == 0 and not zero):
            raise ValueError(f"{name} must be {'at least 0' if zero else 'positive'}, got {low:g}")
