"""Causal depthwise convolution with carried state and packed sequences."""

from typing import Any, Literal, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from neuros_neurofm.ops._autograd import apply
from neuros_neurofm.ops._validation import (
    check_seq_idx,
    check_shape,
    check_tensor,
    compute_dtype,
)

__all__ = ["causal_conv1d"]


# Rows of the batch whose weight gradient is summed at once, in elements: about 1 MiB in float32.
_TILE_ELEMENTS = 2**18


def _correlate(
    past_and_x: Float[Tensor, "batch padded channel"],
    weight: Float[Tensor, "channel lag"],
    bias: Float[Tensor, " channel"] | None,
) -> Float[Tensor, "batch time channel"]:
    """Depthwise correlation along time, channels innermost in memory.

    As a depthwise conv2d of height one in the channels-last layout, for which PyTorch has a faster
    kernel on the CPU than for conv1d (`benchmarks/bench_mamba.py` times the block around it).
    """
    image = past_and_x.transpose(1, 2).unsqueeze(2)
    kernel = weight[:, None, None, :].contiguous(memory_format=torch.channels_last)
    return functional.conv2d(image, kernel, bias, groups=weight.shape[0]).squeeze(2).transpose(1, 2)


class _Correlation(torch.autograd.Function):
    """`_correlate` whose weight gradient is summed lag by lag.

    PyTorch's own reads the channels one by one; `benchmarks/bench_mamba.py` times the block.
    """

    @staticmethod
    def forward(ctx: Any, past_and_x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(past_and_x, weight)
        return _correlate(past_and_x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        past_and_x, weight = ctx.saved_tensors
        dy, k = grads[0], weight.shape[1]
        with torch.autocast(dy.device.type, enabled=False):
            # A full correlation with the reversed filter.
            dx = _correlate(functional.pad(dy, (0, 0, k - 1, k - 1)), weight.flip(1), None)
            dw = _weight_gradient(past_and_x, dy, k) if ctx.needs_input_grad[1] else None
            db = dy.sum((0, 1)) if ctx.needs_input_grad[2] else None
        return dx, dw, db


def _weight_gradient(
    past_and_x: Float[Tensor, "batch padded channel"],
    dy: Float[Tensor, "batch time channel"],
    k: int,
) -> Float[Tensor, "channel lag"]:
    """Sum over rows and time of the output's gradient times the input at each lag."""
    length = dy.shape[1]
    rows = max(1, _TILE_ELEMENTS // max(1, length * dy.shape[2]))
    dw = dy.new_zeros(k, dy.shape[2])
    for start in range(0, dy.shape[0], rows):
        tile = slice(start, start + rows)
        for lag in range(k):
            dw[lag] += (dy[tile] * past_and_x[tile, lag : lag + length]).sum((0, 1))
    return dw.t()


def _convolve(
    past_and_x: Float[Tensor, "batch padded channel"],
    weight: Float[Tensor, "channel lag"],
    bias: Float[Tensor, " channel"] | None,
) -> Float[Tensor, "batch channel time"]:
    y: Tensor
    if past_and_x.device.type == "cpu":
        y = apply(_Correlation, past_and_x, weight, bias)
    else:
        y = _correlate(past_and_x, weight, bias)
    return y.transpose(1, 2)


def _convolve_packed(
    past_and_x: Float[Tensor, "batch padded channel"],
    weight: Float[Tensor, "channel lag"],
    bias: Float[Tensor, " channel"] | None,
    seq_idx: Int[Tensor, "batch padded"],
) -> Float[Tensor, "batch channel time"]:
    """The same, each lag masked where it would read another sequence."""
    k = weight.shape[1]
    length = past_and_x.shape[1] - k + 1
    now = seq_idx[:, k - 1 :]
    out = past_and_x[:, k - 1 :] * weight[:, k - 1]
    for lag in range(1, k):
        first = k - 1 - lag
        same = seq_idx[:, first : first + length] == now
        tap = past_and_x[:, first : first + length] * same.unsqueeze(-1)
        out = torch.addcmul(out, tap, weight[:, first])
    return (out if bias is None else out + bias).transpose(1, 2)


def _final_state(
    past_and_x: Float[Tensor, "batch padded channel"],
    lags: int,
    seq_idx: Int[Tensor, "batch padded"] | None,
) -> Float[Tensor, "batch channel lags"]:
    """The last inputs, those of an earlier sequence as zeros."""
    first = past_and_x.shape[1] - lags
    last = past_and_x[:, first:]
    if seq_idx is not None:
        last = last * (seq_idx[:, first:] == seq_idx[:, -1:]).unsqueeze(-1)
    return last.transpose(1, 2).contiguous()


def _padded_seq_idx(seq_idx: Tensor, lags: int) -> Int[Tensor, "batch padded"]:
    """Sequence numbers of the carried inputs (those of the first step) and of the piece."""
    if not seq_idx.shape[1]:
        return seq_idx.new_zeros(seq_idx.shape[0], lags)
    return torch.cat([seq_idx[:, :1].expand(-1, lags), seq_idx], 1)


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    initial_state: Tensor | None,
) -> None:
    check_tensor("x", x, 3, "(batch, channel, time)")
    check_tensor("weight", weight, 2, "(channel, lag)")
    batch, channels, _ = x.shape
    k = weight.shape[1]
    if weight.shape[0] != channels or k < 1:
        raise ValueError(
            f"weight needs shape (channel, lag) with channel = {channels} and lag >= 1, "
            f"got {tuple(weight.shape)}"
        )
    if bias is not None:
        check_shape("bias", bias, (channels,), "(channel,)")
    if initial_state is not None:
        check_shape(
            "initial_state", initial_state, (batch, channels, k - 1), "(batch, channel, lag - 1)"
        )
    if activation not in {None, "silu", "swish"}:
        raise ValueError(f"activation needs to be None, 'silu' or 'swish', got {activation!r}")


@overload
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = ...,
    activation: str | None = ...,
    initial_state: Tensor | None = ...,
    *,
    return_final_state: Literal[False] = ...,
    seq_idx: Tensor | None = ...,
) -> Tensor: ...
@overload
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = ...,
    activation: str | None = ...,
    initial_state: Tensor | None = ...,
    *,
    return_final_state: Literal[True],
    seq_idx: Tensor | None = ...,
) -> tuple[Tensor, Tensor]: ...
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    *,
    return_final_state: bool = False,
    seq_idx: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Causal depthwise convolution, $y_t = b + \sum_{j=0}^{k-1} w_j x_{t-k+1+j}$.

    Half-precision inputs accumulate in float32. Inputs whose channel axis is innermost in memory
    (`x.transpose(1, 2)` contiguous) are the fastest.

    Args:
        x: input (batch, channel, time).
        weight: one filter per channel (channel, lag); the last column meets the current sample.
        bias: added to the output (channel,).
        activation: None, or "silu" (also called "swish").
        initial_state: the `lag - 1` inputs before the first (batch, channel, lag - 1); zeros if
            not given.
        return_final_state: whether to return the last `lag - 1` inputs too.
        seq_idx: integers (batch, time); no output reads across their changes. `initial_state`
            belongs to the sequence of the first step.

    Returns:
        The output (batch, channel, time) in the dtype of `x`; with `return_final_state` also the
        state from which the next piece continues, whatever the length of this one.

    Raises:
        ValueError: If a shape or the activation does not fit.
        TypeError: If an input is not a tensor of the needed kind.

    Examples:
        A filter of ones sums the last two samples.

        >>> import torch
        >>> x = torch.tensor([[[1.0, 2.0, 3.0]]])
        >>> causal_conv1d(x, torch.ones(1, 2)).flatten().tolist()
        [1.0, 3.0, 5.0]
    """
    _check(x, weight, bias, activation, initial_state)
    batch, channels, length = x.shape
    lags = weight.shape[1] - 1
    padded_idx = None
    if seq_idx is not None:
        check_seq_idx(seq_idx, batch, length)
        padded_idx = _padded_seq_idx(seq_idx, lags)
    dtype = compute_dtype(x, weight, bias, initial_state)
    with torch.autocast(x.device.type, enabled=False):
        if initial_state is None:
            past = x.new_zeros(batch, lags, channels, dtype=dtype)
        else:
            past = initial_state.to(dtype).transpose(1, 2)
        past_and_x = torch.cat([past, x.to(dtype).transpose(1, 2)], 1)
        w, b = weight.to(dtype), None if bias is None else bias.to(dtype)
        if not length:
            y = x.new_empty(x.shape, dtype=dtype)
        elif padded_idx is None:
            y = _convolve(past_and_x, w, b)
        else:
            y = _convolve_packed(past_and_x, w, b, padded_idx)
        # The convolution's own output is not needed by its backward, so SiLU may overwrite it
        # where nothing is recorded.
        if activation is not None:
            y = functional.silu(y, inplace=not y.requires_grad)
        y = y.to(x.dtype)
    if not return_final_state:
        return y
    return y, _final_state(past_and_x, lags, padded_idx)
