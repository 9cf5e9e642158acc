"""The smallest set of neurons that keeps a model's loss, by backward elimination."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from neuros_mechint.activations import Edit, EditContext, Site, SiteLike, intervene
from neuros_mechint.activations._inputs import call_arguments, count_rows
from neuros_mechint.activations._state import preserved
from neuros_mechint.activations.batched import run_batched

__all__ = ["Elimination"]

Neuron = tuple[int, int]
"""Position of the layer, position of the unit in its last dimension."""


@dataclass(frozen=True, eq=False)
class Elimination:
    """Backward elimination of neurons under a bound on a loss.

    Attributes:
        model: The model.
        inputs: Its inputs.
        sites: One per layer.
        loss: Loss of an output, as a differentiable scalar.
        zero: Whether neurons are ablated to zero, or to their mean over the inputs.
        batch_size: Most rows in one forward.
    """

    model: nn.Module
    inputs: Any
    sites: Sequence[Site]
    loss: Callable[[Any], Tensor]
    zero: bool
    batch_size: int

    def run(self, tolerance: float) -> list[list[int]]:
        """Return, per layer, the neurons that are left."""
        fills, order = self._ranked()
        dropped = [torch.zeros(len(fill), dtype=torch.bool) for fill in fills]
        limit = self._losses(fills, [dropped])[0] + tolerance
        left = order
        # Losses are not monotone in the set: what had to stay may go once others went.
        while True:
            kept = self._pass(fills, dropped, left, limit)
            if len(kept) == len(left):
                return [(~mask).nonzero()[:, 0].tolist() for mask in dropped]
            left = kept

    def _pass(
        self, fills: list[Tensor], dropped: list[Tensor], order: list[Neuron], limit: float
    ) -> list[Neuron]:
        """Try to drop every neuron in turn; what has to stay comes back.

        Trial k of a forward drops the first k neurons of those in turn, so that all up to the first
        failure are decided as they would be one by one.
        """
        most = max(1, self.batch_size // count_rows(call_arguments(self.model, self.inputs)) - 1)
        kept: list[Neuron] = []
        waiting, at_once = [*order], 1
        while waiting:
            trials: list[list[Tensor]] = []
            for layer, unit in waiting[:at_once]:
                masks = [mask.clone() for mask in (trials[-1] if trials else dropped)]
                masks[layer][unit] = True
                trials.append(masks)
            losses = self._losses(fills, trials)
            good = next((k for k, loss in enumerate(losses) if not loss <= limit), len(losses))
            if good:
                for mask, new in zip(dropped, trials[good - 1], strict=True):
                    mask.copy_(new)
            if good < len(trials):
                kept.append(waiting[good])
            waiting = waiting[good + (good < len(trials)) :]
            at_once = min(most, 2 * at_once) if good == len(trials) else max(1, at_once // 2)
        return kept

    def _ranked(self) -> tuple[list[Tensor], list[Neuron]]:
        """Values that neurons are ablated to, and neurons by their first-order effect."""
        args, kwargs = call_arguments(self.model, self.inputs)
        with preserved(self.model), torch.no_grad():
            with intervene(self.model, capture=self.sites) as cache:
                self.model(*args, **kwargs)
            values = [cache[site] for site in self.sites]
            fills = [_fill(value, zero=self.zero) for value in values]
        # Halfway, since at the clean run a loss that is at its minimum has no slope.
        probes = [_Halfway(fill) for fill in fills]
        edits: dict[SiteLike, Edit] = dict(zip(self.sites, probes, strict=True))
        with preserved(self.model), torch.enable_grad(), intervene(self.model, edits):
            loss = self.loss(self.model(*args, **kwargs))
        leaves = [probe.leaf for probe in probes if probe.leaf is not None]
        slopes = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        effects = {
            (layer, unit): effect
            for layer, parts in enumerate(zip(values, fills, slopes, strict=True))
            for unit, effect in enumerate(_effects(*parts).tolist())
        }
        return fills, sorted(effects, key=effects.__getitem__)

    def _losses(self, fills: list[Tensor], trials: Sequence[list[Tensor]]) -> list[float]:
        edit_sets: list[Mapping[SiteLike, Edit]] = [
            {
                site: _Fill(fill, mask)
                for site, fill, mask in zip(self.sites, fills, masks, strict=True)
                if bool(mask.any())
            }
            for masks in trials
        ]
        with torch.no_grad():
            outputs = run_batched(self.model, self.inputs, edit_sets, batch_size=self.batch_size)
        return [float(self.loss(output).detach()) for output in outputs]


class _Halfway:
    """Go halfway to the ablated value, and keep a leaf there that collects the gradient."""

    def __init__(self, fill: Tensor) -> None:
        self.fill = fill
        self.leaf: Tensor | None = None

    def __call__(self, value: Tensor, _context: EditContext) -> Tensor:
        self.leaf = torch.zeros_like(value, requires_grad=True)
        return (value + self.fill) / 2 + self.leaf


class _Fill:
    """Put the ablated value in place of some units."""

    def __init__(self, fill: Tensor, mask: Tensor) -> None:
        self.fill, self.mask = fill, mask

    def __call__(self, value: Tensor, _context: EditContext) -> Tensor:
        return _filled(value, self.fill, self.mask.to(value.device))


def _filled(
    value: Float[Tensor, "*batch unit"], fill: Float[Tensor, "unit"], mask: Bool[Tensor, "unit"]
) -> Float[Tensor, "*batch unit"]:
    return torch.where(mask, fill, value)


def _fill(value: Float[Tensor, "*batch unit"], *, zero: bool) -> Float[Tensor, "unit"]:
    rows = value.reshape(-1, value.shape[-1])
    return torch.zeros_like(rows[0]) if zero else rows.mean(0)


def _effects(
    value: Float[Tensor, "*batch unit"],
    fill: Float[Tensor, "unit"],
    slope: Float[Tensor, "*batch unit"],
) -> Float[Tensor, "unit"]:
    return ((fill - value) * slope).reshape(-1, len(fill)).sum(0).abs()
