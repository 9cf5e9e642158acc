"""Representation matrices at the boundary: arrays become checked floating tensors."""

from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Matrix", "Number", "as_matrix", "as_pair", "centered", "one_of"]

Matrix: TypeAlias = Tensor | NDArray[Any]
# A type checker takes an int for a float; the shape checker of the tests does not.
Number: TypeAlias = int | float


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a word that is not on a list.

    Raises:
        ValueError: When it is not.
    """
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def as_matrix(name: str, value: Matrix, *, min_samples: int = 2) -> Tensor:
    """A finite floating tensor `(..., samples, features)`; half becomes float32.

    Raises:
        TypeError: When the value is neither a tensor nor an array, or not real.
        ValueError: When it has fewer than two axes, too few samples, no feature, NaN or inf.
    """
    if isinstance(value, np.ndarray):
        # torch refuses negative strides, which a reversed view has.
        value = torch.from_numpy(np.ascontiguousarray(value))
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor or a NumPy array, got {type(value).__name__}")
    if value.is_complex():
        raise TypeError(f"{name} must be real, got {value.dtype}; pass its parts as features")
    if not value.is_floating_point():
        value = value.to(torch.get_default_dtype())
    if value.dtype in (torch.float16, torch.bfloat16):
        value = value.float()
    if value.ndim < 2 or value.shape[-2] < min_samples or value.shape[-1] < 1:
        raise ValueError(
            f"{name} must be (..., samples, features) with at least {min_samples} samples and one "
            f"feature, got shape {tuple(value.shape)}"
        )
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name} holds NaN or inf; leave those samples out")
    return value


def as_pair(x: Matrix, y: Matrix, *, min_samples: int = 2) -> tuple[Tensor, Tensor]:
    """Two matrices over the same samples, in one dtype.

    Raises:
        ValueError: When their sample axes differ.
    """
    first = as_matrix("x", x, min_samples=min_samples)
    second = as_matrix("y", y, min_samples=min_samples)
    if first.shape[-2] != second.shape[-2]:
        raise ValueError(
            f"x and y must have the same samples along axis -2, got {first.shape[-2]} and "
            f"{second.shape[-2]}"
        )
    dtype = torch.promote_types(first.dtype, second.dtype)
    return first.to(dtype), second.to(dtype)


def centered(
    x: Float[Tensor, "*batch sample feature"],
) -> Float[Tensor, "*batch sample feature"]:
    """The matrix with the mean over samples taken away."""
    return x - x.mean(dim=-2, keepdim=True)
