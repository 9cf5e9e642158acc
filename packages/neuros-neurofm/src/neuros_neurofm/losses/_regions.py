"""Which channels belong to which brain region, and masks that hide by region."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Generator, Tensor

from neuros_neurofm.losses._entries import spared, uniform

__all__: list[str] = []


def read_regions(batch: Mapping[str, Any], valid: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Which channels of a row are recorded and in a region, (batch, region, channel), bool.

    Only modalities whose regions the batch names are returned.

    Raises:
        TypeError: Regions that are no integers.
        ValueError: The batch names no regions of its modalities, or of another number of channels.
    """
    regions = batch.get("regions") or {}
    named = {m: torch.as_tensor(regions[m]) for m in valid if m in regions}
    if not named:
        raise ValueError(
            f"a mode of regions needs batch['regions'] of {', '.join(valid)}: "
            f"{{modality: region of every channel}}, got regions of {sorted(regions)}"
        )
    return {m: _members(m, ids, valid[m]) for m, ids in named.items()}


def _members(
    modality: str, ids: Tensor, valid: Bool[Tensor, "batch time channel"]
) -> Bool[Tensor, "batch region channel"]:
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise TypeError(f"regions[{modality!r}] must be integers, got {ids.dtype}")
    n_rows, _, n_channels = valid.shape
    if tuple(ids.shape) not in {(n_channels,), (n_rows, n_channels)}:
        raise ValueError(
            f"regions[{modality!r}] must be (channel,) = ({n_channels},) or (batch, channel) = "
            f"({n_rows}, {n_channels}), got shape {tuple(ids.shape)}"
        )
    ids = ids.to(valid.device).expand(n_rows, n_channels)
    # A negative id says that the region is not known; such a channel is in none.
    known: Tensor = torch.unique(ids[ids >= 0])
    return (ids[:, None, :] == known[None, :, None]) & valid.any(dim=1)[:, None, :]


def hide_regions(
    members: Bool[Tensor, "batch region channel"], ratio: float, generator: Generator
) -> Bool[Tensor, "batch channel"]:
    """Channels of the regions that are hidden, each with probability `ratio`; one is kept."""
    there = members.any(dim=2)
    if not there.shape[1]:
        return members.any(dim=1)
    hidden = there & (uniform(tuple(there.shape), generator, there) < ratio)
    hidden = spared(there, hidden, generator)
    return (members & hidden[:, :, None]).any(dim=1)


def keep_one_region(
    members: Bool[Tensor, "batch region channel"], ratio: float, generator: Generator
) -> tuple[Bool[Tensor, "batch channel"], Bool[Tensor, "batch channel"]]:
    """Channels of one region per row, and those of them that are hidden; one is kept."""
    there = members.any(dim=2)
    if not there.shape[1]:
        none = members.any(dim=1)
        return none, none
    order = uniform(tuple(there.shape), generator, there).masked_fill(~there, -1.0)
    row = torch.arange(len(there), device=there.device)
    inside = members[row, order.argmax(dim=1)]
    hidden = inside & (uniform(tuple(inside.shape), generator, inside) < ratio)
    return inside, spared(inside, hidden, generator)
