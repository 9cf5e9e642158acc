"""State of a block, and masked and packed sequences as its recurrences see them."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from neuros_neurofm.ops._validation import check_mask, check_seq_idx, check_tensor

__all__: list[str] = []


def working_dtype(x: Tensor) -> torch.dtype:
    """Float64 stays, everything else is worked on in float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Context in which nothing is cast; entering torch's own is dear for one step."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return nullcontext()


def step_convolution(
    past: Float[Tensor, "batch channel lags"],
    x_t: Float[Tensor, "batch channel"],
    conv1d: nn.Conv1d,
) -> tuple[Float[Tensor, "batch channel"], Float[Tensor, "batch channel lags"]]:
    """Activated output of one step of the causal convolution, and the inputs it leaves behind.

    Channels are innermost in memory, where sums over the few lags are the fastest.
    """
    window = torch.cat([past.transpose(1, 2), x_t.unsqueeze(1)], 1)
    mixed = (window * conv1d.weight.to(x_t.dtype).squeeze(1).t()).sum(1)
    if conv1d.bias is not None:
        mixed = mixed.add_(conv1d.bias)
    return functional.silu(mixed, inplace=not mixed.requires_grad), window[:, 1:].transpose(1, 2)


class MambaState(NamedTuple):
    """What a Mamba block remembers of the steps it has seen.

    Attributes:
        conv: the last `d_conv - 1` inputs of the convolution (batch, channel, d_conv - 1).
        ssm: the state of the scan, by block: (batch, head, headdim, d_state),
            (batch, d_inner, d_state), or (batch, head * d_state, mode) of a power-law memory.
        seq_idx: the sequence of the last step (batch,) where `seq_idx` was given, else None.
    """

    conv: Tensor
    ssm: Tensor
    seq_idx: Tensor | None = None


class StateShapes(NamedTuple):
    """Shapes of the two parts of a state."""

    conv: tuple[int, ...]
    ssm: tuple[int, ...]


def zero_state(weight: Tensor, shapes: StateShapes) -> MambaState:
    """The state before the first step, on the device of `weight`."""
    dtype = working_dtype(weight)
    conv, ssm = (weight.new_zeros(shape, dtype=dtype) for shape in shapes)
    return MambaState(conv, ssm)


def check_input(x: Tensor, d_model: int, seq_idx: Tensor | None, mask: Tensor | None) -> None:
    """Raise unless input, sequence numbers and mask fit each other and the width."""
    check_tensor("x", x, 3, "(batch, time, d_model)")
    batch, length, width = x.shape
    if width != d_model:
        raise ValueError(f"x needs d_model = {d_model} features on its last axis, got {width}")
    if seq_idx is not None:
        check_seq_idx(seq_idx, batch, length)
    if mask is not None:
        check_mask(mask, batch, length)


def check_step_input(x_t: Tensor, d_model: int) -> None:
    """Raise unless `x_t` is one sample of the width."""
    check_tensor("x_t", x_t, 2, "(batch, d_model)")
    if x_t.shape[1] != d_model:
        raise ValueError(
            f"x_t needs d_model = {d_model} features on its last axis, got {x_t.shape[1]}"
        )


def check_state(state: object, shapes: StateShapes) -> None:
    """Raise unless `state` is a state of these shapes."""
    if not isinstance(state, MambaState):
        raise TypeError(
            f"state needs to be a MambaState (from init_state, step or forward), got "
            f"{type(state).__name__}"
        )
    if state.conv.shape == shapes.conv and state.ssm.shape == shapes.ssm:
        return
    for name, given, needed in zip(shapes._fields, state[:2], shapes, strict=True):
        if tuple(given.shape) != needed:
            raise ValueError(
                f"state.{name} needs shape {needed} for this block and batch, got "
                f"{tuple(given.shape)}"
            )


def check_states(state: object, n_blocks: int) -> None:
    """Raise unless `state` is a sequence of one state per block."""
    if isinstance(state, MambaState) or not isinstance(state, Sequence):
        raise TypeError(
            f"state needs to be a sequence of one MambaState per block (from init_state, step or "
            f"forward), got {type(state).__name__}"
        )
    if len(state) != n_blocks:
        raise ValueError(f"state needs one MambaState per block = {n_blocks}, got {len(state)}")


class Packing(NamedTuple):
    """Order that brings the valid steps of every row to its front."""

    order: Int[Tensor, "batch time"]
    n_valid: Int[Tensor, " batch"]
    valid: Bool[Tensor, "batch time"]
    mask: Bool[Tensor, "batch time"]


def pack(mask: Bool[Tensor, "batch time"]) -> Packing:
    """Packing of a mask; the order of the valid steps is kept."""
    order = torch.argsort((~mask).to(torch.uint8), dim=1, stable=True)
    n_valid = mask.sum(1)
    valid = torch.arange(mask.shape[1], device=mask.device) < n_valid[:, None]
    return Packing(order, n_valid, valid, mask)


def pack_inputs(
    x: Float[Tensor, "batch time feature"], packing: Packing
) -> Float[Tensor, "batch time feature"]:
    """Valid steps first, zeros after them (whatever the masked steps held, NaN included)."""
    packed = x.take_along_dim(packing.order[..., None], 1)
    return packed.masked_fill(~packing.valid[..., None], 0)


def unpack_outputs(
    y: Float[Tensor, "batch time feature"], packing: Packing
) -> Float[Tensor, "batch time feature"]:
    """Outputs at their own steps, zeros at the masked ones."""
    back = torch.argsort(packing.order, dim=1)
    return y.take_along_dim(back[..., None], 1).masked_fill(~packing.mask[..., None], 0)


class Piece(NamedTuple):
    """A piece of a sequence, the valid steps of every row first, and the state it starts from."""

    x: Float[Tensor, "batch time feature"]
    state: MambaState
    seq_idx: Int[Tensor, "batch time"] | None
    packing: Packing | None


def open_piece(
    x: Float[Tensor, "batch time feature"],
    state: MambaState,
    seq_idx: Int[Tensor, "batch time"] | None,
    mask: Bool[Tensor, "batch time"] | None,
) -> Piece:
    """The piece as convolution and memory run it."""
    packing = None
    if mask is not None:
        packing = pack(mask)
        x = pack_inputs(x, packing)
        seq_idx = None if seq_idx is None else pack_seq_idx(seq_idx, packing)
    if seq_idx is not None:
        state = enter(state, seq_idx, packing)
    return Piece(x, state, seq_idx, packing)


def close_piece(
    y: Float[Tensor, "batch time feature"], after: MambaState, piece: Piece
) -> tuple[Float[Tensor, "batch time feature"], MambaState]:
    """Outputs at their own steps, and the state with the sequence it ended in."""
    if piece.packing is not None:
        y = unpack_outputs(y, piece.packing)
    return y, after._replace(seq_idx=last_seq_idx(piece.state, piece.seq_idx, piece.packing))


def pack_seq_idx(seq_idx: Int[Tensor, "batch time"], packing: Packing) -> Int[Tensor, "batch time"]:
    """Sequence numbers of the valid steps; the steps after them repeat the last."""
    if not seq_idx.shape[1]:
        return seq_idx
    packed = seq_idx.take_along_dim(packing.order, 1)
    last = packed.take_along_dim((packing.n_valid - 1).clamp(min=0)[:, None], 1)
    return torch.where(packing.valid, packed, last)


def enter(
    state: MambaState, seq_idx: Int[Tensor, "batch time"], packing: Packing | None
) -> MambaState:
    """The state as the first step finds it: zero in rows where a new sequence begins with it."""
    if state.seq_idx is None or not seq_idx.shape[1]:
        return state
    new = seq_idx[:, 0] != state.seq_idx
    if packing is not None:
        new = new & (packing.n_valid > 0)
    return MambaState(
        conv=state.conv.masked_fill(new[:, None, None], 0),
        ssm=state.ssm.masked_fill(new.reshape(-1, *[1] * (state.ssm.ndim - 1)), 0),
        seq_idx=state.seq_idx,
    )


def last_seq_idx(
    state: MambaState, seq_idx: Int[Tensor, "batch time"] | None, packing: Packing | None
) -> Tensor | None:
    """Sequence of the last valid step; rows without one keep the state's."""
    if seq_idx is None or not seq_idx.shape[1]:
        return state.seq_idx
    last = seq_idx[:, -1]
    if packing is None or state.seq_idx is None:
        return last
    return torch.where(packing.n_valid > 0, last, state.seq_idx)


def packed_conv_state(
    past: Float[Tensor, "batch channel lags"],
    inputs: Float[Tensor, "batch time channel"],
    seq_idx: Int[Tensor, "batch time"] | None,
    packing: Packing,
) -> Float[Tensor, "batch channel lags"]:
    """The last valid inputs of every row, those of an earlier sequence as zeros."""
    lags = past.shape[-1]
    offsets = packing.n_valid[:, None] + torch.arange(lags, device=past.device)
    both = torch.cat([past.transpose(1, 2), inputs], 1)
    last = both.take_along_dim(offsets[..., None], 1)
    if seq_idx is not None and seq_idx.shape[1]:
        numbers = torch.cat([seq_idx[:, :1].expand(-1, lags), seq_idx], 1)
        same = numbers.take_along_dim(offsets, 1) == seq_idx[:, -1:]
        last = last * same[..., None]
    return last.transpose(1, 2).contiguous()
