"""Extraction of the circuit of a model on its inputs, judged against random ones of equal size."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from neuros_mechint._arrays import Number, one_of
from neuros_mechint._bootstrap import as_rng
from neuros_mechint.activations._container import first_tensor
from neuros_mechint.circuits._contrast import Contrast
from neuros_mechint.circuits._controls import edge_norms, random_controls
from neuros_mechint.circuits._graph_model import CircuitGraph
from neuros_mechint.circuits._wiring import Edge
from neuros_mechint.circuits.circuit import Circuit
from neuros_mechint.circuits.discovery import CircuitDiscovery

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["CircuitExtractor", "ExtractedCircuit"]

Method = Literal["attribution", "weights", "patching"]


@dataclass(frozen=True, eq=False)
class ExtractedCircuit:
    r"""A circuit with its inputs' verdict.

    `Circuit` states which edges of which graph matter and takes data for every question; this
    result keeps the inputs it was extracted on, so that its numbers need none.

    Attributes:
        circuit: The edges, their scores and the graph.
        names: Nodes of the graph in topological order.
        adjacency: Score of every kept edge, (nodes, nodes), row writes and column reads.
        table: One row per node of the circuit: name, layer, edges in and out, sum of |score|.
        faithfulness: Share of the output that the circuit keeps with all other edges ablated to
            zero, $1 - \sum \|y_C - y\|^2 / \sum \|y_\emptyset - y\|^2$.
        random_faithfulness: The same for random circuits with as many edges between each two
            layers.
    """

    circuit: Circuit
    names: tuple[str, ...]
    adjacency: Tensor
    table: tuple[dict[str, Any], ...]
    faithfulness: float
    random_faithfulness: tuple[float, ...]
    _judge: "_Judge" = field(repr=False)

    def prune(self, target_faithfulness: Number) -> "ExtractedCircuit":
        """Keep the fewest of the best-scored edges that reach a faithfulness.

        Args:
            target_faithfulness: What has to be reached, at most 1.

        Returns:
            The shortest head of the ranking of this circuit's edges that reaches it.

        Raises:
            ValueError: When the whole circuit does not reach it.
        """
        if target_faithfulness > self.faithfulness:
            raise ValueError(
                f"target_faithfulness must be at most that of the circuit, "
                f"{self.faithfulness:.4g}, got {target_faithfulness}; extract with a lower "
                "threshold"
            )
        scores = self.circuit.scores
        ranked = sorted(self.circuit.edges, key=lambda edge: (-abs(scores[edge]), edge))
        # Faithfulness need not rise with every edge, so the heads are tried in turn.
        for size in range(len(ranked)):
            if self._judge.faithfulness(frozenset(ranked[:size])) >= target_faithfulness:
                return self._judge.result(self.circuit.with_edges(ranked[:size]))
        return self

    def to_networkx(self) -> "nx.DiGraph[str]":
        """Return the circuit as a networkx graph.

        Returns:
            As `Circuit.to_networkx`.
        """
        return self.circuit.to_networkx()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values.

        Returns:
            Nodes, edges with scores, and both faithfulnesses.
        """
        scores = self.circuit.scores
        return {
            "nodes": list(self.table),
            "edges": [[u, v, scores[u, v]] for u, v in sorted(self.circuit.edges)],
            "faithfulness": self.faithfulness,
            "random_faithfulness": list(self.random_faithfulness),
        }

    def to_json(self) -> str:
        """Write the circuit as JSON.

        Returns:
            The text of `to_dict`.
        """
        return json.dumps(self.to_dict())


class CircuitExtractor:
    r"""Find the edges of a model that carry its output on some inputs.

    | method | score of an edge |
    | --- | --- |
    | `attribution` | first-order change of $y \cdot y_0$ when it is ablated to zero |
    | `weights` | norm of its linear map |
    | `patching` | share of the output lost when it alone is ablated to zero |

    Edges with |score| of at least `threshold` of the largest are kept, where they lie on a path
    from an input to an output.

    Args:
        model: Any module; left as it was, also on error.
        layers: Modules whose incoming edges may be dropped; None means all.
        method: See the table.
        threshold: Share of the largest |score|, from 0 to 1.
        n_random: Random circuits to compare with.
        generator: Source of the random circuits; None draws a fresh one.
        graph: Graph to extract from, such as `site_graph` states it. None takes `residual_graph`
            where the model has blocks, else `neuron_graph`; other models need one.

    Raises:
        ValueError: When a setting is out of range.

    Examples:
        >>> net = nn.Sequential(nn.Linear(2, 1, bias=False))
        >>> _ = net[0].weight.data.copy_(torch.tensor([[3.0, 0.1]]))
        >>> found = CircuitExtractor(net, n_random=1).extract(torch.ones(1, 2))
        >>> found.circuit.edges, found.faithfulness > 0.99
        (frozenset({('input:0', '0:0')}), True)

    References:
        Syed, A., Rager, C. & Conmy, A. (2024). Attribution patching outperforms automated circuit
        discovery. BlackboxNLP. doi:10.18653/v1/2024.blackboxnlp-1.25
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        layers: Sequence[str] | None = None,
        method: Method = "attribution",
        threshold: Number = 0.1,
        n_random: int = 20,
        generator: torch.Generator | np.random.Generator | None = None,
        graph: CircuitGraph | None = None,
    ) -> None:
        one_of("method", method, get_args(Method))
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be from 0 to 1, got {threshold}")
        if n_random < 1:
            raise ValueError(f"n_random must be at least 1, got {n_random}")
        self.model = model
        self.layers = None if layers is None else tuple(layers)
        self.method: Method = method
        self.threshold = threshold
        self.n_random = n_random
        self.generator = generator
        self.graph = graph

    def __repr__(self) -> str:
        return (
            f"CircuitExtractor({type(self.model).__name__}, method={self.method!r}, "
            f"threshold={self.threshold})"
        )

    def extract(self, inputs: Any) -> ExtractedCircuit:
        """Extract the circuit on some inputs.

        Args:
            inputs: Inputs of the model, as its forward takes them.

        Returns:
            The circuit with its faithfulness and that of random ones.

        Raises:
            ValueError: When no graph was given and the model is neither residual nor a chain (state
                its structure with `graph=site_graph(...)`), a layer has no edges, or the output
                does not depend on any edge.
        """
        search = CircuitDiscovery(
            self.model, metric=_projected, ablation="zero", graph=self._stated()
        )
        # With threshold 0 this only scores; the metric is that of the whole output with itself.
        found = search.discover(inputs, None, method="eap", threshold=0.0)
        judge = _Judge(found, inputs, self.n_random, as_rng(self.generator))
        scores = self._scores(found, judge)
        free = self._free(found)
        largest = max((abs(scores[edge]) for edge in free), default=0.0)
        kept = [
            edge
            for edge in found.graph.edges
            if edge not in free or abs(scores[edge]) >= self.threshold * largest
        ]
        pruned = found.graph.pruned(kept)
        return judge.result(replace(found, scores=scores).with_edges(pruned))

    def _stated(self) -> CircuitGraph:
        if self.graph is not None:
            return self.graph
        try:
            return CircuitDiscovery(self.model).graph
        except ValueError as error:
            raise ValueError(
                f"{error}. State the structure of the model: graph=site_graph(...)"
            ) from None

    def _scores(self, found: Circuit, judge: "_Judge") -> Mapping[Edge, float]:
        every = frozenset(found.graph.edges)
        if self.method == "weights":
            return edge_norms(found.graph)
        if self.method == "patching":
            return {edge: 1 - judge.faithfulness(every - {edge}) for edge in found.graph.edges}
        return found.scores

    def _free(self, found: Circuit) -> frozenset[Edge]:
        edges = found.graph.edges
        if self.layers is None:
            return frozenset(edges)
        reads = {edge: edge[1].rpartition(":")[0] for edge in edges}
        for layer in self.layers:
            if layer not in reads.values():
                known = ", ".join(sorted(set(reads.values())))
                raise ValueError(f"layers holds {layer!r}, which has no edges; known are {known}")
        return frozenset(edge for edge in edges if reads[edge] in self.layers)


class _Judge:
    """Measures circuits on the inputs of the extraction."""

    def __init__(
        self, found: Circuit, inputs: Any, n_random: int, rng: np.random.Generator
    ) -> None:
        self.graph, self.n_random, self.rng = found.graph, n_random, rng
        self._whole: Tensor | None = None
        self._contrast = Contrast(
            *(found.graph, inputs, None), metric=self._error, ablation="zero", batch_size=64
        )
        self._whole = first_tensor(self._contrast.base.output).detach()
        # One set at a time, so that the metric sees all rows beside those of the whole model.
        (self._floor,) = self._contrast.measure([found.graph.edges])
        if not self._floor > 0:
            raise ValueError(
                "inputs need an output that depends on the edges; ablating all of them to zero "
                "changed nothing"
            )

    def faithfulness(self, edges: frozenset[Edge]) -> float:
        """Share of the output kept with all other edges ablated."""
        (error,) = self._contrast.measure([frozenset(self.graph.edges) - edges])
        return 1 - error / self._floor

    def result(self, circuit: Circuit) -> ExtractedCircuit:
        """The circuit with all its numbers."""
        names = tuple(self.graph.nodes)
        place = {name: k for k, name in enumerate(names)}
        adjacency = torch.zeros(len(names), len(names))
        for u, v in circuit.edges:
            adjacency[place[u], place[v]] = circuit.scores[u, v]
        controls = random_controls(circuit, self.n_random, self.rng)
        return ExtractedCircuit(
            circuit,
            names,
            adjacency,
            tuple(_row(circuit, name) for name in names if name in circuit.nodes),
            self.faithfulness(circuit.edges),
            tuple(self.faithfulness(edges) for edges in controls),
            self,
        )

    def _error(self, output: Any) -> Tensor:
        value = first_tensor(output)
        whole = value.detach() if self._whole is None else self._whole
        return (value - whole).square().flatten(1).sum(1)


def _projected(output: Any) -> Tensor:
    """Output times itself held still: its change is first order in every ablation."""
    value = first_tensor(output)
    return (value * value.detach()).flatten(1).sum(1)


def _row(circuit: Circuit, name: str) -> dict[str, Any]:
    comes = [edge for edge in circuit.edges if edge[1] == name]
    leaves = [edge for edge in circuit.edges if edge[0] == name]
    strength = sum(abs(circuit.scores[edge]) for edge in sorted(comes + leaves))
    return {
        "name": name,
        "layer": circuit.graph.layer(name),
        "n_in": len(comes),
        "n_out": len(leaves),
        "strength": strength,
    }
