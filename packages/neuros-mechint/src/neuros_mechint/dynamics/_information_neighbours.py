"""Neighbour counts of the nearest-neighbour estimators of information."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Radii", "joint_radii", "marginal_counts"]

# Entries of one block of distances: 64 MB in float64.
_BLOCK = 8_000_000
# Roundings, in units of the largest value, within which a distance counts as equal to a radius.
_SLACK = 4 * float(np.finfo(np.float64).eps)


class Radii(NamedTuple):
    """Distance to the k-th neighbour in the joint space, and its side along every block."""

    joint: Tensor
    sides: tuple[Tensor, ...]


def joint_radii(blocks: Sequence[Tensor], k: int) -> Radii:
    """Distance of every sample to its k-th neighbour in the maximum norm over all blocks.

    Args:
        blocks: Matrices (sample, feature) over the same samples.
        k: Which neighbour.

    Returns:
        The radii (sample,), and per block the largest distance to one of the k neighbours.
    """
    joint = torch.cat(list(blocks), -1)
    distance, found = _dense_query(joint, k) if joint.is_cuda else _tree_query(joint, k)
    sides = tuple((b.unsqueeze(1) - b[found]).abs().amax((1, 2)) for b in blocks)
    return Radii(distance, sides)


def marginal_counts(
    block: Float[Tensor, "sample feature"], radius: Float[Tensor, "sample"], *, strict: bool
) -> Int[Tensor, "sample"]:
    """How many other samples lie within a radius of each one, in the maximum norm."""
    slack = _SLACK * float(block.abs().max())
    reach = (radius - slack).clamp(min=0) if strict else radius + slack
    if block.is_cuda:
        return _dense_counts(block, reach)
    if block.shape[-1] == 1:
        return _sorted_counts(block[:, 0], reach)
    from scipy.spatial import KDTree

    tree = KDTree(block.numpy())
    counts = tree.query_ball_point(block.numpy(), reach.numpy(), p=np.inf, return_length=True)
    return torch.as_tensor(np.asarray(counts)) - 1


def _tree_query(
    joint: Float[Tensor, "sample feature"], k: int
) -> tuple[Float[Tensor, "sample"], Int[Tensor, "sample k"]]:
    from scipy.spatial import KDTree

    points = joint.numpy()
    tree = KDTree(points, balanced_tree=False, compact_nodes=False)
    distance, found = tree.query(points, k + 1, p=np.inf)
    return torch.as_tensor(np.asarray(distance)[:, -1].copy()), torch.as_tensor(found)


def _dense_query(
    joint: Float[Tensor, "sample feature"], k: int
) -> tuple[Float[Tensor, "sample"], Int[Tensor, "sample k"]]:
    distances, found = [], []
    for rows in torch.split(joint, max(1, _BLOCK // len(joint))):
        near = torch.cdist(rows, joint, p=float("inf")).topk(k + 1, largest=False)
        distances.append(near.values[:, -1])
        found.append(near.indices)
    return torch.cat(distances), torch.cat(found)


def _sorted_counts(
    values: Float[Tensor, "sample"], reach: Float[Tensor, "sample"]
) -> Int[Tensor, "sample"]:
    """Counts along a line: two binary searches, an order of magnitude below a tree."""
    x, order = values.sort()
    r = reach[order]
    counts = torch.searchsorted(x, x + r, right=True) - torch.searchsorted(x, x - r) - 1
    return torch.empty_like(counts).scatter_(0, order, counts)


def _dense_counts(
    block: Float[Tensor, "sample feature"], reach: Float[Tensor, "sample"]
) -> Int[Tensor, "sample"]:
    size = max(1, _BLOCK // len(block))
    parts = zip(torch.split(block, size), torch.split(reach, size), strict=True)
    return torch.cat(
        [(torch.cdist(b, block, p=float("inf")) <= r.unsqueeze(1)).sum(1) - 1 for b, r in parts]
    )
