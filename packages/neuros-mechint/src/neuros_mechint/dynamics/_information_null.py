"""Samples as they would be if nothing depended on anything, or only through what is given."""

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuros_mechint._arrays import one_of
from neuros_mechint.dynamics._information_neighbours import nearest_rows

__all__ = ["Null", "among_neighbours", "p_value", "reordered", "turned_residuals", "within_groups"]

Null = Literal["shuffle", "shift"]
# Samples of like condition that trade places, itself among them (Runge 2018, section 4.2).
_NEIGHBOURS = 5
# Candidates of all draws that are held at once.
_CELLS = 4_000_000


def reordered(
    n: int, n_perm: int, null: Null, generator: torch.Generator | None
) -> Iterator[Tensor]:
    """Orders of n samples.

    Raises:
        ValueError: When the null is not known or the number of draws is not positive.
    """
    one_of("null", null, get_args(Null))
    return _orders(n, n_perm, null, _source(n_perm, generator))


def turned_residuals(
    x: Float[Tensor, "*batch sample dx"],
    given: Float[Tensor, "*batch sample dz"],
    orders: Iterator[Tensor],
) -> Iterator[Tensor]:
    """What is linear in the given stays; the rest of x comes in another order."""
    base = torch.cat([torch.ones_like(given[..., :1]), given], -1)
    basis = torch.linalg.qr(base).Q
    fit = basis @ (basis.mT @ x)
    rest = x - fit
    return (fit + rest[..., order, :] for order in orders)


def within_groups(
    x: Float[Tensor, "*batch sample dx"],
    codes: Int[Tensor, "*batch sample"],
    n_perm: int,
    generator: torch.Generator | None,
) -> Iterator[Tensor]:
    """Samples trade places with those of the same code."""
    source = _source(n_perm, generator)
    return _within(x, codes, n_perm, source)


def among_neighbours(
    x: Float[Tensor, "*batch sample dx"],
    given: Float[Tensor, "*batch sample dz"],
    n_perm: int,
    generator: torch.Generator | None,
) -> Iterator[Tensor]:
    """Every sample takes the x of one of nearly the same given, each used once where possible."""
    source = _source(n_perm, generator)
    near = nearest_rows(given, min(_NEIGHBOURS, given.shape[-2]) - 1)[1]
    at_once = max(1, _CELLS // near.numel())
    sizes = [min(at_once, n_perm - start) for start in range(0, n_perm, at_once)]
    return (_taken(x, order) for size in sizes for order in _local_orders(near, size, source))


def p_value(value: Tensor, null: Tensor) -> Tensor:
    """Share of the null at least as large, counting the value itself."""
    # Counts and symbols tie; equal values may come out with another rounding.
    slack = 1e3 * torch.finfo(null.dtype).eps * value.abs().clamp(min=1)
    return (1 + (null >= value - slack).sum(0)).double() / (1 + len(null))


def _source(n_perm: int, generator: torch.Generator | None) -> torch.Generator:
    if n_perm < 1:
        raise ValueError(f"n_perm must be at least 1, got {n_perm}")
    return torch.Generator().manual_seed(0) if generator is None else generator


def _orders(n: int, n_perm: int, null: Null, source: torch.Generator) -> Iterator[Tensor]:
    for _ in range(n_perm):
        if null == "shuffle":
            yield torch.randperm(n, generator=source, device=source.device)
        else:
            offset = torch.randint(1, n, (), generator=source, device=source.device)
            yield (torch.arange(n, device=source.device) + offset) % n


def _within(
    x: Float[Tensor, "*batch sample dx"],
    codes: Int[Tensor, "*batch sample"],
    n_perm: int,
    source: torch.Generator,
) -> Iterator[Tensor]:
    place = codes.argsort(dim=-1)
    for _ in range(n_perm):
        drawn = torch.rand(codes.shape, generator=source, device=source.device).to(x.device)
        order = (codes + drawn.double()).argsort(dim=-1)
        yield _taken(x, torch.empty_like(order).scatter_(-1, place, order))


def _taken(
    x: Float[Tensor, "*batch sample dx"], order: Int[Tensor, "*batch sample"]
) -> Float[Tensor, "*batch sample dx"]:
    return x.gather(-2, order.unsqueeze(-1).expand_as(x))


def _local_orders(
    near: Int[Tensor, "*batch sample k"], n_perm: int, source: torch.Generator
) -> Int[Tensor, "draw *batch sample"]:
    """Greedy choice of one neighbour per sample (Runge 2018, algorithm 1).

    The loop runs over samples, in random order, since each choice depends on those before it; all
    draws and items of a batch choose together.
    """
    n, k = near.shape[-2:]
    tables = near.reshape(-1, n, k).repeat(n_perm, 1, 1)
    drawn = torch.rand(tables.shape, generator=source, device=source.device)
    tables = tables.gather(-1, drawn.argsort(dim=-1).to(near.device))
    keys = torch.rand(tables.shape[:2], generator=source, device=source.device)
    turns = keys.argsort(dim=-1).to(near.device)
    row = torch.arange(len(tables), device=near.device)
    free = torch.ones_like(turns, dtype=torch.bool)
    chosen = torch.empty_like(turns)
    for at in turns.T:
        candidates = tables[row, at]
        unused = free.gather(1, candidates)
        # Without a free neighbour the last one serves twice.
        first = torch.where(unused.any(1), unused.int().argmax(1), k - 1)
        one = candidates[row, first]
        free[row, one] = False
        chosen[row, at] = one
    return chosen.reshape(n_perm, *near.shape[:-1])
