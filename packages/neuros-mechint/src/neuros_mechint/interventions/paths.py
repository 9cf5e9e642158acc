"""Effects along the paths of a causal graph."""

import heapq
from typing import NamedTuple

from neuros_mechint.interventions.causal_graph import CausalGraph

__all__ = ["Path", "PathAnalyzer"]


class Path(NamedTuple):
    """One directed path.

    Attributes:
        nodes: Its nodes from source to sink.
        weight: Product of the weights of its edges.
    """

    nodes: tuple[str, ...]
    weight: float


class PathAnalyzer:
    r"""Total and path-specific effects in a linear causal graph.

    The effect of a path is the product of its edges; the total effect of s on t is the sum over all
    paths, the entry of $(I - W)^{-1} = I + W + W^2 + \dots$, where $W_{uv}$ is the edge u -> v.

    Args:
        graph: The graph.

    Examples:
        >>> graph = CausalGraph("xmy", {("x", "m"): 2.0, ("m", "y"): 3.0, ("x", "y"): 1.0})
        >>> PathAnalyzer(graph).top_paths("x", "y", k=1)
        [Path(nodes=('x', 'm', 'y'), weight=6.0)]
        >>> PathAnalyzer(graph).total_effect("x", "y")
        7.0

    References:
        Wright, S. (1934). The method of path coefficients. Annals of Mathematical Statistics 5,
        161-215. doi:10.1214/aoms/1177732676
    """

    def __init__(self, graph: CausalGraph) -> None:
        self.graph = graph

    def __repr__(self) -> str:
        n_nodes, n_edges = len(self.graph.nodes), len(self.graph.edges)
        return f"PathAnalyzer({n_nodes} nodes, {n_edges} edges)"

    def top_paths(self, source: str, sink: str, k: int = 10) -> list[Path]:
        """Paths with the largest absolute effects.

        Exact without enumeration: the best paths to a node are extensions of the best paths to its
        parents, because multiplying by one edge keeps their order.

        Args:
            source: First node.
            sink: Last node.
            k: How many paths at most.

        Returns:
            At most k paths, largest absolute effect first.

        Raises:
            KeyError: When there is no such node.
            ValueError: When k is not positive.

        Examples:
            >>> graph = CausalGraph("ab", {("a", "b"): -2.0})
            >>> PathAnalyzer(graph).top_paths("a", "b", 3)
            [Path(nodes=('a', 'b'), weight=-2.0)]
        """
        if k < 1:
            raise ValueError(f"k needs at least 1 path, got {k}")
        return self._best(source, sink, k)

    def total_effect(self, source: str, sink: str) -> float:
        """Sum of the effects of all directed paths.

        Args:
            source: First node.
            sink: Last node; the source itself gives 1.

        Returns:
            Change of the sink per unit by which the source is held higher.

        Raises:
            KeyError: When there is no such node.

        Examples:
            >>> graph = CausalGraph("abc", {("a", "b"): 2.0, ("b", "c"): 0.5})
            >>> PathAnalyzer(graph).total_effect("a", "c")
            1.0
        """
        return self._sum_over_paths(source, sink, weighted=True)

    def path_effects(self, source: str, sink: str, *, max_paths: int = 100_000) -> list[Path]:
        """Every directed path with its effect; the effects add up to the total effect.

        Args:
            source: First node.
            sink: Last node.
            max_paths: Most paths that are listed: their number can grow exponentially.

        Returns:
            All paths, largest absolute effect first.

        Raises:
            KeyError: When there is no such node.
            ValueError: When there are more than `max_paths`.

        Examples:
            >>> graph = CausalGraph("xmy", {("x", "m"): 2.0, ("m", "y"): 3.0, ("x", "y"): 1.0})
            >>> [path.weight for path in PathAnalyzer(graph).path_effects("x", "y")]
            [6.0, 1.0]
        """
        count = int(self._sum_over_paths(source, sink, weighted=False))
        if count > max_paths:
            raise ValueError(
                f"there are {count} paths from '{source}' to '{sink}', more than max_paths = "
                f"{max_paths}; use top_paths or total_effect"
            )
        return self._best(source, sink, max(count, 1))

    def _best(self, source: str, sink: str, k: int) -> list[Path]:
        relevant = self._between(source, sink)
        best: dict[str, list[Path]] = {source: [Path((source,), 1.0)]}
        for node in relevant:
            if node != source:
                extended = [
                    Path((*path.nodes, node), path.weight * weight)
                    for parent, weight in self.graph.parents(node).items()
                    for path in best.get(parent, ())
                ]
                best[node] = heapq.nsmallest(k, extended, key=_rank)
        return best.get(sink, [])

    def _sum_over_paths(self, source: str, sink: str, *, weighted: bool) -> float:
        totals: dict[str, float] = {}
        for node in self._between(source, sink):
            totals[node] = float(node == source) + sum(
                (weight if weighted else 1) * totals[parent]
                for parent, weight in self.graph.parents(node).items()
                if parent in totals
            )
        return totals.get(sink, 0.0)

    def _between(self, source: str, sink: str) -> list[str]:
        """Nodes of the directed paths from source to sink, sources first."""
        graph = self.graph
        after = graph.descendants(source) | {source}
        before = {sink, *graph.parents(sink)}
        for node in reversed(graph.order):
            if node in before:
                before.update(graph.parents(node))
        return [node for node in graph.order if node in after and node in before]


def _rank(path: Path) -> tuple[float, tuple[str, ...]]:
    return -abs(path.weight), path.nodes
