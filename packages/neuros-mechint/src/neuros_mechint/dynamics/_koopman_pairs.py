"""Snapshot pairs and the coordinates in which a Koopman matrix is fitted."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Coordinates", "delayed", "gavish_donoho", "kernel_coordinates", "linear_coordinates"]

# Directions beyond the rank, and products with the data, of a subspace iteration.
_SPARE, _SWEEPS = 6, 3


class Coordinates(NamedTuple):
    """Observables before and after a step, and what takes any state to them."""

    before: Tensor
    after: Tensor
    lift: Callable[[Tensor], Tensor]


def delayed(
    x: Float[Tensor, "*batch time channel"], n_delays: int
) -> Float[Tensor, "*batch row feature"]:
    """Rows of consecutive samples, the oldest first."""
    rows = x.unfold(-2, n_delays, 1).movedim(-1, -2)
    return rows.flatten(-2)


def gavish_donoho(values: Float[Tensor, "*batch k"], rows: int, columns: int) -> int:
    """Singular values above the optimal hard threshold, the most of any item (Gavish 2014)."""
    beta = min(rows, columns) / max(rows, columns)
    omega = 0.56 * beta**3 - 0.95 * beta**2 + 1.82 * beta + 1.43
    floor = max(rows, columns) * torch.finfo(values.dtype).eps * values[..., :1]
    limit = torch.maximum(omega * values.median(-1, keepdim=True).values, floor)
    return max(int((values > limit).sum(-1).amax()), 1)


def linear_coordinates(
    before: Float[Tensor, "*batch pair feature"],
    after: Float[Tensor, "*batch pair feature"],
    rank: int | None,
) -> Coordinates:
    """Both sides in the leading singular directions of the states before a step."""
    basis = None if rank is None else _leading(before, rank)
    if basis is not None:
        return Coordinates(before @ basis, after @ basis, lambda z: z @ basis)
    _, values, right = torch.linalg.svd(before, full_matrices=False)
    kept = gavish_donoho(values, *before.shape[-2:]) if rank is None else rank
    if kept > values.shape[-1]:
        raise ValueError(
            f"rank must be at most {values.shape[-1]}, the smaller of pairs and features, got "
            f"{rank}"
        )
    whole = right[..., :kept, :].mT
    return Coordinates(before @ whole, after @ whole, lambda z: z @ whole)


def _leading(
    x: Float[Tensor, "*batch pair feature"], rank: int
) -> Float[Tensor, "*batch feature k"] | None:
    """Leading right singular vectors by subspace iteration (Halko 2011).

    Returns:
        The vectors, or None where they would save nothing or have not settled to rounding: the
        residual of their singular values bounds their angle to the true ones over the gap below.
    """
    width = rank + _SPARE
    if 4 * width > min(x.shape[-2:]):
        return None
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(x.shape[-1], width, generator=generator, dtype=torch.float64).to(x)
    for _ in range(_SWEEPS):
        probe = torch.linalg.qr(x.mT @ torch.linalg.qr(x @ probe).Q).Q
    _, values, turn = torch.linalg.svd(x @ probe, full_matrices=False)
    basis: Tensor = probe @ turn[..., :rank, :].mT
    squares = values.square()
    gap = squares[..., rank - 1] - squares[..., rank]
    error = x.mT @ (x @ basis) - basis * squares[..., None, :rank]
    limit = 1e4 * torch.finfo(x.dtype).eps * gap
    return basis if bool((error.flatten(-2).norm(dim=-1) < limit).all()) else None


def kernel_coordinates(
    before: Float[Tensor, "*batch pair feature"],
    after: Float[Tensor, "*batch pair feature"],
    rank: int | None,
) -> Coordinates:
    """Coordinates of a Gaussian kernel whose width is the median distance (Williams 2015)."""
    gaps = torch.cdist(before, before)
    width = gaps.flatten(-2).median(-1).values.clamp(min=torch.finfo(before.dtype).tiny)
    scale = 2 * width.square()[..., None, None]

    def kernel(z: Tensor) -> Tensor:
        return (-torch.cdist(z, before).square() / scale).exp()

    squares, vectors = torch.linalg.eigh(kernel(before))
    values = squares.clamp(min=0).flip(-1).sqrt()
    # Half of the digits: what is kept is divided by its root.
    live = int((values > math.sqrt(torch.finfo(before.dtype).eps) * values[..., :1]).sum(-1).amin())
    kept = live if rank is None else rank
    if kept > live:
        raise ValueError(f"rank must be at most {live}, that of the kernel matrix, got {rank}")
    turn = vectors.flip(-1)[..., :kept] / values[..., None, :kept]
    return Coordinates(kernel(before) @ turn, kernel(after) @ turn, lambda z: kernel(z) @ turn)
