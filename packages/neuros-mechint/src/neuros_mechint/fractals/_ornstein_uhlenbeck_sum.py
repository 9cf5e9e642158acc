"""First-order recursions over time, without a loop over time."""

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["decaying_sum"]

# Samples that one matrix product sums.
_BLOCK = 64


def decaying_sum(kicks: Float[Tensor, "batch time"], kappa: float) -> Float[Tensor, "batch time"]:
    r"""Solve $y_k = e^{-\kappa} y_{k-1} + x_k$ from $y_0 = x_0$ for all times at once.

    Blocks are summed by one triangular matrix; what each block hands on obeys the same recursion
    with as many times fewer steps.

    Args:
        kicks: x, time last.
        kappa: decay of a step.

    Returns:
        y.

    Examples:
        >>> decaying_sum(torch.tensor([[1.0, 0.0, 4.0]]), math.log(2)).tolist()
        [[1.0, 0.5, 4.25]]
    """
    rows, n = kicks.shape
    block = min(n, _BLOCK)
    weights = _decay(block, kappa).to(kicks)
    if n <= block:
        return kicks @ weights.T
    n_blocks = -(-n // block)
    padded = torch.nn.functional.pad(kicks, (0, n_blocks * block - n))
    within = padded.view(rows, n_blocks, block) @ weights.T
    handed_on = decaying_sum(within[:, :-1, -1], block * kappa)
    # Column 0 of the matrix is the decay since the first sample of a block.
    fade = weights[:, 0] * math.exp(-kappa)
    within[:, 1:] += handed_on[..., None] * fade
    return within.flatten(1)[:, :n]


@lru_cache(maxsize=32)
def _decay(n: int, kappa: float) -> Float[Tensor, "time kick"]:
    """Lower triangle of exp(-kappa (i - j))."""
    lag = torch.arange(n, dtype=torch.float64)
    age = lag[:, None] - lag
    return torch.exp(-kappa * age.clamp(min=0)).tril()
