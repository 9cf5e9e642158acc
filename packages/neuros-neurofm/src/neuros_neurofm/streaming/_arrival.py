"""Checks of what is pushed, and where it belongs in time."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from neuros_neurofm.models._inputs import ModalityInput
from neuros_neurofm.models._options import check_rates
from neuros_neurofm.streaming._source import Source
from neuros_neurofm.tokenizers import SpikeEvents

__all__ = [
    "check_late",
    "check_same",
    "check_whole_bins",
    "joined_rates",
    "own_times",
    "start_index",
    "times_of",
]


def joined_rates(
    modalities: Sequence[str], built: Mapping[str, float], given: Mapping[str, float] | None
) -> dict[str, float]:
    """Samples per second of each modality that has a rate.

    Raises:
        ValueError: a rate that is not > 0, of an unknown modality, or other than the model's.
    """
    rates = check_rates("sampling_rates", given, modalities)
    for name, rate in rates.items():
        if name in built and not math.isclose(built[name], rate, rel_tol=1e-6):
            raise ValueError(
                f"{name}: the stream is sampled at {rate} Hz, the model expects {built[name]} Hz; "
                f"resample the stream"
            )
    return rates | dict(built)


def times_of(
    t: float | Tensor | Mapping[str, float | Tensor] | None, names: Sequence[str]
) -> Mapping[str, float | Tensor]:
    """The times of each modality of a push.

    Raises:
        ValueError: times of a modality without a chunk, or one tensor for several modalities.
    """
    if isinstance(t, Tensor) and len(names) > 1:
        raise ValueError(
            f"t is one tensor for {list(names)}; pass a mapping with the times of each modality"
        )
    times = t if isinstance(t, Mapping) else {} if t is None else dict.fromkeys(names, t)
    unknown = [name for name in times if name not in names]
    if unknown:
        raise ValueError(f"t names {unknown}, but the chunks are those of {list(names)}")
    return times


def check_same(
    name: str,
    stream: ModalityInput,
    before: Source | None,
    batch: int | None,
    *,
    regular: bool,
    exact: bool,
) -> None:
    """Rows, channels, ids, kind of clock and kind of spikes stay what they were.

    Raises:
        ValueError: one of them differs.
    """
    if batch is not None and stream.batch != batch:
        raise ValueError(
            f"{name}: the stream has {batch} rows, got {stream.batch}; reset() begins a new one"
        )
    if before is None or stream.x is None:
        return
    channels = before.state.x.shape[2]
    if stream.x.shape[2] != channels:
        raise ValueError(
            f"{name}: the stream has {channels} channels, got {stream.x.shape[2]}; mask channels "
            f"that are missing, or reset()"
        )
    if stream.units is not None and tuple(stream.units) != before.units:
        raise ValueError(
            f"{name}: units must stay those of the first chunk; reset() to change them"
        )
    if regular != before.regular:
        kind = "equal intervals" if before.regular else "times of its own"
        raise ValueError(f"{name}: the stream began with {kind} and must go on with them")
    if exact != before.exact:
        kind = "events" if before.exact else "counts"
        raise ValueError(f"{name}: the stream began with {kind} and must go on with them")


def check_whole_bins(name: str, events: SpikeEvents, rate: float) -> None:
    """A bin is in one chunk.

    Raises:
        ValueError: the chunk ends within a bin.
    """
    bins = rate * (events.duration or 0.0)
    if abs(bins - round(bins)) > 1e-6 * max(1.0, bins):
        raise ValueError(
            f"{name}: the duration of a chunk of events must be a whole number of bins of "
            f"{1 / rate:g} s, got {events.duration:g} s"
        )


def start_index(name: str, seconds: float, rate: float, *, received: int) -> int:
    """Index of the first sample of a chunk that begins at `seconds`.

    Raises:
        ValueError: not a time, or before what has arrived.
    """
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"{name}: t must be seconds >= 0 since the start, got {seconds}")
    index = round(seconds * rate)
    if index < received:
        raise ValueError(
            f"{name}: t = {seconds:g} s lies before the end of what has arrived, "
            f"{received / rate:g} s; pass each sample once"
        )
    return index


def own_times(name: str, times: Tensor, x: Tensor, *, after: float) -> Tensor:
    """The time of each sample, (time,) float64.

    Raises:
        ValueError: another shape, not finite, or decreasing.
    """
    at = times.detach().to(device=x.device, dtype=torch.float64)
    if at.shape != x.shape[1:2] or not bool(torch.isfinite(at).all()):
        raise ValueError(
            f"{name}: t must be one finite time per sample, ({x.shape[1]},), shared by all rows; "
            f"got {tuple(at.shape)}"
        )
    if float(at.diff(prepend=at.new_tensor([after])).amin()) < 0:
        raise ValueError(
            f"{name}: times must start at 0 or later and not decrease, also from chunk to chunk; "
            f"the last one was {after:g} s"
        )
    return at


def check_late(name: str, first: float, n_steps: int, step: float) -> None:
    """A sample must not belong to a step that has been returned.

    Raises:
        ValueError: it does.
    """
    if n_steps and first <= n_steps * step + 1e-6 * step:
        raise ValueError(
            f"{name}: the sample at {first:g} s comes too late, the steps up to "
            f"{n_steps * step:g} s have been returned without it; drop it, and let modalities "
            f"join in one push or allow a longer max_lag"
        )
