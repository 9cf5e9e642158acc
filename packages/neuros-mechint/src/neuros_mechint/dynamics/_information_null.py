"""Orders of samples under which nothing depends on anything."""

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

from neuros_mechint._arrays import one_of

__all__ = ["Null", "p_value", "reordered"]

Null = Literal["shuffle", "shift"]


def reordered(
    n: int, n_perm: int, null: Null, generator: torch.Generator | None
) -> Iterator[Tensor]:
    """Orders of n samples.

    Raises:
        ValueError: When the null is not known or the number of draws is not positive.
    """
    one_of("null", null, get_args(Null))
    if n_perm < 1:
        raise ValueError(f"n_perm must be at least 1, got {n_perm}")
    source = torch.Generator().manual_seed(0) if generator is None else generator
    return _orders(n, n_perm, null, source)


def _orders(n: int, n_perm: int, null: Null, source: torch.Generator) -> Iterator[Tensor]:
    for _ in range(n_perm):
        if null == "shuffle":
            yield torch.randperm(n, generator=source, device=source.device)
        else:
            offset = torch.randint(1, n, (), generator=source, device=source.device)
            yield (torch.arange(n, device=source.device) + offset) % n


def p_value(value: Tensor, null: Tensor) -> Tensor:
    """Share of the null at least as large, counting the value itself."""
    return (1 + (null >= value).sum(0)).double() / (1 + len(null))
