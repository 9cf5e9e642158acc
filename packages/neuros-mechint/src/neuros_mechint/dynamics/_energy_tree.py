"""Minima of a landscape on a graph, and the lowest passes between them."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

__all__ = ["Flooded", "Merge", "barriers", "descended", "flooded"]


class Merge(NamedTuple):
    """Two basins that become one at a pass.

    Attributes:
        energy: Height of the pass.
        lower: Index of the deeper minimum, which stands for both above.
        higher: Index of the other minimum.
    """

    energy: float
    lower: int
    higher: int


class Flooded(NamedTuple):
    """Minima, deepest first, and the merges of their basins, lowest first."""

    minima: Int[np.ndarray, "minimum"]
    merges: tuple[Merge, ...]


def flooded(
    energy: Float[np.ndarray, "node"],
    neighbours: Callable[[int], Iterable[int]],
    min_barrier: float,
    weight: Float[np.ndarray, "node"],
    min_weight: float,
) -> Flooded:
    """Raise the level over a landscape and note where pools appear and meet.

    Args:
        energy: Energy of every node; infinite nodes are never reached.
        neighbours: Nodes next to one.
        min_barrier: Pools that meet less than this above their bottom are one.
        weight: What every node adds to the weight of its pool.
        min_weight: Pools lighter than this where they meet a deeper one are no pools.
    """
    pools = _Pools(energy, weight, min_barrier, min_weight)
    for node in np.argsort(energy, kind="stable").tolist():
        if not np.isfinite(energy[node]):
            break
        pools.wet(node, neighbours(node))
    kept = sorted(pools.kept(), key=lambda low: float(energy[low]))
    number = {low: k for k, low in enumerate(kept)}
    tree = tuple(Merge(height, number[a], number[b]) for height, a, b in pools.merges)
    return Flooded(np.array(kept, dtype=np.int64), tree)


class _Pools:
    """Connected pools under a rising level, each named by its deepest node."""

    def __init__(
        self,
        energy: Float[np.ndarray, "node"],
        weight: Float[np.ndarray, "node"],
        min_barrier: float,
        min_weight: float,
    ) -> None:
        self.merges: list[tuple[float, int, int]] = []
        self._energy, self._weight = energy.tolist(), weight.tolist()
        self._min_barrier, self._min_weight = min_barrier, min_weight
        self._parent: dict[int, int] = {}

    def wet(self, node: int, neighbours: Iterable[int]) -> None:
        """Add one node to the pools beside it."""
        around = {self._root(other) for other in neighbours if other in self._parent}
        roots = sorted(around, key=lambda root: (self._energy[root], root))
        self._parent[node] = node
        if not roots:
            return
        low, height = roots[0], self._energy[node]
        for high in roots[1:]:
            if self._is_pool(high, height):
                self.merges.append((height, low, high))
        for other in [*roots[1:], node]:
            self._parent[other] = low
            self._weight[low] += self._weight[other]

    def kept(self) -> list[int]:
        """Bottoms that are a minimum: those that merged, and those that stand to the end."""
        standing = [n for n, p in self._parent.items() if n == p and self._is_pool(n, np.inf)]
        return [*standing, *(high for _, _, high in self.merges)]

    def _is_pool(self, root: int, height: float) -> bool:
        deep = height - self._energy[root] >= self._min_barrier
        return bool(deep and self._weight[root] >= self._min_weight)

    def _root(self, node: int) -> int:
        parent = self._parent
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node


def descended(
    energy: Float[np.ndarray, "node"], neighbours: Int[np.ndarray, "node n"]
) -> Int[np.ndarray, "node"]:
    """The node where steepest descent ends, from every node."""
    around = np.concatenate([np.arange(len(energy))[:, None], neighbours], 1)
    to = around[np.arange(len(energy)), energy[around].argmin(1)]
    moving = to != to[to]
    while moving.any():
        to = to[to]
        moving = to != to[to]
    return np.asarray(to)


def barriers(flood: Flooded) -> Float[np.ndarray, "minimum minimum"]:
    """Height of the lowest pass between any two minima; infinite without one."""
    n = len(flood.minima)
    height = np.full((n, n), np.inf)
    np.fill_diagonal(height, -np.inf)
    group = [{k} for k in range(n)]
    for merge in flood.merges:
        first, second = group[merge.lower], group[merge.higher]
        for a in first:
            for b in second:
                height[a, b] = height[b, a] = merge.energy
        first |= second
        for k in first:
            group[k] = first
    return height
