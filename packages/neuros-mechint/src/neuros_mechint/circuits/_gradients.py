r"""First-order scores of all edges at once, $C_{uv} \Delta_u \cdot \partial M / \partial in_v$."""

from collections.abc import Sequence

import torch
from torch import Tensor

from neuros_mechint.activations import Compose, Edit, EditContext, Interpolate, SiteLike
from neuros_mechint.activations._inputs import call_arguments, count_rows
from neuros_mechint.activations.batched import run_batched
from neuros_mechint.attribution._quadrature import gauss_legendre
from neuros_mechint.circuits._contrast import Contrast
from neuros_mechint.circuits._graph_model import CircuitGraph
from neuros_mechint.circuits._wiring import Edge
from neuros_mechint.interventions.metrics import measured

__all__ = ["Probes", "path_scores", "point_scores"]


class Probes:
    """Zeros added to the input of every reader; their gradient is that of the input.

    A leaf in place of the input itself would cut the gradient's way to the readers before it.
    """

    def __init__(self, graph: CircuitGraph) -> None:
        if torch.is_inference_mode_enabled():
            raise ValueError("eap, eap_ig and hybrid need gradients; leave torch.inference_mode()")
        self.added: list[Tensor | None] = [None] * len(graph.readers)
        self.edits: dict[SiteLike, Edit] = {
            group.site: _Probe(self.added, r) for r, group in enumerate(graph.readers)
        }

    def gradients(self, objective: Tensor) -> list[Tensor]:
        """Gradient of an objective at every reader, zeros where it does not depend on it."""
        return _gradients(objective, [leaf for leaf in self.added if leaf is not None])


class _Probe:
    def __init__(self, added: list[Tensor | None], place: int) -> None:
        self.added, self.place = added, place

    def __call__(self, value: Tensor, _context: EditContext) -> Tensor:
        leaf = torch.zeros_like(value, requires_grad=True)
        self.added[self.place] = leaf
        return value + leaf


def point_scores(contrast: Contrast, probes: Probes) -> dict[Edge, float]:
    """Scores from the gradient of the clean run, which was recorded with the probes (EAP)."""
    with torch.enable_grad():
        objective = measured(contrast.metric, contrast.base.output).mean()
    return _edge_scores(contrast, probes.gradients(objective))


def path_scores(contrast: Contrast, steps: int) -> dict[Edge, float]:
    """Scores from the gradient averaged over the path of the inputs (EAP-IG).

    The inputs of the graph go from their clean to their ablated values; the nodes of the quadrature
    lie inside, so that the average has no bias towards either end.
    """
    nodes, weights = (part.tolist() for part in gauss_legendre(steps))
    at_once = _steps_at_once(contrast)
    total: list[Tensor] | None = None
    for first in range(0, steps, at_once):
        part = slice(first, first + at_once)
        found = _weighted_gradients(contrast, nodes[part], weights[part])
        total = found if total is None else [a + b for a, b in zip(total, found, strict=True)]
    return _edge_scores(contrast, total or [])


def _steps_at_once(contrast: Contrast) -> int:
    n_rows = count_rows(call_arguments(contrast.graph.model, contrast.clean))
    return max(1, contrast.batch_size // n_rows - 1)


def _weighted_gradients(
    contrast: Contrast, positions: Sequence[float], weights: Sequence[float]
) -> list[Tensor]:
    """Weighted sum of the gradients at some positions of the path, as rows of one forward."""
    graph = contrast.graph
    probes = [Probes(graph) for _ in positions]
    edit_sets = []
    for position, probe in zip(positions, probes, strict=True):
        edits: dict[SiteLike, Edit] = dict(probe.edits)
        for g, group in enumerate(graph.writers):
            if group.are_inputs:
                ends = contrast.base.written[g], contrast.targets[g]
                move = Interpolate(*ends, position)
                probed = edits.get(group.site)
                edits[group.site] = move if probed is None else Compose(move, probed)
        edit_sets.append(edits)
    with torch.enable_grad():
        outputs = run_batched(
            graph.model, contrast.clean, edit_sets, batch_size=contrast.batch_size
        )
        objective = torch.stack(
            [
                weight * measured(contrast.metric, output).mean()
                for weight, output in zip(weights, outputs, strict=True)
            ]
        ).sum()
    leaves = [leaf for probe in probes for leaf in probe.added if leaf is not None]
    flat = _gradients(objective, leaves)
    n_readers = len(graph.readers)
    return [torch.stack(flat[r::n_readers]).sum(0) for r in range(n_readers)]


def _gradients(objective: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    # A metric that ignores the graph has no gradient at all.
    if not objective.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    return [*torch.autograd.grad(objective, leaves, allow_unused=True, materialize_grads=True)]


def _edge_scores(contrast: Contrast, gradients: Sequence[Tensor]) -> dict[Edge, float]:
    graph = contrast.graph
    changes = [contrast.change(g) for g in range(len(graph.writers))]
    scores: dict[Edge, float] = {}
    for group, gradient in zip(graph.readers, gradients, strict=True):
        for g in group.sources:
            writers = graph.writers[g].nodes
            table = group.edge_products(g, len(writers), changes[g], gradient).tolist()
            for v, row in zip(group.nodes, table, strict=True):
                scores.update(((u, v), score) for u, score in zip(writers, row, strict=True))
    return scores
