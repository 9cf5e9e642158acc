r"""The recurrence of many latent circuits at once, with its adjoint written out."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from neuros_mechint._autograd import applied
from neuros_mechint.circuits._latent_weights import Activation

__all__ = ["scan"]


def scan(
    w_rec: Float[Tensor, "restart latent latent"],
    drive: Float[Tensor, "time restart latent trial"],
    alpha: float,
    activation: Activation,
) -> Float[Tensor, "time restart latent trial"]:
    r"""States $x_{t+1} = (1 - \alpha) x_t + \alpha \phi(W x_t + d_t)$ from $x_0 = 0$.

    As many states as drives; the last drive has no effect. Time comes first and trials last, so
    that every step reads and writes one block of memory.

    Examples:
        >>> from neuros_mechint.circuits._latent_weights import activation_named
        >>> states = scan(
        ...     torch.zeros(1, 1, 1), torch.ones(3, 1, 1, 1), 0.5, activation_named("relu")
        ... )
        >>> states[:, 0, 0, 0]
        tensor([0.0000, 0.5000, 0.7500])
    """
    states: Tensor = applied(_Scan, w_rec, drive, alpha, activation)
    return states


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w_rec: Tensor, drive: Tensor, alpha: float, phi: Activation) -> Tensor:
        states = torch.zeros_like(drive)
        pre = torch.zeros_like(drive)
        for t in range(len(drive) - 1):
            torch.baddbmm(drive[t], w_rec, states[t], out=pre[t])
            torch.lerp(states[t], phi.function(pre[t]), alpha, out=states[t + 1])
        ctx.save_for_backward(w_rec, states, pre)
        ctx.alpha, ctx.phi = alpha, phi
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        w_rec, states, pre = ctx.saved_tensors
        slope = ctx.alpha * ctx.phi.derivative(pre)
        # What a change of the pre-activation of every step does to the loss.
        adjoint = torch.zeros_like(states)
        # A transposed view sends baddbmm through a slower path.
        back = w_rec.mT.contiguous()
        carried = grad[-1]
        for t in range(len(states) - 2, -1, -1):
            torch.mul(slope[t], carried, out=adjoint[t])
            carried = torch.baddbmm(grad[t], back, adjoint[t]).add_(carried, alpha=1 - ctx.alpha)
        n_latent = w_rec.shape[-1]
        left, right = (
            z.permute(1, 2, 0, 3).reshape(-1, n_latent, z[:, 0, 0].numel())
            for z in (adjoint, states)
        )
        return left @ right.mT, adjoint, None, None
