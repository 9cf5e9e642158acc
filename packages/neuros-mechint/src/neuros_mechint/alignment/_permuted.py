"""Scores of many re-orderings of one side, from matrices that are formed once."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["crossed", "order_blocks", "products_of_permuted"]

# Entries gathered at once: 4 MB of float64 stay in the cache of one core.
_BLOCK = 500_000


def order_blocks(orders: Int[Tensor, "perm sample"], size: int) -> Iterator[Tensor]:
    """The orders some at a time, so that `size` entries each stay in bounds."""
    step = max(1, _BLOCK // max(1, size))
    for start in range(0, len(orders), step):
        yield orders[start : start + step]


def crossed(
    first: Float[Tensor, "*batch sample p"],
    second: Float[Tensor, "*batch sample q"],
    orders: Int[Tensor, "perm sample"],
) -> Iterator[Float[Tensor, "perm *batch p q"]]:
    """`first.mT @ second[order]`, some orders at a time, each time as one product."""
    for block in order_blocks(orders.to(second.device), second.numel()):
        # (..., sample, perm, q): all re-ordered sides stand beside one another.
        wide = second.index_select(-2, block.T.flatten())
        wide = wide.reshape(*second.shape[:-1], len(block) * second.shape[-1])
        product = first.mT @ wide
        shape = (*product.shape[:-1], len(block), second.shape[-1])
        yield product.reshape(shape).movedim(-2, 0)


def products_of_permuted(
    first: Float[Tensor, "*batch sample sample"],
    second: Float[Tensor, "*batch sample sample"],
    orders: Int[Tensor, "perm sample"],
) -> Float[Tensor, "perm *batch"]:
    """Inner products of one symmetric matrix with another, rows and columns re-ordered alike."""
    found = []
    for order in orders.to(second.device):
        # Rows are copied whole, single columns are not: so rows, twice. The matrix is symmetric.
        moved = second.index_select(-2, order).mT.contiguous().index_select(-2, order)
        found.append(torch.einsum("...ij,...ij->...", first, moved))
    return torch.stack(found)
