r"""Box dimension of networks."""

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from neuros_mechint.fractals._conventions import Number, warn_degenerate
from neuros_mechint.fractals._graph_cover import (
    Metric,
    count_boxes,
    cover,
    distance_sizes,
    hop_sizes,
    radial,
)
from neuros_mechint.fractals._graph_distance import (
    hop_distances,
    path_lengths,
    percolation_threshold,
)
from neuros_mechint.fractals._graph_input import Graphs, largest_component, read_graphs
from neuros_mechint.fractals._spectral_options import check_choice

if TYPE_CHECKING:
    from scipy import sparse

__all__ = ["GraphDimension", "GraphFractalDimension"]

Method = Literal["greedy", "cbb", "memb", "sandbox", "best"]
Weighted = Literal["auto", "distance"]

_DENSE = 0.5
_SPANNED = 0.95
# A shorter diameter leaves no two sizes that differ from both ends.
_SHORTEST_DIAMETER = 4
_FRACTAL_DIAMETER = 8
_FRACTAL_SIZES = 4


class GraphDimension(NamedTuple):
    """Dimension of a graph and the counts it was fitted to.

    Attributes:
        dimension: minus the slope of ln N against ln l, of the shape of the batch.
        box_sizes: l, `(..., size)`; graphs with fewer sizes than others end in nan.
        n_boxes: N, of the same shape. Of `"sandbox"`: nodes over the mean mass of a ball.
        r2: share of the variance of ln N that the line explains.
        is_fractal: whether a power law describes N better than an exponential does (smaller sum
            of squares of ln N), over at least 4 sizes, in a diameter of at least 8. Over less than
            a decade of sizes both fit about as well: a random graph of a thousand nodes with three
            edges each passes too.
        n_nodes: nodes of the largest component, which alone is measured.
    """

    dimension: Any
    box_sizes: Any
    n_boxes: Any
    r2: Any
    is_fractal: Any
    n_nodes: Any


class _Fit(NamedTuple):
    dimension: float
    sizes: list[float]
    counts: NDArray[np.float64]
    r2: float
    is_fractal: bool
    n_nodes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphFractalDimension:
    r"""Scaling of the number of boxes that cover a network, $N_B(l_B) \propto l_B^{-d_B}$.

    Every two nodes of a box are nearer than $l_B$, so that boxes of size 1 hold one node each.

    - `"greedy"`: each node goes into the first box that takes it; the fewest boxes over several
      orders of the nodes count.
    - `"cbb"`: boxes are filled one by one with random nodes that fit (compact box burning).
    - `"memb"`: boxes are balls around the nodes that reach most; sizes are odd, $2 r_B + 1$.
    - `"best"`: the fewest boxes of these three, after attempts to merge them.
    - `"sandbox"`: no cover; $d$ is the slope of the mean $\ln$ of the number of nodes within $r$
      of a node against $\ln(2r + 1)$. It depends least on the size of the network.

    A finite network reads low, as the rim of a box wastes room: a square lattice of 40 x 40 gives
    1.75 in place of 2, a (2, 4)-flower of a thousand nodes 1.9 in place of 2.585. Only the largest
    component is measured, loops are ignored, and a directed graph takes the larger weight of both
    directions, with a warning. The random orders are the same in every call.

    **Weights.** Without a `threshold` and with at most half of all pairs linked, every edge counts
    as one step. A denser matrix, such as attention, has hardly a diameter: `weighted="auto"` then
    keeps the edges from the largest weight on at which 95 % of the nodes still hang together.
    `weighted="distance"` takes $1 / w$ as the length of an edge and sizes between the 5th and 95th
    percentile of all distances.

    Args:
        min_box: smallest size.
        max_box: largest size; half the diameter when None.
        method: as above.
        n_restarts: random orders of `"greedy"` beside the two fixed ones (from the rim inwards,
            by degree), attempts of `"cbb"`, and a quarter of those of `"best"` to merge.
        threshold: edges at least as heavy are kept, instead of the choice that `"auto"` makes.
        weighted: as above.

    Raises:
        ValueError: if an option is unknown, out of range, or has no effect with the others.

    Examples:
        >>> path = np.eye(1000, k=1) + np.eye(1000, k=-1)
        >>> found = GraphFractalDimension().compute(path)
        >>> round(float(found.dimension), 1), bool(found.is_fractal), int(found.n_boxes[0])
        (1.0, True, 500)

    References:
        Song, Havlin & Makse (2005). Self-similarity of complex networks. Nature 433.
        https://doi.org/10.1038/nature03248
        Song, Gallos, Havlin & Makse (2007). How to calculate the fractal dimension of a complex
        network: the box covering algorithm. Journal of Statistical Mechanics P03006.
        https://doi.org/10.1088/1742-5468/2007/03/P03006
        Liu, Yu & Anh (2015). Determination of multifractal dimensions of complex networks by means
        of the sandbox algorithm. Chaos 25. https://doi.org/10.1063/1.4907557
        Gallos, Makse & Sigman (2012). A small world of weak ties provides optimal global
        integration of self-similar modules in functional brain networks. PNAS 109.
        https://doi.org/10.1073/pnas.1106612109
        Wei, Liu, Zhang, Hu, Deng & Mahadevan (2013). Box-covering algorithm for fractal dimension
        of weighted networks. Scientific Reports 3. https://doi.org/10.1038/srep03049
    """

    min_box: int = 2
    max_box: int | None = None
    method: Method = "greedy"
    n_restarts: int = 5
    threshold: float | None = None
    weighted: Weighted = "auto"

    def __post_init__(self) -> None:
        check_choice("method", self.method, Method)
        check_choice("weighted", self.weighted, Weighted)
        if self.n_restarts < 0:
            raise ValueError(f"n_restarts must be at least 0, got {self.n_restarts}")
        if self.threshold is not None and not 0 < self.threshold < math.inf:
            raise ValueError(f"threshold must be a positive weight, got {self.threshold}")
        self._check_sizes()

    def _check_sizes(self) -> None:
        if self.weighted == "distance":
            if self.max_box is not None or self.min_box != 2:
                raise ValueError(
                    "min_box and max_box count edges, and weighted='distance' takes its sizes "
                    "from the distances; leave them out"
                )
            return
        if self.min_box < 1:
            raise ValueError(f"min_box must be at least 1, got {self.min_box}")
        if self.max_box is None:
            return
        if len(hop_sizes(self.method, self.min_box, self.max_box, 0)) < 2:
            raise ValueError(
                f"a line needs 2 sizes between min_box = {self.min_box} and max_box = "
                f"{self.max_box}{' (odd ones)' if radial(self.method) else ''}; raise max_box"
            )

    def compute(self, adjacency: object) -> GraphDimension:
        r"""Estimate the dimension of each graph.

        Args:
            adjacency: `(..., node, node)` tensor or array, a sparse matrix of SciPy or torch, or a
                graph of networkx; weights are not negative.

        Returns:
            The dimensions, in tensors where a tensor was passed and in arrays otherwise. A graph
            whose diameter is below 4 gives nan and one warning. Graphs of a batch are measured
            one after the other.

        Raises:
            ValueError: if the graphs are not square, not finite or negative somewhere.
            TypeError: if they are none of the above.

        Examples:
            >>> ring = torch.eye(64).roll(1, 0) + torch.eye(64).roll(-1, 0)
            >>> GraphFractalDimension(method="sandbox").compute(ring).dimension
            tensor(1.)
        """
        graphs = _read(adjacency)
        fits = [self._fit(item) for item in graphs.items]
        dimension = np.array([fit.dimension for fit in fits])
        length = max((len(fit.sizes) for fit in fits), default=0)
        sizes = np.full((len(fits), length), math.nan)
        counts = np.full((len(fits), length), math.nan)
        for k, fit in enumerate(fits):
            sizes[k, : len(fit.sizes)] = fit.sizes
            counts[k, : len(fit.sizes)] = fit.counts
        warn_degenerate(
            torch.from_numpy(np.isnan(dimension)),
            "are small-world, no scaling range: their diameter is below 4 edges, or all their "
            "distances are equal",
        )
        return GraphDimension(
            graphs.deliver(dimension),
            graphs.deliver(sizes),
            graphs.deliver(counts),
            graphs.deliver(np.array([fit.r2 for fit in fits])),
            graphs.deliver(np.array([fit.is_fractal for fit in fits]), torch.bool),
            graphs.deliver(np.array([fit.n_nodes for fit in fits]), torch.int64),
        )

    def curve(self, adjacency: object) -> tuple[Any, Any]:
        r"""Return the points through which the line is fitted.

        Args:
            adjacency: graphs as in `compute`.

        Returns:
            $\ln l$ and $\ln N$, `(..., size)`.

        Raises:
            ValueError: as in `compute`.
            TypeError: as in `compute`.

        Examples:
            >>> ring = torch.eye(64).roll(1, 0) + torch.eye(64).roll(-1, 0)
            >>> log_size, log_count = GraphFractalDimension().curve(ring)
            >>> log_count[0].exp().round()
            tensor(32.)
        """
        found = self.compute(adjacency)
        log = torch.log if isinstance(found.box_sizes, torch.Tensor) else np.log
        return log(found.box_sizes), log(found.n_boxes)

    def boxes(self, adjacency: object, size: Number) -> Any:
        r"""Cover one graph and say which box holds each node.

        Args:
            adjacency: one graph, as in `compute`.
            size: $l_B$: every two nodes of a box are nearer.

        Returns:
            `(node,)` numbers of boxes; -1 outside the largest component.

        Raises:
            ValueError: for a batch, a size that is not positive (at least 1 where edges count), or
                `"sandbox"`, which makes no boxes.
            TypeError: as in `compute`.

        Examples:
            >>> path = np.eye(5, k=1) + np.eye(5, k=-1)
            >>> GraphFractalDimension(n_restarts=0).boxes(path, 3)
            array([1, 1, 0, 0, 0])
        """
        if self.method == "sandbox":
            raise ValueError(
                "method 'sandbox' makes no boxes; use 'greedy', 'cbb', 'memb' or 'best'"
            )
        if not size >= (0 if self.weighted == "distance" else 1) or size == 0:
            raise ValueError(f"size must be positive, and at least 1 edge, got {size}")
        graphs = _read(adjacency)
        if graphs.batch:
            raise ValueError(f"boxes takes one graph, got a batch of shape {graphs.batch}")
        (graph,) = graphs.items
        metric, nodes = self._metric(graph)
        box_of = np.full(graph.shape[0], -1)
        box_of[nodes] = cover(metric, self.method, size, self.n_restarts)
        return graphs.deliver(box_of[None], torch.int64)

    def _metric(self, graph: "sparse.csr_array") -> tuple[Metric, NDArray[np.intp]]:
        """Distances within the largest component, and the nodes it has."""
        if self.threshold is not None:
            graph = _at_least(graph, self.threshold)
        part, nodes = largest_component(graph)
        if self.weighted == "distance":
            return Metric(path_lengths(part), part.sum(1)), nodes
        n = len(nodes)
        if self.threshold is None and part.nnz > _DENSE * n * (n - 1):
            kept = _at_least(part, percolation_threshold(part, _SPANNED))
            part, inner = largest_component(kept)
            nodes = nodes[inner]
        return Metric(hop_distances(part), np.diff(part.indptr)), nodes

    def _fit(self, graph: "sparse.csr_array") -> _Fit:
        metric, nodes = self._metric(graph)
        diameter = float(metric.distance.max())
        sizes: list[float] = []
        if metric.is_whole and diameter >= _SHORTEST_DIAMETER:
            chosen = hop_sizes(self.method, self.min_box, self.max_box, int(diameter))
            sizes = [float(size) for size in chosen]
        elif not metric.is_whole and len(nodes) > 1:
            sizes = distance_sizes(metric.distance)
            # In steps to the nearest neighbour, so that the unit of the weights does not matter.
            apart = np.where(metric.distance > 0, metric.distance, math.inf).min(1)
            diameter /= float(np.median(apart))
        if len(sizes) < 2:
            return _Fit(math.nan, [], np.empty(0), math.nan, is_fractal=False, n_nodes=len(nodes))
        counts = count_boxes(metric, self.method, sizes, self.n_restarts)
        power, exponential = _line(np.log(sizes), np.log(counts)), _line(sizes, np.log(counts))
        is_fractal = (
            len(sizes) >= _FRACTAL_SIZES
            and diameter >= _FRACTAL_DIAMETER
            and power.residual < exponential.residual
        )
        return _Fit(-power.slope, sizes, counts, power.r2, is_fractal, len(nodes))


class _Line(NamedTuple):
    slope: float
    residual: float
    r2: float


def _line(x: Any, y: NDArray[np.float64]) -> _Line:
    """Least squares."""
    dx, dy = np.asarray(x) - np.mean(x), y - y.mean()
    total = float(dy @ dy)
    slope = float(dx @ dy / (dx @ dx))
    residual = float(np.square(dy - slope * dx).sum())
    return _Line(slope, residual, 1 - residual / total if total > 0 else math.nan)


def _at_least(graph: "sparse.csr_array", threshold: float) -> "sparse.csr_array":
    kept = graph.copy()
    kept.data = np.where(graph.data >= threshold, graph.data, 0.0)
    kept.eliminate_zeros()
    return kept


def _read(adjacency: object) -> Graphs:
    graphs = read_graphs(adjacency)
    if graphs.n_asymmetric:
        warnings.warn(
            f"{graphs.n_asymmetric} of {len(graphs.items)} items are directed; each edge takes the "
            "larger weight of its two directions",
            UserWarning,
            stacklevel=3,
        )
    return graphs
