"""Conductance of all sites of a model in one pass: tangents forward, gradients backward."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint.activations import Edit, EditContext, Site, SiteLike
from neuros_mechint.activations.cache import version_of
from neuros_mechint.attribution._line import Line, batch_dimension
from neuros_mechint.attribution._quadrature import gauss_legendre
from neuros_mechint.attribution._refine import integrate
from neuros_mechint.attribution._tangent import dual_forward, lifted, tangent_of
from neuros_mechint.attribution._target import by_copy

__all__ = ["Conductances", "Recorder", "conductances"]


class Conductances(NamedTuple):
    """Conductance of all sites.

    Attributes:
        values: One entry per site and call, in the shape of the site's value.
        axes: Dimension of each value that carries the batch.
        ends: Target at the start and at the end of the line.
        steps: Number of nodes.
    """

    values: dict[Site, Tensor]
    axes: list[int]
    ends: Float[Tensor, "copies value"]
    steps: int


class Recorder:
    """An edit that keeps the values of a site, in the graph, and hands on the same or equal ones.

    Args:
        with_tangents: Keep the tangents too.
        copy: Hand on copies, which the model may change in place.

    Attributes:
        values: The value of each call.
        tangents: Their derivatives along the line, where the forward carries them.
    """

    def __init__(self, *, with_tangents: bool = False, copy: bool = True) -> None:
        self.values: list[Tensor] = []
        self.tangents: list[Tensor] = []
        self._versions: list[int] = []
        self._with_tangents = with_tangents
        self._copy = copy

    def __call__(self, value: Tensor, _context: EditContext) -> Tensor:
        self.values.append(value)
        if self._with_tangents:
            self.tangents.append(tangent_of(value))
        if self._copy:
            return value.clone()
        self._versions.append(version_of(value))
        return value

    @property
    def overwritten(self) -> bool:
        """Whether the model changed a value in place that it was handed."""
        pairs = zip(self.values, self._versions, strict=False)
        return any(version_of(value) != version for value, version in pairs)


def conductances(
    line: Line,
    sites: Sequence[Site],
    *,
    steps: int,
    tol: float | None = None,
    max_steps: int = 20_000,
) -> Conductances:
    r"""Conductance $\sum_k w_k \, \partial F / \partial h \cdot dh / dt$ of every site.

    Raises:
        ValueError: When a site does not carry the batch.
    """
    shapes, ends = _survey(line, sites)
    # Node by node the conductances of a cut add up to the derivative along the line, so that the
    # nodes that serve the inputs serve every cut.
    if tol is None:
        t, weights = (w[:, None] for w in gauss_legendre(steps, device=line.ends[0][0].device))
    else:
        found = integrate(line, ends, steps=steps, tol=tol, max_steps=max_steps)
        t, weights = found.t, found.weights
    axes = {
        site: [batch_dimension(site, a, b, 2) for a, b in zip(*shapes[site], strict=True)]
        for site in sites
    }
    total: dict[Site, list[Tensor]] = {}
    for chunk in line.chunks(len(t)):
        for site, parts in _flow(line, sites, t[chunk], weights[chunk]).items():
            rows = [
                by_copy(part.movedim(axis, 0), chunk.stop - chunk.start).sum(0).movedim(0, axis)
                for part, axis in zip(parts, axes[site], strict=True)
            ]
            before = total.get(site)
            total[site] = [a + b for a, b in zip(before, rows, strict=True)] if before else rows
    flat = [axis for site in sites for axis in axes[site]]
    return Conductances(_by_call(total), flat, ends, len(t))


def _flow(
    line: Line,
    sites: Sequence[Site],
    t: Float[Tensor, "copies column"],
    weights: Float[Tensor, "copies column"],
) -> dict[Site, list[Tensor]]:
    """Weighted products of gradient and tangent at some points, for every call of every site."""
    # Copies of every value and tangent are a tenth of the time; models that need them are few.
    recorders = {site: Recorder(with_tangents=True, copy=False) for site in sites}
    with torch.enable_grad():
        with dual_forward():
            targets, _ = line.run(t, _as_edits(recorders), lifted)
        if any(recorder.overwritten for recorder in recorders.values()):
            recorders = {site: Recorder(with_tangents=True) for site in sites}
            with dual_forward():
                targets, _ = line.run(t, _as_edits(recorders), lifted)
        # Outside of the dual level: the backward pass would carry tangents as well.
        values = [value for recorder in recorders.values() for value in recorder.values]
        if not targets.requires_grad:
            return {s: [torch.zeros_like(v) for v in r.values] for s, r in recorders.items()}
        cotangents = weights.to(targets).expand_as(targets)
        reached = [value for value in values if value.requires_grad]
        found = iter(torch.autograd.grad(targets, reached, cotangents, materialize_grads=True))
    return {
        site: [
            next(found) * tangent if value.requires_grad else torch.zeros_like(value)
            for value, tangent in zip(recorder.values, recorder.tangents, strict=True)
        ]
        for site, recorder in recorders.items()
    }


def _survey(
    line: Line, sites: Sequence[Site]
) -> tuple[dict[Site, list[list[torch.Size]]], Float[Tensor, "copies value"]]:
    """Shapes of every call of every site for one and two copies, and the targets at the ends."""
    both = {site: Recorder() for site in sites}
    ends = line.endpoints(_as_edits(both))
    one = {site: Recorder() for site in sites}
    with torch.no_grad():
        line.run(torch.ones(1, 1, dtype=torch.float64, device=ends.device), _as_edits(one))
    shapes = {
        site: [[value.shape for value in r.values] for r in (one[site], both[site])]
        for site in sites
    }
    return shapes, ends


def _as_edits(recorders: Mapping[Site, Recorder]) -> dict[SiteLike, Edit]:
    return dict(recorders.items())


def _by_call(total: dict[Site, list[Tensor]]) -> dict[Site, Tensor]:
    """One entry per call, named as an activation cache names them."""
    found: dict[Site, Tensor] = {}
    for site, parts in total.items():
        names = [site] if len(parts) == 1 else [replace(site, call=k) for k in range(len(parts))]
        found.update(zip(names, parts, strict=True))
    return found
