"""Nodes and edges of a causal graph out of matrices, tables and circuits."""

import itertools
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from neuros_mechint.interventions._graph_rules import Edge

if TYPE_CHECKING:
    import pandas as pd

    from neuros_mechint.interventions.causal_graph import CausalGraph

__all__ = ["Convertible", "read_adjacency", "read_circuit", "read_frame"]

Parts = tuple[list[str], dict[Edge, float]]


@runtime_checkable
class Convertible(Protocol):
    """A circuit that knows its graph."""

    def to_causal_graph(self) -> "CausalGraph": ...


@runtime_checkable
class CircuitLike(Protocol):
    @property
    def nodes(self) -> Collection[str]: ...
    @property
    def edges(self) -> Collection[Edge]: ...
    @property
    def scores(self) -> Mapping[Edge, float]: ...


def read_adjacency(
    matrix: Tensor | NDArray[np.floating], nodes: Iterable[str] | None = None
) -> Parts:
    """Row i, column j is the edge from i to j.

    Raises:
        ValueError: When the matrix is not square, or the number of names differs from its size.
    """
    array = np.asarray(matrix.detach().cpu() if isinstance(matrix, Tensor) else matrix)
    if array.ndim != 2 or array.shape[0] != array.shape[1]:
        raise ValueError(f"matrix needs shape (node, node), got {array.shape}")
    names = [str(k) for k in range(len(array))] if nodes is None else list(nodes)
    if len(names) != len(array):
        raise ValueError(f"nodes needs {len(array)} names for the matrix, got {len(names)}")
    places = np.argwhere(array != 0).tolist()
    return names, {(names[i], names[j]): float(array[i, j]) for i, j in places}


def read_frame(frame: "pd.DataFrame") -> Parts:
    """One edge per row.

    Raises:
        ValueError: When a column is missing or an edge comes twice.
    """
    missing = [name for name in ("source", "target", "weight") if name not in frame.columns]
    if missing:
        raise ValueError(
            f"frame needs the columns source, target and weight, {missing} missing; "
            f"it has {list(frame.columns)}"
        )
    ends = (map(str, frame[name]) for name in ("source", "target"))
    pairs = list(zip(*ends, strict=True))
    edges = dict(zip(pairs, map(float, frame["weight"]), strict=True))
    if len(edges) != len(pairs):
        twice = next(pair for pair in pairs if pairs.count(pair) > 1)
        raise ValueError(f"frame holds the edge {twice[0]} -> {twice[1]} more than once")
    return list(dict.fromkeys(itertools.chain.from_iterable(pairs))), edges


def read_circuit(circuit: Any) -> Parts:
    """Kept edges with their scores.

    Raises:
        TypeError: When nodes, edges or scores are missing.
        ValueError: When an edge has no score.
    """
    if not isinstance(circuit, CircuitLike):
        raise TypeError(
            f"circuit needs nodes, edges and scores, a {type(circuit).__name__} lacks one"
        )
    kept = sorted(circuit.edges)
    for u, v in kept:
        if (u, v) not in circuit.scores:
            raise ValueError(f"circuit has no score for the edge {u} -> {v}")
    return sorted(circuit.nodes), {edge: float(circuit.scores[edge]) for edge in kept}
