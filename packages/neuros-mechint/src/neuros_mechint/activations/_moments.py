"""Exact streaming mean and sum of squared deviations, in float64."""

from typing import NamedTuple

import torch
from jaxtyping import Float64, Shaped
from torch import Tensor

__all__ = ["Moments", "merge", "moments_of"]

# Doubles of one block: a megabyte stays in the second-level cache.
_BLOCK = 2**17
# The one-pass sum of squares loses log10 of this ratio of its 16 digits.
_LARGEST_RATIO = 1e6


class Moments(NamedTuple):
    """Number of rows, their mean and the sum of squared deviations from it, per column."""

    n_rows: int
    mean: Float64[Tensor, " width"]
    m2: Float64[Tensor, " width"]


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of two disjoint sets of rows together (Chan, Golub & LeVeque 1983, eq. 2.1)."""
    if a.n_rows == 0 or b.n_rows == 0:
        return b if a.n_rows == 0 else a
    count = a.n_rows + b.n_rows
    delta = b.mean - a.mean
    mean = a.mean + delta * (b.n_rows / count)
    return Moments(count, mean, a.m2 + b.m2 + delta.square() * (a.n_rows * b.n_rows / count))


def moments_of(rows: Shaped[Tensor, "rows width"]) -> Moments:
    """Moments of the columns; NaN or infinite where a column is not finite."""
    n, width = rows.shape
    total, squares = rows.new_zeros(2, width, dtype=torch.float64)
    n_block = max(_BLOCK // max(width, 1), 1)
    # One scratch for all blocks: memory that is new for every block costs twice the arithmetic.
    scratch = rows.new_empty(min(n, n_block), width, dtype=torch.float64)
    blocks = [rows[start : start + n_block] for start in range(0, n, n_block)]
    for block in blocks:
        wide = scratch[: len(block)].copy_(block)
        total += wide.sum(0)
        squares += wide.mul_(wide).sum(0)
    mean = total / n
    m2 = squares - n * mean.square()
    # Where the mean dwarfs the deviations, their squares cancel: such rows take a second pass.
    if bool((n * mean.square() > _LARGEST_RATIO * m2).any()):
        m2 = torch.zeros_like(mean)
        for block in blocks:
            m2 += (block.double() - mean).square().sum(0)
    return Moments(n, mean, m2)
