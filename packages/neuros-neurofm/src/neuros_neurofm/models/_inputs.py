"""Collects what belongs to each stream of a call, and lays the grid of time."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias, TypedDict

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from neuros_core.modality import Modality
from neuros_neurofm.tokenizers import SpikeEvents, Tokens
from neuros_neurofm.tokenizers._events import bin_events
from neuros_neurofm.tokenizers._patches import checked_mask

__all__ = ["Grid", "ModalityInput", "Stream", "collect", "lay_grid", "row_ends"]


class StreamFields(TypedDict, total=False):
    """Samples with what belongs to them."""

    x: Tensor | SpikeEvents
    units: Sequence[str] | None
    mask: Tensor | None
    times: Tensor | None
    coords: Tensor | None


Stream: TypeAlias = Tensor | SpikeEvents | Tokens | StreamFields

_FIELDS = ("x", "units", "mask", "times", "coords")


class ModalityInput(NamedTuple):
    """One stream: raw samples with what is known about them, or ready tokens.

    Spike events are held beside their counts `x`, which shape, mask and grid speak about.
    """

    x: Tensor | None
    tokens: Tokens | None
    units: Sequence[str] | None
    mask: Tensor | None
    times: Tensor | None
    coords: Tensor | None
    events: SpikeEvents | None = None

    @property
    def batch(self) -> int:
        """Number of rows."""
        values = self.tokens.values if self.tokens is not None else self.x
        return 0 if values is None else values.shape[0]


class Grid(NamedTuple):
    """Times of the latents.

    Attributes:
        times: End of each step in seconds, (latent,), float64.
        step: Seconds per step.
        rates: Samples per second of each raw stream.
    """

    times: Tensor
    step: float
    rates: dict[str, float]


def collect(
    inputs: Mapping[str, Stream],
    modalities: Sequence[str],
    *,
    units: Mapping[str, Sequence[str]] | None,
    masks: Mapping[str, Tensor] | None,
    times: Mapping[str, Tensor] | None,
    rates: Mapping[str, float] | None = None,
) -> dict[str, ModalityInput]:
    """The streams in the fixed order of the modalities; `rates` are needed to bin events.

    Raises:
        TypeError: a stream is neither tensor, events, tokens nor mapping.
        ValueError: no stream, an unknown name, rows that differ in number, or events that cannot be
            binned.
    """
    if not inputs:
        raise ValueError("inputs is empty; pass at least one modality, such as {'spike': counts}")
    for name, given in (("inputs", inputs), ("units", units), ("masks", masks), ("times", times)):
        _check_names(name, given, modalities if given is inputs else list(inputs))
    streams = {
        name: _stream(
            name,
            inputs[name],
            units=(units or {}).get(name),
            mask=(masks or {}).get(name),
            times=(times or {}).get(name),
            rate=(rates or {}).get(name),
        )
        for name in modalities
        if name in inputs
    }
    batches = {name: stream.batch for name, stream in streams.items()}
    if len(set(batches.values())) > 1:
        raise ValueError(f"all modalities of a call need the same number of rows, got {batches}")
    return streams


def _check_names(what: str, given: Mapping[str, object] | None, allowed: Sequence[str]) -> None:
    unknown = [name for name in given or {} if name not in allowed]
    if not unknown:
        return
    names = [m.value for m in Modality]
    if what == "inputs" and unknown[0] in names:
        raise ValueError(
            f"this model was built without {unknown}; its modalities are {list(allowed)}"
        )
    if what == "inputs":
        raise ValueError(f"unknown modality {unknown}; known are {names}")
    raise ValueError(f"{what} names {unknown}, but inputs holds {list(allowed)}")


def _stream(
    name: str,
    value: Stream,
    *,
    units: Sequence[str] | None,
    mask: Tensor | None,
    times: Tensor | None,
    rate: float | None,
) -> ModalityInput:
    coords: Tensor | None = None
    # Tokens is a tuple, so it is asked for first.
    if isinstance(value, Tokens):
        _check_tokens(name, value)
        return ModalityInput(None, value, None, None, None, None)
    if isinstance(value, Mapping):
        unknown = [key for key in value if key not in _FIELDS]
        if unknown or "x" not in value:
            raise ValueError(
                f"{name}: a mapping holds the tensor 'x' and any of {_FIELDS[1:]}, "
                f"got {list(value)}"
            )
        units, mask = value.get("units", units), value.get("mask", mask)
        times, coords = value.get("times", times), value.get("coords")
        value = value["x"]
    events = None
    if isinstance(value, SpikeEvents):
        events = _sized(value, units)
        value = _counts(name, events, times, rate)
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name}: expected a tensor, Tokens or a mapping (for spikes also SpikeEvents), "
            f"got {type(value)}"
        )
    if value.ndim != 3 or 0 in value.shape:
        raise ValueError(
            f"{name}: x must have 3 axes (batch, time, channel), none of them empty, "
            f"got shape {tuple(value.shape)}"
        )
    mask = None if mask is None else checked_mask(name, mask, value)
    return ModalityInput(value, None, units, mask, times, coords, events)


def _sized(events: SpikeEvents, units: Sequence[str] | None) -> SpikeEvents:
    n = len(units) if events.n_units is None and units is not None else events.n_units
    return events._replace(n_units=n)


def _counts(name: str, events: SpikeEvents, times: Tensor | None, rate: float | None) -> Tensor:
    if name != Modality.SPIKE.value:
        raise ValueError(f"{name}: events are spikes, got SpikeEvents; pass (batch, time, channel)")
    if times is not None:
        raise ValueError(f"{name}: events carry their times; leave `times` out")
    if rate is None:
        raise ValueError(
            f"{name}: events are binned for the read-outs; build the model with "
            f"sampling_rates={{'{name}': bins per second}}; a stream takes counts"
        )
    return bin_events(name, events, rate)[0]


def _check_tokens(name: str, tokens: Tokens) -> None:
    shape = tokens.values.shape
    if len(shape) != 3 or tokens.times.shape != shape[:2] or tokens.mask.shape != shape[:2]:
        raise ValueError(
            f"{name}: tokens need values (batch, token, d_model), times and mask (batch, token), "
            f"got {tuple(shape)}, {tuple(tokens.times.shape)}, {tuple(tokens.mask.shape)}"
        )
    if bool((tokens.times.diff(dim=-1) < 0).any()):
        raise ValueError(f"{name}: the times of tokens must not decrease along a row")


def lay_grid(
    streams: Mapping[str, ModalityInput],
    sampling_rates: Mapping[str, float],
    *,
    window: float | None,
    n_latents: int,
    device: torch.device,
) -> Grid:
    """The grid: `n_latents` steps per window, and more where the input is longer.

    Raises:
        ValueError: a stream has no sample.
    """
    durations = {name: _duration(name, s, sampling_rates) for name, s in streams.items()}
    known = [d for d in durations.values() if d is not None]
    span = window or max(known, default=1.0)
    step = span / n_latents
    # 1e-6 of a step: 0.64 s / 0.01 s must not become 65 steps by rounding.
    n = max(n_latents, math.ceil(max([span, *known]) / step - 1e-6))
    grid = torch.arange(1, n + 1, dtype=torch.float64, device=device) * step
    rates = {
        name: sampling_rates.get(name) or stream.x.shape[1] / span
        for name, stream in streams.items()
        if stream.x is not None
    }
    return Grid(grid, step, rates)


def _duration(
    name: str, stream: ModalityInput, sampling_rates: Mapping[str, float]
) -> float | None:
    times, seen = stream.times, None if stream.mask is None else stream.mask.any(-1)
    if stream.tokens is not None:
        times, seen = stream.tokens.times, stream.tokens.mask
    if times is not None:
        if seen is not None and times.shape[-1] == seen.shape[-1]:
            # Times of padding carry no meaning.
            times = torch.where(seen, times, torch.nan)
        finite = times[torch.isfinite(times)]
        latest = float(finite.max()) if finite.numel() else 0.0
        # One sample at time 0 says nothing about a duration.
        return latest if latest > 0 else None
    if stream.x is None or name not in sampling_rates:
        return None
    return stream.x.shape[1] / sampling_rates[name]


def row_ends(
    streams: Mapping[str, ModalityInput], grid: Grid, n_latents: int
) -> Int[Tensor, " batch"] | None:
    """Number of latents that each row would have in a batch of one; None: all those of the grid.

    A longer stream that a row lacks gives latents to the batch that the row alone would not have.
    """
    n = grid.times.shape[0]
    if n == n_latents:
        return None
    lasting = [_row_durations(stream, grid.rates.get(name)) for name, stream in streams.items()]
    longest = torch.stack([seconds.to(grid.times.device) for seconds in lasting]).amax(0)
    own = (longest / grid.step - 1e-6).ceil().clamp(n_latents, n).long()
    # A row without anything has no length of its own.
    ends = torch.where(longest > 0, own, n)
    return None if bool((ends == n).all()) else ends


def _row_durations(stream: ModalityInput, rate: float | None) -> Float64[Tensor, " batch"]:
    """Seconds of the stream in each row, 0 in rows that lack it."""
    times, mask = stream.times, stream.mask
    if stream.tokens is not None:
        times, mask = stream.tokens.times, stream.tokens.mask.unsqueeze(-1)
    seen = torch.ones(stream.batch, 1, dtype=torch.bool) if mask is None else mask.any(-1)
    if times is not None:
        at = times.to(torch.float64).expand(stream.batch, -1)
        valid = torch.isfinite(at) & seen.to(at.device)
        return torch.where(valid, at, 0.0).amax(1)
    length = 0 if stream.x is None else stream.x.shape[1]
    return seen.any(1).to(torch.float64) * (length / (rate or 1.0))
