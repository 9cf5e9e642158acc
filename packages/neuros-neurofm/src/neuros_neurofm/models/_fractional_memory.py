"""Power-law memory of many channels, by the exponentials that stand for its kernel."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from neuros_neurofm.models._mamba_packing import Packing
from neuros_neurofm.ops._fractional import mode_kernel

__all__: list[str] = []

# Samples whose weights are applied one by one; what was before is heard through the modes.
_CHUNK = 64


class Modes(NamedTuple):
    """Exponentials that stand for the kernel: sum of weights * exp(-rates * lag)."""

    weights: Float[Tensor, " mode"]
    rates: Float[Tensor, " mode"]

    def to(self, dtype: torch.dtype) -> "Modes":
        """The same in another precision."""
        return Modes(self.weights.to(dtype), self.rates.to(dtype))


def first_segment(seq_idx: Int[Tensor, "batch time"]) -> Bool[Tensor, "batch time"]:
    """Where a row is still in the sequence of its first step."""
    return _segment_numbers(seq_idx) == 0


def last_segment(seq_idx: Int[Tensor, "batch time"]) -> Bool[Tensor, "batch time"]:
    """Where a row has reached the sequence of its last step."""
    numbers = _segment_numbers(seq_idx)
    return numbers == numbers[:, -1:]


def _segment_numbers(seq_idx: Int[Tensor, "batch time"]) -> Int[Tensor, "batch time"]:
    changes = torch.zeros_like(seq_idx)
    changes[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
    return changes.cumsum(1)


def convolve(
    u: Float[Tensor, "batch time channel"], modes: Modes
) -> Float[Tensor, "batch time channel"]:
    """Causal convolution with the sum of the modes (in float64), in chunks.

    No output meets a later input but as a factor of zero: the future leaves the past as it is to
    the bit, which no convolution by Fourier transforms does.
    """
    batch, length, channels = u.shape
    size = min(_CHUNK, length)
    if not size:
        return u
    n = -(-length // size)
    chunks = functional.pad(u, (0, 0, 0, n * size - length)).view(batch, n, size, channels)
    at = torch.arange(size, device=u.device)
    lag = at[:, None] - at
    weights = mode_kernel(*modes, size)[lag.clamp(min=0)].masked_fill(lag < 0, 0)
    within = weights.to(u.dtype) @ chunks
    if n > 1:
        within = within + _heard_of_earlier(chunks, modes)
    return within.flatten(1, 2)[:, :length]


def _heard_of_earlier(
    chunks: Float[Tensor, "batch chunk time channel"], modes: Modes
) -> Float[Tensor, "batch chunk time channel"]:
    """What every chunk hears of the chunks before it."""
    size, dtype = chunks.shape[2], chunks.dtype
    ages = torch.arange(size, device=chunks.device, dtype=modes.rates.dtype)
    fading = torch.exp(-ages[:, None] * modes.rates)
    entered = chunks[:, :-1].transpose(2, 3) @ fading.flip(0).to(dtype)
    # A slow mode's decay has few digits left in float32; its loss keeps seven.
    loss = torch.expm1(-size * modes.rates).to(dtype)
    state = torch.zeros_like(entered[:, 0])
    before = [state]
    for new in entered.unbind(1):
        state = state + (state * loss + new)
        before.append(state)
    read = (fading * torch.exp(-modes.rates) * modes.weights).to(dtype)
    return (torch.stack(before, 1) @ read.t()).transpose(2, 3)


def convolve_packed(
    u: Float[Tensor, "batch time channel"],
    modes: Modes,
    seq_idx: Int[Tensor, "batch time"],
) -> Float[Tensor, "batch time channel"]:
    """Causal convolution that starts afresh in every sequence.

    Sequences of like length (between two powers of 2) are cut out and run as rows of one batch, so
    that padding at most doubles the work, whatever the mixture of lengths.
    """
    batch, length, channels = u.shape
    begins = _segment_numbers(seq_idx).diff(dim=1, prepend=seq_idx.new_full((batch, 1), -1))
    starts = torch.nonzero(begins.flatten()).squeeze(1)
    lengths = starts.diff(append=starts.new_full((1,), batch * length))
    octave = torch.frexp(lengths.double() - 0.5).exponent
    flat = u.reshape(-1, channels)
    out = torch.zeros_like(flat)
    for power in sorted(set(octave.tolist())):
        chosen = octave == power
        size = int(lengths[chosen].max())
        offsets = torch.arange(size, device=u.device)
        inside = offsets < lengths[chosen][:, None]
        where = (starts[chosen][:, None] + offsets)[inside]
        rows = u.new_zeros(*inside.shape, channels)
        rows[inside] = flat[where]
        out = out.index_copy(0, where, convolve(rows, modes)[inside])
    return out.view_as(u)


def read_past(
    past: Float[Tensor, "batch channel mode"],
    modes: Modes,
    length: int,
    reaches: Bool[Tensor, "batch time"] | None,
) -> Float[Tensor, "batch time channel"]:
    """What the steps of a piece still hear of the inputs before it."""
    ages = torch.arange(1, length + 1, device=past.device, dtype=past.dtype)
    decay = modes.weights * torch.exp(-ages[:, None] * modes.rates)
    heard = torch.einsum("bcm,tm->btc", past, decay)
    return heard if reaches is None else heard * reaches[..., None]


def after_piece(
    past: Float[Tensor, "batch channel mode"],
    u: Float[Tensor, "batch time channel"],
    rates: Float[Tensor, " mode"],
    *,
    seq_idx: Int[Tensor, "batch time"] | None,
    packing: Packing | None,
) -> Float[Tensor, "batch channel mode"]:
    """State after a piece: every mode's sum of the inputs, each decayed by its age."""
    length = u.shape[1]
    if not length:
        return past
    kept = past
    if seq_idx is not None:
        u = u * last_segment(seq_idx)[..., None]
        kept = past * first_segment(seq_idx)[:, -1, None, None]
    steps = torch.full((u.shape[0],), length, device=u.device)
    if packing is not None:
        steps = packing.n_valid
        u = _aligned_right(u, steps)
    ages = torch.arange(length - 1, -1, -1, device=u.device, dtype=u.dtype)
    entered = torch.einsum("btc,tm->bcm", u, torch.exp(-ages[:, None] * rates))
    return kept * torch.exp(-steps[:, None, None] * rates) + entered


def _aligned_right(
    u: Float[Tensor, "batch time channel"], n_valid: Int[Tensor, " batch"]
) -> Float[Tensor, "batch time channel"]:
    """The valid steps, which are the first of every row, moved to its end, zeros before them."""
    length = u.shape[1]
    source = torch.arange(length, device=u.device) - (length - n_valid[:, None])
    moved = u.take_along_dim(source.clamp(min=0)[..., None], 1)
    return moved.masked_fill((source < 0)[..., None], 0)
