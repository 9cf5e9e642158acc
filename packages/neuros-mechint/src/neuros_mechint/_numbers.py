"""Numbers of a model: floats or tensors, some of them parameters."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from neuros_mechint._arrays import Number

__all__ = [
    "NumberOrTensor",
    "as_number",
    "hold_numbers",
    "joint_shape",
    "positive",
    "shown_numbers",
]

NumberOrTensor: TypeAlias = Number | Tensor


def as_number(name: str, value: object) -> Tensor:
    """A number as a tensor.

    Raises:
        TypeError: When it is neither a float nor a floating tensor.
        ValueError: When it holds NaN or inf.

    Examples:
        >>> as_number("tau", 0.02).dtype
        torch.float64
    """
    if isinstance(value, int | float):
        # A 0-dimensional float64 number costs nothing and keeps 0.02 exact in float64 runs.
        value = torch.tensor(float(value), dtype=torch.float64)
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be a float or a floating tensor, got {kind}")
    if not bool(torch.isfinite(value.detach()).all()):
        raise ValueError(f"{name} must be finite, got {value}")
    return value


def hold_numbers(
    module: nn.Module, numbers: Mapping[str, NumberOrTensor], learnable: Sequence[str] = ()
) -> None:
    """Give a module its numbers: the learnable ones as parameters, the others as buffers.

    Raises:
        TypeError: When a number is neither a float nor a floating tensor.
        ValueError: When one is not finite, or a learnable name is unknown.
    """
    unknown = sorted(set(learnable) - set(numbers))
    if unknown:
        raise ValueError(
            f"learnable names {', '.join(map(repr, unknown))}; "
            f"the numbers here are {', '.join(map(repr, numbers))}"
        )
    for name, value in numbers.items():
        tensor = as_number(name, value)
        if name in learnable and not isinstance(tensor, nn.Parameter):
            tensor = nn.Parameter(tensor.detach().clone())
        if isinstance(tensor, nn.Parameter):
            module.register_parameter(name, tensor)
        else:
            module.register_buffer(name, tensor)


def positive(numbers: Mapping[str, Number | Tensor], *, zero: bool = False) -> None:
    """Refuse numbers that are not positive.

    Raises:
        ValueError: When one is negative, or zero where that is not allowed.
    """
    for name, value in numbers.items():
        low = float(value.detach().min()) if isinstance(value, Tensor) else float(value)
        if low < 0 or (low == 0 and not zero):
            raise ValueError(f"{name} must be {'at least 0' if zero else 'positive'}, got {low:g}")


def shown_numbers(module: nn.Module, names: Sequence[str]) -> str:
    """The numbers of a module for printing: values of single ones, shapes of the others."""
    held = {name: getattr(module, name) for name in names}
    return ", ".join(
        f"{name}={x.item():g}" if x.numel() == 1 else f"{name}={tuple(x.shape)}"
        for name, x in held.items()
    )


def joint_shape(row: Sequence[int], numbers: Mapping[str, Tensor], what: str) -> torch.Size:
    """The shape that axes and numbers have together.

    Args:
        row: Sizes of the axes.
        numbers: The numbers by name.
        what: What the axes are, for the message.

    Raises:
        ValueError: When a number does not broadcast.

    Examples:
        >>> joint_shape((4, 1), {"tau": torch.ones(3)}, "the units (..., n)")
        torch.Size([4, 3])
    """
    shape = torch.Size(row)
    for name, value in numbers.items():
        try:
            shape = torch.Size(np.broadcast_shapes(shape, value.shape))
        except ValueError as error:
            raise ValueError(
                f"{name} of shape {tuple(value.shape)} does not broadcast to {what} "
                f"= {tuple(shape)} of the input and the other numbers"
            ) from error
    return shape
