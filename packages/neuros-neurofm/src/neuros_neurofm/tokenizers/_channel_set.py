"""The part that all tokenizers share: patches, statistics, unit vectors and pooling."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from neuros_neurofm.tokenizers._memory import NOTHING, Memory
from neuros_neurofm.tokenizers._normalise import CausalNormalizer
from neuros_neurofm.tokenizers._patches import Patched, patch_signal, token_times
from neuros_neurofm.tokenizers._pooling import ChannelPool
from neuros_neurofm.tokenizers._samples import (
    Samples,
    TokenizerState,
    checked_samples,
    first_state,
    long_gap,
    split_waiting,
    waiting_and_new,
)
from neuros_neurofm.tokenizers._tokens import Tokens
from neuros_neurofm.tokenizers._units import UnitEmbedding

__all__ = [
    "ChannelSetTokenizer",
    "FrontEnd",
    "Standardised",
    "Tokenised",
    "frames",
]


class Standardised(NamedTuple):
    """Input of a front end.

    Attributes:
        x: Standardised samples (counts for spikes), (batch, patch, sample, channel), 0 if invalid.
        valid: The same shape.
        level: Amplitude and level that standardisation removed, (batch, patch, channel, 2).
        memory: What the front end has kept of the chunks before.
    """

    x: Tensor
    valid: Tensor
    level: Tensor
    memory: Memory = NOTHING


class FrontEnd(Protocol):
    """Turns each channel on its own into features, (batch, patch, channel, width)."""

    def __call__(self, signal: Standardised) -> Tensor: ...


class Tokenised(NamedTuple):
    """Tokens, and what the read-out heads need to speak about the same channels.

    Attributes:
        tokens: The sequence.
        units: Unit vectors before the first token and after each, (batch or 1, token + 1 or 1,
            channel, unit).
        x: The input with 0 at masked entries, (batch, time, channel).
        valid: The full mask, (batch, time, channel).
        size: Samples per token.
        known: Seconds at which the unit vectors after each patch are known, (batch, patch); None:
            at the times of the tokens.
    """

    tokens: Tokens
    units: Tensor
    x: Tensor
    valid: Tensor
    size: int
    known: Tensor | None = None


class ChannelSetTokenizer(nn.Module):
    """Front end per channel, then a pool over the set of channels.

    Args:
        modality: Name used in messages.
        front: Features per channel; reads samples of its own and earlier patches only.
        d_model: Width of the tokens.
        width: Width of the features.
        unit_dim: Width of the unit vectors.
        size: Samples per patch.
        sampling_rate: Samples per second, or None: times are then in samples.
        dropout: Dropout on the tokens.
        counts: Spike counts: not standardised, checked to be >= 0.
    """

    def __init__(
        self,
        modality: str,
        front: nn.Module,
        *,
        d_model: int,
        width: int,
        unit_dim: int,
        size: int,
        sampling_rate: float | None,
        dropout: float,
        counts: bool = False,
    ) -> None:
        super().__init__()
        self.modality = modality
        self.size = size
        self.sampling_rate = sampling_rate
        self.counts = counts
        self.front = front
        self.normalizer = None if counts else CausalNormalizer()
        self.units = UnitEmbedding(unit_dim)
        self.pool = ChannelPool(width, unit_dim, d_model)
        self.dropout = nn.Dropout(dropout)

    def extra_repr(self) -> str:
        """Sizes for `repr`."""
        return f"{self.modality}, patch={self.size} samples, sampling_rate={self.sampling_rate}"

    def calibrate(self, x: Tensor, units: Sequence[str], mask: Tensor | None) -> None:
        """Fixes mean and deviation of named channels."""
        if self.normalizer is None:
            raise ValueError(f"{self.modality}: counts are not standardised, nothing to calibrate")
        self.normalizer.calibrate(self.modality, x, units, mask)

    def forward(
        self,
        x: Tensor,
        *,
        units: Sequence[str] | None,
        mask: Tensor | None,
        times: Tensor | None,
        coords: Tensor | None,
        rate: float | None = None,
    ) -> Tokenised:
        """Tokens of `x`; `rate` stands in where the tokenizer was built without one."""
        samples = self._checked(x, mask, times, rate, NOTHING)
        return self._tokenised(samples, units, coords, NOTHING)

    def init_state(self, batch: int, channels: int) -> TokenizerState:
        """The state before the first sample."""
        return first_state(self.pool.out.weight, batch, channels)

    def advance(
        self,
        x: Tensor,
        state: TokenizerState,
        *,
        units: Sequence[str] | None,
        mask: Tensor | None,
        times: Tensor | None,
        coords: Tensor | None,
        rate: float | None = None,
    ) -> tuple[Tokenised, TokenizerState]:
        """Tokens of the patches that the chunk completes; the other samples wait in the state."""
        memory = Memory(state.memory)
        new = self._checked(x, mask, times, rate, memory)
        whole, waiting = split_waiting(waiting_and_new(self.modality, state, new), self.size)
        tokenised = self._tokenised(whole, units, coords, memory)
        return tokenised, TokenizerState({**state.memory, **memory.after}, *waiting)

    def skip(
        self,
        n: int,
        state: TokenizerState,
        *,
        units: Sequence[str] | None,
        coords: Tensor | None,
        rate: float | None = None,
    ) -> tuple[Tokenised, TokenizerState]:
        """Like `advance` with `n` masked samples, at a cost that does not grow with `n`."""
        x, state = long_gap(n, self.size, state)
        mask = torch.zeros_like(x, dtype=torch.bool)
        return self.advance(x, state, units=units, mask=mask, times=None, coords=coords, rate=rate)

    def _checked(
        self,
        x: Tensor,
        mask: Tensor | None,
        times: Tensor | None,
        rate: float | None,
        memory: Memory,
    ) -> Samples:
        return checked_samples(
            self.modality,
            x,
            mask,
            times,
            rate=self.sampling_rate or rate or 1.0,
            dtype=self.pool.out.weight.dtype,
            counts=self.counts,
            memory=memory,
        )

    def _tokenised(
        self,
        samples: Samples,
        units: Sequence[str] | None,
        coords: Tensor | None,
        memory: Memory,
    ) -> Tokenised:
        x, valid, known = samples
        if not x.shape[1]:
            return self._none(samples)
        at, complete = token_times(known, valid.any(-1), self.size, memory)
        patched = patch_signal(x, valid, self.size)
        vectors = self.units(*patched, units=units, coords=coords, memory=memory.at("units"))
        features = self.front(self._standardised(patched, units, memory))
        after = vectors[:, 1:] if vectors.shape[1] > 1 else vectors
        values = self._pooled(features, after, patched.valid.any(2))
        return Tokenised(Tokens(values, at, complete), vectors, x, valid, self.size)

    def _none(self, samples: Samples) -> Tokenised:
        x, valid, times = samples
        batch, _, channels = x.shape
        tokens = Tokens(
            x.new_zeros(batch, 0, self.pool.out.out_features),
            times,
            torch.zeros_like(times, dtype=torch.bool),
        )
        vectors = x.new_zeros(batch, 0, channels, self.units.dim)
        return Tokenised(tokens, vectors, x, valid, self.size)

    def _standardised(
        self, patched: Patched, units: Sequence[str] | None, memory: Memory
    ) -> Standardised:
        front = memory.at("front")
        if self.normalizer is None:
            batch, patches, _, channels = patched.x.shape
            level = patched.x.new_zeros(batch, patches, channels, 2)
            return Standardised(*patched, level, front)
        z, level = self.normalizer(patched, units, memory.at("normalizer"))
        return Standardised(z, patched.valid, level, front)

    def _pooled(
        self,
        features: Float[Tensor, "batch patch channel width"],
        units: Float[Tensor, "#batch #patch channel unit"],
        valid: Bool[Tensor, "batch patch channel"],
    ) -> Float[Tensor, "batch patch d_model"]:
        tokens: Tensor = self.dropout(self.pool(features, units, valid))
        return tokens


def frames(
    x: Float[Tensor, "batch patch sample channel"], length: int, memory: Memory = NOTHING
) -> Float[Tensor, "batch patch channel frame"]:
    """The `length` samples up to the end of each patch; zeros stand before the first sample."""
    size = x.shape[2]
    flat = x.flatten(1, 2).transpose(1, 2)
    padded = memory.extend("frames", flat, max(length - size, 0), dim=-1)
    return padded.unfold(-1, max(length, size), size)[..., -length:].transpose(1, 2)
