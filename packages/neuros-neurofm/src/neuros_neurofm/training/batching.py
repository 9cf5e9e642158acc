"""Put samples of unequal length and unequal channels into one batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from neuros_core import Modality

__all__ = ["collate"]

_SCALARS = ("species", "source", "recording_index", "start_time")
_BEHAVIOR = ("behavior", "behavior_times", "behavior_mask")
_KEYS = {*Modality, *_SCALARS, *_BEHAVIOR, "masks", "units", "rates", "times"}


def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Pad samples to one `neuros_core.Batch`, and say in `masks` what is real.

    Samples that carry `units` are lined up by unit id: the channel axis of the batch is the union
    of the ids in order of first appearance. Without `units` channels are lined up by position. A
    modality that a sample does not have is all False in its row. Irregular `times` are continued
    with the last one.

    Args:
        samples: Dicts with modalities (time, channel), and optionally `masks` {modality:
            (time, channel)}, `units` {modality: ids}, `times` {modality: (time,) s}, `rates`
            {modality: Hz}, `behavior` (query, dim) or integer (query,), `behavior_times` (query,)
            s, `behavior_mask` (query,), and the numbers `species`, `source`, `recording_index`,
            `start_time`.

    Returns:
        The batch; modalities are (batch, time, channel), `behavior` is (batch, query, dim).

    Raises:
        ValueError: No sample, an unknown key, a key that only some samples have and that cannot be
            masked, unequal rates, or shapes that do not belong together.

    Examples:
        >>> import torch
        >>> batch = collate([
        ...     {"spike": torch.ones(3, 2), "units": {"spike": ["a", "b"]}},
        ...     {"spike": torch.ones(2, 2), "units": {"spike": ["b", "c"]}},
        ... ])
        >>> tuple(batch["spike"].shape), batch["units"], batch["masks"]["spike"][1].sum(0).tolist()
        ((2, 3, 3), {'spike': ('a', 'b', 'c')}, [0, 2, 2])
    """
    _check(samples)
    batch: dict[str, Any] = {}
    for modality in [str(m) for m in Modality if any(m in sample for sample in samples)]:
        _add_modality(batch, modality, samples)
    if any("behavior" in sample for sample in samples):
        _add_behavior(batch, samples)
    for key in _SCALARS:
        if _shared(key, [key in sample for sample in samples]):
            batch[key] = torch.stack([torch.as_tensor(sample[key]) for sample in samples])
    return batch


def _check(samples: Sequence[Mapping[str, Any]]) -> None:
    if not samples:
        raise ValueError("collate needs at least one sample, got none")
    unknown = sorted({key for sample in samples for key in sample} - _KEYS)
    if unknown:
        raise ValueError(f"samples have unknown keys {unknown}; known are {sorted(_KEYS)}")


def _shared(name: str, has: Sequence[bool]) -> bool:
    if any(has) and not all(has):
        raise ValueError(
            f"{name} must be in every sample or in none, got it in {sum(has)} of {len(has)}"
        )
    return all(has)


def _add_modality(
    batch: dict[str, Any], modality: str, samples: Sequence[Mapping[str, Any]]
) -> None:
    present = [i for i, sample in enumerate(samples) if modality in sample]
    values = [torch.as_tensor(samples[i][modality]) for i in present]
    for x in values:
        if x.ndim != 2:
            raise ValueError(f"{modality} must be (time, channel), got shape {tuple(x.shape)}")
    columns = _columns(batch, modality, [samples[i] for i in present], values)
    shape = (
        len(samples),
        max(x.shape[0] for x in values),
        max(max(column, default=-1) for column in columns) + 1,
    )
    padded = torch.zeros(shape, dtype=values[0].dtype)
    mask = torch.zeros(shape, dtype=torch.bool)
    for row, x, column in zip(present, values, columns, strict=True):
        given = (samples[row].get("masks") or {}).get(modality)
        padded[row, : x.shape[0], column] = x.to(padded.dtype)
        valid = torch.ones_like(x, dtype=torch.bool) if given is None else torch.as_tensor(given)
        mask[row, : x.shape[0], column] = valid.expand(x.shape)
    batch[modality] = padded
    batch.setdefault("masks", {})[modality] = mask
    _add_clock(batch, modality, samples, present, shape[1])


def _columns(
    batch: dict[str, Any],
    modality: str,
    samples: Sequence[Mapping[str, Any]],
    values: Sequence[Tensor],
) -> list[list[int]]:
    """Say at which channel of the batch every channel of every sample stands."""
    given = [(sample.get("units") or {}).get(modality) for sample in samples]
    units = [ids for ids in given if ids is not None]
    if not _shared(f"units of {modality}", [ids is not None for ids in given]):
        return [list(range(x.shape[1])) for x in values]
    place: dict[str, int] = {}
    columns = []
    for ids, x in zip(units, values, strict=True):
        if len(ids) != x.shape[1] or len(set(ids)) != len(ids):
            raise ValueError(
                f"units of {modality} must be {x.shape[1]} different ids, one per channel, "
                f"got {len(ids)}, {len(set(ids))} of them different"
            )
        columns.append([place.setdefault(str(unit), len(place)) for unit in ids])
    batch.setdefault("units", {})[modality] = tuple(place)
    return columns


def _add_clock(
    batch: dict[str, Any],
    modality: str,
    samples: Sequence[Mapping[str, Any]],
    present: Sequence[int],
    n_times: int,
) -> None:
    rates = [(samples[i].get("rates") or {}).get(modality) for i in present]
    if len(set(rates)) > 1:
        raise ValueError(f"rates of {modality} must be equal in one batch, got {rates} Hz")
    if rates[0] is not None:
        batch.setdefault("rates", {})[modality] = rates[0]
    times = [(samples[i].get("times") or {}).get(modality) for i in present]
    if not _shared(f"times of {modality}", [t is not None for t in times]):
        return
    padded = torch.zeros(len(samples), n_times, dtype=torch.as_tensor(times[0]).dtype)
    for row, given in zip(present, times, strict=True):
        t = torch.as_tensor(given)
        padded[row, : len(t)] = t
        # Times must not run backwards, not even where nothing was recorded.
        padded[row, len(t) :] = t[-1]
    batch.setdefault("times", {})[modality] = padded


def _add_behavior(batch: dict[str, Any], samples: Sequence[Mapping[str, Any]]) -> None:
    present = [i for i, sample in enumerate(samples) if "behavior" in sample]
    values = [torch.as_tensor(samples[i]["behavior"]) for i in present]
    tails = {tuple(x.shape[1:]) for x in values}
    if len(tails) > 1 or len(next(iter(tails))) > 1:
        raise ValueError(
            f"behavior must be (query, dim) or (query,) of one dim, got shapes "
            f"{[tuple(x.shape) for x in values]}"
        )
    n_queries = max(x.shape[0] for x in values)
    padded = torch.zeros((len(samples), n_queries, *tails.pop()), dtype=values[0].dtype)
    mask = torch.zeros((len(samples), n_queries), dtype=torch.bool)
    for row, x in zip(present, values, strict=True):
        given = samples[row].get("behavior_mask")
        padded[row, : len(x)] = x
        mask[row, : len(x)] = True if given is None else torch.as_tensor(given)
    batch["behavior"], batch["behavior_mask"] = padded, mask
    has_times = [samples[i].get("behavior_times") is not None for i in present]
    if _shared("behavior_times", has_times):
        first = torch.as_tensor(samples[present[0]]["behavior_times"])
        times = torch.zeros((len(samples), n_queries), dtype=first.dtype)
        for row in present:
            t = torch.as_tensor(samples[row]["behavior_times"])
            times[row, : len(t)] = t
        batch["behavior_times"] = times
