"""Neighbour counts of the nearest-neighbour estimators of information."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Radii", "each_tree", "joint_radii", "marginal_counts", "nearest_rows"]

# Entries of one block of distances: 64 MB in float64.
_BLOCK = 8_000_000
# Up to this size all distances of a batch cost no more than a tree for each of its items.
_DENSE = 400
# Roundings, in units of the largest value, within which a distance counts as equal to a radius.
_SLACK = 4 * float(np.finfo(np.float64).eps)


class Radii(NamedTuple):
    """Distance to the k-th neighbour in the joint space, and its side along every block."""

    joint: Tensor
    sides: tuple[Tensor, ...]


def joint_radii(blocks: Sequence[Tensor], k: int, *, sides: bool = False) -> Radii:
    """Distance of every sample to its k-th neighbour in the maximum norm over all blocks.

    Args:
        blocks: Matrices (*batch, sample, feature) over the same samples.
        k: Which neighbour.
        sides: Whether the sides are wanted.

    Returns:
        The radii (*batch, sample), and per block the largest distance to one of the k neighbours.
    """
    distance, found = nearest_rows(torch.cat(list(blocks), -1), k)
    return Radii(distance, tuple(_side(block, found) for block in blocks) if sides else ())


def nearest_rows(
    x: Float[Tensor, "*batch sample feature"], k: int
) -> tuple[Float[Tensor, "*batch sample"], Int[Tensor, "*batch sample k"]]:
    """Distance to the k-th neighbour in the maximum norm, and the rows that are no farther."""
    if _is_dense(x):
        distance, found = _dense_query(x, k)
    else:
        distance, found = each_tree(lambda item: _tree_query(item, k), x)
    return distance, found


def marginal_counts(
    block: Float[Tensor, "*batch sample feature"],
    radius: Float[Tensor, "*batch sample"],
    *,
    strict: bool,
) -> Int[Tensor, "*batch sample"]:
    """How many other samples lie within a radius of each one, in the maximum norm."""
    slack = _SLACK * block.abs().amax((-2, -1)).unsqueeze(-1)
    reach = (radius - slack).clamp(min=0) if strict else radius + slack
    if block.shape[-1] == 1:
        return _sorted_counts(block[..., 0], reach)
    if _is_dense(block):
        return _dense_counts(block, reach)
    counts: Tensor = each_tree(_tree_counts, block, reach)[0]
    return counts


def each_tree(query: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> list[Tensor]:
    """Results of one tree per item of the batch: a k-d tree has no batched form."""
    lead = inputs[0].shape[:-2]
    flat = [x.reshape(-1, *x.shape[len(lead) :]) for x in inputs]
    found = [query(*item) for item in zip(*flat, strict=True)]
    sides = [torch.stack(side) for side in zip(*found, strict=True)]
    return [side.reshape(lead + side.shape[1:]) for side in sides]


def _is_dense(x: Float[Tensor, "*batch sample feature"]) -> bool:
    return bool(x.is_cuda) or x.shape[-2] <= _DENSE


def _side(
    block: Float[Tensor, "*batch sample feature"], found: Int[Tensor, "*batch sample k"]
) -> Float[Tensor, "*batch sample"]:
    """Largest distance to the given rows."""
    rows = found.flatten(-2).unsqueeze(-1).expand(*found.shape[:-2], -1, block.shape[-1])
    near = block.gather(-2, rows).reshape(*found.shape, block.shape[-1])
    side: Tensor = (block.unsqueeze(-2) - near).abs().amax((-2, -1))
    return side


def _tree_query(
    joint: Float[Tensor, "sample feature"], k: int
) -> tuple[Float[Tensor, "sample"], Int[Tensor, "sample k"]]:
    from scipy.spatial import KDTree

    # Queries one beside the other in space find the tree in the cache, a sixth of the time.
    order = torch.as_tensor(joint[:, 0].numpy().argsort())
    points = joint[order].numpy()
    tree = KDTree(points, balanced_tree=False, compact_nodes=False)
    distance, found = (torch.as_tensor(np.asarray(z)) for z in tree.query(points, k + 1, p=np.inf))
    radius = torch.empty_like(distance[:, -1]).scatter_(0, order, distance[:, -1])
    return radius, torch.empty_like(found).index_copy_(0, order, order[found])


def _tree_counts(
    block: Float[Tensor, "sample feature"], reach: Float[Tensor, "sample"]
) -> tuple[Int[Tensor, "sample"]]:
    from scipy.spatial import KDTree

    tree = KDTree(block.numpy())
    counts = tree.query_ball_point(block.numpy(), reach.numpy(), p=np.inf, return_length=True)
    return (torch.as_tensor(np.asarray(counts)) - 1,)


def _dense_query(
    joint: Float[Tensor, "*batch sample feature"], k: int
) -> tuple[Float[Tensor, "*batch sample"], Int[Tensor, "*batch sample k"]]:
    distances, found = [], []
    for items, rows in _pieces(joint):
        near = torch.cdist(rows, items, p=float("inf")).topk(k + 1, largest=False)
        distances.append(near.values[..., -1].flatten())
        found.append(near.indices.flatten())
    shape = joint.shape[:-1]
    return torch.cat(distances).reshape(shape), torch.cat(found).reshape(*shape, k + 1)


def _dense_counts(
    block: Float[Tensor, "*batch sample feature"], reach: Float[Tensor, "*batch sample"]
) -> Int[Tensor, "*batch sample"]:
    counts, start, flat = [], 0, reach.flatten()
    for items, rows in _pieces(block):
        gap = torch.cdist(rows, items, p=float("inf")).flatten(0, 1)
        stop = start + len(gap)
        counts.append((gap <= flat[start:stop].unsqueeze(1)).sum(1) - 1)
        start = stop
    return torch.cat(counts).reshape(reach.shape)


def _pieces(x: Float[Tensor, "*batch sample feature"]) -> Iterator[tuple[Tensor, Tensor]]:
    """Items of the batch, and rows of them, whose distances fit into one block."""
    n = x.shape[-2]
    clouds = x.reshape(-1, *x.shape[-2:])
    for items in torch.split(clouds, max(1, _BLOCK // n**2)):
        for rows in torch.split(items, max(1, _BLOCK // n), dim=1):
            yield items, rows


def _sorted_counts(
    values: Float[Tensor, "*batch sample"], reach: Float[Tensor, "*batch sample"]
) -> Int[Tensor, "*batch sample"]:
    """Counts along a line: two binary searches, an order of magnitude below a tree."""
    x, order = values.sort()
    r = reach.gather(-1, order)
    counts = torch.searchsorted(x, x + r, right=True) - torch.searchsorted(x, x - r) - 1
    return torch.empty_like(counts).scatter_(-1, order, counts)
