"""Power-law memory of many channels: whole pieces by convolution, steps by exponentials."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from neuros_neurofm.models._mamba_packing import Packing
from neuros_neurofm.ops._fft_conv import causal_fft_conv

__all__: list[str] = []


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


def convolve_packed(
    u: Float[Tensor, "batch time channel"],
    kernel: Float[Tensor, " lag"],
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
        out = out.index_copy(0, where, causal_fft_conv(rows, kernel)[inside])
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
