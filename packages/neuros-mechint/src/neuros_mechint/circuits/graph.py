"""Graphs in which circuits are looked for, and how to build them."""

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from neuros_mechint.activations import Site
from neuros_mechint.circuits._graph_model import CircuitGraph
from neuros_mechint.circuits._neuron_graph import neuron_graph
from neuros_mechint.circuits._residual_graph import residual_graph
from neuros_mechint.circuits._wiring import Affine, Readers, Writers
from neuros_mechint.interventions.causal_graph import build_causal_graph

__all__ = ["CircuitGraph", "build_causal_graph", "neuron_graph", "residual_graph", "site_graph"]


def site_graph(
    writers: Mapping[Site | str, Iterable[Site | str]],
    readers: Mapping[Site | str, Iterable[Site | str] | Mapping[Site | str, Tensor | None]],
    *,
    model: nn.Module | None = None,
) -> CircuitGraph:
    """Graph of any model, stated site by site.

    Args:
        writers: Site whose value is written -> the readers that it is computed from; none for an
            input of the graph.
        readers: Site whose value is a sum -> the writers that it sums; as a mapping, writer ->
            linear map applied to its last dimension, shape (reader, writer), None for the identity.
            A reader from which no writer is computed leads to the output.
        model: The model; None leaves it to `CircuitDiscovery` or `bind`.

    Returns:
        The graph; nodes are called as the sites are written.

    Raises:
        ValueError: When a writer or reader is named that is not listed, or the edges close a cycle.

    Examples:
        >>> graph = site_graph({"a": [], "b": ["b:in"]}, {"b:in": ["a"], "c:in": ["a", "b"]})
        >>> graph.edges
        (('a', 'b:in'), ('a', 'c:in'), ('b', 'c:in'))
        >>> graph.layer("b")
        2
    """
    places = {str(site): k for k, site in enumerate(writers)}
    written = [
        Writers(_site(site), (str(site),), (tuple(map(str, reads)),))
        for site, reads in writers.items()
    ]
    read = [
        Readers(_site(site), (str(site),), _sources(site, given, places))
        for site, given in readers.items()
    ]
    return CircuitGraph(written, read, model=model)


def _site(site: Site | str) -> Site:
    return Site.parse(site) if isinstance(site, str) else site


def _sources(
    reader: Site | str,
    given: Iterable[Site | str] | Mapping[Site | str, Tensor | None],
    places: Mapping[str, int],
) -> dict[int, Affine | None]:
    maps = dict(given) if isinstance(given, Mapping) else dict.fromkeys(given)
    unknown = [str(site) for site in maps if str(site) not in places]
    if unknown:
        raise ValueError(
            f"reader '{reader}' sums '{unknown[0]}', which is not among the writers {[*places]}"
        )
    return {places[str(u)]: None if m is None else Affine(m) for u, m in maps.items()}
