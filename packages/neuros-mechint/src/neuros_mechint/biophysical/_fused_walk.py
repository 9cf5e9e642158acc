"""Leaky integrate-and-fire neurons over time by compiled kernels, with their gradient."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from neuros_mechint.biophysical._fused import backward_of, forward_of
from neuros_mechint.biophysical._fused_lif import Back, Floats, Way
from neuros_mechint.biophysical._fused_slopes import slope_constants
from neuros_mechint.biophysical._lif_walk import Rule
from neuros_mechint.biophysical.surrogate import default_slope

__all__ = ["FusedFireAndReset"]


class FusedFireAndReset(torch.autograd.Function):
    """All steps in one kernel forward and one backward, in place of `FireAndReset`."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Spikes, potentials after the reset and steps still to wait, time first."""
        target, start, gain, threshold, floor, left, pause, rule = args
        waits = bool((left > 0).any()) or bool((pause > 0).any())
        x = target.reshape(-1, *target.shape[-2:]).contiguous()
        rows = [
            number.to(x).expand(start.shape) for number in (gain, threshold, floor, left, pause)
        ]
        # (cell, number, unit), one row of units for each number.
        numbers = torch.stack(rows, dim=-2).reshape(-1, 5, start.shape[-1])
        begin = start.reshape(-1, start.shape[-1]).contiguous()
        fired, v = torch.empty_like(x), torch.empty_like(x)
        counts = torch.empty_like(x) if waits else x.new_zeros(1, 1, 1)
        way = Way(rule.reset == "soft", waits)
        out = _arrays(fired, v, counts)
        forward_of(way, x.dtype)(*_arrays(x, begin, numbers), out)
        ctx.save_for_backward(x, begin, numbers, fired, v, counts)
        ctx.rule, ctx.waits = rule, waits
        ctx.shapes = start.shape, [gain.shape, threshold.shape, floor.shape]
        refractory = counts if waits else counts.expand(x.shape)
        made = [y.reshape(target.shape).movedim(-2, 0) for y in (fired, v, refractory)]
        ctx.mark_non_differentiable(made[2])
        ctx.set_materialize_grads(False)
        return made[0], made[1], made[2]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of target, start, gain, threshold and floor."""
        x, begin, numbers, fired, v, counts = ctx.saved_tensors
        units, shapes = ctx.shapes
        rule: Rule = ctx.rule
        if grads[0] is None and grads[1] is None:
            return (None,) * 8
        nothing = x.new_zeros(1, 1, 1)
        given = [
            nothing if grad is None else grad.movedim(0, -2).reshape(x.shape).contiguous()
            for grad in grads[:2]
        ]
        kind = str(rule.surrogate)
        slope = default_slope(kind) if rule.slope is None else rule.slope
        steep = x.new_tensor(slope_constants(kind, slope))
        way = Back(
            rule.reset == "soft", ctx.waits, rule.detach_reset,
            grads[0] is not None, grads[1] is not None,
        )  # fmt: skip
        to_x, sums = torch.empty_like(x), x.new_empty(len(x), 4, x.shape[-1])
        backward_of(way, kind, x.dtype)(
            _arrays(x, fired, v, counts, *given),
            *_arrays(begin, numbers, steep),
            _arrays(to_x, sums),
        )
        parts = [part.reshape(units) for part in sums.unbind(1)]
        made = [part.sum_to_size(shape) for part, shape in zip(parts[1:], shapes, strict=True)]
        wide = to_x.reshape((*units[:-1], x.shape[1], units[-1]))
        return (wide, parts[0], *made, None, None, None)


def _arrays(*tensors: Tensor) -> tuple[Floats, ...]:
    return tuple(tensor.detach().numpy() for tensor in tensors)
