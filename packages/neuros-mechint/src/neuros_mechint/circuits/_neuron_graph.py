"""Circuit graph of a chain of linear maps with elementwise activations: one node per unit."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuros_mechint.activations import Replace, Site, SiteLike
from neuros_mechint.activations._container import map_leaves
from neuros_mechint.activations._inputs import call_arguments
from neuros_mechint.circuits._graph_model import CircuitGraph, tolerance
from neuros_mechint.circuits._wiring import Affine, Readers, Writers
from neuros_mechint.interventions._structure import is_linear

__all__ = ["neuron_graph"]


def neuron_graph(model: nn.Module) -> CircuitGraph:
    r"""Graph of the units of a chain of linear maps, such as a multilayer perceptron.

    Node `"{module}:{i}"` is unit i of the linear module, written after its activation; `"input:i"`
    is input i. The edge from unit i of one layer to unit j of the next carries $W_{ji} a_i$.

    Args:
        model: Linear modules, registered in the order in which they are applied, each followed by
            a function of each unit alone. Activations may be modules or calls in the forward.

    Returns:
        The graph. Its `verify` also checks that every unit is a function of its own sum.

    Raises:
        ValueError: When there is no linear module, or two successive ones differ in width.

    Examples:
        >>> net = nn.Sequential(nn.Linear(2, 1), nn.Tanh(), nn.Linear(1, 1))
        >>> neuron_graph(net).edges
        (('input:0', '0:0'), ('input:1', '0:0'), ('0:0', '2:0'))
    """
    chain = {name: module for name, module in model.named_modules() if is_linear(module)}
    if not chain:
        raise ValueError(
            f"no linear module in {type(model).__name__}; a neuron graph is one of Linear modules"
        )
    writers: list[Writers] = []
    readers: list[Readers] = []
    nodes: tuple[str, ...] | None = None
    before = ""
    for name, module in chain.items():
        n_out, n_in = Affine(module).matrix().shape
        if nodes is None:
            sources = tuple(f"input:{i}" for i in range(n_in))
            reads: tuple[tuple[str, ...], ...] = ((),) * n_in
        else:
            sources, reads = nodes, tuple((node,) for node in nodes)
        if len(sources) != n_in:
            raise ValueError(
                f"'{name}' reads {n_in} units, '{before}' before it has {len(sources)}: this is no "
                "chain of linear modules; state its structure with site_graph"
            )
        # What arrives at the next map is the value after the activation, wherever that is called.
        writers.append(Writers(Site(name, io="input"), sources, reads))
        nodes, before = tuple(f"{name}:{i}" for i in range(n_out)), name
        readers.append(Readers(Site(name), nodes, {len(writers) - 1: None}, Affine(module)))
    return CircuitGraph(writers, readers, model=model, check=_check_units)


def _check_units(graph: CircuitGraph, inputs: Any) -> None:
    """Refuse chains in which a unit depends on anything but its own sum.

    One run puts other numbers in place of every sum and changes the input of the model too. Others
    do so for every other unit and keep the input: each unit must be that of either run. Which units
    change alternates with every binary digit of the layer, so that any two layers differ once.
    """
    clean = graph.record(inputs)
    moved = [value * 0.5 + 0.25 for value in clean.read]
    full = graph.record(_other_inputs(graph.model, inputs), _held(graph, moved))
    n_layers = len(moved)
    for digit in range(max(1, (n_layers - 1).bit_length())):
        masks = [_alternate(k >> digit, value) for k, value in enumerate(moved)]
        mixed = [torch.where(*parts) for parts in zip(masks, moved, clean.read, strict=True)]
        part = graph.record(inputs, _held(graph, mixed))
        for k in range(1, n_layers):
            wanted = torch.where(masks[k - 1], full.written[k], clean.written[k])
            _compare(graph, k, part.written[k], wanted)


def _alternate(start: int, value: Tensor) -> Tensor:
    return (torch.arange(value.shape[-1], device=value.device) + start) % 2 == 0


def _compare(graph: CircuitGraph, layer: int, found: Tensor, wanted: Tensor) -> None:
    error, scale = (float(value.abs().max()) for value in (found - wanted, wanted))
    if not error <= tolerance(wanted) * scale:
        raise ValueError(
            f"the units that arrive at '{graph.writers[layer].site}' are not functions of their "
            f"own sums at '{graph.readers[layer - 1].site}' alone: a skip connection, a norm or "
            "another coupling of units lies between; state the structure with site_graph"
        )


def _held(graph: CircuitGraph, values: Sequence[Tensor]) -> dict[SiteLike, Replace]:
    return {group.site: Replace(v) for group, v in zip(graph.readers, values, strict=True)}


def _other_inputs(model: nn.Module, inputs: Any) -> Any:
    """Inputs with other numbers in every floating-point tensor."""

    def change(_path: object, leaf: Any) -> Any:
        return leaf * 2 + 1 if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    args, kwargs = map_leaves(change, call_arguments(model, inputs))
    return kwargs or tuple(args)
