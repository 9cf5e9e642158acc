"""Iterated function systems of affine maps of the plane: their frame and the chaos game."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["attractor_frame", "play_chaos_game", "read_probabilities", "read_transforms"]

# Walkers of the chaos game: enough to hide the cost of a step, few enough to stay in the cache.
_WALKERS = 2**14
# Words of maps that may still reach furthest, of which the best are followed.
_BEAM = 2**10
# Share of the probability that a map of no area gets (Barnsley gives the stem of his fern 1 %).
_LEAST_SHARE = 0.01


def read_transforms(
    transforms: Tensor | NDArray[Any] | Sequence[Any],
) -> Float[Tensor, "map 2 3"]:
    """Check affine contractions.

    Args:
        transforms: `(n, 2, 3)` numbers.

    Returns:
        They, in float64.

    Raises:
        ValueError: if the shape differs, a number is not finite, or a map does not contract.

    Examples:
        >>> read_transforms([[[0.5, 0, 0], [0, 0.5, 0]]]).shape
        torch.Size([1, 2, 3])
    """
    given = transforms.detach().cpu().numpy() if isinstance(transforms, Tensor) else transforms
    maps = torch.from_numpy(np.array(given, dtype=np.float64))
    if maps.ndim != 3 or maps.shape[1:] != (2, 3) or not len(maps):
        raise ValueError(f"transforms must have shape (n, 2, 3), got {tuple(maps.shape)}")
    if not bool(maps.isfinite().all()):
        raise ValueError("transforms must be finite, got NaN or infinity")
    norms = torch.linalg.matrix_norm(maps[..., :2], 2)
    if not bool((norms < 1).all()):
        raise ValueError(
            f"transforms must contract, got a map that stretches by {float(norms.max()):.4g}; "
            "scale its first two columns below a norm of 1"
        )
    return maps


def read_probabilities(
    probabilities: Tensor | NDArray[Any] | Sequence[float] | None, maps: Float[Tensor, "map 2 3"]
) -> Float[Tensor, " map"]:
    r"""Check the probabilities of the maps, or take their areas $|\det A|$.

    Args:
        probabilities: one per map, or None.
        maps: the maps.

    Returns:
        Probabilities in float64, with sum 1.

    Raises:
        ValueError: if they do not fit.

    Examples:
        >>> half = [[[0.5, 0, 0], [0, 0.5, 0]], [[0.5, 0, 1], [0, 0.5, 0]]]
        >>> read_probabilities(None, read_transforms(half)).tolist()
        [0.5, 0.5]
    """
    if probabilities is None:
        area: Tensor = torch.linalg.det(maps[..., :2]).abs()
        # Maps of no area at all share alike.
        area = area.clamp(min=_LEAST_SHARE * float(area.sum())) if area.any() else area + 1
        return area / area.sum()
    given = (
        probabilities.detach().cpu().numpy() if isinstance(probabilities, Tensor) else probabilities
    )
    shares = torch.from_numpy(np.array(given, dtype=np.float64))
    if shares.shape != maps.shape[:1] or not bool((shares >= 0).all()):
        raise ValueError(f"probabilities must be {len(maps)} numbers >= 0, got {shares.tolist()}")
    if not math.isclose(float(shares.sum()), 1.0, abs_tol=1e-9):
        raise ValueError(f"probabilities must sum to 1, got {float(shares.sum())}")
    return shares / shares.sum()


def attractor_frame(maps: Float[Tensor, "map 2 3"]) -> tuple[Float[Tensor, "2"], float]:
    r"""Smallest square about the attractor, its sides along the axes.

    The attractor reaches $h(u) = \max_i (b_i \cdot u + h(A_i^T u))$ in the direction u: words of
    maps are followed as long as they may still lead furthest.

    Args:
        maps: contractions.

    Returns:
        The lower left corner and the width; a width of 1 about an attractor of one point.

    Examples:
        >>> half = [[[0.5, 0, 0], [0, 0.5, 0]], [[0.5, 0, 1], [0, 0.5, 0]]]
        >>> corner, width = attractor_frame(read_transforms(half))
        >>> [round(v, 6) + 0.0 for v in corner.tolist()], round(width, 6)
        ([0.0, -1.0], 2.0)
    """
    matrices, shifts = maps[..., :2], maps[..., 2]
    inside = torch.linalg.solve(torch.eye(2, dtype=maps.dtype) - matrices[0], shifts[0])
    contraction = float(torch.linalg.matrix_norm(matrices, 2).max())
    moved = (matrices @ inside + shifts - inside).norm(dim=-1).max()
    # A disc of this radius about a point of the attractor is mapped into itself.
    radius = float(moved) / (1 - contraction)
    high = torch.stack([_reach(maps, inside, radius, u) for u in torch.eye(2).double()])
    low = -torch.stack([_reach(maps, inside, radius, -u) for u in torch.eye(2).double()])
    width = float((high - low).max())
    if width <= 1e-12 * float(1 + inside.abs().max()):
        width = 1.0
    return (high + low) / 2 - width / 2, width


def _reach(
    maps: Float[Tensor, "map 2 3"],
    inside: Float[Tensor, "2"],
    radius: float,
    direction: Float[Tensor, "2"],
) -> Float[Tensor, ""]:
    """Furthest coordinate of the attractor along a direction, to 1e-9 of its radius."""
    so_far, u = torch.zeros(1, dtype=torch.float64), direction[None]
    best = inside @ direction
    while bool((u.norm(dim=-1) > 1e-9).any()):
        so_far = (so_far[:, None] + u @ maps[..., 2].T).flatten()
        u = torch.einsum("nd,mde->nme", u, maps[..., :2]).flatten(0, 1)
        value = so_far + u @ inside
        best = torch.maximum(best, value.max())
        bound = value + radius * u.norm(dim=-1)
        keep = bound.topk(min(_BEAM, len(bound))).indices
        keep = keep[bound[keep] >= best]
        # Words that differ only where they no longer matter would fill the beam.
        nodes = torch.cat([so_far[keep, None], u[keep]], -1)
        nodes = torch.unique((nodes * 2.0**36).round(), dim=0) / 2.0**36
        so_far, u = nodes[:, 0], nodes[:, 1:]
    return best


def play_chaos_game(
    maps: Float[Tensor, "map 2 3"],
    shares: Float[Tensor, " map"],
    n_points: int,
    size: int,
    frame: tuple[Float[Tensor, "2"], float],
    *,
    generator: torch.Generator | None,
) -> Float[Tensor, " pixel"]:
    """Count the points of random walks among the maps, by pixel.

    Args:
        maps: contractions.
        shares: their probabilities.
        n_points: points to count.
        size: pixels of a side.
        frame: lower left corner and width of the square to draw.
        generator: source of randomness.

    Returns:
        Counts, row after row from below, float64.

    Examples:
        >>> one = read_transforms([[[0.5, 0, 0], [0, 0.5, 0]]])
        >>> frame, sure = attractor_frame(one), torch.ones(1).double()
        >>> play_chaos_game(one, sure, 7, 3, frame, generator=None).tolist()
        [0.0, 0.0, 0.0, 0.0, 7.0, 0.0, 0.0, 0.0, 0.0]
    """
    walkers = min(_WALKERS, n_points)
    eye = torch.eye(2, dtype=maps.dtype, device=maps.device)
    point = torch.linalg.solve(eye - maps[0, :, :2], maps[0, :, 2]).expand(walkers, 2)
    # So many steps shrink the memory of the common start below a pixel.
    contraction = float(torch.linalg.matrix_norm(maps[..., :2], 2).max())
    forgetting = math.ceil(math.log(4 * size) / -math.log(max(contraction, 1e-3)))
    counts = torch.zeros(size * size, dtype=torch.float64, device=maps.device)
    thresholds = shares.cumsum(0)[:-1]
    corner, width = frame[0].to(maps.device), frame[1]
    left = n_points
    for step in range(forgetting + -(-n_points // walkers)):
        chosen = torch.rand(walkers, generator=generator, dtype=torch.float64, device=maps.device)
        drawn = maps[torch.bucketize(chosen, thresholds, right=True)]
        point = (drawn[..., :2] @ point[..., None]).squeeze(-1) + drawn[..., 2]
        if step >= forgetting:
            cells = _cells(point[:left], corner, width, size)
            counts += torch.bincount(cells, minlength=size * size)
            left -= len(cells)
    return counts


def _cells(
    points: Float[Tensor, "point 2"], corner: Float[Tensor, "2"], width: float, size: int
) -> Int[Tensor, " point"]:
    """Number of the pixel of each point; one on the far edge belongs to the last."""
    column, row = ((points - corner) * (size / width)).long().clamp(0, size - 1).unbind(-1)
    return row * size + column
