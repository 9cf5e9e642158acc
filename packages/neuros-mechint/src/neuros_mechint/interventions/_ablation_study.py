"""Ablation from coarse to fine: layers, the components of the worst, the neurons of those."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from neuros_mechint.activations import Site, SiteInfo, SiteLike, intervene, sites
from neuros_mechint.activations._inputs import call_arguments
from neuros_mechint.activations._state import preserved
from neuros_mechint.activations.site import as_site
from neuros_mechint.interventions._ablation_engine import (
    AblationResult,
    Ablator,
    Target,
    unit_position,
)
from neuros_mechint.interventions._units import unit_index
from neuros_mechint.interventions.metrics import Metric

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["AblationStudy", "AblationTable"]

Level = Literal["layer", "component", "neuron"]


@dataclass(frozen=True)
class AblationTable:
    """Effects of a hierarchical ablation, in the order in which they were measured.

    Args:
        levels: Level of each node: `"layer"`, `"component"` or `"neuron"`.
        parents: Name of the node each belongs to, `""` for a layer.
        results: Effect of each.

    Examples:
        >>> result = AblationResult.compare("0", baseline=2.0, ablated=1.0)
        >>> table = AblationTable(("layer",), ("",), (result,))
        >>> table.to_dataframe()["delta"].tolist()
        [-1.0]
    """

    levels: tuple[Level, ...]
    parents: tuple[str, ...]
    results: tuple[AblationResult, ...]

    def __len__(self) -> int:
        return len(self.results)

    def to_dataframe(self) -> "pd.DataFrame":
        """Return one row per node.

        Returns:
            Frame with the columns level, parent, name, baseline, ablated, delta, relative_change.

        Examples:
            >>> list(AblationTable((), (), ()).to_dataframe())[:3]
            ['level', 'parent', 'name']
        """
        import pandas as pd

        frame = pd.DataFrame(self.results, columns=list(AblationResult._fields))
        frame.insert(0, "parent", list(self.parents))
        frame.insert(0, "level", list(self.levels))
        return frame

    def to_html(self) -> str:
        """Return the table as one self-contained page, sortable in a browser.

        Returns:
            HTML source.

        Examples:
            >>> AblationTable((), (), ()).to_html().startswith("<!DOCTYPE html>")
            True
        """
        from neuros_mechint.reporting import Report

        report = Report("Hierarchical ablation")
        report.add_table(self.to_dataframe(), caption="Effect of each ablation on the metric")
        return report.to_html()


class AblationStudy(Ablator):
    """Find where in a model a metric is made, from layers over components down to neurons.

    Args:
        model: Any module.
        unit_axis: Axis of the units of an activation: -1 for (batch, time, unit), 1 for
            convolutions.
        generator: Source of the order of `kind="resample"`, on the CPU.
        batch_size: Most rows in one forward.

    Raises:
        ValueError: When `batch_size` is not positive.

    Examples:
        >>> net = nn.Sequential(nn.Identity(), nn.Linear(2, 1, bias=False))
        >>> _ = nn.init.ones_(net[1].weight)
        >>> table = AblationStudy(net).hierarchical_ablation(
        ...     torch.tensor([[1.0, 3.0]]), ["0"], lambda y: y[:, 0]
        ... )
        >>> table.to_dataframe()[["level", "name", "delta"]].values.tolist()
        [['layer', '0', -4.0], ['neuron', '0[..., 0]', -1.0], ['neuron', '0[..., 1]', -3.0]]
    """

    def hierarchical_ablation(
        self,
        inputs: Any,
        layer_names: Iterable[SiteLike],
        metric_fn: Metric,
        *,
        top_k: int = 3,
        kind: str = "zero",
        reference: Any = None,
    ) -> AblationTable:
        """Ablate layers, then the components of the worst, then the neurons of the worst of those.

        The worst are those with the largest absolute change of the metric. The components of a
        layer are the modules right below it that run in the forward; a layer without any goes on to
        its neurons. All nodes of one level run as rows of few forwards (`run_batched`).

        In a residual network the output of a block is the whole stream, and `kind="zero"` erases
        it whichever block is meant; `kind="identity"` takes the block alone out.

        Args:
            inputs: What the model runs on, as in `LayerAblation.ablate`.
            layer_names: Paths of the layers, or sites without an index.
            metric_fn: Function of an output, one value per row or a scalar.
            top_k: How many layers, and then how many components, are looked into.
            kind: What takes an activation's place, see `LayerAblation`.
            reference: Inputs of the run that gives means or rows; None takes `inputs`.

        Returns:
            The effect of every node that was ablated, level after level.

        Raises:
            KeyError: When a path names no module.
            RuntimeError: When a layer was not reached.
            TypeError: When the metric returns no tensor.
            ValueError: When there is no layer, `top_k` is not positive, a layer has an index, or
                for the reasons of `LayerAblation.ablate`.

        Examples:
            >>> block = nn.Sequential(nn.Identity(), nn.Identity())
            >>> study = AblationStudy(nn.Sequential(block))
            >>> table = study.hierarchical_ablation(torch.ones(1, 2), ["0"], lambda y: y.sum(-1))
            >>> table.levels
            ('layer', 'component', 'component', 'neuron', 'neuron', 'neuron', 'neuron')
        """
        if top_k < 1:
            raise ValueError(f"top_k needs at least 1, got {top_k}")
        layers = [_Node("layer", "", as_site(self.model, like)) for like in layer_names]
        _check_layers(layers)

        def measure(nodes: Sequence[_Node]) -> list[tuple[_Node, AblationResult]]:
            targets = [Target(str(node.site), (node.site,)) for node in nodes]
            results = self._ablate(inputs, targets, metric_fn, kind=kind, reference=reference)
            return list(zip(nodes, results, strict=True))

        done = measure(layers)
        worst = _worst(done, top_k)
        running = self._running(inputs)
        below = {node: _components(self.model, node, running) for node, _ in worst}
        components = measure([part for parts in below.values() for part in parts])
        leaves = [(node, result) for node, result in worst if not below[node]]
        divided = [node for node, _ in _worst([*components, *leaves], top_k)]
        done += [*components, *measure(self._neurons(inputs, divided))]
        return AblationTable(
            tuple(node.level for node, _ in done),
            tuple(node.parent for node, _ in done),
            tuple(result for _, result in done),
        )

    def _running(self, inputs: Any) -> dict[str, SiteInfo]:
        """What every module does in one forward, under each of its names."""
        args, kwargs = call_arguments(self.model, inputs)
        found = sites(self.model, None, *args, **kwargs)
        return {name: info for info in found for name in (info.name, *info.aliases)}

    def _neurons(self, inputs: Any, nodes: Sequence["_Node"]) -> list["_Node"]:
        args, kwargs = call_arguments(self.model, inputs)
        places = [node.site for node in nodes]
        with (
            torch.no_grad(),
            preserved(self.model),
            intervene(self.model, capture=places) as cache,
        ):
            self.model(*args, **kwargs)
        neurons = []
        for place in places:
            value = cache.calls(place)[0]
            axis = unit_position(value, self.unit_axis)
            if axis is None:
                continue
            neurons += [
                _Node("neuron", str(place), unit_index(place, k, self.unit_axis))
                for k in range(value.shape[axis])
            ]
        return neurons


@dataclass(frozen=True)
class _Node:
    """One thing to ablate."""

    level: Level
    parent: str
    site: Site


def _check_layers(layers: Sequence[_Node]) -> None:
    if not layers:
        raise ValueError("at least one layer is needed, got none")
    for node in layers:
        if node.site.index is not None:
            raise ValueError(
                f"layer '{node.site}' has an index and cannot be divided further; leave it out"
            )


def _worst(
    measured: Sequence[tuple[_Node, AblationResult]], top_k: int
) -> list[tuple[_Node, AblationResult]]:
    """Largest absolute change first; equal ones in the order of measurement, NaN last."""

    def rank(pair: tuple[_Node, AblationResult]) -> tuple[bool, float]:
        delta = abs(pair[1].delta)
        return math.isnan(delta), -delta

    return sorted(measured, key=rank)[:top_k]


def _components(model: nn.Module, layer: _Node, running: Mapping[str, SiteInfo]) -> list[_Node]:
    found = _running_children(model, layer.site.path, running)
    return [_Node("component", str(layer.site), Site(name)) for name in found]


def _running_children(model: nn.Module, path: str, running: Mapping[str, SiteInfo]) -> list[str]:
    """Modules right below a path that run; a container that is never called gives its own."""
    found: list[str] = []
    for name, _ in model.get_submodule(path).named_children():
        child = f"{path}.{name}" if path else name
        info = running[child]
        if info.shape is not None:
            found.append(child)
        elif not info.calls:
            found += _running_children(model, child, running)
    return found
