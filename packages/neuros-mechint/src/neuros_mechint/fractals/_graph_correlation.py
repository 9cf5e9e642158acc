r"""Correlation dimension of a graph by differentiable shortest paths."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["correlation_slope"]

# Width of the step, in the logarithm of the radius. A power law stays one under any smoothing, but
# the end of the graph does not: at 0.25 points on a torus of three axes read 2.03, at 0.1 2.90.
_SOFTNESS = 0.1
_N_RADII = 32
_LOW, _HIGH = 0.05, 0.25


def correlation_slope(
    weights: Float[Tensor, "*batch node node"], radii: Float[Tensor, " scale"] | None
) -> tuple[Float[Tensor, "*batch"], Bool[Tensor, "*batch"]]:
    r"""Fit d ln C / d ln r, with $C(r)$ the soft share of pairs nearer than r.

    Edges have length $-\ln(w / \max w)$.

    Args:
        weights: finite and not negative.
        radii: where; None for 32 between percentiles of the distances, with their
            gradient.

    Returns:
        The slope, and False for graphs in which no two nodes lie at a positive distance.

    Examples:
        >>> x = torch.linspace(0, 20, 100)
        >>> slope, _ = correlation_slope((-(x[:, None] - x).abs()).exp(), None)
        >>> round(slope.item(), 1)
        1.1
    """
    n = weights.shape[-1]
    distance, linked = _path_lengths((weights + weights.mT) / 2)
    pairs = linked & ~torch.eye(n, dtype=torch.bool, device=weights.device)
    apart = pairs & (distance.detach() > 0)
    usable = apart.flatten(-2).any(-1)
    log_r = (_default_radii(distance, apart) if radii is None else radii).log()
    # The logarithm of one in place of zero keeps the gradient out of pairs at one place.
    log_d = torch.where(apart, distance, 1.0).log()
    counted = pairs.to(weights)
    logs = []
    for log_radius in log_r.unbind(-1):
        within = torch.sigmoid((log_radius[..., None, None] - log_d) / _SOFTNESS)
        share = torch.where(apart, within, counted).mean((-2, -1)) * (n / (n - 1))
        logs.append(torch.where(usable, share, 1.0).log())
    offset = log_r - log_r.mean(-1, keepdim=True)
    return (offset * torch.stack(logs, -1)).sum(-1) / offset.square().sum(-1), usable


def _path_lengths(
    W: Float[Tensor, "*batch node node"],
) -> tuple[Float[Tensor, "*batch node node"], Bool[Tensor, "*batch node node"]]:
    """Length of the shortest paths, differentiable in the edges they use, and where there is one.

    Which edges those are does not change in a small neighbourhood: it is found without gradient.
    """
    n = W.shape[-1]
    edges = W.detach() > 0
    largest = W.amax((-2, -1), keepdim=True)
    safe = torch.where(largest.detach() > 0, largest, 1.0)
    length = safe.log() - torch.where(edges, W, safe).log()
    here = torch.eye(n, dtype=torch.bool, device=W.device)
    length = torch.where(here, 0.0, length)
    reach, before = _predecessors(torch.where(edges | here, length.detach(), math.inf))
    # Each round doubles the number of edges behind a node that its sum holds.
    total = length.gather(-2, before)
    start = torch.arange(n, device=W.device)[:, None].expand_as(before)
    while bool((before != start).any()):
        total = total + total.gather(-1, before)
        before = before.gather(-1, before)
    return total, reach


def _predecessors(
    length: Float[Tensor, "*batch node node"],
) -> tuple[Bool[Tensor, "*batch node node"], Int[Tensor, "*batch node node"]]:
    """Floyd and Warshall: where there is a path, and the last node before its end."""
    n = length.shape[-1]
    before = torch.arange(n, device=length.device)[:, None].expand_as(length)
    for k in range(n):
        over = length[..., :, k, None] + length[..., None, k, :]
        shorter = over < length
        before = torch.where(shorter, before[..., None, k, :], before)
        length = torch.where(shorter, over, length)
    return length.isfinite(), before


def _default_radii(
    distance: Float[Tensor, "*batch node node"], apart: Bool[Tensor, "*batch node node"]
) -> Float[Tensor, "*batch scale"]:
    ranked = torch.where(apart, distance, math.inf).flatten(-2).sort(-1).values
    count = apart.flatten(-2).sum(-1, keepdim=True)
    ends = [ranked.gather(-1, (share * (count - 1).clamp(min=0)).long()) for share in (_LOW, _HIGH)]
    # Where no distance is positive any radius does: the graph is left out.
    low, high = (torch.where(end.isfinite(), end, 1.0) for end in ends)
    high = torch.maximum(high, 2 * low)
    steps = torch.linspace(0, 1, _N_RADII, dtype=low.dtype, device=low.device)
    return low * (high / low) ** steps
