"""Covers of a graph by boxes in which every two nodes are nearer than the size of the box."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuros_mechint.fractals._conventions import Number

__all__ = [
    "ball_growth",
    "burn",
    "burn_compactly",
    "first_fit",
    "heaviest_balls",
    "merge",
    "node_orders",
]

Distances = NDArray[Any]


def first_fit(
    distance: Distances, order: NDArray[np.intp], sizes: Sequence[Number]
) -> Iterator[NDArray[np.intp]]:
    """Put each node, in order, into the first box that takes it (Song et al., 2007).

    This is sequential colouring of the graph that joins nodes at least a size apart. One box is
    filled after the other, which gives the same boxes: a node is refused by the nodes before it
    alone. A row of the matrix is then one whole number, whose bits are the nodes in reach.

    Args:
        distance: `(node, node)`.
        order: the nodes.
        sizes: of the boxes.

    Yields:
        The box of each node, for one size after the other.

    Examples:
        >>> line = np.abs(np.subtract.outer(np.arange(5), np.arange(5)))
        >>> next(first_fit(line, np.arange(5), [2])).tolist()
        [0, 0, 1, 1, 2]
    """
    # Indexing would leave columns in sequence, and bits are packed along rows.
    in_order = distance[order].take(order, axis=1)
    n = len(order)
    for size in sizes:
        bits = np.packbits(in_order < size, axis=1, bitorder="little")
        raw, width = bits.tobytes(), bits.shape[1]
        reach = [int.from_bytes(raw[k : k + width], "little") for k in range(0, n * width, width)]
        box_in_order = np.empty(n, np.intp)
        for box, members in enumerate(_filled(reach, (1 << n) - 1)):
            box_in_order[members] = box
        box_of = np.empty(n, np.intp)
        box_of[order] = box_in_order
        yield box_of


def _filled(reach: list[int], rest: int) -> Iterator[list[int]]:
    while rest:
        free, members = rest, []
        while free:
            lowest = free & -free
            node = lowest.bit_length() - 1
            members.append(node)
            rest ^= lowest
            free = (free ^ lowest) & reach[node]
        yield members


def burn_compactly(distance: Distances, size: Number, rng: np.random.Generator) -> NDArray[np.intp]:
    """Fill one box after the other with random nodes that still fit (CBB, Song et al., 2007).

    Args:
        distance: `(node, node)`.
        size: of the boxes.
        rng: source of randomness.

    Returns:
        The box of each node.

    Examples:
        >>> line = np.abs(np.subtract.outer(np.arange(5), np.arange(5)))
        >>> int(burn_compactly(line, 5, np.random.default_rng(0)).max())
        0
    """
    near = distance < size
    box_of = np.full(len(distance), -1, np.intp)
    rest = np.arange(len(distance))
    box = 0
    while rest.size:
        candidates = rest
        while candidates.size:
            node = candidates[rng.integers(candidates.size)]
            box_of[node] = box
            candidates = candidates[near[node, candidates] & (candidates != node)]
        rest = rest[box_of[rest] < 0]
        box += 1
    return box_of


def heaviest_balls(distance: Distances, size: Number) -> NDArray[np.intp]:
    """Burn balls around the nodes that reach most of what is left (MEMB, Song et al., 2007).

    Every node ends in the box of its nearest centre. Two nodes within half a size of one centre
    are nearer than a size; of nodes that reach equally many, the first is taken.

    Args:
        distance: `(node, node)`.
        size: of the boxes: twice the radius, and one more where distances are whole.

    Returns:
        The box of each node.

    Examples:
        >>> line = np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
        >>> heaviest_balls(line, 3).tolist()
        [0, 0, 0, 1, 1, 1]
    """
    whole = np.issubdtype(distance.dtype, np.integer)
    # The same condition on whole numbers, without a copy of the matrix in floats.
    near = distance < (-(-int(size) // 2) if whole else size / 2)
    weights = near.astype(np.float32)
    mass = weights.sum(0)
    left = np.ones(len(distance), bool)
    centres = []
    while left.any():
        centre = int(mass.argmax())
        new = np.flatnonzero(near[centre] & left)
        left[new] = False
        mass -= weights[new].sum(0)
        mass[centre] = -1
        centres.append(centre)
    nearest: NDArray[np.intp] = distance[centres].argmin(0)
    return nearest


def ball_growth(distance: Distances, radii: Sequence[Number], *, closed: bool) -> NDArray[Any]:
    """Average the logarithm of the number of nodes within a radius over all centres.

    Args:
        distance: `(node, node)`.
        radii: of the balls.
        closed: whether nodes at exactly that distance count.

    Returns:
        One mean per radius.

    Examples:
        >>> ring = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
        >>> np.exp(ball_growth(ring, [0, 1], closed=True)).round(9).tolist()
        [1.0, 3.0]
    """
    within = np.less_equal if closed else np.less
    counts = [np.count_nonzero(within(distance, radius), axis=1) for radius in radii]
    means: NDArray[Any] = np.log(counts).mean(1)
    return means


def node_orders(
    degree: NDArray[Any], distance: Distances, n_random: int, rng: np.random.Generator
) -> Iterator[NDArray[np.intp]]:
    """Yield the orders in which nodes are put into boxes.

    Args:
        degree: of the nodes.
        distance: `(node, node)`.
        n_random: number of random orders.
        rng: source of randomness.

    Yields:
        By distance from a node at the rim, by falling degree, then at random.

    Examples:
        >>> line = np.abs(np.subtract.outer(np.arange(3), np.arange(3)))
        >>> orders = node_orders(np.array([1, 2, 1]), line, 0, np.random.default_rng(0))
        >>> [order.tolist() for order in orders]
        [[2, 1, 0], [1, 0, 2]]
    """
    rim = int(distance[0].argmax())
    yield np.argsort(distance[rim], kind="stable")
    yield np.argsort(-degree, kind="stable")
    for _ in range(n_random):
        yield rng.permutation(len(degree))


def burn(distance: Distances, size: Number, rng: np.random.Generator, n: int) -> NDArray[np.intp]:
    """Return the smallest of several covers by compact burning.

    Args:
        distance: `(node, node)`.
        size: of the boxes.
        rng: source of randomness.
        n: number of attempts.

    Returns:
        The box of each node.

    Examples:
        >>> line = np.abs(np.subtract.outer(np.arange(5), np.arange(5)))
        >>> int(burn(line, 5, np.random.default_rng(0), 2).max())
        0
    """
    return min((burn_compactly(distance, size, rng) for _ in range(n)), key=np.max)


def merge(
    distance: Distances, box_of: NDArray[np.intp], size: Number, rng: np.random.Generator, n: int
) -> NDArray[np.intp]:
    """Save boxes by filling them anew, one old box after the other (Culberson, 1992).

    The nodes of an old box still fit together, so that no order of the boxes needs more of them.

    Args:
        distance: `(node, node)`.
        box_of: a cover.
        size: of its boxes.
        rng: source of randomness.
        n: number of attempts.

    Returns:
        A cover with at most as many boxes.

    Examples:
        >>> line = np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
        >>> merge(line, np.array([0, 1, 1, 2]), 2, np.random.default_rng(0), 5).max()
        np.int64(1)
    """
    for attempt in range(n):
        count = int(box_of.max()) + 1
        # In turn: those filled last first, as they are the hardest to place, and at random.
        turn = rng.permutation(count) if attempt % 2 else np.arange(count)[::-1]
        order = np.argsort(turn[box_of], kind="stable")
        (box_of,) = first_fit(distance, order, [size])
    return box_of
