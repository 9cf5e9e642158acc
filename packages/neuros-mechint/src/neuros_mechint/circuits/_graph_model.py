"""The graph in which circuits are looked for."""

import graphlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from neuros_mechint.activations import Edit, SiteLike, intervene
from neuros_mechint.activations._inputs import call_arguments
from neuros_mechint.activations._state import preserved
from neuros_mechint.circuits._wiring import Edge, Readers, Term, Writers

__all__ = ["CircuitGraph", "Recorded", "tolerance"]


class Recorded(NamedTuple):
    """One run of the model, with what every group of nodes wrote and read."""

    output: Any
    written: tuple[Tensor, ...]
    read: tuple[Tensor, ...]


class CircuitGraph:
    r"""Nodes of a model and the edges that carry one node's value into another's input.

    An edge u -> v exists where the input of v is a sum in which the value of u is one term,
    $\mathrm{in}_v = \sum_u C_{uv} a_u + c_v$ with a linear map $C_{uv}$. To patch it is to add
    $C_{uv}(a_u' - a_u)$ to that input. The builders `neuron_graph`, `residual_graph` and
    `site_graph` make graphs.

    Args:
        writers: Groups of nodes that write, in the order in which the model reaches them.
        readers: Groups of nodes that read.
        model: The model that the sites belong to; None until `bind`.
        check: Further check of one run, called by `verify`.

    Attributes:
        edges: Every edge, as (node that writes, node that reads).
        nodes: Every node, in topological order.
        inputs: Nodes that nothing in the graph leads to.
        outputs: Nodes that lead to the output of the model, outside the graph.
        inside: Pairs (node that reads, node that is computed from it) of two names.

    Raises:
        ValueError: When a name comes twice among the writers or the readers, a writer reads an
            unknown node, or the edges close a cycle.

    Examples:
        >>> from neuros_mechint.circuits import neuron_graph
        >>> graph = neuron_graph(nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)))
        >>> graph.edges
        (('input:0', '0:0'), ('input:0', '0:1'), ('0:0', '2:0'), ('0:1', '2:0'))
        >>> graph.layer("2:0")
        2
    """

    def __init__(
        self,
        writers: Sequence[Writers],
        readers: Sequence[Readers],
        *,
        model: nn.Module | None = None,
        check: Callable[["CircuitGraph", Any], None] | None = None,
    ) -> None:
        self.writers, self.readers = tuple(writers), tuple(readers)
        self._model, self._check = model, check
        self._writer_place = _places(self.writers)
        self._reader_place = _places(self.readers)
        reads = {
            node: sources
            for group in self.writers
            for node, sources in zip(group.nodes, group.reads, strict=True)
        }
        unknown = sorted({v for sources in reads.values() for v in sources} - {*self._reader_place})
        if unknown:
            raise ValueError(f"a writer reads '{unknown[0]}', which is not among the readers")
        self.edges: tuple[Edge, ...] = tuple(
            (u, v)
            for group in self.readers
            for v in group.nodes
            for g in group.sources
            for u in self.writers[g].nodes
        )
        self.inside: frozenset[Edge] = frozenset(
            (v, u) for u, sources in reads.items() for v in sources if u != v
        )
        self.nodes, self._layers = _sorted([*self._writer_place, *self._reader_place], self)
        used = {v for sources in reads.values() for v in sources}
        self.inputs: frozenset[str] = frozenset(u for u, sources in reads.items() if not sources)
        self.outputs: frozenset[str] = frozenset(v for v in self._reader_place if v not in used)

    def __repr__(self) -> str:
        return f"CircuitGraph({len(self.nodes)} nodes, {len(self.edges)} edges)"

    @property
    def model(self) -> nn.Module:
        """The model that the sites belong to.

        Raises:
            ValueError: When the graph has none yet.
        """
        if self._model is None:
            raise ValueError(
                "this graph has no model yet; give site_graph(..., model=model) or call "
                "graph.bind(model)"
            )
        return self._model

    def bind(self, model: nn.Module) -> "CircuitGraph":
        """Return the same graph on a model.

        Args:
            model: The model that the sites belong to.

        Returns:
            A graph with this model.

        Examples:
            >>> from neuros_mechint.circuits import site_graph
            >>> graph = site_graph({"0": []}, {"1:in": ["0"]})
            >>> net = nn.Sequential(nn.Identity(), nn.Identity())
            >>> graph.bind(net).model is net
            True
        """
        return CircuitGraph(self.writers, self.readers, model=model, check=self._check)

    def layer(self, node: str) -> int:
        """Depth of a node: the number of steps of the longest path that leads to it.

        Args:
            node: A node.

        Returns:
            0 for inputs.

        Raises:
            KeyError: When there is no such node.

        Examples:
            >>> from neuros_mechint.circuits import neuron_graph
            >>> neuron_graph(nn.Sequential(nn.Linear(2, 1))).layer("0:0")
            1
        """
        if node not in self._layers:
            raise KeyError(f"no node '{node}' in this graph; nodes: {list(self.nodes)[:5]} ...")
        return self._layers[node]

    def verify(self, inputs: Any) -> None:
        """Check that the contributions of all edges add up to what every reader gets.

        Args:
            inputs: Inputs of the model: a tuple of positional arguments, a mapping whose every key
                names a parameter of the forward, or else the one argument.

        Raises:
            ValueError: When a sum differs by more than 1e-5 of its largest term (in half precision,
                four roundings); the message names the reader. When a site is reached more than
                once, or the graph has no model.

        Examples:
            >>> from neuros_mechint.circuits import site_graph
            >>> net = nn.Sequential(nn.Identity(), nn.Tanh(), nn.Identity())
            >>> site_graph({"0": []}, {"2:in": ["0"]}, model=net).verify(torch.ones(1, 1))
            Traceback (most recent call last):
            ValueError: the contributions to '2:in' do not add up to its input: ...
        """
        self.check_sums(self.record(inputs))
        self.check_nodes(inputs)

    def record(
        self, inputs: Any, edits: Mapping[SiteLike, Edit] | None = None, *, grad: bool = False
    ) -> Recorded:
        """Run the model once and keep what every group of nodes wrote and read.

        Args:
            inputs: Inputs of the model.
            edits: Site -> edit during the run.
            grad: Whether the output is to carry a gradient.

        Returns:
            Output and values, those detached.

        Raises:
            ValueError: When a site is reached more than once.

        Examples:
            >>> from neuros_mechint.circuits import neuron_graph
            >>> net = nn.Sequential(nn.Linear(2, 1, bias=False))
            >>> neuron_graph(net).record(torch.ones(1, 2)).written[0]
            tensor([[1., 1.]])
        """
        model = self.model
        args, kwargs = call_arguments(model, inputs)
        sites: list[SiteLike] = [group.site for group in self.writers]
        sites += [group.site for group in self.readers]
        with (
            preserved(model),
            torch.enable_grad() if grad else torch.no_grad(),
            intervene(model, edits, capture=sites) as cache,
        ):
            output = model(*args, **kwargs)
        written = tuple(cache[group.site] for group in self.writers)
        return Recorded(output, written, tuple(cache[group.site] for group in self.readers))

    def check_sums(self, recorded: Recorded) -> None:
        """Check one recorded run as `verify` does.

        Args:
            recorded: The run.

        Raises:
            ValueError: When a sum differs by more than 1e-5 of its largest term.

        Examples:
            >>> from neuros_mechint.circuits import neuron_graph
            >>> graph = neuron_graph(nn.Sequential(nn.Linear(2, 1)))
            >>> graph.check_sums(graph.record(torch.ones(1, 2)))
        """
        written = dict(enumerate(recorded.written))
        known: dict[Term, Tensor] = {}
        peaks: dict[Tensor, float] = {}
        for group, value in zip(self.readers, recorded.read, strict=True):
            _check_sum(group, group.terms(written, known), value, peaks)

    def check_nodes(self, inputs: Any) -> None:
        """Check that nodes are computed from what the graph says, as far as its builder can.

        Args:
            inputs: Inputs of the model.

        Raises:
            ValueError: When a unit of a `neuron_graph` depends on more than its own sum.

        Examples:
            >>> from neuros_mechint.circuits import neuron_graph
            >>> net = nn.Sequential(nn.Linear(2, 2), nn.Softmax(-1), nn.Linear(2, 1))
            >>> neuron_graph(net).check_nodes(torch.ones(1, 2))
            Traceback (most recent call last):
            ValueError: the units that arrive at '2:in' are not functions of their own sums at ...
        """
        if self._check is not None:
            self._check(self, inputs)

    def place(self, edge: Edge) -> tuple[int, int, int, int]:
        """Where an edge is: group and position of its reader, group and position of its writer.

        Args:
            edge: (node that writes, node that reads).

        Returns:
            Reader group, position in it, writer group, position in it.

        Raises:
            ValueError: When the graph has no such edge.

        Examples:
            >>> from neuros_mechint.circuits import neuron_graph
            >>> neuron_graph(nn.Sequential(nn.Linear(3, 2))).place(("input:2", "0:1"))
            (0, 1, 0, 2)
        """
        u, v = edge
        if u in self._writer_place and v in self._reader_place:
            (g, i), (r, j) = self._writer_place[u], self._reader_place[v]
            if g in self.readers[r].sources:
                return r, j, g, i
        raise ValueError(f"the graph has no edge {u} -> {v}; graph.edges lists all of them")

    def masks(self, edges: Iterable[Edge]) -> dict[int, dict[int, Tensor]]:
        """Mark a set of edges.

        Args:
            edges: The edges.

        Returns:
            Reader group -> writer group -> boolean (readers, writers), for groups with any edge.

        Raises:
            ValueError: When the graph has no such edge.

        Examples:
            >>> from neuros_mechint.circuits import neuron_graph
            >>> neuron_graph(nn.Sequential(nn.Linear(3, 1))).masks([("input:2", "0:0")])
            {0: {0: tensor([[False, False,  True]])}}
        """
        found: dict[int, dict[int, tuple[list[int], list[int]]]] = {}
        for edge in edges:
            r, j, g, i = self.place(edge)
            rows, columns = found.setdefault(r, {}).setdefault(g, ([], []))
            rows.append(j)
            columns.append(i)
        return {
            r: {
                g: _marked(len(self.readers[r].nodes), len(self.writers[g].nodes), *places)
                for g, places in by_writer.items()
            }
            for r, by_writer in found.items()
        }

    def pruned(self, edges: Iterable[Edge]) -> frozenset[Edge]:
        """Leave out edges that lie on no path of the given edges from an input to an output.

        Args:
            edges: Edges of the graph.

        Returns:
            Those on a path.

        Examples:
            >>> from neuros_mechint.circuits import neuron_graph
            >>> graph = neuron_graph(nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)))
            >>> sorted(graph.pruned([("input:0", "0:0"), ("0:0", "2:0"), ("0:1", "2:0")]))
            [('0:0', '2:0'), ('input:0', '0:0')]
        """
        kept = frozenset(edges)
        steps = [*kept, *self.inside]
        ahead = _reached(self.inputs, steps)
        back = _reached(self.outputs, [(v, u) for u, v in steps])
        return frozenset((u, v) for u, v in kept if u in ahead and v in back)


def _places(groups: Sequence[Writers] | Sequence[Readers]) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for g, nodes in enumerate(group.nodes for group in groups):
        for k, node in enumerate(nodes):
            if node in found:
                raise ValueError(f"node '{node}' is given more than once")
            found[node] = g, k
    return found


def _sorted(names: Iterable[str], graph: CircuitGraph) -> tuple[tuple[str, ...], dict[str, int]]:
    """Nodes in topological order, and the length of the longest path to each."""
    before: dict[str, list[str]] = {name: [] for name in names}
    for u, v in (*graph.edges, *graph.inside):
        before[v].append(u)
    try:
        order = tuple(graphlib.TopologicalSorter(before).static_order())
    except graphlib.CycleError as error:
        raise ValueError(f"the edges close a cycle: {' -> '.join(error.args[1])}") from None
    layers: dict[str, int] = {}
    for name in order:
        layers[name] = max((layers[u] + 1 for u in before[name]), default=0)
    return tuple(sorted(order, key=layers.__getitem__)), layers


def _marked(n_readers: int, n_writers: int, rows: list[int], columns: list[int]) -> Tensor:
    mask = torch.zeros(n_readers, n_writers, dtype=torch.bool)
    mask[rows, columns] = True
    return mask


def _reached(starts: Iterable[str], steps: Iterable[Edge]) -> set[str]:
    """Nodes that the steps lead to, the starts included."""
    ahead: dict[str, list[str]] = {}
    for u, v in steps:
        ahead.setdefault(u, []).append(v)
    seen = {*starts}
    waiting = [*seen]
    while waiting:
        new = [v for v in ahead.get(waiting.pop(), ()) if v not in seen]
        seen.update(new)
        waiting += new
    return seen


def tolerance(value: Tensor) -> float:
    """Relative error that passes for equality: 1e-5, or some roundings in half precision."""
    return max(1e-5, 4 * torch.finfo(value.dtype).eps)


def _check_sum(
    group: Readers, terms: Sequence[Tensor], value: Tensor, peaks: dict[Tensor, float]
) -> None:
    total = torch.zeros_like(value)
    for term in terms:
        try:
            total = total + term.to(value).expand(value.shape)
        except RuntimeError:
            raise ValueError(
                f"a contribution to '{group.site}' has shape {tuple(term.shape)}, which does not "
                f"fit its input {tuple(value.shape)}"
            ) from None
    # Terms that cancel leave their rounding behind, so the largest term sets the scale.
    for part in (value, *terms):
        if part not in peaks:
            peaks[part] = float(part.abs().max())
    scale = max(peaks[part] for part in (value, *terms))
    error = float((total - value).abs().max())
    if not error <= tolerance(value) * scale:
        raise ValueError(
            f"the contributions to '{group.site}' do not add up to its input: they differ by "
            f"{error:.3g} where its values reach {scale:.3g}. The model adds something else there "
            "(a parallel or gated branch, a norm after the sum, dropout in train mode); call "
            "model.eval(), or state its structure with site_graph"
        )
