"""Selective scan with a decay per channel and latent, in tiles that stay in the cache."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, overload

import torch
from jaxtyping import Bool, Float
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

__all__ = ["selective_scan"]

# Elements (row, channel, latent) of one time step in a tile, and of a tile over its steps: 128 KiB
# and 1 MiB in float32.
_STEP_ELEMENTS = 2**15
_TILE_ELEMENTS = 2**18


class _Operands(NamedTuple):
    """Inputs with time first, in the dtype of the computation."""

    u: Float[Tensor, "time batch channel"]
    delta: Float[Tensor, "time batch channel"]
    A: Float[Tensor, "channel latent"]
    B: Float[Tensor, "time batch group latent"]
    C: Float[Tensor, "time batch group latent"]
    goes_on: Bool[Tensor, "time batch"] | None

    def rows(self) -> Iterator[slice]:
        """Slices of the batch; on an accelerator, all rows at once."""
        batch = self.u.shape[1]
        size = batch
        if self.u.device.type == "cpu":
            size = max(1, _STEP_ELEMENTS // self.A.numel())
        return (slice(start, start + size) for start in range(0, batch, size))

    def steps(self) -> int:
        """Time steps per tile."""
        rows = min(self.u.shape[1], max(1, _STEP_ELEMENTS // self.A.numel()))
        return max(1, _TILE_ELEMENTS // max(1, rows * self.A.numel()))

    def tile(self, time: slice, rows: slice) -> "_Operands":
        """The part of these steps and rows."""
        u, delta, A, B, C, goes_on = self
        return _Operands(
            u[time, rows],
            delta[time, rows],
            A,
            B[time, rows],
            C[time, rows],
            None if goes_on is None else goes_on[time, rows],
        )


def _group_rows(
    x: Float[Tensor, "time batch channel *latent"], groups: int
) -> Float[Tensor, "rows within last"]:
    """(time * batch * group, channels of the group, latent or 1)."""
    time, batch, channel = x.shape[:3]
    last = x.shape[3] if x.ndim == 4 else 1
    return x.reshape(time * batch * groups, channel // groups, last)


def _decays(tile: _Operands) -> Float[Tensor, "time batch channel latent"]:
    decay = (tile.delta.unsqueeze(-1) * tile.A).exp_()
    if tile.goes_on is not None:
        decay.mul_(tile.goes_on[..., None, None])
    return decay


def _states(
    tile: _Operands,
    decay: Float[Tensor, "time batch channel latent"],
    h: Float[Tensor, "batch channel latent"],
) -> Float[Tensor, "time batch channel latent"]:
    """States after every step: the recurrence is truly sequential in time."""
    groups = tile.B.shape[2]
    entered = torch.bmm(
        _group_rows(tile.delta * tile.u, groups), tile.B.reshape(-1, 1, tile.B.shape[3])
    ).view_as(decay)
    for entered_t, decay_t in zip(entered.unbind(0), decay.unbind(0), strict=True):
        h = entered_t.addcmul_(decay_t, h)
    return entered


class _Scan(torch.autograd.Function):
    """Scan that keeps only the states between tiles and recomputes the rest."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        u, delta, A, B, C, h, goes_on, keep = args
        ops = _Operands(u, delta, A, B, C, goes_on)
        size = ops.steps()
        starts = range(0, u.shape[0], size)
        y, last = u.new_empty(u.shape), torch.empty_like(h)
        kept = h.new_empty(len(starts) if keep else 0, *h.shape)
        for rows in ops.rows():
            state = h[rows]
            for index, start in enumerate(starts):
                time = slice(start, start + size)
                if keep:
                    kept[index, rows] = state
                tile = ops.tile(time, rows)
                hs = _states(tile, _decays(tile), state)
                read = _group_rows(hs, B.shape[2]) @ tile.C.reshape(-1, B.shape[3], 1)
                y[time, rows] = read.view(tile.u.shape)
                state = hs[-1]
            last[rows] = state
        if keep:
            ctx.save_for_backward(u, delta, A, B, C, goes_on, kept)
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        u, delta, A, B, C, goes_on, kept = ctx.saved_tensors
        ops = _Operands(u, delta, A, B, C, goes_on)
        du, ddelta, dB, dC = (x.new_empty(x.shape) for x in (u, delta, B, C))
        dA, dh_first = torch.zeros_like(A), torch.empty_like(grads[1])
        size = ops.steps()
        with torch.autocast(u.device.type, enabled=False):
            for rows in ops.rows():
                dh = grads[1][rows]
                for index in reversed(range(kept.shape[0])):
                    time = slice(index * size, (index + 1) * size)
                    part = _tile_backward(
                        ops.tile(time, rows), kept[index, rows], grads[0][time, rows], dh
                    )
                    du[time, rows], ddelta[time, rows] = part.u, part.delta
                    dB[time, rows], dC[time, rows] = part.B, part.C
                    dA += part.A
                    dh = part.state
                dh_first[rows] = dh
        return du, ddelta, dA, dB, dC, dh_first, None, None


class _TileGradients(NamedTuple):
    u: Float[Tensor, "time batch channel"]
    delta: Float[Tensor, "time batch channel"]
    A: Float[Tensor, "channel latent"]
    B: Float[Tensor, "time batch group latent"]
    C: Float[Tensor, "time batch group latent"]
    state: Float[Tensor, "batch channel latent"]


def _tile_backward(
    tile: _Operands,
    h: Float[Tensor, "batch channel latent"],
    dy: Float[Tensor, "time batch channel"],
    dh: Float[Tensor, "batch channel latent"],
) -> _TileGradients:
    """Gradients of one tile from the state before it and the gradient of the state after it."""
    groups, latent = tile.B.shape[2:]
    decay = _decays(tile)
    hs = _states(tile, decay, h)
    # G_t, the gradient of h_t: what y_t reads, and what the next step keeps.
    G = torch.bmm(_group_rows(dy, groups), tile.C.reshape(-1, 1, latent)).view_as(hs)
    G[-1] += dh
    for t in range(G.shape[0] - 1, 0, -1):
        G[t - 1].addcmul_(decay[t], G[t])
    dh_before = decay[0] * G[0]
    dC = (_group_rows(dy, groups).mT @ _group_rows(hs, groups)).view_as(tile.C)
    rows_G = _group_rows(G, groups)
    dentered = (rows_G @ tile.B.reshape(-1, latent, 1)).view(tile.u.shape)
    dB = (_group_rows(tile.delta * tile.u, groups).mT @ rows_G).view_as(tile.B)
    # Gradient of delta_t A: G_t h_{t-1} times the decay itself.
    before = torch.cat([h.unsqueeze(0), hs[:-1]])
    exponent = before.mul_(G).mul_(decay)
    ddelta = torch.addcmul((exponent * tile.A).sum(-1), dentered, tile.u)
    return _TileGradients(
        u=dentered * tile.delta,
        delta=ddelta,
        A=exponent.mul_(tile.delta.unsqueeze(-1)).sum((0, 1)),
        B=dB,
        C=dC,
        state=dh_before,
    )


def _check_maps(name: str, x: object, batch: int, channels: int, size: tuple[int, int]) -> Tensor:
    """`x` as (batch, group, latent, time)."""
    if not isinstance(x, Tensor) or x.ndim not in {3, 4}:
        given = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(
            f"{name} needs to be a tensor (batch, latent, time) or (batch, group, latent, time), "
            f"got {given}"
        )
    grouped = x.unsqueeze(1) if x.ndim == 3 else x
    groups, (latent, length) = grouped.shape[1], size
    check_shape(name, grouped, (batch, groups, latent, length), "(batch, group, latent, time)")
    if groups < 1 or channels % groups:
        raise ValueError(
            f"{name} needs a number of groups that divides the channels = {channels}, got {groups}"
        )
    return grouped


def _check_inputs(
    u: Tensor, delta: Tensor, A: Tensor, shaped: dict[str, tuple[Tensor | None, tuple[int, ...]]]
) -> None:
    check_tensor("A", A, 2, "(channel, latent)")
    check_shape("delta", delta, u.shape, "(batch, channel, time)")
    check_shape("A", A, (u.shape[1], A.shape[1]), "(channel, latent)")
    for name, (value, shape) in shaped.items():
        if value is not None:
            check_shape(name, value, shape, f"of {len(shape)} axes")


@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = ...,
    z: Tensor | None = ...,
    delta_bias: Tensor | None = ...,
    delta_softplus: bool = ...,
    initial_state: Tensor | None = ...,
    return_last_state: Literal[False] = ...,
    seq_idx: Tensor | None = ...,
) -> Tensor: ...
@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = ...,
    z: Tensor | None = ...,
    delta_bias: Tensor | None = ...,
    delta_softplus: bool = ...,
    initial_state: Tensor | None = ...,
    return_last_state: Literal[True],
    seq_idx: Tensor | None = ...,
) -> tuple[Tensor, Tensor]: ...
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    seq_idx: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Selective scan of Mamba, with a decay per channel and latent.

    $h_t = e^{\Delta_t A} h_{t-1} + \Delta_t B_t u_t$,
    $y_t = (C_t \cdot h_t + D u_t)\,\mathrm{SiLU}(z_t)$.

    Half-precision inputs are computed in float32; the backward pass keeps the states between tiles
    of time and recomputes the rest, and can be differentiated once.

    Args:
        u: input (batch, channel, time).
        delta: step sizes, shape of `u`, before `delta_bias` and `delta_softplus`.
        A: decay rates (channel, latent), negative for a stable system.
        B: input maps (batch, latent, time) or (batch, group, latent, time); the groups divide the
            channels.
        C: output maps, like `B`.
        D: weight of the skip term (channel,).
        z: gate, shape of `u`.
        delta_bias: added to `delta` (channel,).
        delta_softplus: whether softplus is applied to `delta + delta_bias`.
        initial_state: state before the first step (batch, channel, latent). It belongs to the
            sequence of the first step when `seq_idx` is given.
        return_last_state: whether to return the state after the last step too.
        seq_idx: integers (batch, time); where they change, the state starts again from zero.

    Returns:
        The output, shape and dtype of `u`; with `return_last_state` also the state
        (batch, channel, latent) in float32 (float64 if any input is).

    Raises:
        ValueError: If a shape or the number of groups does not fit.
        TypeError: If an input is not a tensor of the needed kind.

    Examples:
        Without decay the state is the running sum of the inputs.

        >>> import torch
        >>> u = torch.ones(1, 1, 4)
        >>> selective_scan(u, u, torch.zeros(1, 1), u, u).flatten().tolist()
        [1.0, 2.0, 3.0, 4.0]

    References:
        Gu, A., & Dao, T. (2023). Mamba: linear-time sequence modeling with selective state spaces.
        arXiv:2312.00752.
    """
    check_tensor("u", u, 3, "(batch, channel, time)")
    batch, channels, length = u.shape
    shaped: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {
        "D": (D, (channels,)),
        "z": (z, (batch, channels, length)),
        "delta_bias": (delta_bias, (channels,)),
        "initial_state": (initial_state, (batch, channels, A.shape[-1])),
    }
    _check_inputs(u, delta, A, shaped)
    B4 = _check_maps("B", B, batch, channels, (A.shape[1], length))
    C4 = _check_maps("C", C, batch, channels, (A.shape[1], length))
    if B4.shape[1] != C4.shape[1]:
        raise ValueError(f"C needs as many groups as B = {B4.shape[1]}, got {C4.shape[1]}")
    goes_on = None
    if seq_idx is not None:
        check_seq_idx(seq_idx, batch, length)
        goes_on = torch.ones_like(seq_idx, dtype=torch.bool)
        goes_on[:, 1:] = seq_idx[:, 1:] == seq_idx[:, :-1]
        goes_on = goes_on.t()
    dtype = compute_dtype(u, delta, A, B, C, D, z, delta_bias, initial_state)
    with torch.autocast(u.device.type, enabled=False):
        inputs = u.to(dtype)
        step = delta.to(dtype)
        if delta_bias is not None:
            step = step + delta_bias.to(dtype).unsqueeze(-1)
        if delta_softplus:
            step = functional.softplus(step)
        h = u.new_zeros(batch, *A.shape) if initial_state is None else initial_state
        y, last = apply(
            _Scan,
            inputs.permute(2, 0, 1),
            step.permute(2, 0, 1),
            A.to(dtype),
            B4.to(dtype).permute(3, 0, 1, 2),
            C4.to(dtype).permute(3, 0, 1, 2),
            h.to(dtype),
            goes_on,
            torch.is_grad_enabled(),
        )
        y = y.permute(1, 2, 0)
        if D is not None:
            y = torch.addcmul(y, inputs, D.to(dtype).unsqueeze(-1))
        if z is not None:
            y = y * functional.silu(z.to(dtype))
        y = y.to(u.dtype)
    return (y, last) if return_last_state else y
