"""Arrays at the boundary: what a caller passes becomes a checked real tensor."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Array", "Number", "as_real", "compute_dtype", "from_numpy", "one_of"]

Array: TypeAlias = Tensor | NDArray[Any]
# A type checker takes an int for a float; the shape checker of the tests does not.
Number: TypeAlias = int | float


def one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a word that is not on a list.

    Raises:
        ValueError: When it is not.

    Examples:
        >>> one_of("method", "qr", ("qr", "svd"))
    """
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def from_numpy(x: NDArray[Any], name: str) -> Tensor:
    """The tensor of an array, without a copy where torch can address its memory.

    Raises:
        TypeError: When the array holds no numbers.

    Examples:
        >>> from_numpy(np.arange(3.0)[::-1], "x").tolist()
        [2.0, 1.0, 0.0]
    """
    if x.dtype.kind not in "fiubc":
        raise TypeError(f"{name} must hold real numbers, got an array of dtype {x.dtype}")
    if x.dtype.kind == "f" and x.dtype.itemsize > 8:
        x = x.astype(np.float64)
    if not x.dtype.isnative:
        x = x.astype(x.dtype.newbyteorder("="))
    # torch cannot address negative strides, and warns of memory that it must not write.
    if not x.flags.writeable or any(stride < 0 for stride in x.strides):
        x = x.copy()
    return torch.from_numpy(x)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute in: float64 stays, 16 bits become 32, integers the default dtype.

    Examples:
        >>> compute_dtype(torch.float16)
        torch.float32
    """
    if dtype == torch.float64:
        return torch.float64
    return torch.float32 if dtype.is_floating_point else torch.get_default_dtype()


def as_real(
    name: str,
    value: object,
    *,
    axes: tuple[str, ...] = ("samples", "features"),
    at_least: tuple[int, ...] = (2, 1),
    finite: bool = True,
) -> Tensor:
    """A checked real tensor whose last axes are the named ones.

    Args:
        name: What the caller's argument is called, for the messages.
        value: Tensor or array of shape (..., *axes).
        axes: Names of the last axes.
        at_least: Smallest usable size of each of them.
        finite: Whether NaN and inf are refused.

    Returns:
        The tensor in the dtype to compute in, on the device of the value.

    Raises:
        TypeError: When the value is neither a tensor nor an array, or not real.
        ValueError: When an axis is missing or too short, or the value holds NaN or inf.

    Examples:
        >>> as_real("x", np.zeros((4, 5, 3), dtype=np.float32)).shape
        torch.Size([4, 5, 3])
        >>> as_real("x", torch.zeros(1, 3))
        Traceback (most recent call last):
        ValueError: x must be (..., samples >= 2, features >= 1), got shape (1, 3)
    """
    if not isinstance(value, np.ndarray | Tensor):
        raise TypeError(f"{name} must be a tensor or a NumPy array, got {type(value).__name__}")
    tensor = from_numpy(value, name) if isinstance(value, np.ndarray) else value
    if tensor.is_complex():
        raise TypeError(f"{name} must be real, got {tensor.dtype}; pass its real part or modulus")
    sizes = tensor.shape[tensor.ndim - len(axes) :]
    if tensor.ndim < len(axes) or any(n < low for n, low in zip(sizes, at_least, strict=True)):
        wanted = ", ".join(f"{axis} >= {low}" for axis, low in zip(axes, at_least, strict=True))
        raise ValueError(f"{name} must be (..., {wanted}), got shape {tuple(tensor.shape)}")
    tensor = tensor.to(compute_dtype(tensor.dtype))
    if finite and not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} holds NaN or inf; leave those samples out")
    return tensor
