"""How many boxes of each size a connected graph needs."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuros_mechint.fractals._conventions import Number
from neuros_mechint.fractals._graph_boxes import (
    ball_growth,
    burn,
    first_fit,
    heaviest_balls,
    merge,
    node_orders,
)

__all__ = ["Metric", "count_boxes", "cover", "distance_sizes", "hop_sizes", "radial"]

_N_SIZES = 12
_SEED = 0
_Covers = list[NDArray[np.intp]]
# Attempts to merge boxes: of every cover that `best` starts from, and of its best per restart.
_MERGES = 4


class Metric(NamedTuple):
    """A connected graph as its covers see it.

    Attributes:
        distance: `(node, node)`, whole numbers of edges or lengths of paths.
        degree: of the nodes.
    """

    distance: NDArray[Any]
    degree: NDArray[Any]

    @property
    def is_whole(self) -> bool:
        """Whether distances count edges."""
        return bool(np.issubdtype(self.distance.dtype, np.integer))


def radial(method: str) -> bool:
    """Say whether the boxes of a method are balls, whose sizes are odd numbers of edges.

    Args:
        method: its name.

    Returns:
        True for those.

    Examples:
        >>> radial("memb"), radial("greedy")
        (True, False)
    """
    return method in ("memb", "sandbox")


def hop_sizes(method: str, min_box: int, max_box: int | None, diameter: int) -> list[int]:
    """Choose sizes, evenly in their logarithm.

    Args:
        method: how boxes are made.
        min_box: smallest size.
        max_box: largest; None is half the diameter, and at least what makes two sizes.
        diameter: of the graph.

    Returns:
        Rising whole numbers, odd ones where boxes are balls.

    Examples:
        >>> hop_sizes("greedy", 2, None, 10), hop_sizes("memb", 2, None, 22)
        ([2, 3, 4, 5], [3, 5, 7, 9, 11])
    """
    if radial(method):
        lowest = max(min_box // 2, 1)
        highest = (max(diameter // 2, 2 * lowest + 3) if max_box is None else max_box) - 1
        return [2 * r + 1 for r in _spaced(lowest, highest // 2)]
    return _spaced(min_box, max(diameter // 2, min_box + 1) if max_box is None else max_box)


def distance_sizes(distance: NDArray[Any]) -> list[float]:
    """Choose sizes between the 5th and the 95th percentile of the distances (Wei et al., 2013).

    Args:
        distance: `(node, node)`.

    Returns:
        Rising lengths, evenly in their logarithm; one alone where all distances are equal.

    Examples:
        >>> distance_sizes(np.array([[0.0, 2.0], [2.0, 0.0]]))
        [2.0]
    """
    pairs = distance[np.triu_indices(len(distance), 1)]
    low, high = np.percentile(pairs, [5, 95])
    steps: list[float] = np.unique(np.geomspace(low, high, _N_SIZES)).tolist()
    return steps if high > low * (1 + 1e-9) else [float(low)]


def count_boxes(
    metric: Metric, method: str, sizes: Sequence[Number], n_restarts: int
) -> NDArray[np.float64]:
    """Count boxes for every size.

    Args:
        metric: the graph.
        method: `"greedy"`, `"cbb"`, `"memb"`, `"sandbox"` or `"best"`.
        sizes: of the boxes, rising.
        n_restarts: random attempts of the methods that make them.

    Returns:
        The smallest number found; for `"sandbox"` the number of nodes over the geometric mean of
        those in a ball.

    Examples:
        >>> line = np.abs(np.subtract.outer(np.arange(9), np.arange(9)))
        >>> count_boxes(Metric(line, np.ones(9)), "greedy", [2, 3], 0).tolist()
        [5.0, 3.0]
    """
    if method == "sandbox":
        whole = metric.is_whole
        radii = [(size - 1) // 2 if whole else size / 2 for size in sizes]
        grown = ball_growth(metric.distance, radii, closed=whole)
        effective: NDArray[np.float64] = len(metric.distance) * np.exp(-grown)
        return effective
    if method == "best":
        counts = [boxes.max() + 1.0 for boxes in _best(metric, sizes, n_restarts)]
        # A cover by smaller boxes is one by larger boxes too.
        smallest: NDArray[np.float64] = np.minimum.accumulate(counts)
        return smallest
    return np.array([boxes.max() + 1.0 for boxes in _COVERS[method](metric, sizes, n_restarts)])


def cover(metric: Metric, method: str, size: Number, n_restarts: int) -> NDArray[np.intp]:
    """Return the box of every node in the smallest cover that a method finds.

    Args:
        metric: the graph.
        method: `"greedy"`, `"cbb"`, `"memb"` or `"best"`.
        size: of the boxes.
        n_restarts: random attempts of the methods that make them.

    Returns:
        Numbers of boxes, from 0 on.

    Examples:
        >>> line = np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
        >>> cover(Metric(line, np.ones(4)), "greedy", 2, 0).tolist()
        [1, 1, 0, 0]
    """
    make = _best if method == "best" else _COVERS[method]
    return make(metric, [size], n_restarts)[0]


def _in_orders(metric: Metric, sizes: Sequence[Number], n: int) -> list[_Covers]:
    orders = node_orders(metric.degree, metric.distance, n, np.random.default_rng(_SEED))
    return [list(first_fit(metric.distance, order, sizes)) for order in orders]


def _greedy(metric: Metric, sizes: Sequence[Number], n: int) -> _Covers:
    return [min(found, key=np.max) for found in zip(*_in_orders(metric, sizes, n), strict=True)]


def _cbb(metric: Metric, sizes: Sequence[Number], n: int) -> _Covers:
    rng = np.random.default_rng(_SEED)
    return [burn(metric.distance, size, rng, max(n, 1)) for size in sizes]


def _memb(metric: Metric, sizes: Sequence[Number], _: int) -> _Covers:
    return [heaviest_balls(metric.distance, size) for size in sizes]


def _best(metric: Metric, sizes: Sequence[Number], n: int) -> _Covers:
    rng = np.random.default_rng(_SEED)
    starts = [*_in_orders(metric, sizes, n), _cbb(metric, sizes, n), _memb(metric, sizes, n)]
    best = []
    for size, found in zip(sizes, zip(*starts, strict=True), strict=True):
        merged = [merge(metric.distance, start, size, rng, _MERGES) for start in found]
        least = min(merged, key=np.max)
        best.append(merge(metric.distance, least, size, rng, _MERGES * n))
    return best


_COVERS: dict[str, Callable[[Metric, Sequence[Number], int], _Covers]] = {
    "greedy": _greedy,
    "cbb": _cbb,
    "memb": _memb,
}


def _spaced(low: int, high: int) -> list[int]:
    if high < low:
        return []
    steps = np.geomspace(low, high, _N_SIZES).tolist()
    return sorted({math.floor(step + 0.5) for step in steps})
