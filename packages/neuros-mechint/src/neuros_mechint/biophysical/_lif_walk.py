r"""Leaky integrate-and-fire neurons over time, with the gradient by hand.

With $u_t$ the potential before the reset and $v_t$ after it, $u_t = v_{t-1} + w(x_t - v_{t-1})$.
The adjoint runs $\bar u_t = S_t + K_t(\bar v^{out}_t + (1 - w)\bar u_{t+1})$, where S is the
gradient through spikes and $K = \partial v / \partial u$. Only x, v and the spikes are kept: u
comes again from them, in stretches of time that stay in the cache.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from neuros_mechint.biophysical.surrogate import Surrogate, surrogate_slope

__all__ = ["FireAndReset", "Rule", "after_reset"]

# Numbers of a stretch of time on the way back: a few of them fit a second-level cache.
_STRETCH = 2**17


class Rule(NamedTuple):
    """What happens at a spike, and how gradients pass it."""

    reset: str
    surrogate: Surrogate
    slope: float | None
    detach_reset: bool


class _Levels(NamedTuple):
    gain: Tensor
    threshold: Tensor
    floor: Tensor
    soft: bool


def after_reset(v: Tensor, cut: Tensor, threshold: Tensor, floor: Tensor, reset: str) -> Tensor:
    """Potential after the reset where `cut` is 1."""
    if reset == "soft":
        return v - (threshold - floor) * cut
    return v * (1 - cut) + floor * cut


class FireAndReset(torch.autograd.Function):
    """All steps, time first: three kernels a step forward, one backward."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Spikes, potentials after the reset and steps still to wait."""
        target, start, gain, threshold, floor, left, pause, ctx.rule = args
        drive = target.movedim(-2, 0)
        levels = _Levels(gain, threshold, floor, ctx.rule.reset == "soft")
        waits = bool((left > 0).any()) or bool((pause > 0).any())
        # In the layout of the input: what follows in the same layout reads memory in order.
        fired, v = torch.empty_like(drive), torch.empty_like(drive)
        if waits:
            refractory = _walk_held(drive, start, levels, (fired, v), (left, pause))
        else:
            _walk(drive, start, levels, (fired, v))
            refractory = v.new_zeros(()).expand(v.shape)
        held = torch.cat([left[None], refractory[:-1]]) > 0 if waits else None
        ctx.save_for_backward(drive, start, gain, threshold, floor, fired, v, held)
        ctx.mark_non_differentiable(refractory)
        ctx.set_materialize_grads(False)
        return fired, v, refractory

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of target, start, gain, threshold and floor."""
        drive, start, gain, threshold, floor, fired, v, held = ctx.saved_tensors
        if grads[0] is None and grads[1] is None:
            return (None,) * 8
        levels = _Levels(gain, threshold, floor, ctx.rule.reset == "soft")
        adjoint, to_target = torch.zeros_like(start), torch.empty_like(drive)
        sums = _Sums(ctx.needs_input_grad[2:5], levels)
        size = max(1, _STRETCH // max(1, start.numel()))
        for stop in range(len(drive), 0, -size):
            first = max(0, stop - size)
            part = slice(first, stop)
            before = v[first - 1 : stop - 1]
            if first == 0:
                before = torch.cat([start[None], v[: stop - 1]])
            stretch = _Stretch(
                drive[part], before, fired[part], None if held is None else held[part],
                None if grads[0] is None else grads[0][part],
                None if grads[1] is None else grads[1][part],
            )  # fmt: skip
            found = _back(stretch, adjoint, levels, ctx.rule, sums)
            torch.mul(found, gain, out=to_target[part])
            adjoint = found[0]
        return (to_target.movedim(0, -2), (1 - gain) * adjoint, *sums.totals(), None, None, None)


class _Stretch(NamedTuple):
    """Part of a run, time first: what came in, what went out, and the gradients of that."""

    drive: Tensor
    before: Tensor
    fired: Tensor
    held: Tensor | None
    to_spikes: Tensor | None
    to_voltage: Tensor | None


class _Sums:
    """Gradients of gain, threshold and floor, of those that are wanted."""

    def __init__(self, wanted: tuple[bool, ...], levels: _Levels) -> None:
        self._made = [
            torch.zeros_like(x) if want else None
            for want, x in zip(wanted, levels[:3], strict=True)
        ]

    @property
    def gain(self) -> bool:
        return self._made[0] is not None

    @property
    def levels(self) -> bool:
        return self._made[1] is not None or self._made[2] is not None

    def add(self, k: int, x: Tensor) -> None:
        total = self._made[k]
        if total is not None:
            # A sum over what broadcasting had repeated.
            total += x.sum_to_size(total.shape) if total.ndim else x.sum()

    def totals(self) -> list[Tensor | None]:
        return self._made


def _back(part: _Stretch, later: Tensor, levels: _Levels, rule: Rule, sums: _Sums) -> Tensor:
    """Gradients to the potentials before the reset, given that of the step after."""
    u = torch.lerp(part.before, part.drive, levels.gain)
    slope = surrogate_slope(u - levels.threshold, rule.surrogate, rule.slope)
    hard = rule.reset == "hard"
    keep = 1 - part.fired if hard else torch.ones_like(u)
    jump = levels.floor - u if hard else levels.floor - levels.threshold
    if not rule.detach_reset:
        keep.addcmul_(slope, jump.expand_as(slope))
    if part.held is not None:
        keep, slope = keep.masked_fill(part.held, 0), slope.masked_fill(part.held, 0)
    adjoint = torch.zeros_like(u) if part.to_spikes is None else slope * part.to_spikes
    if part.to_voltage is not None:
        adjoint.addcmul_(keep, part.to_voltage)
    row_after = later
    rows, factors = adjoint.unbind(0), keep.mul_(1 - levels.gain).unbind(0)
    for row, factor in zip(reversed(rows), reversed(factors), strict=True):
        row.addcmul_(factor, row_after)
        row_after = row
    if sums.gain:
        sums.add(0, adjoint * (part.drive - part.before))
    if sums.levels:
        # Gradient to the potential after the reset.
        after = (1 - levels.gain) * torch.cat([adjoint[1:], later[None]])
        after = after if part.to_voltage is None else after + part.to_voltage
        _add_levels(part, after, (slope, jump), rule, sums)
    return adjoint


def _add_levels(
    part: _Stretch, after: Tensor, local: tuple[Tensor, Tensor], rule: Rule, sums: _Sums
) -> None:
    """Add the gradients of threshold and floor."""
    slope, jump = local
    through = torch.zeros_like(after) if part.to_spikes is None else slope * part.to_spikes
    if not rule.detach_reset:
        through += slope * jump * after
    if rule.reset == "soft":
        through += part.fired * after
    sums.add(1, -through)
    # A held potential is v_reset itself, whatever came before it.
    stays = part.fired if part.held is None else part.fired.masked_fill(part.held, 1)
    sums.add(2, stays * after)


def _walk(drive: Tensor, start: Tensor, levels: _Levels, out: tuple[Tensor, Tensor]) -> None:
    """Fill spikes and potentials after the reset, without refractory time."""
    gain, threshold, floor, soft = levels
    v, u, drop = start, torch.empty_like(start), floor - threshold
    for x, s, after in zip(drive.unbind(0), out[0].unbind(0), out[1].unbind(0), strict=True):
        torch.lerp(v, x, gain, out=u)
        # Compared into floats: kernels that read or write booleans take six times as long.
        torch.gt(u, threshold, out=s)
        if soft:
            torch.addcmul(u, s, drop, out=after)
        else:
            # The ends of a linear interpolation are exact.
            torch.lerp(u, floor, s, out=after)
        v = after


def _walk_held(
    drive: Tensor, start: Tensor, levels: _Levels,
    out: tuple[Tensor, Tensor], waiting: tuple[Tensor, Tensor],
) -> Tensor:  # fmt: skip
    """The same with refractory time; returns the steps still to wait."""
    gain, threshold, floor, soft = levels
    left, pause = waiting
    v, counts = start, torch.empty_like(drive)
    rows = (x.unbind(0) for x in (drive, *out, counts))
    for x, s, after, count in zip(*rows, strict=True):
        u = torch.where(left > 0, floor, torch.lerp(v, x, gain))
        torch.gt(u, threshold, out=s)
        after.copy_(after_reset(u, s, threshold, floor, "soft" if soft else "hard"))
        torch.lerp((left - 1).clamp(min=0), pause.expand_as(left), s, out=count)
        v, left = after, count
    return counts
