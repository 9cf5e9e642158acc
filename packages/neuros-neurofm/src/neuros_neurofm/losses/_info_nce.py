r"""Symmetric InfoNCE of two sets of unit rows, without its matrix of logits.

With logits $\ell_{ij} = s\, a_i \cdot b_j$, sums over rows and columns
$r_i = \log \sum_j e^{\ell_{ij}}$ and $c_j = \log \sum_i e^{\ell_{ij}}$, and $P_i$ the rows that
belong to row i (mutually), both directions of the loss share one matrix:

$$L = \frac1{2B} \Big(\sum_i r_i + \sum_j c_j\Big)
- \frac{s}{2B} \sum_i \sum_{j \in P_i} \Big(\frac1{|P_i|} + \frac1{|P_j|}\Big) a_i \cdot b_j.$$

The matrix is worked on in tiles of rows that stay in the cache, once for the sums and once more for
the gradient; the second term needs sums over the rows of $P_i$ only.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from neuros_neurofm.losses._positives import Positives

__all__: list[str] = []

# Logits of a tile: 4 MiB in float32 (of 0.5 to 64 MiB the fastest, with 8, at 4096 rows on a core
# with 1 MiB of L2); on an accelerator, 64 MiB.
_TILE, _ACCELERATOR_TILE = 2**20, 2**24


def _tiles(rows: int, device: torch.device) -> Iterator[slice]:
    elements = _TILE if device.type == "cpu" else _ACCELERATOR_TILE
    size = max(1, elements // rows)
    return (slice(start, start + size) for start in range(0, rows, size))


def _log_sums(
    a: Float[Tensor, "batch feature"], b: Float[Tensor, "batch feature"]
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Logarithms of the summed exponentials of every row and every column of `a @ b.T`."""
    by_row = a.new_empty(len(a))
    largest, total = a.new_full((len(b),), float("-inf")), a.new_zeros(len(b))
    for rows in _tiles(len(a), a.device):
        logits = a[rows] @ b.mT
        by_row[rows] = logits.logsumexp(1)
        reached = torch.maximum(largest, logits.amax(0))
        total.mul_((largest - reached).exp_()).add_(logits.sub_(reached).exp_().sum(0))
        largest = reached
    return by_row, total.log_().add_(largest)


def _gradients_of_log_sums(
    a: Float[Tensor, "batch feature"],
    b: Float[Tensor, "batch feature"],
    by_row: Float[Tensor, " batch"],
    by_column: Float[Tensor, " batch"],
) -> tuple[Float[Tensor, "batch feature"], Float[Tensor, "batch feature"]]:
    """Gradients of the sum of all row and column sums by `a` and `b`."""
    da, db = torch.empty_like(a), torch.zeros_like(b)
    for rows in _tiles(len(a), a.device):
        logits = a[rows] @ b.mT
        shares = (logits - by_row[rows, None]).exp_()
        shares.add_(logits.sub_(by_column).exp_())
        torch.mm(shares, b, out=da[rows])
        db.addmm_(shares.mT, a[rows])
    return da, db


def attracting(
    x: Float[Tensor, "batch feature"], positives: Positives
) -> Float[Tensor, "batch feature"]:
    r"""For every row, $\sum_{j \in P_i} (1/|P_i| + 1/|P_j|)\, x_j / 2B$."""
    shares = positives.shares(x)
    own, theirs = positives.sum_over(torch.cat([x, shares * x], 1)).chunk(2, 1)
    return (own * shares + theirs).mul_(0.5 / len(x))


class SymmetricInfoNCE(torch.autograd.Function):
    """Loss of one pair: `apply(a, b, scale, pull_a, pull_b)`.

    The rows of `a` and `b` have unit length, and `pull_a` and `pull_b` are their `attracting`.
    """

    @staticmethod
    def forward(ctx: Any, *args: Tensor) -> Tensor:
        a, b, scale, _, pull_b = args
        by_row, by_column = _log_sums(a * scale, b)
        attraction = torch.linalg.vecdot(a, pull_b).sum()
        ctx.save_for_backward(*args, by_row, by_column, attraction)
        loss: Tensor = (by_row.sum() + by_column.sum()) * (0.5 / len(a)) - scale * attraction
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        a, b, scale, pull_a, pull_b, by_row, by_column, attraction = ctx.saved_tensors
        with torch.autocast(a.device.type, enabled=False):
            dscaled, db = _gradients_of_log_sums(a * scale, b, by_row, by_column)
            half = 0.5 / len(a)
            dscale = grads[0] * (half * (a * dscaled).sum() - attraction)
            factor = grads[0] * scale
            da = dscaled.mul_(half).sub_(pull_b).mul_(factor)
            db = db.mul_(grads[0] * half).sub_(factor * pull_a)
        return da, db, dscale, None, None
