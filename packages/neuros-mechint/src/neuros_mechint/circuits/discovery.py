"""Discovery of circuits: which edges of a model carry a behaviour."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuros_mechint.activations import SiteLike
from neuros_mechint.activations._container import first_tensor
from neuros_mechint.activations.site import as_site
from neuros_mechint.circuits._contrast import ABLATIONS, Contrast, only_value
from neuros_mechint.circuits._edge_search import exact_scores, greedy_scores, verified_scores
from neuros_mechint.circuits._gradients import Probes, path_scores, point_scores
from neuros_mechint.circuits._graph_model import CircuitGraph
from neuros_mechint.circuits._hashes import row_hashes
from neuros_mechint.circuits._minimal_neurons import Elimination
from neuros_mechint.circuits._neuron_graph import neuron_graph
from neuros_mechint.circuits._residual_graph import residual_graph
from neuros_mechint.circuits._wiring import Edge
from neuros_mechint.circuits.circuit import Circuit
from neuros_mechint.interventions._structure import n_heads
from neuros_mechint.interventions.metrics import Metric, cross_entropy, measured
from neuros_mechint.interventions.patching import ActivationPatcher

__all__ = ["CircuitDiscovery"]

METHODS = ("acdc", "eap", "eap_ig", "exact", "hybrid")


class CircuitDiscovery:
    """Find the part of a model that carries a behaviour.

    Args:
        model: Any module; used in the mode it is in and left as it was.
        graph: Graph to look in; None takes `residual_graph` where the model has blocks, else
            `neuron_graph`.
        metric: Function of an output, one value per row or a scalar; None takes the output itself
            where that is one number per row.
        ablation: What an ablated edge carries: the value of the same row of the corrupted run
            (`"resample"`), its mean over rows (`"mean"`), or zero (`"zero"`).
        batch_size: Most rows in one forward.

    Raises:
        ValueError: When `ablation` is unknown or `batch_size` not positive.

    Examples:
        >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
        >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        >>> _ = net[2].weight.data.copy_(torch.tensor([[1.0, 0.0]]))
        >>> clean, corrupted = torch.ones(1, 2), torch.zeros(1, 2)
        >>> found = CircuitDiscovery(net).discover(clean, corrupted, threshold=0.1)
        >>> sorted(found.edges)
        [('0:0', '2:0'), ('input:0', '0:0')]

    References:
        Conmy, A., Mavor-Parker, A., Lynch, A., Heimersheim, S. & Garriga-Alonso, A. (2023). Towards
        automated circuit discovery for mechanistic interpretability. NeurIPS 36.
        doi:10.48550/arXiv.2304.14997

        Syed, A., Rager, C. & Conmy, A. (2024). Attribution patching outperforms automated circuit
        discovery. BlackboxNLP. doi:10.18653/v1/2024.blackboxnlp-1.25

        Hanna, M., Pezzelle, S. & Belinkov, Y. (2024). Have faith in faithfulness: going beyond
        circuit overlap when finding model mechanisms. COLM. doi:10.48550/arXiv.2403.17806
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        graph: CircuitGraph | None = None,
        metric: Metric | None = None,
        ablation: str = "resample",
        batch_size: int = 64,
    ) -> None:
        if ablation not in ABLATIONS:
            raise ValueError(f"ablation needs one of {ABLATIONS}, got {ablation!r}")
        if batch_size < 1:
            raise ValueError(f"batch_size needs at least 1 row, got {batch_size}")
        self.model = model
        self.metric = metric
        self.ablation = ablation
        self.batch_size = batch_size
        self._graph = graph if graph is None else graph.bind(model)
        self._nodes_checked = False

    def __repr__(self) -> str:
        name = type(self.model).__name__
        return f"CircuitDiscovery({name}, ablation={self.ablation!r})"

    @property
    def graph(self) -> CircuitGraph:
        """The graph that circuits are looked for in.

        Raises:
            ValueError: When none was given and the model is neither residual nor a chain.
        """
        if self._graph is None:
            self._graph = _graph_of(self.model)
        return self._graph

    def activation_patching(
        self,
        clean_input: Any,
        corrupted_input: Any,
        layer_name: SiteLike,
        neuron_indices: Sequence[int] | None = None,
    ) -> float:
        """Recovery of the metric when a layer of the corrupted run gets its clean activation.

        Args:
            clean_input: Where the activation comes from.
            corrupted_input: What is run with it.
            layer_name: The site.
            neuron_indices: Units of its last dimension; None patches all.

        Returns:
            1 when the patch restores the clean metric, 0 when it does nothing.

        Raises:
            KeyError: When the path names no module.
            ValueError: When clean and corrupted do not differ in the metric.

        Examples:
            >>> net = nn.Sequential(nn.Identity(), nn.Linear(2, 1, bias=False))
            >>> _ = nn.init.ones_(net[1].weight)
            >>> clean, corrupted = torch.tensor([[3.0, 1.0]]), torch.zeros(1, 2)
            >>> CircuitDiscovery(net).activation_patching(clean, corrupted, "0", [0])
            0.75
        """
        index = None if neuron_indices is None else (..., list(neuron_indices))
        metric = only_value if self.metric is None else self.metric
        with torch.no_grad():
            result = ActivationPatcher(self.model).patch(
                clean_input, corrupted_input, {as_site(self.model, layer_name): index}, metric
            )
        # With a metric, a result always holds its recovery.
        return float(result.recovery or 0.0)

    def discover_minimal_circuit(
        self,
        input_data: Any,
        target_behavior: Tensor,
        layer_names: Sequence[SiteLike],
        search_method: str = "greedy",
        tolerance: float = 0.05,
    ) -> dict[str, list[int]]:
        """Find a smallest set of neurons that keeps a behaviour when all others are ablated.

        Neurons are dropped one after the other, those with the least first-order effect first, as
        long as the loss stays within the tolerance; this is repeated until no single neuron can go.
        The result is 1-minimal: dropping any further neuron breaks the tolerance. A smaller set
        may exist that this search does not meet.

        Args:
            input_data: Inputs of the model.
            target_behavior: Without a metric of the discovery, what the output is compared with: by
                the mean squared error when it is floating-point, by cross-entropy when it is
                integer. With a metric, the values that the metric should have.
            layer_names: Sites whose last dimensions hold the neurons.
            search_method: `"greedy"`, backward elimination.
            tolerance: Largest rise of the loss above that of the whole model.

        Returns:
            Site -> units that are kept, ascending. Neurons are ablated to zero with
            `ablation="zero"`, else to their mean over all rows and positions of the inputs.

        Raises:
            KeyError: When a path names no module.
            ValueError: When the search method is unknown, the tolerance negative, there is no
                layer, a site is reached more than once, or the target does not fit the output.

        Examples:
            >>> net = nn.Sequential(nn.ReLU(), nn.Linear(2, 1, bias=False))
            >>> _ = net[1].weight.data.copy_(torch.tensor([[0.0, 1.0]]))
            >>> x = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
            >>> CircuitDiscovery(net).discover_minimal_circuit(x, net(x).detach(), ["0"])
            {'0': [1]}
        """
        if search_method != "greedy":
            raise ValueError(f"search_method needs 'greedy', got {search_method!r}")
        if not tolerance >= 0:
            raise ValueError(f"tolerance needs a number of at least 0, got {tolerance}")
        if not layer_names:
            raise ValueError("layer_names needs at least one site, got none")
        search = Elimination(
            self.model,
            input_data,
            [as_site(self.model, name) for name in layer_names],
            _loss(self.metric, target_behavior),
            zero=self.ablation == "zero",
            batch_size=self.batch_size,
        )
        kept = search.run(tolerance)
        return {str(site): units for site, units in zip(search.sites, kept, strict=True)}

    def discover(
        self,
        clean: Any,
        corrupted: Any,
        *,
        method: str = "acdc",
        threshold: float | None = None,
        n_edges: int | None = None,
        steps: int = 16,
    ) -> Circuit:
        r"""Find the edges that matter between a clean and a corrupted run.

        The base run is `clean`; an edge is ablated by giving its reader what the writer holds in
        `corrupted`. Scores are means over rows. Kept edges that lie on no path of kept edges from
        an input to an output are left out at the end.

        | method | score of an edge u -> v |
        | --- | --- |
        | `exact` | change of the metric when it alone is ablated |
        | `acdc` | change when it is ablated beside all edges dropped so far, output first |
        | `eap` | $C_{uv}(a_u' - a_u) \cdot \partial M / \partial in_v$ at the clean run |
        | `eap_ig` | the same with the gradient averaged along the path of the inputs |
        | `hybrid` | `eap_ig` ranks, `exact` decides as far down the ranking as it can matter |

        `exact`, `eap`, `eap_ig` and `hybrid` judge every edge with all others intact, so of two
        edges that back each other up they see neither; `acdc` keeps the one it tests last.

        Args:
            clean: Inputs of the base run.
            corrupted: Inputs of the run that ablated values come from, same shapes; not used, and
                may be None, with `ablation="zero"`.
            method: See the table.
            threshold: Edges with |score| above it are kept. None, without
                `n_edges`, takes 1 % of the change of the metric when all edges are ablated.
            n_edges: Keep this many edges with the largest |score| instead; not for `acdc`.
            steps: Nodes of the quadrature of `eap_ig` and `hybrid`.

        Returns:
            The circuit. Its scores are those of the method; those of `hybrid` are exact where it
            looked, and first-order elsewhere.

        Raises:
            ValueError: When the method is unknown, `threshold` and `n_edges` are both given or out
                of range, the runs differ in shape, or the graph does not add up on this model.

        Examples:
            >>> net = nn.Sequential(nn.Linear(2, 1, bias=False))
            >>> _ = net[0].weight.data.copy_(torch.tensor([[3.0, 0.5]]))
            >>> found = CircuitDiscovery(net).discover(
            ...     torch.ones(1, 2), torch.zeros(1, 2), method="eap", n_edges=1
            ... )
            >>> found.edges, found.scores["input:1", "0:0"]
            (frozenset({('input:0', '0:0')}), -0.5)
        """
        _check_choice(method, threshold, n_edges, steps)
        if corrupted is None and self.ablation != "zero":
            raise ValueError(f"ablation {self.ablation!r} needs corrupted inputs, got None")
        # What the edges carry is added up in every run; how nodes are made is checked once.
        if not self._nodes_checked:
            self.graph.check_nodes(clean)
            self._nodes_checked = True
        probes = Probes(self.graph) if method == "eap" else None
        contrast = Contrast(
            *(self.graph, clean, corrupted),
            metric=self.metric,
            ablation=self.ablation,
            batch_size=self.batch_size,
            edits=probes.edits if probes else None,
        )
        if threshold is None and n_edges is None:
            everything = contrast.measure([self.graph.edges])[0]
            threshold = 0.01 * abs(everything - contrast.base_value)
        kept, scores = _search(
            contrast, method, probes, threshold=threshold, n_edges=n_edges, steps=steps
        )
        edges = self.graph.pruned(kept)
        seen = row_hashes(clean) if corrupted is None else row_hashes(clean) | row_hashes(corrupted)
        return Circuit(
            edges,
            frozenset(node for edge in edges for node in edge),
            scores,
            self.graph,
            metric=self.metric,
            ablation=self.ablation,
            batch_size=self.batch_size,
            discovery_hashes=seen,
        )


def _search(
    contrast: Contrast,
    method: str,
    probes: Probes | None,
    *,
    threshold: float | None,
    n_edges: int | None,
    steps: int,
) -> tuple[frozenset[Edge], Mapping[Edge, float]]:
    """Edges that a method keeps, before pruning, and the scores of all."""
    if method == "acdc":
        return greedy_scores(contrast, threshold or 0.0)
    if method == "hybrid":
        estimates = path_scores(contrast, steps)
        exact = verified_scores(contrast, estimates, threshold=threshold, n_edges=n_edges)
        return _kept(exact, threshold, n_edges), {**estimates, **exact}
    if method == "exact":
        scores = exact_scores(contrast, contrast.graph.edges)
    elif probes is not None:
        scores = point_scores(contrast, probes)
    else:
        scores = path_scores(contrast, steps)
    return _kept(scores, threshold, n_edges), scores


def _kept(
    scores: Mapping[Edge, float], threshold: float | None, n_edges: int | None
) -> frozenset[Edge]:
    if threshold is not None:
        return frozenset(edge for edge, score in scores.items() if abs(score) > threshold)
    return frozenset(sorted(scores, key=lambda edge: abs(scores[edge]), reverse=True)[:n_edges])


def _check_choice(method: str, threshold: float | None, n_edges: int | None, steps: int) -> None:
    if method not in METHODS:
        raise ValueError(f"method needs one of {METHODS}, got {method!r}")
    if threshold is not None and n_edges is not None:
        raise ValueError("threshold and n_edges are two ways to choose edges; give one of them")
    if threshold is not None and not threshold >= 0:
        raise ValueError(f"threshold needs a number of at least 0, got {threshold}")
    if n_edges is not None and n_edges < 1:
        raise ValueError(f"n_edges needs at least 1 edge, got {n_edges}")
    if n_edges is not None and method == "acdc":
        raise ValueError("acdc keeps edges by a threshold; give threshold instead of n_edges")
    if steps < 1:
        raise ValueError(f"steps needs at least 1 node, got {steps}")


def _graph_of(model: nn.Module) -> CircuitGraph:
    try:
        return residual_graph(model, heads=n_heads(model) is not None)
    except ValueError as residual:
        try:
            return neuron_graph(model)
        except ValueError as chain:
            raise ValueError(
                f"no graph fits {type(model).__name__} by itself. As a residual model: {residual}. "
                f"As a chain: {chain}"
            ) from None


def _loss(metric: Metric | None, target: Tensor) -> Callable[[Any], Tensor]:
    """Loss of an output against the behaviour that is to be kept."""
    if metric is not None:
        return lambda output: (measured(metric, output) - target).abs().mean()
    if target.is_floating_point():
        return lambda output: _squared_error(first_tensor(output), target)
    entropy = cross_entropy(target)
    return lambda output: entropy(output).mean()


def _squared_error(output: Tensor, target: Tensor) -> Tensor:
    if output.shape != target.shape:
        raise ValueError(
            f"target_behavior has shape {tuple(target.shape)}, the output {tuple(output.shape)}; "
            "they need to be equal"
        )
    return (output - target).square().mean()
