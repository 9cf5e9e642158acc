"""State-space duality over sequences of any length, with carried state and packed sequences."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from neuros_neurofm.ops._autograd import apply
from neuros_neurofm.ops._ssd_chunk import (
    Chunk,
    chunk_backward,
    chunk_forward,
    future_mask,
)
from neuros_neurofm.ops._validation import (
    check_positive,
    check_seq_idx,
    check_shape,
    check_tensor,
    compute_dtype,
)

__all__ = ["ssd"]

# Rows of the batch are worked on in tiles whose pairwise decays fill about 512 KiB in float32: two
# rows of 8 heads and 64 steps were the fastest of 1, 2, 4, 8 on a core with 1 MiB of L2.
_TILE_ELEMENTS = 2**17


class _Operands(NamedTuple):
    """What one scan reads, in the dtype of the computation."""

    X: Float[Tensor, "batch time head feature"]
    dt: Float[Tensor, "batch time head"]
    A: Float[Tensor, " head"]
    B: Float[Tensor, "batch time group latent"]
    C: Float[Tensor, "batch time group latent"]
    segment: Int[Tensor, "batch time"] | None

    def tiles(self, chunk_size: int) -> Iterator[slice]:
        """Slices of rows small enough for the cache; on an accelerator, all rows at once."""
        batch, _, head, feature = self.X.shape
        rows = batch
        if self.X.device.type == "cpu":
            widest = max(chunk_size, feature, self.B.shape[-1])
            rows = max(1, _TILE_ELEMENTS // (head * widest * widest))
        return (slice(start, start + rows) for start in range(0, batch, rows))

    def chunk(self, rows: slice, start: int, chunk_size: int) -> Chunk:
        """Inputs of the chunk that begins at `start`."""
        time = slice(start, start + chunk_size)
        segment = before = None
        if self.segment is not None:
            segment = self.segment[rows, time]
            # Segments count from zero, and an initial state belongs to segment zero.
            before = self.segment[rows, start - 1] if start else torch.zeros_like(segment[:, 0])
        return Chunk(
            X=self.X[rows, time],
            dt=self.dt[rows, time],
            A=self.A,
            B=self.B[rows, time],
            C=self.C[rows, time],
            segment=segment,
            segment_before=before,
        )


def _masks(like: Tensor, length: int, chunk_size: int) -> dict[int, Tensor]:
    """Future masks of the whole chunks and of the remainder, by length."""
    sizes = {min(chunk_size, length - start) for start in range(0, length, chunk_size)}
    return {size: future_mask(size, like) for size in sizes}


class _Scan(torch.autograd.Function):
    """Chunked scan that keeps only the states between chunks and recomputes the rest."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        X, dt, A, B, C, D, z, h, segment, chunk_size, keep = args
        batch, length, head, feature = X.shape
        ops = _Operands(X, dt, A, B, C, segment)
        Y = X.new_empty(X.shape)
        # The backward pass needs Y before skip and gate: recovering it from their sum would lose
        # the digits by which the skip term is larger (100 x at steps of 0.01).
        out = torch.empty_like(Y) if keep and not (D is None and z is None) else Y
        starts = range(0, length, chunk_size)
        states = X.new_empty(len(starts) if keep else 0, batch, head, feature, B.shape[-1])
        last = torch.empty_like(h)
        masks = _masks(X, length, chunk_size)
        for rows in ops.tiles(chunk_size):
            state = h[rows]
            for index, start in enumerate(starts):
                chunk = ops.chunk(rows, start, chunk_size)
                time = slice(start, start + chunk_size)
                if keep:
                    states[index, rows] = state
                Y_chunk, out_chunk = Y[rows, time], out[rows, time]
                state = chunk_forward(chunk, state, masks[chunk.X.shape[1]], Y_chunk)
                if D is not None:
                    Y_chunk = torch.addcmul(Y_chunk, chunk.X, D.unsqueeze(-1), out=out_chunk)
                if z is not None:
                    torch.mul(Y_chunk, functional.silu(z[rows, time]), out=out_chunk)
            last[rows] = state
        if keep:
            ctx.save_for_backward(X, dt, A, B, C, D, z, segment, Y, states, last)
            ctx.chunk_size = chunk_size
        return out, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        X, dt, A, B, C, D, z, segment, Y, states, last = ctx.saved_tensors
        with torch.autocast(X.device.type, enabled=False):
            dX, ddt, dA, dB, dC, dD, dz, dh = _scan_backward(
                _Operands(X, dt, A, B, C, segment),
                D=D,
                z=z,
                Y=Y,
                states=states,
                last=last,
                grads=grads,
                chunk_size=ctx.chunk_size,
            )
        return dX, ddt, dA, dB, dC, dD, dz, dh, None, None, None


def _gate_backward(
    dout: Float[Tensor, "batch time head feature"],
    z: Float[Tensor, "batch time head feature"],
    Y: Float[Tensor, "batch time head feature"],
    dz: Float[Tensor, "batch time head feature"],
) -> Float[Tensor, "batch time head feature"]:
    """Gradient of `Y` in `Y * silu(z)`; that of `z` is written to `dz`."""
    gate = torch.sigmoid(z)
    swish = z * gate
    # d silu / dz = s + z s (1 - s) = s + silu - silu * s
    slope = torch.addcmul(gate + swish, swish, gate, value=-1)
    torch.mul(slope.mul_(Y), dout, out=dz)
    return swish.mul_(dout)


def _scan_backward(
    ops: _Operands,
    *,
    D: Float[Tensor, " head"] | None,
    z: Float[Tensor, "batch time head feature"] | None,
    Y: Float[Tensor, "batch time head feature"],
    states: Float[Tensor, "chunk batch head feature latent"],
    last: Float[Tensor, "batch head feature latent"],
    grads: tuple[Tensor, ...],
    chunk_size: int,
) -> tuple[Tensor | None, ...]:
    """Run the chunks backwards, one tile of rows after the other."""
    X, dt, A, B, C, _ = ops
    dX, ddt, dB, dC = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (X, dt, B, C))
    dA, dh_first = torch.zeros_like(A), torch.empty_like(last)
    dD = None if D is None else torch.zeros_like(D)
    dz = None if z is None else torch.empty_like(Y)
    masks = _masks(X, X.shape[1], chunk_size)
    for rows in ops.tiles(chunk_size):
        dh, after = grads[1][rows], last[rows]
        for index in reversed(range(states.shape[0])):
            time = slice(index * chunk_size, (index + 1) * chunk_size)
            chunk = ops.chunk(rows, index * chunk_size, chunk_size)
            dY, Y_chunk, before = grads[0][rows, time], Y[rows, time], states[index, rows]
            if z is not None and dz is not None:
                ungated = Y_chunk
                if D is not None:
                    ungated = torch.addcmul(Y_chunk, chunk.X, D.unsqueeze(-1))
                dY = _gate_backward(dY, z[rows, time], ungated, dz[rows, time])
            part = chunk_backward(
                chunk,
                before,
                dY_dot_Y=torch.linalg.vecdot(dY, Y_chunk),
                dY=dY,
                dh=dh,
                dh_dot_h=(dh * after).sum((-2, -1)),
                mask=masks[Y_chunk.shape[1]],
            )
            if D is not None and dD is not None:
                dD += torch.linalg.vecdot(dY, chunk.X).sum((0, 1))
                torch.addcmul(part.X, dY, D.unsqueeze(-1), out=dX[rows, time])
            else:
                dX[rows, time] = part.X
            ddt[rows, time], dB[rows, time], dC[rows, time] = part.dt, part.B, part.C
            dA += part.A
            dh, after = part.state, before
        dh_first[rows] = dh
    return dX, ddt, dA, dB, dC, dD, dz, dh_first


def _segments(seq_idx: Tensor) -> Int[Tensor, "batch time"]:
    """Number of changes of `seq_idx` up to each step, from zero."""
    changes = torch.zeros_like(seq_idx, dtype=torch.int32)
    changes[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
    return changes.cumsum(1, dtype=torch.int32)


def _check(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    per_head: dict[str, Tensor | None],
    z: Tensor | None,
    initial_state: Tensor | None,
    chunk_size: int,
) -> None:
    check_tensor("x", x, 4, "(batch, time, head, feature)")
    batch, length, head, feature = x.shape
    check_shape("dt", dt, (batch, length, head), "(batch, time, head)")
    check_shape("A", A, (head,), "(head,)")
    check_tensor("B", B, 4, "(batch, time, group, latent)")
    groups, latent = B.shape[2:]
    check_shape("B", B, (batch, length, groups, latent), "(batch, time, group, latent)")
    if groups < 1 or head % groups:
        raise ValueError(
            f"B needs a number of groups that divides the heads = {head}, got {groups} groups"
        )
    check_shape("C", C, B.shape, "(batch, time, group, latent)")
    for name, value in per_head.items():
        if value is not None:
            check_shape(name, value, (head,), "(head,)")
    if z is not None:
        check_shape("z", z, x.shape, "(batch, time, head, feature)")
    if initial_state is not None:
        shape = (batch, head, feature, latent)
        check_shape("initial_state", initial_state, shape, "(batch, head, feature, latent)")
    check_positive("chunk_size", chunk_size)


@overload
def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    chunk_size: int = ...,
    D: Tensor | None = ...,
    z: Tensor | None = ...,
    dt_bias: Tensor | None = ...,
    dt_softplus: bool = ...,
    initial_state: Tensor | None = ...,
    return_final_state: Literal[False] = ...,
    seq_idx: Tensor | None = ...,
) -> Tensor: ...
@overload
def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    chunk_size: int = ...,
    D: Tensor | None = ...,
    z: Tensor | None = ...,
    dt_bias: Tensor | None = ...,
    dt_softplus: bool = ...,
    initial_state: Tensor | None = ...,
    return_final_state: Literal[True],
    seq_idx: Tensor | None = ...,
) -> tuple[Tensor, Tensor]: ...
def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    chunk_size: int = 64,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    seq_idx: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""State-space duality: the selective scan with one decay per head, as matrix products.

    $h_t = e^{\Delta_t A} h_{t-1} + \Delta_t x_t B_t^T$,
    $y_t = (h_t C_t + D x_t)\,\mathrm{SiLU}(z_t)$.

    The sequence is cut into chunks; `chunk_size` changes speed and memory, not the numbers. The
    length need not be a multiple of it. Half-precision inputs are computed in float32; the
    backward pass keeps the states between chunks and recomputes the rest, and can be
    differentiated once.

    Args:
        x: input (batch, time, head, feature).
        dt: step sizes (batch, time, head), before `dt_bias` and `dt_softplus`.
        A: decay rates (head,), negative for a stable system.
        B: input maps (batch, time, group, latent); the groups divide the heads.
        C: output maps, shape of `B`.
        chunk_size: steps per chunk.
        D: weight of the skip term (head,).
        z: gate, shape of `x`.
        dt_bias: added to `dt` (head,).
        dt_softplus: whether softplus is applied to `dt + dt_bias`.
        initial_state: state before the first step (batch, head, feature, latent). It belongs to
            the sequence of the first step when `seq_idx` is given.
        return_final_state: whether to return the state after the last step too.
        seq_idx: integers (batch, time); where they change, the state starts again from zero
            (several sequences packed into one row).

    Returns:
        The output, shape and dtype of `x`; with `return_final_state` also the state
        (batch, head, feature, latent) in float32 (float64 if any input is), from which the next
        piece of the sequence continues.

    Raises:
        ValueError: If a shape, `chunk_size` or the number of groups does not fit.
        TypeError: If an input is not a tensor of the needed kind.

    Examples:
        Without decay the state is the running sum of the inputs.

        >>> import torch
        >>> x = torch.ones(1, 5, 1, 1)
        >>> y = ssd(x, torch.ones(1, 5, 1), torch.zeros(1), x, x, chunk_size=2)
        >>> y.flatten().tolist()
        [1.0, 2.0, 3.0, 4.0, 5.0]

    References:
        Dao, T., & Gu, A. (2024). Transformers are SSMs: generalized models and efficient
        algorithms through structured state space duality. ICML. arXiv:2405.21060.
    """
    _check(
        x,
        dt,
        A,
        B,
        C,
        per_head={"D": D, "dt_bias": dt_bias},
        z=z,
        initial_state=initial_state,
        chunk_size=chunk_size,
    )
    batch, length, head, feature = x.shape
    if seq_idx is not None:
        check_seq_idx(seq_idx, batch, length)
    dtype = compute_dtype(x, dt, A, B, C, D, z, dt_bias, initial_state)
    with torch.autocast(x.device.type, enabled=False):
        step = dt.to(dtype) if dt_bias is None else dt.to(dtype) + dt_bias.to(dtype)
        if dt_softplus:
            step = functional.softplus(step)
        if initial_state is None:
            h = x.new_zeros(batch, head, feature, B.shape[-1], dtype=dtype)
        else:
            h = initial_state.to(dtype)
        y, last = apply(
            _Scan,
            x.to(dtype),
            step,
            A.to(dtype),
            B.to(dtype),
            C.to(dtype),
            None if D is None else D.to(dtype),
            None if z is None else z.to(dtype),
            h,
            None if seq_idx is None else _segments(seq_idx),
            max(1, min(chunk_size, length)),
            torch.is_grad_enabled(),
        )
        y = y.to(x.dtype)
    return (y, last) if return_final_state else y
