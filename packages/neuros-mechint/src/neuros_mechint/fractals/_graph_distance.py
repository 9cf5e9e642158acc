"""Distances between all nodes of a graph, and the backbone of a dense one."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy import sparse

__all__ = ["hop_distances", "path_lengths", "percolation_threshold"]

_WORD = 64
# Rows of bits gathered at once, in words: 64 MiB.
_GATHERED_WORDS = 2**23
# Each step costs a pass over all words: beyond so many, one search per source is faster.
_MANY_STEPS = 48
# Above this share of words with news it is faster to unpack all of them.
_DENSE_SHARE = 0.125


def hop_distances(graph: "sparse.csr_array") -> NDArray[np.integer[Any]]:
    """Count the edges of the shortest path between every two nodes.

    All searches run at once: one bit per pair says who has been reached, and each step joins the
    news of the neighbours, 64 sources at a time.

    Args:
        graph: symmetric and connected.

    Returns:
        `(node, node)`, in 16 bits as long as they hold every path.

    Examples:
        >>> from neuros_mechint.fractals._graph_input import read_graphs
        >>> path = np.eye(4, k=1) + np.eye(4, k=-1)
        >>> hop_distances(read_graphs(path).items[0])[0].tolist()
        [0, 1, 2, 3]
    """
    from scipy.sparse.csgraph import shortest_path

    n = graph.shape[0]
    dtype = np.int16 if n <= np.iinfo(np.int16).max else np.int32
    eccentricity = shortest_path(graph, directed=False, unweighted=True, indices=0).max()
    if eccentricity > _MANY_STEPS:
        return shortest_path(graph, directed=False, unweighted=True).astype(dtype)
    words = -(-n // _WORD)
    # Rows of whole words: the place of a bit is then the place of its distance.
    distance = np.zeros((n, words * _WORD), dtype)
    reached = np.zeros((n, words), np.uint64)
    nodes = np.arange(n)
    reached.view(np.uint8)[nodes, nodes >> 3] = 1 << (nodes & 7)
    news = reached.copy()
    # A graph of one node has no rows to join.
    for level in range(1, n):
        news = _joined(news, graph)
        news &= ~reached
        found = np.flatnonzero(news)
        if found.size == 0:
            break
        reached |= news
        _write(distance, news, found, level)
    return distance[:, :n]


def path_lengths(graph: "sparse.csr_array") -> NDArray[np.float64]:
    """Add up edges of length 1 / weight along the shortest path between every two nodes.

    Args:
        graph: symmetric and connected, weights positive.

    Returns:
        `(node, node)` lengths.

    Examples:
        >>> from neuros_mechint.fractals._graph_input import read_graphs
        >>> triangle = np.array([[0, 1, 8], [1, 0, 2], [8, 2, 0]])
        >>> path_lengths(read_graphs(triangle).items[0])[0].tolist()
        [0.0, 0.625, 0.125]
    """
    from scipy.sparse.csgraph import shortest_path

    lengths = graph.copy()
    lengths.data = 1 / graph.data
    result: NDArray[np.float64] = shortest_path(lengths, directed=False)
    return result


def percolation_threshold(graph: "sparse.csr_array", share: float) -> float:
    """Find the largest weight at which the heavier edges still hold most nodes together.

    Args:
        graph: symmetric and connected.
        share: of the nodes that must stay in one component.

    Returns:
        The weight; edges at least as heavy are to be kept.

    Examples:
        >>> from neuros_mechint.fractals._graph_input import read_graphs
        >>> triangle = np.array([[0, 1, 8], [1, 0, 2], [8, 2, 0]])
        >>> percolation_threshold(read_graphs(triangle).items[0], 0.95)
        2.0
    """
    from scipy.sparse.csgraph import minimum_spanning_tree

    n = graph.shape[0]
    ranked = graph.copy()
    # Ranks, not differences of weights: those of a heavy tail round to each other.
    values, rank = np.unique(graph.data, return_inverse=True)
    ranked.data = (len(values) - rank).astype(np.float64)
    tree = minimum_spanning_tree(ranked).tocoo()
    order = np.argsort(tree.data, kind="stable")
    parent, size = list(range(n)), [1] * n
    rank_reached = 0.0
    # From the heaviest edge on, until the largest part is large enough.
    for edge in zip(
        tree.row[order].tolist(), tree.col[order].tolist(), tree.data[order], strict=True
    ):
        a, b = _root(parent, edge[0]), _root(parent, edge[1])
        parent[a] = b
        size[b] += size[a]
        rank_reached = edge[2]
        if size[b] >= share * n:
            break
    return float(values[len(values) - int(rank_reached)])


def _joined(news: NDArray[np.uint64], graph: "sparse.csr_array") -> NDArray[np.uint64]:
    """Union of the news of each node's neighbours."""
    words = news.shape[1]
    first = graph.indptr
    joined = np.empty_like(news)
    start = 0
    while start < len(news):
        budget = first[start] + max(_GATHERED_WORDS // words, 1)
        stop = max(int(np.searchsorted(first, budget, side="right")) - 1, start + 1)
        rows = news[graph.indices[first[start] : first[stop]]]
        offsets = first[start:stop] - first[start]
        np.bitwise_or.reduceat(rows, offsets, axis=0, out=joined[start:stop])
        start = stop
    return joined


def _write(
    distance: NDArray[np.integer[Any]],
    news: NDArray[np.uint64],
    found: NDArray[np.intp],
    level: int,
) -> None:
    if found.size > _DENSE_SHARE * news.size:
        bits = np.unpackbits(news.view(np.uint8), axis=1, bitorder="little")
        distance += np.multiply(bits, level, dtype=distance.dtype)
        return
    octets = news.reshape(-1)[found].view(np.uint8)
    place = np.flatnonzero(np.unpackbits(octets, bitorder="little"))
    distance.reshape(-1)[found[place // _WORD] * _WORD + place % _WORD] = level


def _root(parent: list[int], node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node
