"""Representation matrices at the boundary: arrays become checked floating tensors."""

from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint._arrays import Array, Number, as_real, one_of

__all__ = ["Matrix", "Number", "as_matrix", "as_pair", "centered", "one_of"]

Matrix: TypeAlias = Array


def as_matrix(name: str, value: Matrix, *, min_samples: int = 2) -> Tensor:
    """A finite floating tensor `(..., samples, features)`; half becomes float32.

    Raises:
        TypeError: When the value is neither a tensor nor an array, or not real.
        ValueError: When it has fewer than two axes, too few samples, no feature, NaN or inf.
    """
    found = as_real(name, value, at_least=(min_samples, 1), finite=False)
    # One NaN or inf makes the sum one too, and a sum costs a tenth of looking at every entry; the
    # sum of large finite values may overflow, so then every entry is looked at.
    if not bool(found.detach().sum().isfinite()) and not bool(found.isfinite().all()):
        raise ValueError(f"{name} holds NaN or inf; leave those samples out")
    return found


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
