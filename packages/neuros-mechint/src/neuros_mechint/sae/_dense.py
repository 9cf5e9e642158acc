"""Products with a dense code, with one pass over the code's gradient."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from neuros_mechint._autograd import applied

__all__ = ["product_and_sums"]


def product_and_sums(
    features: Float[Tensor, "batch feature"], weight: Float[Tensor, "feature latent"]
) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "feature"]]:
    """Product of features with directions, and the sum of each feature over the batch.

    The gradients of both reach the features as one product with a bias; plain operations would
    write the batch of features two more times.
    """
    product, sums = applied(_ProductAndSums, features, weight)
    return product, sums


class _ProductAndSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        features, weight = args
        ctx.save_for_backward(features, weight)
        return torch.mm(features, weight), torch.sum(features, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        product, sums = grads
        features, weight = ctx.saved_tensors
        grad_weight = features.T @ product if ctx.needs_input_grad[1] else None
        return torch.addmm(sums, product, weight.T), grad_weight
