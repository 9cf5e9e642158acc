"""HSIC of linear kernels from the features, without a matrix of the samples."""

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint.alignment._permuted import crossed

__all__ = ["linear_hsic", "linear_hsic_matrix", "linear_hsic_permuted"]


def linear_hsic(
    a: Float[Tensor, "*batch sample p"], b: Float[Tensor, "*batch sample q"], *, unbiased: bool
) -> Float[Tensor, "*batch"]:
    r"""$\mathrm{tr}(K H L H) = \|A^\top B\|^2$ of centred sides, or $n (n - 3)$ times HSIC_1.

    With the squared norms $a_i$, $b_i$ of the samples on the diagonals, and rows of $K$ that sum to
    0, eq. 5 of Song 2012 is

    $$\|A^\top B\|^2 - \frac{n}{n - 2} \sum_i a_i b_i
    + \frac{\sum_i a_i \sum_i b_i}{(n - 1)(n - 2)}.$$
    """
    found = (a.mT @ b).square().sum((-2, -1))
    if not unbiased:
        return found
    first, second = a.square().sum(-1), b.square().sum(-1)
    return found + _correction((first * second).sum(-1), first.sum(-1) * second.sum(-1), a)


def linear_hsic_matrix(
    list_a: Sequence[Tensor], list_b: Sequence[Tensor], *, unbiased: bool
) -> Float[Tensor, "*batch a b"]:
    """HSIC of every entry of one list with every one of another, from one product."""
    squares = (torch.cat(list(list_a), -1).mT @ torch.cat(list(list_b), -1)).square()
    by_row = torch.stack([p.sum(-2) for p in squares.tensor_split(_edges(list_a), -2)], -2)
    found = torch.stack([p.sum(-1) for p in by_row.tensor_split(_edges(list_b), -1)], -1)
    if not unbiased:
        return found
    first, second = (torch.stack([z.square().sum(-1) for z in s], -2) for s in (list_a, list_b))
    totals = first.sum(-1).unsqueeze(-1) * second.sum(-1).unsqueeze(-2)
    return found + _correction(first @ second.mT, totals, list_a[0])


def linear_hsic_permuted(
    a: Float[Tensor, "*batch sample p"],
    b: Float[Tensor, "*batch sample q"],
    orders: Tensor,
    *,
    unbiased: bool,
) -> Float[Tensor, "perm *batch"]:
    """HSIC of a with many re-orderings of b."""
    found = torch.cat([product.square().sum((-2, -1)) for product in crossed(a, b, orders)])
    if not unbiased:
        return found
    first, second = a.square().sum(-1), b.square().sum(-1)
    shared = torch.cat(
        [part[..., 0] for part in crossed(first.unsqueeze(-1), second.unsqueeze(-1), orders)]
    )
    return found + _correction(shared[..., 0], first.sum(-1) * second.sum(-1), a)


def _edges(sides: Sequence[Tensor]) -> list[int]:
    """Where one width ends and the next begins."""
    return list(itertools.accumulate(side.shape[-1] for side in sides[:-1]))


def _correction(shared: Tensor, total: Tensor, a: Tensor) -> Tensor:
    n = a.shape[-2]
    return total / ((n - 1) * (n - 2)) - n / (n - 2) * shared
