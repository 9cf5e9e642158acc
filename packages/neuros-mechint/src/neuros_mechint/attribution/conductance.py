"""Conductance: how much of the change of the output flows through the units of a layer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuros_mechint.activations import SiteLike
from neuros_mechint.activations._state import preserved
from neuros_mechint.activations.site import as_site
from neuros_mechint.attribution._conductance import Recorder, conductances
from neuros_mechint.attribution._line import Line, draw_line
from neuros_mechint.attribution._quadrature import gauss_legendre
from neuros_mechint.attribution._target import Target, by_copy
from neuros_mechint.attribution.methods import AttributionResult, shaped

__all__ = ["LayerConductance", "NeuronConductance"]


class LayerConductance:
    r"""Conductance of every unit of a layer.

    On the straight line from the baseline to the input the activation $h$ of the layer follows some
    curve. Its unit $j$ conducts

    $$c_j = \int_0^1 \frac{\partial F}{\partial h_j} \, \frac{d h_j}{d t} \, dt ,$$

    here with Gauss-Legendre nodes and exact derivatives along the line. When everything that the
    output depends on passes through the layer, $\sum_j c_j = F(x) - F(x')$.

    Args:
        model: Any module, in the mode it is in; call `model.eval()` first.
        site: The layer.
        target: What to explain, as in `Attribution`.
        start: Site from which the line starts, such as the embedding of a model of tokens; None
            means the inputs.

    Examples:
        >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
        >>> _ = net[0].weight.data.copy_(torch.eye(2)), net[1].weight.data.fill_(1.0)
        >>> LayerConductance(net, "0").attribute(torch.tensor([[2.0, 3.0]])).values
        tensor([[2., 3.]])

    References:
        Dhamdhere, K., Sundararajan, M. & Yan, Q. (2019). How important is a neuron? ICLR.
        doi:10.48550/arXiv.1805.12233
    """

    def __init__(
        self,
        model: nn.Module,
        site: SiteLike,
        *,
        target: Target = None,
        start: SiteLike | None = None,
    ) -> None:
        self.model = model
        self.site = as_site(model, site)
        self.target = target
        self.start = start

    def __repr__(self) -> str:
        return f"LayerConductance({type(self.model).__name__}, {str(self.site)!r})"

    def attribute(
        self,
        x: Any,
        baseline: Any = None,
        *,
        steps: int = 64,
        tol: float | None = None,
        max_steps: int = 20_000,
        batch_size: int = 512,
    ) -> AttributionResult:
        """Return the conductance of the layer's units.

        Args:
            x: A tuple of positional arguments, a mapping whose every key names a parameter of the
                forward, or else the one argument; tensors are (batch, ...).
            baseline: The input to compare with, in the form of `x`, tensors broadcast; a number
                sets every floating-point tensor to it, and None is 0.
            steps: Quadrature nodes.
            tol: Largest gap per row: the nodes are those at which integrated gradients of the start
                of the line reach it. None takes `steps` nodes, which serve a smooth model.
            max_steps: Points per row after which the refinement for `tol` ends, with a warning.
            batch_size: Most rows in one forward; two copies of the input run in any case.

        Returns:
            Values in the shape of the site's activation, a tuple of them for a site that was
            reached several times; `delta` is their sum minus the change of the target, which is the
            error of the quadrature where the whole output passes through the site.

        Raises:
            KeyError: When a path names no module.
            RuntimeError: When a site was not reached.
            ValueError: When baseline, target, site or tolerance do not fit.

        Warns:
            RuntimeWarning: When `max_steps` ended the refinement above `tol`.

        Examples:
            >>> net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
            >>> x = torch.ones(2, 3, dtype=torch.float64)
            >>> result = LayerConductance(net, "1").attribute(x)
            >>> result.values.shape, bool(result.delta.abs().max() < 1e-12)
            (torch.Size([2, 4]), True)
        """
        with preserved(self.model):
            line = draw_line(
                *(self.model, x, baseline),
                site=self.start,
                target=self.target,
                batch_size=batch_size,
            )
            found = conductances(line, [self.site], steps=steps, tol=tol, max_steps=max_steps)
        parts = tuple(found.values.values())
        total = torch.zeros(line.n_rows, dtype=torch.float64, device=parts[0].device)
        for part, axis in zip(parts, found.axes, strict=True):
            total += part.double().movedim(axis, 0).reshape(line.n_rows, -1).sum(1)
        rise = found.ends[1] - found.ends[0]
        gap = (total if len(rise) == line.n_rows else total.sum(0, keepdim=True)) - rise
        values = parts[0] if len(parts) == 1 else parts
        return AttributionResult(values, gap.to(parts[0]), found.steps)


class NeuronConductance:
    r"""How much each input contributes to the conductance of one unit.

    $$c_i = (x_i - x'_i) \int_0^1 \frac{\partial F}{\partial h} \,
    \frac{\partial h}{\partial x_i} \, dt$$

    for a unit $h$ of a layer; $\sum_i c_i$ is the unit's conductance.

    Args:
        model: Any module, in the mode it is in; call `model.eval()` first.
        site: The layer.
        unit: Index of the unit in the layer's activation, without the batch.
        target: What to explain, as in `Attribution`.
        start: Site from which the line starts; None means the inputs.

    Examples:
        >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
        >>> weight = torch.tensor([[1.0, 4.0], [5.0, 5.0]])
        >>> _ = net[0].weight.data.copy_(weight), net[1].weight.data.fill_(1.0)
        >>> NeuronConductance(net, "0", 0).attribute(torch.ones(1, 2))
        tensor([[1., 4.]])

    References:
        Dhamdhere, K., Sundararajan, M. & Yan, Q. (2019). How important is a neuron? ICLR.
        doi:10.48550/arXiv.1805.12233
    """

    def __init__(
        self,
        model: nn.Module,
        site: SiteLike,
        unit: int | tuple[int, ...],
        *,
        target: Target = None,
        start: SiteLike | None = None,
    ) -> None:
        self.model = model
        self.site = as_site(model, site)
        self.unit = unit if isinstance(unit, tuple) else (unit,)
        self._index: Any = (slice(None), *self.unit)
        self.target = target
        self.start = start

    def __repr__(self) -> str:
        name = type(self.model).__name__
        return f"NeuronConductance({name}, {str(self.site)!r}, unit={self.unit})"

    def attribute(
        self, x: Any, baseline: Any = None, *, steps: int = 64, batch_size: int = 512
    ) -> Any:
        """Return the share of every input in the unit's conductance.

        Args:
            x: As in `LayerConductance.attribute`.
            baseline: As in `LayerConductance.attribute`.
            steps: Quadrature nodes.
            batch_size: Most rows in one forward; two copies of the input run in any case.

        Returns:
            Attributions in the shape of the input, or of the activation at `start`.

        Raises:
            KeyError: When a path names no module.
            RuntimeError: When a site was not reached.
            ValueError: When the unit does not name one number per row of the site, the site was
                reached several times, or baseline or target do not fit.

        Examples:
            >>> net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
            >>> x = torch.ones(2, 3, dtype=torch.float64)
            >>> layer = LayerConductance(net, "1").attribute(x).values
            >>> unit = NeuronConductance(net, "1", 2).attribute(x)
            >>> torch.allclose(unit.sum(1), layer[:, 2])
            True
        """
        with preserved(self.model):
            line = draw_line(
                *(self.model, x, baseline),
                site=self.start,
                target=self.target,
                batch_size=batch_size,
            )
            line.endpoints()
            t, weights = gauss_legendre(steps, device=line.ends[0][0].device)
            total = [torch.zeros_like(part) for part in line.directions()]
            for chunk in line.chunks(steps):
                parts = self._through_unit(line, t[chunk, None], weights[chunk, None])
                total = [a + b for a, b in zip(total, parts, strict=True)]
        return shaped(line, line.values(total), x)

    def _through_unit(self, line: Line, t: Tensor, weights: Tensor) -> list[Tensor]:
        """Gradients of the target that pass through the unit, summed over some points."""
        recorder = Recorder()
        with torch.enable_grad():
            targets, leaves = line.run(t, {self.site: recorder})
        unit = self._one_unit(recorder.values, len(t) * line.n_rows)
        if not (targets.requires_grad and unit.requires_grad):
            return [by_copy(torch.zeros_like(leaf), len(t)).sum(0) for leaf in leaves]
        (outward,) = torch.autograd.grad(
            *(targets, recorder.values, weights.to(targets).expand_as(targets)),
            retain_graph=True,
            materialize_grads=True,
        )
        inward = torch.autograd.grad(unit, leaves, outward[self._index], materialize_grads=True)
        return [by_copy(gradient, len(t)).sum(0) for gradient in inward]

    def _one_unit(self, values: Sequence[Tensor], n_rows: int) -> Tensor:
        if len(values) != 1:
            raise ValueError(
                f"site '{self.site}' was reached {len(values)} times; name one call, as in "
                f"'{self.site}@0'"
            )
        shape = tuple(values[0].shape)
        try:
            unit = values[0][self._index]
        except IndexError:
            unit = values[0]
        if unit.shape != (n_rows,):
            raise ValueError(
                f"unit {self.unit} needs to name one number per row of site '{self.site}', whose "
                f"shape is {shape} for {n_rows} rows"
            )
        return unit
