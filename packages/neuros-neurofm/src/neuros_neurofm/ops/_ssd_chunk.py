r"""One chunk of the state-space duality, forward and backward.

Inside a chunk of $Q$ steps with $S_i = \sum_{k \le i} \Delta_k A$ (Dao & Gu 2024, section 6):

$$Y_i = \sum_{j \le i} e^{S_i - S_j} (C_i \cdot B_j) \Delta_j X_j + e^{S_i} h_0 C_i, \qquad
h_Q = e^{S_Q} h_0 + \sum_j e^{S_Q - S_j} \Delta_j X_j B_j^T.$$

The products with the state contract over all features of the heads of one group at once, so B and C
are never copied once per head.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__: list[str] = []


_EXPONENT_FLOOR = {torch.float32: -80.0, torch.float64: -700.0}


class Chunk(NamedTuple):
    """Inputs of one chunk; axes (batch, time, head, feature), groups of heads share B and C."""

    X: Float[Tensor, "batch time head feature"]
    dt: Float[Tensor, "batch time head"]
    A: Float[Tensor, " head"]
    B: Float[Tensor, "batch time group latent"]
    C: Float[Tensor, "batch time group latent"]
    segment: Int[Tensor, "batch time"] | None
    segment_before: Int[Tensor, " batch"] | None


class Decays(NamedTuple):
    """Products of the steps' decays: between two steps, from the start, and to the end."""

    between: Float[Tensor, "batch head time time"]
    start: Float[Tensor, "batch head time"]
    end: Float[Tensor, "batch head time"]


class ChunkGradients(NamedTuple):
    """Gradients of one chunk's inputs and of the state it started from."""

    X: Float[Tensor, "batch time head feature"]
    dt: Float[Tensor, "batch time head"]
    A: Float[Tensor, " head"]
    B: Float[Tensor, "batch time group latent"]
    C: Float[Tensor, "batch time group latent"]
    state: Float[Tensor, "batch head feature latent"]


def future_mask(Q: int, like: Tensor) -> Float[Tensor, "time time"]:
    """Zero where the row's step may read the column's, minus infinity where it may not."""
    return torch.full((Q, Q), float("-inf"), dtype=like.dtype, device=like.device).triu_(1)


def _heads_first(x: Float[Tensor, "batch time head"]) -> Float[Tensor, "batch head time"]:
    return x.transpose(1, 2)


def _per_feature(x: Float[Tensor, "batch head time"]) -> Float[Tensor, "batch time head 1"]:
    return x.transpose(1, 2).unsqueeze(-1)


def _group_rows(x: Float[Tensor, "batch time group latent"]) -> Float[Tensor, "rows time latent"]:
    """(batch * group, time, latent): a view when there is one group."""
    return x.transpose(1, 2).flatten(0, 1)


def _head_rows(x: Float[Tensor, "batch time head feature"]) -> Float[Tensor, "rows time feature"]:
    """(batch * head, time, feature): a view when there is one row."""
    return x.transpose(1, 2).flatten(0, 1)


def _wide_rows(
    x: Float[Tensor, "batch time head feature"], groups: int
) -> Float[Tensor, "rows time wide"]:
    """(batch * group, time, heads of the group * feature)."""
    batch, time = x.shape[:2]
    return x.reshape(batch, time, groups, -1).transpose(1, 2).flatten(0, 1)


def _from_wide_rows(
    x: Float[Tensor, "rows time wide"], batch: int, feature: int
) -> Float[Tensor, "batch time head feature"]:
    """Inverse of `_wide_rows`."""
    time = x.shape[1]
    return x.view(batch, -1, time, x.shape[2]).transpose(1, 2).reshape(batch, time, -1, feature)


def _state_rows(
    h: Float[Tensor, "batch head feature latent"], groups: int
) -> Float[Tensor, "rows wide latent"]:
    """(batch * group, heads of the group * feature, latent): always a view of contiguous `h`."""
    batch, head, feature, latent = h.shape
    return h.reshape(batch * groups, head // groups * feature, latent)


def _reset(
    decays: Decays, segment: Int[Tensor, "batch time"], before: Int[Tensor, " batch"]
) -> None:
    """Cut, in place, every decay that would cross the start of a new sequence."""
    same: Bool[Tensor, "batch time time"] = segment[:, :, None] == segment[:, None, :]
    decays.between.mul_(same[:, None])
    decays.start.mul_((segment == before[:, None])[:, None])
    decays.end.mul_((segment == segment[:, -1:])[:, None])


def chunk_decays(chunk: Chunk, mask: Float[Tensor, "time time"]) -> Decays:
    """Decays of one chunk, masked before the exponential so that nothing overflows."""
    steps = _heads_first(chunk.dt * chunk.A)
    # In float32 the difference of two long sums loses the small steps that lie behind a large one:
    # the sums are kept as a rounded value plus its remainder, and S_i - S_j is taken in two parts.
    exact = steps.double().cumsum(-1)
    S = exact.to(steps.dtype)
    between = S[..., :, None] - S[..., None, :]
    if S.dtype != exact.dtype:
        rest = (exact - S).to(S.dtype)
        between.add_(rest[..., :, None]).sub_(rest[..., None, :])
    # Vectorised exponentials fall back to a slow path for arguments that underflow (2 x the time);
    # the floor stands for a factor below 2e-35 (1e-304 in float64).
    floor = _EXPONENT_FLOOR[S.dtype]
    between.add_(mask).clamp_(min=floor).exp_().tril_()
    end = (exact[..., -1:] - exact).to(S.dtype).clamp_(min=floor).exp_()
    decays = Decays(between=between, start=S.clamp(min=floor).exp_(), end=end)
    if chunk.segment is not None and chunk.segment_before is not None:
        _reset(decays, chunk.segment, chunk.segment_before)
    return decays


def _by_group(
    x: Float[Tensor, "batch head time time"], groups: int
) -> Float[Tensor, "batch group within time time"]:
    batch, head, time = x.shape[:3]
    return x.view(batch, groups, head // groups, time, time)


def _from_group_rows(
    x: Float[Tensor, "rows time latent"], batch: int
) -> Float[Tensor, "batch time group latent"]:
    """Inverse of `_group_rows`."""
    return x.view(batch, -1, *x.shape[1:]).transpose(1, 2)


def _scores(chunk: Chunk, decays: Decays) -> Float[Tensor, "batch head time time"]:
    """Weights of step j in output i; overwrites `decays.between`."""
    G = torch.bmm(_group_rows(chunk.C), _group_rows(chunk.B).transpose(1, 2))
    groups = chunk.B.shape[2]
    by_group = _by_group(decays.between, groups)
    by_group.mul_(G.view(-1, groups, 1, *G.shape[1:]))
    return decays.between


def _apply_scores(
    scores: Float[Tensor, "batch head time time"], X: Float[Tensor, "batch time head feature"]
) -> Float[Tensor, "batch time head feature"]:
    batch, head = scores.shape[:2]
    return (
        torch.bmm(scores.flatten(0, 1), _head_rows(X))
        .view(batch, head, *X.shape[1::2])
        .transpose(1, 2)
    )


def chunk_forward(
    chunk: Chunk,
    h: Float[Tensor, "batch head feature latent"],
    mask: Float[Tensor, "time time"],
    out: Float[Tensor, "batch time head feature"],
) -> Float[Tensor, "batch head feature latent"]:
    """Write the outputs of one chunk (no skip term) to `out`; return the state after it."""
    batch, _, _, feature = chunk.X.shape
    groups = chunk.B.shape[2]
    decays = chunk_decays(chunk, mask)
    scaled = chunk.X * chunk.dt.unsqueeze(-1)
    from_state = torch.bmm(_group_rows(chunk.C), _state_rows(h, groups).transpose(1, 2))
    inside = _apply_scores(_scores(chunk, decays), scaled)
    torch.addcmul(
        inside, _from_wide_rows(from_state, batch, feature), _per_feature(decays.start), out=out
    )
    scaled.mul_(_per_feature(decays.end))
    kept = h * decays.start[..., -1, None, None]
    return torch.baddbmm(
        _state_rows(kept, groups),
        _wide_rows(scaled, groups).transpose(1, 2),
        _group_rows(chunk.B),
    ).view(h.shape)


def chunk_backward(
    chunk: Chunk,
    h: Float[Tensor, "batch head feature latent"],
    *,
    dY_dot_Y: Float[Tensor, "batch time head"],
    dY: Float[Tensor, "batch time head feature"],
    dh: Float[Tensor, "batch head feature latent"],
    dh_dot_h: Float[Tensor, "batch head"],
    mask: Float[Tensor, "time time"],
) -> ChunkGradients:
    r"""Gradients of one chunk, from the inputs and the state it started from.

    Two identities replace the gradient through every pairwise decay. With
    $\partial/\partial S_i$ collected over rows and columns, the row part is
    $\langle dY_i, Y_i\rangle$ and the column part is
    $\Delta_j\, \partial/\partial \Delta_j$ at fixed decays; the end of the chunk adds
    $\langle dh_Q, h_Q\rangle$.

    Args:
        chunk: inputs of the chunk.
        h: state before the chunk.
        dY_dot_Y: $\langle dY_i, Y_i\rangle$ per step and head, without the skip term in $Y$.
        dY: gradient of the chunk's output.
        dh: gradient of the state after the chunk.
        dh_dot_h: $\langle dh_Q, h_Q\rangle$ per row and head.
        mask: from `future_mask`.

    Returns:
        The gradients; that of `X` is without the skip term.
    """
    batch, _, _, feature = chunk.X.shape
    groups = chunk.B.shape[2]
    decays = chunk_decays(chunk, mask)
    start, end = _per_feature(decays.start), _per_feature(decays.end)
    scaled = chunk.X * chunk.dt.unsqueeze(-1)
    B, C, dh_rows = _group_rows(chunk.B), _group_rows(chunk.C), _state_rows(dh, groups)

    dscores = torch.bmm(_head_rows(dY), _head_rows(scaled).transpose(1, 2))
    dG = dscores.view_as(decays.between).mul_(decays.between)
    dG = _by_group(dG, groups).sum(2).flatten(0, 1)
    scores = _scores(chunk, decays)

    from_end = _from_wide_rows(torch.bmm(B, dh_rows.transpose(1, 2)), batch, feature)
    dscaled = torch.addcmul(_apply_scores(scores.transpose(2, 3), dY), from_end, end)
    ddt = torch.linalg.vecdot(chunk.X, dscaled)

    dY_start = _wide_rows(dY * start, groups)
    dC = torch.baddbmm(torch.bmm(dG, B), dY_start, _state_rows(h, groups))
    dB = torch.baddbmm(
        torch.bmm(dG.transpose(1, 2), C), _wide_rows(scaled.mul_(end), groups), dh_rows
    )
    kept = _state_rows(dh * decays.start[..., -1, None, None], groups)
    dh_before = torch.baddbmm(kept, dY_start.transpose(1, 2), C).view(h.shape)

    dS = torch.addcmul(dY_dot_Y, ddt, chunk.dt, value=-1)
    dS[:, -1] += dh_dot_h
    # S is a running sum, so its gradient is summed from the end.
    dstep = dS.flip(1).cumsum(1).flip(1)
    return ChunkGradients(
        X=dscaled.mul_(chunk.dt.unsqueeze(-1)),
        dt=torch.addcmul(ddt, dstep, chunk.A),
        A=(dstep * chunk.dt).sum((0, 1)),
        B=_from_group_rows(dB, batch),
        C=_from_group_rows(dC, batch),
        state=dh_before,
    )
