"""The entries of a batch: which are valid, and random numbers to choose among them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor

from neuros_core import Modality

__all__: list[str] = []


def read_entries(batch: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Values of the modalities, and True where they are valid, both (batch, time, channel).

    Raises:
        ValueError: The batch has no modality, or one that does not have three axes.
    """
    values = {str(m): batch[m] for m in Modality if m in batch}
    if not values:
        raise ValueError(
            f"the batch has no modality, only {sorted(batch)}; "
            f"it needs at least one of {', '.join(Modality)}"
        )
    masks = batch.get("masks") or {}
    valid = {}
    for modality, x in values.items():
        if x.ndim != 3:
            raise ValueError(
                f"batch[{modality!r}] must be (batch, time, channel), got shape {tuple(x.shape)}"
            )
        mask = masks.get(modality)
        every = torch.ones(x.shape, dtype=torch.bool, device=x.device)
        valid[modality] = every if mask is None else mask & every
    return values, valid


def uniform(shape: tuple[int, ...], generator: Generator, like: Tensor) -> Tensor:
    """Numbers in [0, 1) on the device of `like`."""
    return torch.rand(shape, generator=generator, device=generator.device).to(like.device)


def spared(there: Tensor, hidden: Tensor, generator: Generator) -> Tensor:
    """What of `hidden` may be hidden so that a row keeps one of its things, each equally likely.

    Both are (batch, thing), bool.
    """
    order = uniform(tuple(there.shape), generator, there).masked_fill(~there, -1.0)
    lost = ~(there & ~hidden).any(dim=1, keepdim=True)
    one = torch.nn.functional.one_hot(order.argmax(dim=1), there.shape[1]).bool()
    return hidden & ~(lost & one)
