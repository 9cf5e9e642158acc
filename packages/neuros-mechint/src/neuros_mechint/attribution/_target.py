"""The one number per row of an output that an attribution explains."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint.activations._container import first_tensor, map_leaves

__all__ = ["Target", "by_copy", "read_target"]

Target = int | tuple[int, ...] | Tensor | Callable[[Any], Tensor] | None


def read_target(
    output: Any, target: Target, copies: int, n_rows: int
) -> Float[Tensor, "copies value"]:
    """Read the target from the output of a batch that holds several copies of the input.

    Returns:
        One value per copy and row, or one value per copy where a function gives a scalar.

    Raises:
        TypeError: When a function returns no tensor.
        ValueError: When the output has no row per input row, or more than one number per row.
    """
    tensor = first_tensor(output)
    if tensor.ndim == 0 or tensor.shape[0] != copies * n_rows:
        raise ValueError(
            f"the output needs one row per input row, {copies * n_rows} in dimension 0, got shape "
            f"{tuple(tensor.shape)}"
        )
    if callable(target) and not isinstance(target, Tensor):
        return _measure(output, target, copies, n_rows)
    values = _pick(tensor, target, copies)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise ValueError(
            f"target {target!r} leaves shape {tuple(values.shape[1:])} of each row of the output "
            f"{tuple(tensor.shape)}; name one number: an index, a tuple of indices, a tensor with "
            "one index per row, or a function of the output"
        )
    return by_copy(values, copies)


def by_copy(rows: Float[Tensor, "*shape"], copies: int) -> Float[Tensor, "*parts"]:
    """Divide the rows of a batch that holds several copies of the input: (copies, batch, ...)."""
    return rows.reshape(copies, rows.shape[0] // copies, *rows.shape[1:])


def _pick(tensor: Tensor, target: int | tuple[int, ...] | Tensor | None, copies: int) -> Tensor:
    if target is None:
        return tensor
    if isinstance(target, Tensor):
        rows = torch.arange(len(tensor), device=tensor.device)
        if len(tensor) != copies * target.numel() or tensor.ndim < 2:
            raise ValueError(
                f"target of shape {tuple(target.shape)} needs one index per row for an output of "
                f"{len(tensor) // copies} rows with at least 2 dimensions, got "
                f"{tensor.ndim} dimensions"
            )
        return tensor[rows, target.reshape(-1).to(tensor.device).repeat(copies)]
    index: Any = (slice(None), *(target if isinstance(target, tuple) else (target,)))
    try:
        return tensor[index]
    except IndexError as error:
        raise ValueError(
            f"target {target!r} does not fit the output of shape {tuple(tensor.shape)}: {error}"
        ) from None


def _measure(
    output: Any, metric: Callable[[Any], Tensor], copies: int, n_rows: int
) -> Float[Tensor, "copies value"]:
    """Give a function one copy at a time: it may hold a label per row."""
    values = [metric(one) for one in _divided(output, copies, n_rows)]
    for value in values:
        if not isinstance(value, Tensor):
            raise TypeError(f"target needs to return a tensor, got {type(value).__name__}")
        if value.shape not in {(), (1,), (n_rows,), (n_rows, 1)}:
            raise ValueError(
                f"target needs to return a scalar or one value per row, ({n_rows},), got shape "
                f"{tuple(value.shape)}"
            )
    return torch.stack([value.reshape(-1) for value in values])


def _divided(output: Any, copies: int, n_rows: int) -> list[Any]:
    if copies == 1:
        return [output]
    # One unbind per tensor: its backward is one stack, where slices would pad one by one.
    parts: dict[tuple[Any, ...], tuple[Tensor, ...]] = {}

    def divide(path: tuple[Any, ...], leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == copies * n_rows:
            parts[path] = by_copy(leaf, copies).unbind(0)
        return leaf

    map_leaves(divide, output)

    def part(k: int, path: tuple[Any, ...], leaf: Any) -> Any:
        return parts[path][k] if path in parts else leaf

    return [map_leaves(functools.partial(part, k), output) for k in range(copies)]
