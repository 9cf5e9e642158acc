"""A discovered circuit: its edges, their scores, and how much of the model it accounts for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float

from neuros_mechint.circuits._contrast import Contrast
from neuros_mechint.circuits._graph_model import CircuitGraph
from neuros_mechint.circuits._wiring import Edge
from neuros_mechint.interventions.causal_graph import CausalGraph
from neuros_mechint.interventions.metrics import Metric
from neuros_mechint.interventions.patching import recovery

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["Circuit", "EdgeROC"]


class EdgeROC(NamedTuple):
    """Receiver operating characteristic of edge scores.

    Attributes:
        false_positive_rate: One per threshold.
        true_positive_rate: One per threshold.
        thresholds: Values of |score|, descending, infinity first.
        area: Area under the curve.
    """

    false_positive_rate: np.ndarray
    true_positive_rate: np.ndarray
    thresholds: np.ndarray
    area: float


@dataclass(frozen=True, eq=False, repr=False)
class Circuit:
    r"""Edges of a graph that were found to matter. Two circuits are equal when their edges are.

    With $F(S)$ the recovery of the metric when all edges but those of $S$ are ablated,

    $$F(S) = \frac{M(S) - M(\emptyset)}{M(\mathrm{all}) - M(\emptyset)},$$

    faithfulness is $F(C)$, completeness $1 - F(\mathrm{all} \setminus C)$ and minimality
    $\min_{e \in C} |F(C) - F(C \setminus e)|$.

    Attributes:
        edges: The kept edges, (node that writes, node that reads).
        nodes: Their ends.
        scores: Score of every edge of the graph that the method scored, kept or not.
        graph: The graph they belong to.
        metric: Metric of the discovery; None is the model's one number per row.
        ablation: What ablated edges carry.
        batch_size: Most rows in one forward.
        discovery_hashes: Content hashes of the input rows that the discovery saw.

    Examples:
        >>> from neuros_mechint.circuits import CircuitDiscovery
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False))
        >>> _ = net[0].weight.data.copy_(torch.tensor([[3.0, 0.0]]))
        >>> clean, corrupted = torch.ones(1, 2), torch.zeros(1, 2)
        >>> search = CircuitDiscovery(net)
        >>> circuit = search.discover(clean, corrupted, method="exact", threshold=0.1)
        >>> circuit, circuit.scores["input:0", "0:0"], circuit.faithfulness(clean, corrupted)
        (Circuit(1 of 2 edges, 2 nodes), -3.0, 1.0)

    References:
        Wang, K., Variengien, A., Conmy, A., Shlegeris, B. & Steinhardt, J. (2023).
        Interpretability in the wild: a circuit for indirect object identification in GPT-2 small.
        ICLR. doi:10.48550/arXiv.2211.00593

        Marks, S. et al. (2025). Sparse feature circuits: discovering and editing interpretable
        causal graphs in language models. ICLR. doi:10.48550/arXiv.2403.19647
    """

    edges: frozenset[Edge]
    nodes: frozenset[str]
    scores: Mapping[Edge, float]
    graph: CircuitGraph
    metric: Metric | None = None
    ablation: str = "resample"
    batch_size: int = 64
    discovery_hashes: frozenset[str] = field(default_factory=frozenset)

    def __eq__(self, other: object) -> bool:
        return self.edges == other.edges if isinstance(other, Circuit) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.edges)

    def __repr__(self) -> str:
        n_all = len(self.graph.edges)
        return f"Circuit({len(self.edges)} of {n_all} edges, {len(self.nodes)} nodes)"

    def with_edges(self, edges: Iterable[Edge]) -> "Circuit":
        """Return the circuit with other edges of the same graph.

        Args:
            edges: Edges of the graph; none is left out, on a path or not.

        Returns:
            The same graph, metric and scores with these edges.

        Raises:
            ValueError: When the graph has no such edge.

        Examples:
            >>> from neuros_mechint.circuits import neuron_graph
            >>> graph = neuron_graph(torch.nn.Sequential(torch.nn.Linear(2, 1)))
            >>> empty = Circuit(frozenset(), frozenset(), {}, graph)
            >>> sorted(empty.with_edges([("input:1", "0:0")]).nodes)
            ['0:0', 'input:1']
        """
        chosen = frozenset(edges)
        for edge in chosen:
            self.graph.place(edge)
        return replace(self, edges=chosen, nodes=frozenset(node for e in chosen for node in e))

    def faithfulness(self, clean: Any, corrupted: Any, metric: Metric | None = None) -> float:
        r"""Recovery of the metric with everything outside the circuit ablated, $F(C)$.

        Args:
            clean: Inputs of the base run.
            corrupted: Inputs that ablated edges take their values from.
            metric: Metric on these inputs; None takes that of the discovery.

        Returns:
            1 when the circuit alone does what the model does, 0 when it does nothing.

        Raises:
            ValueError: When ablating all edges does not change the metric.

        Examples:
            >>> from neuros_mechint.circuits import neuron_graph
            >>> net = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False))
            >>> _ = torch.nn.init.ones_(net[0].weight)
            >>> circuit = Circuit(frozenset(), frozenset(), {}, neuron_graph(net))
            >>> half = circuit.with_edges([("input:1", "0:0")])
            >>> half.faithfulness(torch.ones(1, 2), torch.zeros(1, 2))
            0.5
        """
        return self._recoveries(clean, corrupted, metric, [self.edges])[0]

    def completeness(self, clean: Any, corrupted: Any, metric: Metric | None = None) -> float:
        r"""Share of the metric that is lost when the circuit is ablated, $1 - F(all \setminus C)$.

        Args:
            clean: Inputs of the base run.
            corrupted: Inputs that ablated edges take their values from.
            metric: Metric on these inputs; None takes that of the discovery.

        Returns:
            1 when nothing outside the circuit can do what it does, less when there is a backup.

        Raises:
            ValueError: When ablating all edges does not change the metric.

        Examples:
            >>> from neuros_mechint.circuits import neuron_graph
            >>> net = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False))
            >>> _ = torch.nn.init.ones_(net[0].weight)
            >>> circuit = Circuit(frozenset(), frozenset(), {}, neuron_graph(net))
            >>> half = circuit.with_edges([("input:1", "0:0")])
            >>> half.completeness(torch.ones(1, 2), torch.zeros(1, 2))
            0.5
        """
        rest = frozenset(self.graph.edges) - self.edges
        return 1.0 - self._recoveries(clean, corrupted, metric, [rest])[0]

    def minimality(self, clean: Any, corrupted: Any, metric: Metric | None = None) -> float:
        r"""Smallest change of faithfulness when one edge of the circuit is ablated as well.

        Args:
            clean: Inputs of the base run.
            corrupted: Inputs that ablated edges take their values from.
            metric: Metric on these inputs; None takes that of the discovery.

        Returns:
            0 when some edge is superfluous.

        Raises:
            ValueError: When the circuit has no edge, or ablating all edges does not change the
                metric.

        Examples:
            >>> from neuros_mechint.circuits import neuron_graph
            >>> net = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False))
            >>> _ = net[0].weight.data.copy_(torch.tensor([[3.0, 1.0]]))
            >>> circuit = Circuit(frozenset(), frozenset(), {}, neuron_graph(net))
            >>> both = circuit.with_edges([("input:0", "0:0"), ("input:1", "0:0")])
            >>> both.minimality(torch.ones(1, 2), torch.zeros(1, 2))
            0.25
        """
        if not self.edges:
            raise ValueError("minimality needs a circuit with at least one edge, got none")
        without = [self.edges - {edge} for edge in self.edges]
        whole, *parts = self._recoveries(clean, corrupted, metric, [self.edges, *without])
        return min(abs(whole - part) for part in parts)

    def roc(self, true_edges: Iterable[Edge]) -> EdgeROC:
        """Judge the scores against edges that are known to matter.

        Args:
            true_edges: Edges of the graph.

        Returns:
            The curve over thresholds of |score| and its area; an edge without a score counts as 0.

        Raises:
            ValueError: When the graph has no such edge, or all or none of its edges are true.

        Examples:
            >>> from neuros_mechint.circuits import neuron_graph
            >>> graph = neuron_graph(torch.nn.Sequential(torch.nn.Linear(2, 1)))
            >>> scores = {("input:0", "0:0"): -3.0, ("input:1", "0:0"): 0.5}
            >>> circuit = Circuit(frozenset(), frozenset(), scores, graph)
            >>> circuit.roc([("input:0", "0:0")]).area
            1.0
        """
        true = self.with_edges(true_edges).edges
        if not 0 < len(true) < len(self.graph.edges):
            raise ValueError(
                f"true_edges needs some but not all of the {len(self.graph.edges)} edges, got "
                f"{len(true)}"
            )
        labels = np.array([edge in true for edge in self.graph.edges])
        return _roc(labels, np.array([abs(self.scores.get(e, 0.0)) for e in self.graph.edges]))

    def to_networkx(self) -> "nx.DiGraph[str]":
        """Return the circuit as a networkx graph.

        Returns:
            Nodes with the attribute layer; edges with the attributes score and kind: `"edge"`, or
            `"inside"` with score 1 from a node that reads to the nodes computed from it.

        Examples:
            >>> from neuros_mechint.circuits import neuron_graph
            >>> graph = neuron_graph(torch.nn.Sequential(torch.nn.Linear(2, 1)))
            >>> circuit = Circuit(frozenset(), frozenset(), {("input:0", "0:0"): 2.0}, graph)
            >>> drawn = circuit.with_edges([("input:0", "0:0")]).to_networkx()
            >>> drawn.edges["input:0", "0:0"]["score"], drawn.nodes["0:0"]["layer"]
            (2.0, 1)
        """
        import networkx as nx

        drawn: nx.DiGraph[str] = nx.DiGraph()
        for node in sorted(self.nodes, key=lambda name: (self.graph.layer(name), name)):
            drawn.add_node(node, layer=self.graph.layer(node))
        for (u, v), score in self._weights().items():
            kind = "edge" if (u, v) in self.edges else "inside"
            drawn.add_edge(u, v, score=score, kind=kind)
        return drawn

    def to_causal_graph(self) -> CausalGraph:
        """Return the circuit as a causal graph whose weights are the scores.

        Returns:
            The kept edges with their scores, and with weight 1 the steps from a node that reads to
            the nodes computed from it, so that paths run through.

        Raises:
            ValueError: When a kept edge has no score.

        Examples:
            >>> from neuros_mechint.circuits import neuron_graph
            >>> graph = neuron_graph(torch.nn.Sequential(torch.nn.Linear(2, 1)))
            >>> circuit = Circuit(frozenset(), frozenset(), {("input:0", "0:0"): 2.0}, graph)
            >>> circuit.with_edges([("input:0", "0:0")]).to_causal_graph()
            CausalGraph(['0:0', 'input:0'], {('input:0', '0:0'): 2.0})
        """
        return CausalGraph(sorted(self.nodes), self._weights())

    def _weights(self) -> dict[Edge, float]:
        unscored = sorted(edge for edge in self.edges if edge not in self.scores)
        if unscored:
            u, v = unscored[0]
            raise ValueError(f"the edge {u} -> {v} of the circuit has no score; add it to scores")
        steps = sorted(e for e in self.graph.inside if e[0] in self.nodes and e[1] in self.nodes)
        return {**{e: self.scores[e] for e in sorted(self.edges)}, **dict.fromkeys(steps, 1.0)}

    def _recoveries(
        self, clean: Any, corrupted: Any, metric: Metric | None, kept: list[frozenset[Edge]]
    ) -> list[float]:
        """Recovery with each set of edges kept and all others ablated."""
        contrast = Contrast(
            *(self.graph, clean, corrupted),
            metric=self.metric if metric is None else metric,
            ablation=self.ablation,
            batch_size=self.batch_size,
        )
        every = frozenset(self.graph.edges)
        floor, *values = contrast.measure([every, *(every - edges for edges in kept)])
        top, bottom = (torch.tensor(v, dtype=torch.float64) for v in (contrast.base_value, floor))
        return [recovery(top, bottom, torch.tensor(v, dtype=torch.float64)) for v in values]


def _roc(labels: Bool[np.ndarray, "edge"], values: Float[np.ndarray, "edge"]) -> EdgeROC:
    order = np.argsort(-values, kind="stable")
    ranked = values[order]
    # Edges of equal score pass a threshold together.
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    true = np.append(0, np.cumsum(labels[order])[last])
    false = np.append(0, last + 1) - true
    rates = false / false[-1], true / true[-1]
    area = float(np.trapezoid(rates[1], rates[0]))
    return EdgeROC(*rates, np.append(np.inf, ranked[last]), area)
