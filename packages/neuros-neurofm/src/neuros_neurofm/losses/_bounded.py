"""A learned scalar that is kept in an interval and can come back from its ends."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def bounded(x: Tensor, low: float, high: float) -> Tensor:
    """Clamp, with a gradient at the ends when it points back inside.

    `torch.clamp` has none outside: a parameter that an optimiser carried past an end by one step
    would stay there for ever. The gradient that would carry it further out is 0 here too.
    """
    clamped: Tensor = _Bounded.apply(x, low, high)  # type: ignore[no-untyped-call]  # torch's own
    return clamped


class _Bounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x >= high, x <= low)
        return x.clamp(low, high)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        at_high, at_low = ctx.saved_tensors
        # Descent moves against the gradient: a negative one raises x.
        outwards = (at_high & (grads[0] < 0)) | (at_low & (grads[0] > 0))
        return grads[0].masked_fill(outwards, 0.0), None, None
