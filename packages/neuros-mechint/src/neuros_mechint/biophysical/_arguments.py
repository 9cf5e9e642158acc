"""Checks of what a caller passes to neurons."""

import math

import torch
from torch import Tensor

__all__ = ["check_dt", "check_finite", "floating"]


def floating(name: str, value: object) -> None:
    """Refuse what is not a floating tensor.

    Raises:
        TypeError: When it is none.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a floating tensor, got {type(value).__name__}")
    if not value.is_floating_point():
        raise TypeError(f"{name} must be a floating tensor, got {value.dtype}")


def check_finite(name: str, value: Tensor) -> None:
    """Refuse a tensor that holds NaN or inf.

    Raises:
        ValueError: When it does.
    """
    # A sum shows them in one pass over memory; only where finite numbers overflow it, look again.
    x = value.detach()
    if not bool(torch.isfinite(x.sum())) and not bool(torch.isfinite(x).all()):
        raise ValueError(f"{name} holds NaN or inf; leave those samples out")


def check_dt(dt: float) -> None:
    """Refuse a time step that is no positive number.

    Raises:
        ValueError: When it is none.
    """
    if not 0 < dt < math.inf:
        raise ValueError(f"dt must be positive and finite, in ms, got {dt}")
