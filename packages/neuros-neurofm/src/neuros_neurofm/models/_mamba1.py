"""Parameters, scan and step of a version-1 Mamba block."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from neuros_neurofm.models._mamba2 import initial_dt_bias
from neuros_neurofm.models._mamba_packing import (
    MambaState,
    Piece,
    packed_conv_state,
    step_convolution,
    working_dtype,
)
from neuros_neurofm.ops import causal_conv1d, selective_scan

__all__: list[str] = []


class Mamba1Sizes(NamedTuple):
    """Sizes of a version-1 block."""

    d_inner: int
    d_state: int
    d_conv: int
    dt_rank: int

    @property
    def state_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of the two states of one row."""
        return (self.d_inner, self.d_conv - 1), (self.d_inner, self.d_state)


class Mamba1Parts(NamedTuple):
    """Modules and parameters that a version-1 block registers under these names."""

    in_proj: nn.Linear
    conv1d: nn.Conv1d
    x_proj: nn.Linear
    dt_proj: nn.Linear
    A_log: nn.Parameter
    D: nn.Parameter
    out_proj: nn.Linear


class _Selected(NamedTuple):
    """Input-dependent parameters, one per step."""

    delta: Float[Tensor, "*batch channel"]
    B: Float[Tensor, "*batch latent"]
    C: Float[Tensor, "*batch latent"]


def make_parts(d_model: int, sizes: Mamba1Sizes) -> Mamba1Parts:
    """Freshly initialised parts; A is -1, -2, ..., -d_state as in Mamba."""
    rates = torch.arange(1, sizes.d_state + 1, dtype=torch.float32)
    dt_proj = nn.Linear(sizes.dt_rank, sizes.d_inner)
    nn.init.uniform_(dt_proj.weight, -(sizes.dt_rank**-0.5), sizes.dt_rank**-0.5)
    with torch.no_grad():
        dt_proj.bias.copy_(initial_dt_bias(sizes.d_inner))
    return Mamba1Parts(
        in_proj=nn.Linear(d_model, 2 * sizes.d_inner, bias=False),
        conv1d=nn.Conv1d(
            sizes.d_inner,
            sizes.d_inner,
            sizes.d_conv,
            groups=sizes.d_inner,
            padding=sizes.d_conv - 1,
        ),
        x_proj=nn.Linear(sizes.d_inner, sizes.dt_rank + 2 * sizes.d_state, bias=False),
        dt_proj=dt_proj,
        A_log=nn.Parameter(rates.log().repeat(sizes.d_inner, 1)),
        D=nn.Parameter(torch.ones(sizes.d_inner)),
        out_proj=nn.Linear(sizes.d_inner, d_model, bias=False),
    )


def sizes_of(d_model: int, *, d_state: int, d_conv: int, expand: int) -> Mamba1Sizes:
    """Sizes with the rank of the step sizes of the reference, d_model / 16 rounded up."""
    return Mamba1Sizes(expand * d_model, d_state, d_conv, math.ceil(d_model / 16))


def _select(
    parts: Mamba1Parts, sizes: Mamba1Sizes, u: Float[Tensor, "*batch channel"]
) -> _Selected:
    """Step sizes and maps. The step sizes pass through `exp`, so they are float32 from here on."""
    selected = parts.x_proj(u.to(parts.x_proj.weight.dtype))
    low_rank, B, C = selected.split_with_sizes([sizes.dt_rank, sizes.d_state, sizes.d_state], -1)
    delta = functional.softplus(parts.dt_proj(low_rank).to(u.dtype))
    return _Selected(delta, B.to(u.dtype), C.to(u.dtype))


def mix(
    parts: Mamba1Parts,
    sizes: Mamba1Sizes,
    piece: Piece,
) -> tuple[Float[Tensor, "batch time feature"], MambaState]:
    """Run a piece of a sequence; the returned state's `seq_idx` is not set."""
    x, state, seq_idx, packing = piece
    projected = parts.in_proj(x)
    dtype = working_dtype(projected)
    conv_in, z = projected.to(dtype).split_with_sizes([sizes.d_inner, sizes.d_inner], -1)
    u, conv_state = causal_conv1d(
        conv_in.transpose(1, 2),
        parts.conv1d.weight[:, 0].to(dtype),
        None if parts.conv1d.bias is None else parts.conv1d.bias.to(dtype),
        activation="silu",
        initial_state=state.conv,
        return_final_state=True,
        seq_idx=seq_idx,
    )
    if packing is not None:
        conv_state = packed_conv_state(state.conv, conv_in, seq_idx, packing)
    delta, B, C = _select(parts, sizes, u.transpose(1, 2))
    if packing is not None:
        delta = delta * packing.valid[..., None]
    y, h = selective_scan(
        u,
        delta.transpose(1, 2),
        -torch.exp(parts.A_log.to(dtype)),
        B.transpose(1, 2),
        C.transpose(1, 2),
        D=parts.D.to(dtype),
        z=z.transpose(1, 2),
        initial_state=state.ssm,
        return_last_state=True,
        seq_idx=seq_idx,
    )
    return parts.out_proj(y.transpose(1, 2).to(projected.dtype)), MambaState(conv_state, h)


def step(
    parts: Mamba1Parts,
    sizes: Mamba1Sizes,
    x_t: Float[Tensor, "batch feature"],
    state: MambaState,
) -> tuple[Float[Tensor, "batch feature"], MambaState]:
    """One step of the recurrence."""
    projected = parts.in_proj(x_t)
    dtype = working_dtype(projected)
    conv_in, z = projected.to(dtype).split_with_sizes([sizes.d_inner, sizes.d_inner], -1)
    u, conv_state = step_convolution(state.conv, conv_in, parts.conv1d)
    delta, B, C = _select(parts, sizes, u)
    decay = torch.exp(delta.unsqueeze(-1) * -torch.exp(parts.A_log.to(dtype)))
    entered = (delta * u).unsqueeze(-1) * B.unsqueeze(1)
    h = torch.addcmul(entered, decay, state.ssm)
    y = torch.addcmul((h @ C.unsqueeze(-1)).squeeze(-1), u, parts.D.to(dtype))
    y = (y * functional.silu(z)).to(projected.dtype)
    return parts.out_proj(y), MambaState(conv_state, h, state.seq_idx)
