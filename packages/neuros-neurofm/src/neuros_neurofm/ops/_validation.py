"""Checks that the state-space operations share."""

from collections.abc import Sequence

import torch
from torch import Tensor


def check_tensor(name: str, x: object, ndim: int, axes: str) -> None:
    """Raise unless `x` is a floating-point tensor of `ndim` axes."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} needs to be a torch.Tensor {axes}, got {type(x).__name__}")
    if x.ndim != ndim:
        raise ValueError(f"{name} needs {ndim} axes {axes}, got shape {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(
            f"{name} needs a floating-point dtype, got {x.dtype}; convert it with {name}.float()"
        )


def check_shape(name: str, x: Tensor, shape: Sequence[int], axes: str) -> None:
    """Raise unless `x` is a floating-point tensor of exactly this shape."""
    check_tensor(name, x, len(shape), axes)
    if tuple(x.shape) != tuple(shape):
        raise ValueError(f"{name} needs shape {axes} = {tuple(shape)}, got {tuple(x.shape)}")


def check_positive(name: str, value: object) -> None:
    """Raise unless `value` is an integer of at least one."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} needs to be an integer >= 1, got {value!r}")


def check_mask(mask: object, batch: int, length: int) -> None:
    """Raise unless `mask` holds one truth value per row and time step."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        given = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask needs to be a bool torch.Tensor (True = valid), got {given}")
    if tuple(mask.shape) != (batch, length):
        raise ValueError(
            f"mask needs shape (batch, time) = {(batch, length)}, got {tuple(mask.shape)}"
        )


def check_seq_idx(seq_idx: object, batch: int, length: int) -> None:
    """Raise unless `seq_idx` holds one integer per row and time step."""
    if not isinstance(seq_idx, Tensor) or seq_idx.is_floating_point() or seq_idx.is_complex():
        given = seq_idx.dtype if isinstance(seq_idx, Tensor) else type(seq_idx).__name__
        raise TypeError(f"seq_idx needs to be an integer torch.Tensor, got {given}")
    if tuple(seq_idx.shape) != (batch, length):
        raise ValueError(
            f"seq_idx needs shape (batch, time) = {(batch, length)}, got {tuple(seq_idx.shape)}"
        )


def compute_dtype(*tensors: Tensor | None) -> torch.dtype:
    """Float64 if any argument is float64, else float32: half inputs accumulate in float32."""
    given = {x.dtype for x in tensors if x is not None}
    return torch.float64 if torch.float64 in given else torch.float32
