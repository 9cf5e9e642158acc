"""Checks of signals on their way from scale to scale."""

import math

import numpy as np
from torch import Tensor

from neuros_mechint._arrays import Number, from_numpy

__all__ = ["as_floating", "check_rate"]


def as_floating(name: str, value: object) -> Tensor:
    """The tensor of a floating tensor or array.

    Raises:
        TypeError: When it is something else.

    Examples:
        >>> as_floating("x", np.ones(2)).dtype
        torch.float64
    """
    tensor = from_numpy(value, name) if isinstance(value, np.ndarray) else value
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a floating tensor or array, got {type(value).__name__}")
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be a floating tensor or array, got {tensor.dtype}")
    return tensor


def check_rate(sampling_rate: Number) -> None:
    """Refuse a sampling rate that is no positive number.

    Raises:
        ValueError: When it is none.

    Examples:
        >>> check_rate(1000)
    """
    if not 0 < sampling_rate < math.inf:
        raise ValueError(f"sampling_rate must be positive and finite, in Hz, got {sampling_rate}")
