"""Products with a code that has few nonzero entries: only those entries are touched."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag

from neuros_mechint._autograd import applied

__all__ = [
    "Pattern",
    "SparseCode",
    "decoded",
    "encoded",
    "pattern_of_positions",
    "pattern_of_rows",
]


@dataclass(frozen=True, eq=False)
class Pattern:
    """Which features of which rows are stored, row after row.

    Attributes:
        columns: Feature of each entry, shape (entry,).
        offsets: Where each row starts, and the number of entries, shape (batch + 1,).
        n_features: Number of features F.
    """

    columns: Tensor
    offsets: Tensor
    n_features: int

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1

    @cached_property
    def rows(self) -> Tensor:
        """Row of each entry, shape (entry,)."""
        counts = self.offsets.diff()
        rows = torch.arange(self.n_rows, device=self.columns.device)
        return rows.repeat_interleave(counts, output_size=len(self.columns))

    @cached_property
    def transposed(self) -> tuple[Tensor, Tensor, Tensor]:
        """Order that sorts the entries by feature, their rows, and where each feature starts."""
        # A stable sort of 16-bit keys is a radix sort of two passes: 3x faster than of 64 bits.
        keys = self.columns.short() if self.n_features <= 2**15 else self.columns
        order = torch.argsort(keys, stable=True)
        starts = torch.zeros(self.n_features + 1, dtype=torch.long, device=self.columns.device)
        torch.cumsum(torch.bincount(self.columns, minlength=self.n_features), 0, out=starts[1:])
        return order, self.rows.index_select(0, order), starts


@dataclass(frozen=True, eq=False)
class SparseCode:
    """Features of a batch, of which only the entries of a pattern can differ from 0."""

    values: Tensor
    pattern: Pattern

    def dense(self) -> Tensor:
        """Return all features, shape (batch, feature)."""
        n_rows, n_features = self.pattern.n_rows, self.pattern.n_features
        where = self.pattern.rows * n_features + self.pattern.columns
        return (
            self.values.new_zeros(n_rows * n_features)
            .scatter(0, where, self.values)
            .view(n_rows, n_features)
        )


def pattern_of_rows(columns: Int[Tensor, "batch k"], n_features: int) -> Pattern:
    """Pattern of the same number of entries in every row."""
    n_entries, k = columns.numel(), columns.shape[1]
    offsets = torch.arange(0, n_entries + 1, k, device=columns.device)
    return Pattern(columns.flatten(), offsets, n_features)


def pattern_of_positions(positions: Int[Tensor, "entry"], n_rows: int, n_features: int) -> Pattern:
    """Pattern of rising positions in the flattened batch."""
    rows = positions.div(n_features, rounding_mode="floor")
    offsets = torch.zeros(n_rows + 1, dtype=torch.long, device=positions.device)
    torch.cumsum(torch.bincount(rows, minlength=n_rows), 0, out=offsets[1:])
    return Pattern(positions - rows * n_features, offsets, n_features)


def encoded(
    x: Float[Tensor, "batch latent"],
    weight: Float[Tensor, "feature latent"],
    bias: Float[Tensor, "feature"],
    values: Float[Tensor, "entry"],
    pattern: Pattern,
) -> Float[Tensor, "entry"]:
    """Entries of `x @ weight.T + bias`, computed before, with a gradient of the entries alone."""
    result: Tensor = applied(_Encode, x, weight, bias, values, pattern)
    return result


def decoded(
    values: Float[Tensor, "entry"], weight: Float[Tensor, "feature latent"], pattern: Pattern
) -> Float[Tensor, "batch latent"]:
    """Product of a sparse code with the decoder, and its gradient, over the entries alone."""
    result: Tensor = applied(_Decode, values, weight, pattern)
    return result


def _row_sums(
    values: Float[Tensor, "entry"], weight: Float[Tensor, "feature latent"], pattern: Pattern
) -> Float[Tensor, "batch latent"]:
    """Sum of the entries' rows of `weight`, times the entries, for each row of the code."""
    return embedding_bag(
        pattern.columns,
        weight,
        pattern.offsets,
        mode="sum",
        per_sample_weights=values,
        include_last_offset=True,
    )


def _column_sums(
    values: Float[Tensor, "entry"], dense: Float[Tensor, "batch latent"], pattern: Pattern
) -> Float[Tensor, "feature latent"]:
    """Transposed code times a dense matrix: each feature sums the rows where it is stored."""
    order, rows, starts = pattern.transposed
    return embedding_bag(
        rows,
        dense,
        starts,
        mode="sum",
        per_sample_weights=values.index_select(0, order),
        include_last_offset=True,
    )


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        x, weight, bias, values, ctx.pattern = args
        ctx.save_for_backward(x, weight)
        ctx.n_bias = len(bias)
        return torch.clone(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        pattern = ctx.pattern
        grad_x = _row_sums(grad, weight, pattern) if ctx.needs_input_grad[0] else None
        grad_weight = _column_sums(grad, x, pattern) if ctx.needs_input_grad[1] else None
        grad_bias = grad.new_zeros(ctx.n_bias).index_add_(0, pattern.columns, grad)
        return grad_x, grad_weight, grad_bias, None, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        values, weight, ctx.pattern = args
        # torch's own kernel for the gradient of the entries is one dot product each; this graph,
        # which the weight is no part of, is the public way to it.
        with torch.enable_grad():
            ctx.entries = values.detach().requires_grad_()
            ctx.product = _row_sums(ctx.entries, weight.detach(), ctx.pattern)
        return torch.clone(ctx.product.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0].contiguous()
        (grad_values,) = torch.autograd.grad(ctx.product, ctx.entries, grad, retain_graph=True)
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = _column_sums(ctx.entries.detach(), grad, ctx.pattern)
        return grad_values, grad_weight, None
