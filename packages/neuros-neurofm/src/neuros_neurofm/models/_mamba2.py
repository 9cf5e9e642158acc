"""Parameters, scan and step of a version-2 Mamba block."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from neuros_neurofm.models._mamba_kernels import ssd_kernel, uses_kernels
from neuros_neurofm.models._mamba_packing import (
    MambaState,
    Piece,
    packed_conv_state,
    step_convolution,
    working_dtype,
)
from neuros_neurofm.ops import causal_conv1d, ssd
from neuros_neurofm.ops._rms_norm import rms_norm

__all__: list[str] = []


def _split_last(
    x: Float[Tensor, "*batch feature"], parts: int
) -> Float[Tensor, "*batch part within"]:
    return x.reshape(*x.shape[:-1], parts, x.shape[-1] // parts)


class GroupedRMSNorm(nn.Module):
    """Root-mean-square normalisation within each of `groups` equal parts of the last axis."""

    def __init__(self, features: int, *, groups: int = 1, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.groups = groups
        self.eps = eps

    def extra_repr(self) -> str:
        """Size, groups and epsilon."""
        return f"{self.weight.shape[0]}, groups={self.groups}, eps={self.eps}"

    def forward(self, x: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch feature"]:
        """Normalise the last axis."""
        if self.groups == 1:
            return rms_norm(x, self.eps) * self.weight.to(x.dtype)
        return rms_norm(_split_last(x, self.groups), self.eps).flatten(-2) * self.weight


class Mamba2Sizes(NamedTuple):
    """Sizes of a version-2 block."""

    d_inner: int
    heads: int
    headdim: int
    groups: int
    d_state: int
    d_conv: int

    @property
    def conv_channels(self) -> int:
        """Channels of the convolution: the inputs, B and C."""
        return self.d_inner + 2 * self.groups * self.d_state

    @property
    def state_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of the two states of one row."""
        conv = (self.conv_channels, self.d_conv - 1)
        return conv, (self.heads, self.headdim, self.d_state)

    @property
    def projected(self) -> tuple[int, int, int]:
        """Widths of the gate, the convolution's inputs and the step sizes."""
        return self.d_inner, self.conv_channels, self.heads


class Mamba2Parts(NamedTuple):
    """Modules and parameters that a version-2 block registers under these names."""

    in_proj: nn.Linear
    conv1d: nn.Conv1d
    dt_bias: nn.Parameter
    A_log: nn.Parameter
    D: nn.Parameter
    norm: GroupedRMSNorm
    out_proj: nn.Linear


def count_heads(d_model: int, *, expand: int, headdim: int) -> int:
    """Number of heads; raise unless they are whole."""
    d_inner = expand * d_model
    if d_inner % headdim:
        raise ValueError(
            f"headdim needs to divide d_inner = expand * d_model = {d_inner}, got {headdim}"
        )
    return d_inner // headdim


def initial_dt_bias(channels: int) -> Float[Tensor, " channel"]:
    """Inverse softplus of steps drawn log-uniformly from 1e-3 to 1e-1 (Gu & Dao 2023, 3.6)."""
    low, high = math.log(1e-3), math.log(1e-1)
    dt = torch.exp(torch.rand(channels) * (high - low) + low)
    return dt + torch.log(-torch.expm1(-dt))


def make_parts(d_model: int, sizes: Mamba2Sizes) -> Mamba2Parts:
    """Freshly initialised parts; A is uniform in [-16, -1] as in Mamba-2."""
    return Mamba2Parts(
        in_proj=nn.Linear(d_model, sum(sizes.projected), bias=False),
        conv1d=nn.Conv1d(
            sizes.conv_channels,
            sizes.conv_channels,
            sizes.d_conv,
            groups=sizes.conv_channels,
            padding=sizes.d_conv - 1,
        ),
        dt_bias=nn.Parameter(initial_dt_bias(sizes.heads)),
        A_log=nn.Parameter(torch.empty(sizes.heads).uniform_(1, 16).log()),
        D=nn.Parameter(torch.ones(sizes.heads)),
        norm=GroupedRMSNorm(sizes.d_inner, groups=sizes.groups),
        out_proj=nn.Linear(sizes.d_inner, d_model, bias=False),
    )


def _scan_on_kernel(
    operands: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    *,
    D: Tensor,
    z: Tensor,
    h: Tensor,
    seq_idx: Tensor | None,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    kernel = ssd_kernel()
    if kernel is None:
        raise RuntimeError("the kernels of mamba-ssm cannot be imported; use backend='torch'")
    x, dt, A, B, C = operands
    segments = None
    if seq_idx is not None:
        # The kernel gives the initial state to sequence number 0.
        changes = functional.pad(seq_idx[:, 1:] != seq_idx[:, :-1], (1, 0))
        segments = changes.cumsum(1, dtype=torch.int32)
    y, last = kernel(
        x,
        dt,
        A,
        B,
        C,
        chunk_size,
        D=D,
        z=z,
        initial_states=h,
        seq_idx=segments,
        return_final_states=True,
    )
    return y, last


def mix(
    parts: Mamba2Parts,
    sizes: Mamba2Sizes,
    piece: Piece,
    *,
    chunk_size: int,
    backend: str,
) -> tuple[Float[Tensor, "batch time feature"], MambaState]:
    """Run a piece of a sequence; the returned state's `seq_idx` is not set."""
    x, state, seq_idx, packing = piece
    projected = parts.in_proj(x)
    dtype = working_dtype(projected)
    z, conv_in, dt = projected.to(dtype).split_with_sizes(sizes.projected, -1)
    channels_first = conv_in.transpose(1, 2)
    mixed, conv_state = causal_conv1d(
        channels_first,
        parts.conv1d.weight[:, 0].to(dtype),
        None if parts.conv1d.bias is None else parts.conv1d.bias.to(dtype),
        activation="silu",
        initial_state=state.conv,
        return_final_state=True,
        seq_idx=seq_idx,
    )
    if packing is not None:
        conv_state = packed_conv_state(state.conv, conv_in, seq_idx, packing)
    width = sizes.groups * sizes.d_state
    X, B, C = mixed.transpose(1, 2).split_with_sizes([sizes.d_inner, width, width], -1)
    step = _step_sizes(dt, parts.dt_bias, None if packing is None else packing.valid)
    operands = (
        _split_last(X, sizes.heads),
        step,
        -torch.exp(parts.A_log.to(dtype)),
        _split_last(B, sizes.groups),
        _split_last(C, sizes.groups),
    )
    gate, D = _split_last(z, sizes.heads), parts.D.to(dtype)
    if x.shape[1] and uses_kernels(backend, x, parts.A_log):
        y, h = _scan_on_kernel(
            operands, D=D, z=gate, h=state.ssm, seq_idx=seq_idx, chunk_size=chunk_size
        )
    else:
        y, h = ssd(
            *operands,
            chunk_size=chunk_size,
            D=D,
            z=gate,
            initial_state=state.ssm,
            return_final_state=True,
            seq_idx=seq_idx,
        )
    y = parts.norm(y.flatten(2)).to(projected.dtype)
    return parts.out_proj(y), MambaState(conv_state, h)


def _step_sizes(
    dt: Float[Tensor, "batch time head"],
    dt_bias: Float[Tensor, " head"],
    valid: Bool[Tensor, "batch time"] | None,
) -> Float[Tensor, "batch time head"]:
    """Positive step sizes, zero where there is no valid step: the state then stays as it is."""
    step = functional.softplus(dt + dt_bias.to(dt.dtype))
    return step if valid is None else step * valid[..., None]


def step(
    parts: Mamba2Parts,
    sizes: Mamba2Sizes,
    x_t: Float[Tensor, "batch feature"],
    state: MambaState,
) -> tuple[Float[Tensor, "batch feature"], MambaState]:
    """One step of the recurrence."""
    projected = parts.in_proj(x_t)
    dtype = working_dtype(projected)
    z, conv_in, dt = projected.to(dtype).split_with_sizes(sizes.projected, -1)
    mixed, conv_state = step_convolution(state.conv, conv_in, parts.conv1d)
    width = sizes.groups * sizes.d_state
    X, B, C = mixed.split_with_sizes([sizes.d_inner, width, width], -1)
    delta = functional.softplus(dt + parts.dt_bias.to(dtype))
    decay = torch.exp(-delta * torch.exp(parts.A_log.to(dtype)))
    X = _split_last(X, sizes.heads)
    # (batch, group, heads of the group * headdim, d_state): B and C meet all heads of their group.
    scaled = (X * delta.unsqueeze(-1)).view(-1, sizes.groups, sizes.d_inner // sizes.groups, 1)
    entered = (scaled * B.reshape(-1, sizes.groups, 1, sizes.d_state)).view(state.ssm.shape)
    h = entered.addcmul_(state.ssm, decay[..., None, None])
    y = h.view(scaled.shape[0], sizes.groups, -1, sizes.d_state) @ C.reshape(
        -1, sizes.groups, sizes.d_state, 1
    )
    y = torch.addcmul(y.view(X.shape), X, parts.D.to(dtype)[:, None])
    y = parts.norm(y.flatten(1) * functional.silu(z)).to(projected.dtype)
    return parts.out_proj(y), MambaState(conv_state, h, state.seq_idx)
