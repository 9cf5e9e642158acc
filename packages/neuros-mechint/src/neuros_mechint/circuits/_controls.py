"""Circuits of the same size and shape to compare a circuit with."""

from collections.abc import Iterator

import numpy as np

from neuros_mechint.circuits._graph_model import CircuitGraph
from neuros_mechint.circuits._wiring import Edge
from neuros_mechint.circuits.circuit import Circuit

__all__ = ["edge_norms", "magnitude_control", "random_controls"]


def random_controls(
    circuit: Circuit, n_controls: int, rng: np.random.Generator
) -> list[frozenset[Edge]]:
    """Random edges of the graph, as many between each pair of layers as the circuit has."""
    groups = list(_groups(circuit))
    return [
        frozenset(
            pool[k]
            for pool, count in groups
            for k in rng.choice(len(pool), size=count, replace=False)
        )
        for _ in range(n_controls)
    ]


def magnitude_control(circuit: Circuit, rng: np.random.Generator) -> frozenset[Edge]:
    """Edges with the largest weights, as many between each pair of layers as the circuit has."""
    weights = edge_norms(circuit.graph)
    chosen: list[Edge] = []
    for pool, count in _groups(circuit):
        shuffled = [pool[k] for k in rng.permutation(len(pool))]
        chosen += sorted(shuffled, key=lambda edge: -weights[edge])[:count]
    return frozenset(chosen)


def _groups(circuit: Circuit) -> Iterator[tuple[list[Edge], int]]:
    """Edges of the graph between each pair of layers, and how many of them the circuit has."""
    graph = circuit.graph
    pools: dict[tuple[int, int], list[Edge]] = {}
    for u, v in graph.edges:
        pools.setdefault((graph.layer(u), graph.layer(v)), []).append((u, v))
    for pool in pools.values():
        count = sum(edge in circuit.edges for edge in pool)
        if count:
            yield pool, count


def edge_norms(graph: CircuitGraph) -> dict[Edge, float]:
    """Frobenius norm of the linear map of every edge; 1 for the identity."""
    found: dict[Edge, float] = {}
    for group in graph.readers:
        for g in group.sources:
            writers = graph.writers[g].nodes
            matrix = group.matrix(g)
            # The identity has the same norm for every edge; 1 stands for it.
            norms = np.ones((len(group.nodes), len(writers)))
            if matrix is not None:
                blocks = (
                    matrix.double()
                    .cpu()
                    .reshape(
                        len(group.nodes), matrix.shape[0] // len(group.nodes), len(writers), -1
                    )
                )
                norms = blocks.square().sum(dim=(1, 3)).sqrt().numpy()
            for j, v in enumerate(group.nodes):
                found |= {(u, v): float(norms[j, i]) for i, u in enumerate(writers)}
    return found
