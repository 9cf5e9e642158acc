"""Checked samples of a recording, and the part of a stream that waits for its patch to end."""

from typing import NamedTuple

import torch
from torch import Tensor

from neuros_neurofm.tokenizers._memory import NOTHING, Memory
from neuros_neurofm.tokenizers._patches import checked_signal, sample_times

__all__ = [
    "Samples",
    "TokenizerState",
    "checked_samples",
    "first_state",
    "long_gap",
    "split_waiting",
    "waiting_and_new",
]


class TokenizerState(NamedTuple):
    """What a tokenizer remembers of a stream; its size does not grow with time.

    Attributes:
        memory: Sums, last samples and times, by the part that keeps them.
        x: Samples of the patch in progress, (batch, waiting, channel).
        valid: The same shape.
        times: Seconds at which they were known, (batch, waiting), float64.

    Examples:
        >>> from neuros_neurofm.tokenizers import EMGTokenizer
        >>> state = EMGTokenizer(8, sampling_rate=1000.0).init_state(2, 3)
        >>> state.x.shape, state.memory
        (torch.Size([2, 0, 3]), {})
    """

    memory: dict[str, Tensor]
    x: Tensor
    valid: Tensor
    times: Tensor


class Samples(NamedTuple):
    """Checked samples (batch, time, channel) with their times (batch, time)."""

    x: Tensor
    valid: Tensor
    times: Tensor


def checked_samples(
    modality: str,
    x: Tensor,
    mask: Tensor | None,
    times: Tensor | None,
    *,
    rate: float,
    dtype: torch.dtype,
    counts: bool,
    memory: Memory = NOTHING,
) -> Samples:
    """The samples in `dtype`, 0 where masked, with the times at which they are known.

    Raises:
        TypeError: `x` is not a real tensor, or the mask is not boolean.
        ValueError: a shape, value or time that does not fit.
    """
    clean, valid = checked_signal(modality, x, mask, dtype, counts=counts)
    at = sample_times(modality, valid.any(-1), rate=rate, times=times, memory=memory)
    return Samples(clean, valid, at)


def first_state(like: Tensor, batch: int, channels: int) -> TokenizerState:
    """The state before the first sample."""
    x = like.new_zeros(batch, 0, channels)
    return TokenizerState({}, x, x.bool(), x.new_zeros(batch, 0, dtype=torch.float64))


def waiting_and_new(modality: str, state: TokenizerState, new: Samples) -> Samples:
    """The samples of the patch in progress, and those of the chunk after them.

    Raises:
        ValueError: another number of rows or channels than before.
    """
    if new.x.shape[::2] != state.x.shape[::2]:
        raise ValueError(
            f"{modality}: the stream began with (batch, channel) = "
            f"{tuple(state.x.shape[::2])}, got {tuple(new.x.shape[::2])}"
        )
    return Samples(*(torch.cat(pair, 1) for pair in zip(state[1:], new, strict=True)))


def split_waiting(samples: Samples, size: int) -> tuple[Samples, Samples]:
    """The whole patches, and the samples after them."""
    whole = samples.x.shape[1] // size * size
    # Copies: a view would keep the whole chunk alive.
    waiting = Samples(*(part[:, whole:].clone() for part in samples))
    return Samples(*(part[:, :whole] for part in samples)), waiting


def long_gap(n: int, size: int, state: TokenizerState) -> tuple[Tensor, TokenizerState]:
    """The masked samples that stand for a gap of `n`, and the state before them.

    Whole patches that no part will remember are not run, only counted.
    """
    batch, waiting, channels = state.x.shape
    # No part remembers more samples than the longest axis of what it keeps.
    longest = max((max(t.shape, default=0) for t in state.memory.values()), default=0)
    first = -waiting % size
    spare = max(0, n - first - longest - size) // size * size
    if spare:
        ahead = state.memory.get("position", state.times.new_zeros(1, 1)) + spare
        state = state._replace(memory={**state.memory, "position": ahead})
    return state.x.new_zeros(batch, n - spare, channels), state
