"""The derivative of Jansen and Rit's column, with a gradient of its own.

It is most of the work of a brain; through autograd its gradient would take twice as long.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from neuros_mechint._autograd import applied
from neuros_mechint.multiscale._masses_equations import Numbers

__all__ = ["derivative"]

_NAMES = ("arguments", "slope", "shift", "gain", "entry", "mu", "damping", "stiffness")


def derivative(x: Tensor, c: Tensor, p: Numbers) -> Tensor:
    """Derivative (6, region, set) of state (6, region, set) and coupling (1, region, set)."""
    constants = [p[name] for name in _NAMES]
    if torch.is_grad_enabled():
        found: Tensor = applied(_Derivative, x, c, *constants)
        return found
    return _computed(x, c, *constants)[0]


def _computed(x: Tensor, c: Tensor, *constants: Tensor) -> tuple[Tensor, Tensor]:
    """The derivative, and the sigmoids of the three populations."""
    arguments, slope, shift, gain, entry, mu, damping, stiffness = constants
    y, dy = torch.split(x, 3)
    v = torch.mm(arguments, y.reshape(3, -1)).view_as(y)
    fired = torch.addcmul(shift, slope, v, out=v).sigmoid_()
    # In place: a brain's step is bound by memory, not by arithmetic.
    found = x.new_empty(x.shape)
    first, second = torch.split(found, 3)
    first.copy_(dy)
    torch.mul(gain, fired, out=second)
    second[1:2].addcmul_(entry, c + mu)
    second.addcmul_(damping, dy).addcmul_(stiffness, y)
    return found, fired


class _Derivative(torch.autograd.Function):
    """One node of the graph where autograd would make ten."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        found, fired = _computed(*args)
        ctx.save_for_backward(*args, fired)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, c, *constants, fired = ctx.saved_tensors
        arguments, slope, shift, gain, entry, mu, damping, stiffness = constants
        (y, dy), (first, second) = torch.split(x, 3), torch.split(grads[0], 3)
        inner = torch.ops.aten.sigmoid_backward(second * gain, fired)
        back = x.new_empty(x.shape)
        upper, lower = torch.split(back, 3)
        torch.mm(arguments.mT, (inner * slope).reshape(3, -1), out=upper.view(3, -1))
        upper.addcmul_(stiffness, second)
        torch.addcmul(first, damping, second, out=lower)
        onto = second[1:2]
        entered = onto * entry
        needed = ctx.needs_input_grad
        v = torch.mm(arguments, y.reshape(3, -1)).view_as(y) if needed[3] else y
        return (
            back,
            entered.sum_to_size(c.shape),
            None,
            _inner_sum(slope, inner, v) if needed[3] else None,
            inner.sum_to_size(shift.shape) if needed[4] else None,
            _inner_sum(gain, second, fired) if needed[5] else None,
            _inner_sum(entry, onto, c + mu) if needed[6] else None,
            entered.sum_to_size(mu.shape) if needed[7] else None,
            _inner_sum(damping, second, dy) if needed[8] else None,
            _inner_sum(stiffness, second, y) if needed[9] else None,
        )


def _inner_sum(like: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Sum of products over all axes that a number does not have."""
    return (a * b).sum_to_size(like.shape)
