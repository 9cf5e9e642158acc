"""Conventions that every fractal estimator shares: input, blocks, constant items, output."""

import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from neuros_mechint._arrays import Number, compute_dtype, from_numpy

__all__ = [
    "ArrayT",
    "Number",
    "Signals",
    "centred",
    "deliver",
    "map_rows",
    "read_signals",
    "require_finite",
    "require_length",
    "warn_degenerate",
]

ArrayT = TypeVar("ArrayT", Tensor, NDArray[Any])

# 2**18 samples are 1 MiB in float32: a block and one buffer of its size stay in the second-level
# cache of one core (64 rows of 4096 samples). A function with more buffers takes less.
_BLOCK_SAMPLES = 2**18


class Signals(NamedTuple):
    """Signals with time last, and how to hand results back."""

    view: Tensor
    dtype: torch.dtype
    is_array: bool
    name: str

    @property
    def length(self) -> int:
        """Number of samples of one signal."""
        return int(self.view.shape[-1])


def read_signals(x: object, dim: int, *, name: str = "x") -> Signals:
    """Take the caller's array with its time axis moved last, without a copy.

    Args:
        x: tensor or array, real, of any shape with a time axis.
        dim: the time axis.
        name: what the caller's argument is called, for the messages.

    Returns:
        The view, the dtype to compute in (float64 stays, 16-bit floats become float32, integers
        the default dtype), and whether the caller passed NumPy.

    Raises:
        TypeError: if `x` is neither a tensor nor an array, or is not real.
        ValueError: if `x` has no axis `dim`.

    Examples:
        >>> read_signals(torch.zeros(2, 5, 3), 1).view.shape
        torch.Size([2, 3, 5])
    """
    is_array = isinstance(x, np.ndarray)
    if not isinstance(x, np.ndarray | Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor or a numpy.ndarray, got {type(x).__name__}; "
            f"convert it with numpy.asarray"
        )
    tensor = from_numpy(x, name) if isinstance(x, np.ndarray) else x
    if tensor.is_complex():
        raise TypeError(f"{name} must be real, got {tensor.dtype}; pass its real part or modulus")
    if not -tensor.ndim <= dim < tensor.ndim:
        raise ValueError(
            f"{name} needs a time axis dim = {dim}, got an array of shape {tuple(tensor.shape)}"
        )
    return Signals(tensor.movedim(dim, -1), compute_dtype(tensor.dtype), is_array, name)


def require_length(signals: Signals, needed: int, way_out: str) -> None:
    """Refuse signals that are too short.

    Args:
        signals: what `read_signals` returned.
        needed: the smallest usable number of samples, with its derivation in `way_out`.
        way_out: what the caller can do about it.

    Raises:
        ValueError: if the signals have fewer than `needed` samples.

    Examples:
        >>> require_length(read_signals(torch.zeros(9), -1), 8, "pass a longer signal")
    """
    if signals.length < needed:
        raise ValueError(
            f"{signals.name} needs at least {needed} samples along its time axis, "
            f"got {signals.length}; {way_out}"
        )


def map_rows(
    signals: Signals,
    function: Callable[[Tensor], tuple[Tensor, ...]],
    *,
    block_samples: int = _BLOCK_SAMPLES,
) -> tuple[Tensor, ...]:
    """Apply a function of rows to cache-sized blocks of all signals.

    Args:
        signals: what `read_signals` returned.
        function: maps rows `(batch, time)` of the compute dtype to tensors whose first axis is
            the batch.
        block_samples: samples of one block.

    Returns:
        The results of all blocks, joined, with the batch axes of the signals.

    Raises:
        ValueError: if a signal holds a value that is not finite.

    Examples:
        >>> x = torch.arange(6.0).reshape(2, 1, 3)
        >>> map_rows(read_signals(x, -1), lambda rows: (rows.sum(-1),))[0]
        tensor([[ 3.],
                [12.]])
    """
    batch = signals.view.shape[:-1]
    if signals.view.numel() == 0:
        # Shapes from one silent row: a transform of no rows fails in some libraries.
        silent = signals.view.new_zeros(1, signals.length, dtype=signals.dtype)
        return tuple(t[:0].reshape(batch + t.shape[1:]) for t in function(silent))
    with torch.autocast(signals.view.device.type, enabled=False):
        blocks = _blockwise(signals, function, block_samples)
        joined = _joined(blocks, signals.view[..., 0].numel())
    return tuple(t.reshape(batch + t.shape[1:]) for t in joined)


def _blockwise(
    signals: Signals, function: Callable[[Tensor], tuple[Tensor, ...]], block_samples: int
) -> Iterator[tuple[Tensor, ...]]:
    for block in _row_blocks(signals.view, block_samples):
        rows = block.to(signals.dtype).contiguous()
        require_finite(signals, rows)
        yield function(rows)


def _joined(blocks: Iterator[tuple[Tensor, ...]], n_rows: int) -> tuple[Tensor, ...]:
    """Join the results of blocks along the first axis."""
    first = next(blocks)
    if len(first[0]) == n_rows:
        return first
    if any(part.requires_grad for part in first):
        return tuple(torch.cat(parts) for parts in zip(first, *blocks, strict=True))
    # Small results that outlive the large buffers of their block would keep the heap from being
    # used again: 400 MiB for 100,000 signals of 1,000 samples.
    whole = tuple(part.new_empty(n_rows, *part.shape[1:]) for part in first)
    start = 0
    for parts in itertools.chain([first], blocks):
        for place, part in zip(whole, parts, strict=True):
            place[start : start + len(part)] = part
        start += len(parts[0])
    return whole


def require_finite(signals: Signals, rows: Float[Tensor, "batch time"]) -> None:
    """Refuse NaN and infinity.

    Args:
        signals: what `read_signals` returned.
        rows: all of them or a block, in the compute dtype.

    Raises:
        ValueError: if a value of `rows` is not finite; it counts the items of all signals.

    Examples:
        >>> x = torch.zeros(1, 3)
        >>> require_finite(read_signals(x, -1), x)
    """
    # Values that are not finite always reach the sum, at half the price of a mask.
    if math.isfinite(rows.detach().sum().item()):
        return
    blocks = _row_blocks(signals.view.detach(), _BLOCK_SAMPLES)
    bad = sum(int((~torch.isfinite(block)).any(-1).sum()) for block in blocks)
    if bad:
        total = signals.view[..., 0].numel()
        raise ValueError(
            f"{signals.name} must be finite, got NaN or infinity in {bad} of {total} items; "
            f"interpolate or drop the gaps first"
        )


def _row_blocks(view: Tensor, block_samples: int) -> Iterator[Tensor]:
    """Yield `(rows, time)` blocks in order; only a block is ever copied, never the whole."""
    length = view.shape[-1]
    per_block = max(1, block_samples // length)
    n_rows = view[..., 0].numel()
    if n_rows <= per_block or view.ndim <= 2 or view.is_contiguous():
        rows = view.reshape(n_rows, length)
        for start in range(0, n_rows, per_block):
            yield rows[start : start + per_block]
        return
    per_slab = n_rows // view.shape[0]
    if per_slab > per_block:
        for slab in view:
            yield from _row_blocks(slab, block_samples)
        return
    slabs = per_block // per_slab
    for start in range(0, view.shape[0], slabs):
        yield view[start : start + slabs].reshape(-1, length)


def centred(rows: Float[Tensor, "batch time"]) -> Float[Tensor, "batch time"]:
    """Take the mean away, in double precision; a constant row becomes exactly zero.

    Args:
        rows: signals.

    Returns:
        Deviations in float64.

    Examples:
        >>> centred(torch.full((1, 3), 0.1)).tolist()
        [[0.0, 0.0, 0.0]]
    """
    x = rows.double()
    mean = x.mean(-1, keepdim=True)
    deviation = x - mean
    low, high = x.detach().amin(-1, keepdim=True), x.detach().amax(-1, keepdim=True)
    # Rounding of the mean leaves a constant row deviations of a few last digits.
    noise = torch.maximum(-low, high) * (4 * torch.finfo(rows.dtype).eps)
    constant = torch.maximum(high - mean, mean - low) <= noise
    return torch.where(constant, 0.0, deviation) if bool(constant.any()) else deviation


def warn_degenerate(degenerate: Bool[Tensor, "*batch"], reason: str) -> None:
    """Warn once that some items have no estimate.

    Args:
        degenerate: True for the items without one.
        reason: why, and what their value is.

    Examples:
        >>> warn_degenerate(torch.tensor([False, False]), "constant")
    """
    count = int(degenerate.sum())
    if count:
        # Three frames up stands the caller of the public method.
        warnings.warn(
            f"{count} of {degenerate.numel()} items {reason}; their value is nan",
            UserWarning,
            stacklevel=3,
        )


def deliver(signals: Signals, result: Float[Tensor, "..."]) -> Any:
    """Hand a result back in the caller's kind of array.

    Args:
        signals: what `read_signals` returned.
        result: a tensor.

    Returns:
        The tensor, or a NumPy array where the caller passed one.

    Examples:
        >>> deliver(read_signals(np.zeros(3), -1), torch.ones(1))
        array([1.], dtype=float32)
    """
    return result.detach().numpy() if signals.is_array else result
