"""From pre-activations to features: the rules whose gradient is not the plain one."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from neuros_mechint._autograd import applied

__all__ = ["gated", "jump"]


def jump(
    pre: Float[Tensor, "batch feature"], threshold: Float[Tensor, "feature"], bandwidth: float
) -> tuple[Float[Tensor, "batch feature"], Float[Tensor, ""]]:
    r"""JumpReLU, $z H(z - \theta)$, and the number of active entries.

    Rajamanoharan 2024b, eq. 11 and 12: with the rectangle `K` of width 1 the pseudo-derivatives by
    the threshold are $-(\theta / \epsilon) K((z - \theta) / \epsilon)$ and
    $-K((z - \theta) / \epsilon) / \epsilon$.
    """
    features, count = applied(_Jump, pre, threshold, bandwidth)
    return features, count


def gated(
    pre: Float[Tensor, "batch feature"],
    gain: Float[Tensor, "feature"],
    shift: Float[Tensor, "feature"],
) -> Float[Tensor, "batch feature"]:
    r"""Gate times magnitude, $H(\pi) \mathrm{relu}(g \pi + s)$ (Rajamanoharan 2024a, eq. 6 and 7).

    The gate passes no gradient: it learns from the auxiliary loss alone.
    """
    features: Tensor = applied(_Gate, pre, gain, shift)
    return features


def _where_active(grad: Tensor, features: Tensor) -> Tensor:
    """Gradient of the entries that are above 0, in one pass, as for a relu."""
    kept: Tensor = torch.ops.aten.threshold_backward(grad, features, 0)
    return kept


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        pre, threshold, bandwidth = args
        active = pre > threshold
        features = torch.where(active, pre, 0.0)
        # Few entries lie within half a bandwidth of their threshold: only they are kept.
        near = ((pre - threshold).abs_() < bandwidth / 2).view(-1).nonzero()[:, 0]
        ctx.bandwidth = bandwidth
        ctx.save_for_backward(features, threshold, near)
        return features, active.sum().to(pre.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad, grad_count = grads
        features, threshold, near = ctx.saved_tensors
        columns = near % len(threshold)
        pull = threshold.index_select(0, columns) * grad.reshape(-1).index_select(0, near)
        grad_threshold = torch.zeros_like(threshold).index_add_(0, columns, pull + grad_count)
        return _where_active(grad, features), grad_threshold / -ctx.bandwidth, None


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        pre, gain, shift = args
        features = torch.addcmul(shift, pre, gain).relu_().masked_fill_(pre <= 0, 0.0)
        ctx.save_for_backward(pre, gain, features)
        return features

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        pre, gain, features = ctx.saved_tensors
        grad = _where_active(grads[0], features)
        grad_gain, grad_shift = (grad * pre).sum(0), grad.sum(0)
        return grad.mul_(gain), grad_gain, grad_shift
