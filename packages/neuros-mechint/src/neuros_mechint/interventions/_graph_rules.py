"""What a causal graph is and says: no cycles, finite weights, separation, linear effects."""

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, SupportsFloat

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    import networkx as nx

__all__ = [
    "Edge",
    "Values",
    "blocking_sets",
    "broadcast",
    "check_graph",
    "check_known",
    "members",
    "networkx_graph",
    "propagated",
    "reached_from",
    "separated",
    "sorted_nodes",
]

Edge = tuple[str, str]
Values = Tensor | SupportsFloat
Neighbours = Mapping[str, Mapping[str, float]]


def check_graph(nodes: tuple[object, ...], weights: Mapping[Edge, float]) -> None:
    """Refuse repeated nodes, edges that name none of them, and weights that are not finite.

    Raises:
        TypeError: When a node is no str.
        ValueError: In the other cases.
    """
    seen: set[object] = set()
    for node in nodes:
        if not isinstance(node, str):
            raise TypeError(f"nodes need to be str, got {type(node).__name__}")
        if node in seen:
            raise ValueError(f"node '{node}' is given more than once")
        seen.add(node)
    for (u, v), weight in weights.items():
        unknown = [end for end in (u, v) if end not in seen]
        if unknown:
            raise ValueError(f"the edge {u} -> {v} needs both ends among nodes, {unknown} are not")
        if not math.isfinite(weight):
            raise ValueError(f"the edge {u} -> {v} needs a finite weight, got {weight}")


def sorted_nodes(parents: Neighbours) -> tuple[str, ...]:
    """Nodes with every source before its targets (Kahn).

    Raises:
        ValueError: When the edges close a cycle.
    """
    children: dict[str, list[str]] = {node: [] for node in parents}
    for node, sources in parents.items():
        for source in sources:
            children[source].append(node)
    waiting = {node: len(sources) for node, sources in parents.items()}
    order = [node for node, n in waiting.items() if n == 0]
    for node in order:
        for child in children[node]:
            waiting[child] -= 1
            if waiting[child] == 0:
                order.append(child)
    if len(order) < len(parents):
        path = _cycle(parents, set(parents) - set(order))
        raise ValueError(f"a causal graph has no cycles, got {' -> '.join(path)}")
    return tuple(order)


def check_known(names: Iterable[str], nodes: Sequence[str]) -> None:
    """Refuse names of no node.

    Raises:
        KeyError: When there is no such node.
    """
    known = set(nodes)
    for name in names:
        if name not in known:
            shown = ", ".join(nodes[:10]) + (", ..." if len(nodes) > 10 else "")
            raise KeyError(f"no node '{name}' in the graph; it has {shown}")


def members(names: str | Iterable[str], nodes: Sequence[str]) -> set[str]:
    """Known names as a set.

    Raises:
        KeyError: When there is no such node.
    """
    # A name of several letters must not fall apart into its letters.
    found = {names} if isinstance(names, str) else set(names)
    check_known(found, nodes)
    return found


def networkx_graph(nodes: Iterable[str], edges: Mapping[Edge, float]) -> "nx.DiGraph[str]":
    """Graph of networkx, with the edge attribute `weight`."""
    import networkx as nx

    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(nodes)
    graph.add_weighted_edges_from((u, v, weight) for (u, v), weight in edges.items())
    return graph


def reached_from(node: str, order: Iterable[str], parents: Neighbours) -> frozenset[str]:
    """Nodes that a directed path from a node reaches; `order` has sources before targets."""
    reached = {node}
    for current in order:
        if not reached.isdisjoint(parents[current]):
            reached.add(current)
    return frozenset(reached - {node})


def propagated(
    order: Iterable[str],
    parents: Neighbours,
    held: Mapping[str, Values],
    own: Mapping[str, Values],
) -> dict[str, Tensor]:
    """Sums of weighted parents and own parts in the order of the graph; held nodes stay as given.

    Raises:
        ValueError: When the given values do not broadcast.
    """
    given, zero = broadcast({**own, **held})
    values: dict[str, Tensor] = {}
    for node in order:
        value = zero + given.get(node, zero)
        if node not in held:
            for parent, weight in parents[node].items():
                value = value + weight * values[parent]
        values[node] = value
    return values


def broadcast(values: Mapping[str, Values]) -> tuple[dict[str, Tensor], Tensor]:
    """Values in float64, and zeros of the shape that they broadcast to.

    Raises:
        ValueError: When they do not broadcast.
    """
    given = {name: _tensor(value) for name, value in values.items()}
    try:
        shape = np.broadcast_shapes(*(tuple(value.shape) for value in given.values()))
    except ValueError:
        shapes = {name: tuple(value.shape) for name, value in given.items()}
        raise ValueError(f"the given values do not broadcast: {shapes}") from None
    return given, torch.zeros(shape, dtype=torch.float64)


def separated(
    graph: "nx.DiGraph[str]",
    a: Collection[str],
    b: Collection[str],
    given: Collection[str],
) -> bool:
    """Whether `given` blocks every path between a and b."""
    import networkx as nx

    return bool(nx.is_d_separator(graph, set(a), set(b), set(given)))


def blocking_sets(
    graph: "nx.DiGraph[str]",
    x: str,
    y: str,
    pool: list[str],
    *,
    max_size: int | None,
    minimal: bool,
) -> list[frozenset[str]]:
    """Subsets of the pool that separate x from y, smallest first."""
    found: list[frozenset[str]] = []
    largest = len(pool) if max_size is None else min(max_size, len(pool))
    for size in range(largest + 1):
        for names in itertools.combinations(pool, size):
            chosen = frozenset(names)
            if minimal and any(smaller <= chosen for smaller in found):
                continue
            if separated(graph, {x}, {y}, chosen):
                found.append(chosen)
    return found


def _cycle(parents: Neighbours, stuck: set[str]) -> list[str]:
    """One cycle: every stuck node has a stuck parent, so walking back must meet itself."""
    walked = [min(stuck)]
    while True:
        node = min(parent for parent in parents[walked[-1]] if parent in stuck)
        if node in walked:
            return [node, *reversed(walked[walked.index(node) :])]
        walked.append(node)


def _tensor(value: Values) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", torch.float64)
    return torch.as_tensor(np.asarray(value, dtype=np.float64))
