"""A clean run, what edges are ablated towards, and the metric of the runs in between."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint.activations import Compose, Edit, EditContext, SiteLike, intervene
from neuros_mechint.activations._inputs import call_arguments
from neuros_mechint.activations._state import preserved
from neuros_mechint.activations.batched import stream_batched
from neuros_mechint.circuits._graph_model import CircuitGraph
from neuros_mechint.circuits._wiring import Edge, Readers
from neuros_mechint.interventions.metrics import Metric, mean_value, measured

__all__ = ["ABLATIONS", "Contrast", "Masks", "only_value"]

ABLATIONS = ("resample", "mean", "zero")
Masks: TypeAlias = Mapping[int, Mapping[int, Tensor]]


class Contrast:
    """One clean run of a graph's model, and values that its nodes are ablated towards.

    Args:
        graph: The graph, bound to its model.
        clean: Inputs of the base run.
        corrupted: Inputs of the run that ablated values come from; not used by `"zero"`.
        metric: Function of an output, one value per row or a scalar; None is the output itself.
        ablation: `"resample"` takes the value of the same row of the corrupted run, `"mean"` its
            mean over rows, `"zero"` zeros.
        batch_size: Most rows in one forward.
        edits: Edits of the clean run; with any, its output carries a gradient.

    Raises:
        ValueError: When the graph does not add up, or the runs differ in shape at a site.
    """

    def __init__(
        self,
        graph: CircuitGraph,
        clean: Any,
        corrupted: Any,
        *,
        metric: Metric | None,
        ablation: str,
        batch_size: int,
        edits: Mapping[SiteLike, Edit] | None = None,
    ) -> None:
        self.graph, self.clean, self.batch_size = graph, clean, batch_size
        self.metric = only_value if metric is None else metric
        self.base = graph.record(clean, edits, grad=bool(edits))
        graph.check_sums(self.base)
        self.targets = self._targets(corrupted, ablation)
        self.base_value = mean_value(self.measure_output(self.base.output))

    def change(self, group: int) -> Tensor:
        """Ablated minus clean value of a group of writers."""
        return self.targets[group] - self.base.written[group]

    def measure(self, edge_sets: Sequence[Collection[Edge]]) -> list[float]:
        """Metric of the clean run with each set of edges ablated; sets are rows of few forwards."""
        return self.measure_masks([self.graph.masks(edges) for edges in edge_sets])

    def measure_masks(self, masks: Sequence[Masks]) -> list[float]:
        """As `measure`, for sets given as masks."""
        return self.measure_edits([self._edits(one) for one in masks])

    def measure_edits(self, edit_sets: Sequence[Mapping[SiteLike, Edit]]) -> list[float]:
        """Metric of the clean run under each set of edits."""
        model = self.graph.model
        with torch.no_grad():
            if len(edit_sets) == 1:
                args, kwargs = call_arguments(model, self.clean)
                with preserved(model), intervene(model, edit_sets[0]):
                    return [mean_value(self.measure_output(model(*args, **kwargs)))]
            pieces = stream_batched(
                *(model, self.clean, edit_sets),
                batch_size=self.batch_size,
                measure=self.measure_output,
            )
            found = {k: mean_value(value) for k, value in pieces}
        return [found[k] for k in range(len(edit_sets))]

    def measure_output(self, output: Any) -> Tensor:
        """Metric of an output."""
        return measured(self.metric, output)

    def _targets(self, corrupted: Any, ablation: str) -> tuple[Tensor, ...]:
        written = self.base.written
        if ablation == "zero":
            return tuple(torch.zeros_like(value) for value in written)
        other = self.graph.record(corrupted).written
        for group, ours, theirs in zip(self.graph.writers, written, other, strict=True):
            if ours.shape != theirs.shape:
                raise ValueError(
                    f"clean and corrupted differ in shape at '{group.site}': {tuple(ours.shape)} "
                    f"and {tuple(theirs.shape)}; give them equal shapes"
                )
        if ablation == "mean":
            return tuple(_mean_row(value) for value in other)
        return other

    def _edits(self, masks: Masks) -> dict[SiteLike, Edit]:
        """Edits that ablate edges: writers tell what they hold at the moment, readers shift."""
        memory: dict[int, Tensor] = {}
        edits: dict[SiteLike, Edit] = {}
        for r, by_writer in masks.items():
            group = self.graph.readers[r]
            edits[group.site] = _Shift(group, by_writer, memory)
        for g in {g for by_writer in masks.values() for g in by_writer}:
            site = self.graph.writers[g].site
            note = _Note(memory, g, self.targets[g])
            # A site that is read and written passes on what the shift has made of it.
            edits[site] = Compose(edits[site], note) if site in edits else note
        return edits


class _Note:
    """Leave the value as it is and note how far it is from the value it is ablated towards."""

    def __init__(self, memory: dict[int, Tensor], group: int, target: Tensor) -> None:
        self.memory, self.group, self.target = memory, group, target

    def __call__(self, value: Tensor, _context: EditContext) -> Tensor:
        self.memory[self.group] = self.target - value
        return value


class _Shift:
    """Exchange the contributions of some edges for those of the ablated values."""

    def __init__(self, group: Readers, masks: Mapping[int, Tensor], memory: dict[int, Tensor]):
        self.group, self.masks, self.memory = group, masks, memory

    def __call__(self, value: Tensor, _context: EditContext) -> Tensor:
        return value + self.group.shift(self.memory, self.masks)


def _mean_row(value: Float[Tensor, "batch *rest"]) -> Float[Tensor, "batch *rest"]:
    return value.mean(0, keepdim=True).expand_as(value)


def only_value(output: Any) -> Tensor:
    """Take an output of one number per row as the metric.

    Raises:
        ValueError: When it is anything else.
    """
    if not isinstance(output, Tensor) or output.ndim == 0 or output[0].numel() != 1:
        raise ValueError(
            "the model does not return one number per row, so a metric is needed: "
            "CircuitDiscovery(model, metric=...)"
        )
    return output.reshape(len(output))
