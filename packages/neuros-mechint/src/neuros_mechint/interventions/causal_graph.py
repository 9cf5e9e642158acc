"""A directed acyclic graph of linear effects, and what follows from it without data."""

import itertools
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, SupportsFloat

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from neuros_mechint.interventions._graph_reading import (
    Convertible,
    read_adjacency,
    read_circuit,
    read_frame,
)
from neuros_mechint.interventions._graph_rules import (
    Edge,
    Values,
    blocking_sets,
    check_graph,
    check_known,
    members,
    networkx_graph,
    propagated,
    reached_from,
    separated,
    sorted_nodes,
)
from neuros_mechint.interventions._graph_text import dot_text, json_text, mermaid_text

if TYPE_CHECKING:
    import networkx as nx
    import pandas as pd

__all__ = ["CausalGraph", "build_causal_graph"]


class CausalGraph:
    r"""Directed acyclic graph whose edges carry linear effects.

    An edge u -> v of weight $w_{uv}$ says $v = \sum_u w_{uv} u + \varepsilon_v$. The graph is
    immutable: `do` returns another one.

    Args:
        nodes: Names, each once.
        edges: (source, target) -> weight.

    Raises:
        ValueError: When a node comes twice, an edge names no node, a weight is not finite, or the
            edges close a cycle.

    Examples:
        >>> graph = CausalGraph("xmy", {("x", "m"): 2.0, ("m", "y"): 3.0, ("x", "y"): 1.0})
        >>> graph.simulate({"x": 1.0})["y"]
        tensor(7., dtype=torch.float64)
        >>> graph.d_separated("x", "y", given=["m"]), graph.do("m").d_separated("x", "m")
        (False, True)

    References:
        Pearl, J. (2009). Causality: Models, Reasoning, and Inference, 2nd ed. Cambridge University
        Press. doi:10.1017/CBO9780511803161
    """

    def __init__(self, nodes: Iterable[str], edges: Mapping[Edge, SupportsFloat]) -> None:
        self.nodes = tuple(nodes)
        weights = {(u, v): float(weight) for (u, v), weight in edges.items()}
        self.edges: Mapping[Edge, float] = MappingProxyType(weights)
        check_graph(self.nodes, weights)
        self._parents: dict[str, dict[str, float]] = {node: {} for node in self.nodes}
        for (u, v), weight in weights.items():
            self._parents[v][u] = weight
        self.order = sorted_nodes(self._parents)

    @classmethod
    def from_adjacency(
        cls, matrix: Tensor | NDArray[np.floating], nodes: Iterable[str] | None = None
    ) -> "CausalGraph":
        """Read a graph from a matrix; a zero is no edge.

        Args:
            matrix: Weights, shape (node, node); row i, column j is the edge from i to j. The weight
                matrix of a layer is (post, pre), so pass its transpose.
            nodes: Names of the rows; None numbers them from "0".

        Returns:
            The graph.

        Raises:
            ValueError: When the matrix is not square, the number of names differs from its size, or
                the constructor refuses the graph.

        Examples:
            >>> CausalGraph.from_adjacency(np.array([[0.0, 2.0], [0.0, 0.0]]), "ab").edges["a", "b"]
            2.0
        """
        return cls(*read_adjacency(matrix, nodes))

    @classmethod
    def from_frame(cls, frame: "pd.DataFrame") -> "CausalGraph":
        """Read a graph from a table with one edge per row.

        Args:
            frame: Columns source, target and weight.

        Returns:
            The graph, nodes in order of appearance.

        Raises:
            ValueError: When a column is missing, an edge comes twice, or the constructor refuses
                the graph.

        Examples:
            >>> import pandas as pd
            >>> frame = pd.DataFrame({"source": ["a"], "target": ["b"], "weight": [2.0]})
            >>> CausalGraph.from_frame(frame).nodes
            ('a', 'b')
        """
        return cls(*read_frame(frame))

    @classmethod
    def from_circuit(cls, circuit: Any) -> "CausalGraph":
        """Read a graph from a discovered circuit; the scores of its edges are the weights.

        Args:
            circuit: A `circuits.Circuit`, or anything with `nodes`, `edges` and `scores`.

        Returns:
            The graph of the kept edges, nodes sorted by name. Where a node that reads and the nodes
            computed from it have names of their own, steps of weight 1 join them.

        Raises:
            TypeError: When one of the three is missing.
            ValueError: When an edge has no score, or the constructor refuses the graph.

        Examples:
            >>> from types import SimpleNamespace
            >>> edge = ("a", "b")
            >>> found = SimpleNamespace(nodes={"a", "b"}, edges={edge}, scores={edge: 2.0})
            >>> CausalGraph.from_circuit(found).edges[edge]
            2.0
        """
        if isinstance(circuit, Convertible):
            return circuit.to_causal_graph()
        return cls(*read_circuit(circuit))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CausalGraph):
            return NotImplemented
        return set(self.nodes) == set(other.nodes) and dict(self.edges) == dict(other.edges)

    def __hash__(self) -> int:
        return hash((frozenset(self.nodes), frozenset(self.edges.items())))

    def __repr__(self) -> str:
        return f"CausalGraph({list(self.nodes)!r}, {dict(self.edges)!r})"

    def parents(self, node: str) -> Mapping[str, float]:
        """Sources of the edges into a node, with their weights.

        Args:
            node: A node.

        Returns:
            Source -> weight.

        Raises:
            KeyError: When there is no such node.

        Examples:
            >>> dict(CausalGraph("ab", {("a", "b"): 0.5}).parents("b"))
            {'a': 0.5}
        """
        check_known([node], self.nodes)
        return MappingProxyType(self._parents[node])

    def descendants(self, node: str) -> frozenset[str]:
        """All nodes that a directed path from a node reaches, without the node itself.

        Args:
            node: A node.

        Returns:
            Their names.

        Raises:
            KeyError: When there is no such node.

        Examples:
            >>> graph = CausalGraph("abc", {("a", "b"): 1.0, ("b", "c"): 1.0})
            >>> sorted(graph.descendants("a"))
            ['b', 'c']
        """
        check_known([node], self.nodes)
        return reached_from(node, self.order, self._parents)

    def do(self, x: str | Iterable[str]) -> "CausalGraph":
        """Graph in which nodes are set from outside: every edge into them is cut.

        Args:
            x: One node or several.

        Returns:
            The mutilated graph, same nodes.

        Raises:
            KeyError: When there is no such node.

        Examples:
            >>> CausalGraph("ab", {("a", "b"): 1.0}).do("b").edges
            mappingproxy({})
        """
        held = members(x, self.nodes)
        kept = {(u, v): weight for (u, v), weight in self.edges.items() if v not in held}
        return CausalGraph(self.nodes, kept)

    def d_separated(
        self, a: str | Iterable[str], b: str | Iterable[str], given: str | Iterable[str] = ()
    ) -> bool:
        """Whether every path between two sets of nodes is blocked by a third.

        Args:
            a: One node or several.
            b: One node or several.
            given: The nodes conditioned on.

        Returns:
            True when a and b are independent given the third set in every distribution that
            factorises along the graph.

        Raises:
            KeyError: When there is no such node.
            ValueError: When the three sets overlap.

        Examples:
            >>> collider = CausalGraph("abc", {("a", "c"): 1.0, ("b", "c"): 1.0})
            >>> collider.d_separated("a", "b"), collider.d_separated("a", "b", given="c")
            (True, False)
        """
        sets = [members(names, self.nodes) for names in (a, b, given)]
        for one, other in itertools.combinations(sets, 2):
            if one & other:
                raise ValueError(f"a, b and given must not overlap, {sorted(one & other)} do")
        return separated(self.to_networkx(), *sets)

    def backdoor_sets(
        self,
        x: str,
        y: str,
        *,
        candidates: Iterable[str] | None = None,
        max_size: int | None = None,
        minimal: bool = True,
    ) -> list[frozenset[str]]:
        """Sets of nodes whose adjustment identifies the effect of x on y (backdoor criterion).

        A set is admissible when it holds no descendant of x and blocks every path that enters x
        through an arrow. The search enumerates subsets, smallest first.

        Args:
            x: The cause.
            y: The effect.
            candidates: Nodes that were observed; None allows all.
            max_size: Largest set to try; None tries all sizes.
            minimal: Leave out sets that contain an admissible smaller one.

        Returns:
            Admissible sets, by size and then by name. `[frozenset()]` says that nothing needs to be
            adjusted for, `[]` that no set of candidates will do.

        Raises:
            KeyError: When there is no such node.
            ValueError: When x is y.

        Examples:
            >>> edges = {("z", "x"): 1.0, ("z", "y"): 1.0, ("x", "y"): 1.0}
            >>> CausalGraph("xyz", edges).backdoor_sets("x", "y")
            [frozenset({'z'})]
        """
        check_known([x, y], self.nodes)
        if x == y:
            raise ValueError(f"x and y need to be two nodes, got '{x}' twice")
        allowed = set(self.nodes) if candidates is None else members(candidates, self.nodes)
        pool = sorted(allowed - {x, y} - self.descendants(x))
        kept = {edge: weight for edge, weight in self.edges.items() if edge[0] != x}
        graph = CausalGraph(self.nodes, kept).to_networkx()
        return blocking_sets(graph, x, y, pool, max_size=max_size, minimal=minimal)

    def simulate(
        self,
        interventions: Mapping[str, Values] | None = None,
        *,
        noise: Mapping[str, Values] | None = None,
    ) -> dict[str, Tensor]:
        r"""Values of all nodes, $v = \sum_u w_{uv} u + \varepsilon_v$, under interventions.

        Args:
            interventions: Node -> value that it is held at: a number, or one per sample, any shape.
            noise: Node -> its own part $\varepsilon$; 0 for nodes that are left out.

        Returns:
            Node -> value in float64, in the shape that the given values broadcast to.

        Raises:
            KeyError: When there is no such node.
            ValueError: When the shapes of the given values do not broadcast.

        Examples:
            >>> import torch
            >>> graph = CausalGraph("ab", {("a", "b"): 2.0})
            >>> graph.simulate(noise={"a": torch.tensor([1.0, 3.0])})["b"]
            tensor([2., 6.], dtype=torch.float64)
        """
        held, own = dict(interventions or {}), dict(noise or {})
        check_known([*held, *own], self.nodes)
        values = propagated(self.order, self._parents, held, own)
        return {node: values[node] for node in self.nodes}

    def to_networkx(self) -> "nx.DiGraph[str]":
        """Graph of networkx, with the edge attribute `weight`.

        Returns:
            A `networkx.DiGraph`.

        Examples:
            >>> CausalGraph("ab", {("a", "b"): 2.0}).to_networkx().edges["a", "b"]["weight"]
            2.0
        """
        return networkx_graph(self.nodes, self.edges)

    def to_dot(self) -> str:
        """Text of the graph in the language of Graphviz.

        Returns:
            A digraph; labels of the edges are the weights to three digits.

        Examples:
            >>> print(CausalGraph("ab", {("a", "b"): 2.0}).to_dot())
            digraph {
              "a";
              "b";
              "a" -> "b" [label="2"];
            }
        """
        return dot_text(self.nodes, self.edges)

    def to_mermaid(self) -> str:
        """Text of the graph in the language of Mermaid, which Markdown renderers draw.

        Returns:
            A flowchart from left to right.

        Examples:
            >>> print(CausalGraph("ab", {("a", "b"): 2.0}).to_mermaid())
            flowchart LR
              n0["a"]
              n1["b"]
              n0 -->|"2"| n1
        """
        return mermaid_text(self.nodes, self.edges)

    def to_json(self) -> str:
        """JSON with the nodes and the edges, floats to their last digit.

        Returns:
            An object with `nodes` (names) and `edges` (source, target, weight).

        Examples:
            >>> CausalGraph("a", {}).to_json()
            '{"nodes": ["a"], "edges": []}'
        """
        return json_text(self.nodes, self.edges)


def build_causal_graph(source: Any) -> CausalGraph:
    """Build a causal graph from a circuit or from a table of edges.

    Args:
        source: A circuit (`nodes`, `edges`, `scores`) or a DataFrame with the columns source,
            target and weight.

    Returns:
        The graph.

    Raises:
        TypeError: When it is neither.
        ValueError: When its edges are not those of a causal graph.

    Examples:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"source": ["a"], "target": ["b"], "weight": [2.0]})
        >>> build_causal_graph(frame)
        CausalGraph(['a', 'b'], {('a', 'b'): 2.0})
    """
    read = CausalGraph.from_frame if hasattr(source, "columns") else CausalGraph.from_circuit
    return read(source)
