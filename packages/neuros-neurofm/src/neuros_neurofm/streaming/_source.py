"""One modality of a stream: what has arrived of it, and what coming steps still need."""

from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from neuros_neurofm.models._inputs import ModalityInput
from neuros_neurofm.models._options import Tokenizer
from neuros_neurofm.tokenizers import Tokens
from neuros_neurofm.tokenizers._channel_set import Tokenised
from neuros_neurofm.tokenizers._event_set import EventSetTokenizer, newer_events
from neuros_neurofm.tokenizers._events import bin_events
from neuros_neurofm.tokenizers._samples import TokenizerState

__all__ = ["Arrived", "Reader", "Source"]

# In steps of the grid: the rounding of t / step, far below any sampling interval.
_TOLERANCE = 1e-6
# In seconds: how far the windows of the fusion round.
_TOLERANCE_S = 1e-7


class Arrived(NamedTuple):
    """Samples of steps that are not complete yet.

    Attributes:
        at: Seconds at which they were known, (time,), float64.
        x: (batch, time, channel), 0 where masked.
        valid: The same shape.
    """

    at: Tensor
    x: Tensor
    valid: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """State of one modality.

    Attributes:
        state: State of the tokenizer.
        tokens: Tokens that windows of coming steps may see, modality vector added.
        vectors: Unit vectors before the first of these tokens and after each, or one set.
        arrived: Samples of steps that are not complete yet.
        last: What the forecast continues: last values, or sums and numbers of counts,
            (batch, channel, 2), float64.
        received: Samples since the start of the stream, missing ones included (equal intervals).
        clock: Time of the newest sample in seconds.
        known: Seconds at which the unit vectors after each patch were known, (batch, patch).
        exact: Spikes with times of their own, as tokens: one of the next bin may come at its start.
        regular: Sampled at equal intervals.
        present: In the stream; False after it has left.
        lagged: Was taken out of the stream because its samples were overdue.
        units: Channel ids.
        coords: Positions of the channels.
    """

    state: TokenizerState
    tokens: Tokens
    vectors: Tensor
    known: Tensor
    arrived: Arrived
    last: Tensor
    received: int
    clock: float
    exact: bool
    regular: bool
    present: bool
    lagged: bool
    units: tuple[str, ...] | None
    coords: Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """What reads one modality: the same for all chunks.

    Attributes:
        name: Name of the modality.
        tokenizer: Its tokenizer.
        vector: Its modality vector.
        rate: Samples per second.
        step: Seconds per step of the grid.
    """

    name: str
    tokenizer: Tokenizer
    vector: Tensor
    rate: float
    step: float

    @property
    def reach(self) -> float:
        """Seconds of the past that a latent sees of this modality."""
        return 2 * max(self.step, self.tokenizer.core.size / self.rate)

    def exact(self, stream: ModalityInput) -> bool:
        """Whether the tokens of a chunk are at times within its bins."""
        return stream.events is not None and isinstance(self.tokenizer.core, EventSetTokenizer)

    def join(self, stream: ModalityInput, x: Tensor, *, regular: bool) -> Source:
        """The state before the first sample."""
        core = self.tokenizer.core
        batch, _, channels = x.shape
        none = x.new_zeros(batch, 1, core.size, channels, dtype=self.vector.dtype)
        units = None if stream.units is None else tuple(stream.units)
        before = core.units(none, none.bool(), units=units, coords=stream.coords)[:, :1]
        state = self.tokenizer.init_state(batch, channels)
        empty = state.times
        return Source(
            state=state,
            tokens=Tokens(
                empty.new_zeros(batch, 0, len(self.vector), dtype=self.vector.dtype),
                empty,
                empty.bool(),
            ),
            vectors=before,
            known=empty,
            arrived=Arrived(empty[0], state.x, state.valid),
            last=empty.new_zeros(batch, channels, 2),
            received=0,
            clock=0.0,
            exact=self.exact(stream),
            regular=regular,
            present=True,
            lagged=False,
            units=units,
            coords=stream.coords,
        )

    def read(self, source: Source, stream: ModalityInput, x: Tensor, start: int) -> Source:
        """The state after a chunk; `start` is the index of its first sample (equal intervals)."""
        if source.regular and start > source.received:
            source = self._pass_over(source, start - source.received)
        tokenised, state = self._advance(source, stream, x)
        n = x.shape[1]
        if stream.times is None:
            index = torch.arange(source.received + 1, source.received + n + 1, device=x.device)
            at = index.to(torch.float64) / self.rate
        else:
            at = stream.times.to(source.arrived.at)
        valid = torch.ones_like(x, dtype=torch.bool) if stream.mask is None else stream.mask
        clean = torch.where(valid, x, torch.zeros_like(x)).to(source.arrived.x)
        arrived = zip(source.arrived, (at, clean, valid), (0, 1, 1), strict=True)
        source = self._remember(source, tokenised, state)
        return replace(
            source,
            arrived=Arrived(*(torch.cat([old, new], axis) for old, new, axis in arrived)),
            received=source.received + n,
            clock=float(at[-1]),
            present=True,
            lagged=False,
        )

    def leave(self, source: Source) -> Source:
        """The state without any further sample: the patch in progress ends with what it has."""
        waiting = source.state.x.shape[1]
        n = -waiting % self.tokenizer.core.size
        if not waiting:
            return replace(source, present=False)
        if source.regular:
            return replace(self._pass_over(source, n), present=False)
        x = source.state.x.new_zeros(source.state.x.shape[0], n, source.state.x.shape[2])
        mask, times = torch.zeros_like(x, dtype=torch.bool), x.new_zeros(n)
        rest = ModalityInput(x, None, None, mask, times, None)
        tokenised, state = self._advance(source, rest, x)
        return replace(self._remember(source, tokenised, state), present=False)

    def _pass_over(self, source: Source, n: int) -> Source:
        tokenised, state = self.tokenizer.core.skip(
            n, source.state, units=source.units, coords=source.coords, rate=self.rate
        )
        source = self._remember(source, tokenised, state)
        return replace(source, received=source.received + n)

    def _advance(
        self, source: Source, stream: ModalityInput, x: Tensor
    ) -> tuple[Tokenised, TokenizerState]:
        core = self.tokenizer.core
        advance = core.advance
        if stream.events is not None and isinstance(core, EventSetTokenizer):
            _, spikes = bin_events(self.name, stream.events, self.rate)
            times = spikes.times + source.received / self.rate
            advance = partial(core.advance, spikes=spikes._replace(times=times))
        return advance(
            x,
            source.state,
            units=source.units,
            mask=stream.mask,
            times=stream.times,
            coords=source.coords,
            rate=self.rate,
        )

    def _remember(self, source: Source, found: Tokenised, state: TokenizerState) -> Source:
        new = found.tokens._replace(values=found.tokens.values + self.vector)
        tokens = Tokens(*(torch.cat(pair, 1) for pair in zip(source.tokens, new, strict=True)))
        if isinstance(self.tokenizer.core, EventSetTokenizer):
            tokens = newer_events(tokens, -torch.inf)
        known = new.times if found.known is None else found.known
        if not known.shape[1]:
            return replace(source, state=state, tokens=tokens)
        vectors = found.units
        if vectors.shape[1] > 1:
            vectors = torch.cat([source.vectors, vectors[:, 1:]], 1)
        known = torch.cat([source.known, known], 1)
        return replace(source, state=state, tokens=tokens, vectors=vectors, known=known)

    def reached(self, source: Source) -> float:
        """Seconds up to which the samples have arrived."""
        return source.received / self.rate if source.regular else source.clock

    def due(self, source: Source) -> float:
        """Seconds at which the next sample is due, or may come."""
        if not source.regular:
            return source.clock
        return (source.received + (not source.exact)) / self.rate

    def has_passed(self, source: Source, tau: float) -> bool:
        """Whether no sample or token that a step ending at `tau` rests on can still come."""
        tau += max(_TOLERANCE_S, _TOLERANCE * self.step)
        if self.due(source) <= tau:
            return False
        if not source.state.x.shape[1]:
            return True
        # If the rest of the patch in progress is masked, its token is that of its last sample.
        seen = source.state.valid.any(-1)
        last = torch.where(seen, source.state.times, -torch.inf).amax(1)
        return not bool((seen.any(1) & (last <= tau)).any())

    def window(self, source: Source, tau: float) -> Tokens:
        """The tokens that the latent at `tau` may see, and few others."""
        times = source.tokens.times
        start = int((times <= tau - self.reach).all(0).sum())
        stop = int((times <= tau + _TOLERANCE_S).any(0).sum())
        return Tokens(*(part[:, start : max(start, stop)] for part in source.tokens))

    def vectors_at(self, source: Source, tau: float) -> Tensor:
        """Unit vectors as known at `tau`, (batch or 1, 1, channel, unit)."""
        if source.vectors.shape[1] == 1:
            return source.vectors
        index = (source.known <= tau + _TOLERANCE * self.step).sum(1)
        return source.vectors[torch.arange(len(index), device=index.device), index].unsqueeze(1)

    def take(self, source: Source, number: int) -> tuple[Tensor, Source]:
        """Phases of the samples of step `number`, (1, time), and the state without them."""
        steps = source.arrived.at / self.step
        n = int((((steps - _TOLERANCE).ceil() - 1) <= number).sum())
        phase = (steps[:n] - number).clamp(0.0, 1.0).float().unsqueeze(0)
        at, x, valid = source.arrived
        last = self.continued(source.last, x[:, :n], valid[:, :n]) if n else source.last
        return phase, replace(source, arrived=Arrived(at[n:], x[:, n:], valid[:, n:]), last=last)

    def continued(self, last: Tensor, x: Tensor, valid: Tensor) -> Tensor:
        """What the forecast continues, after further samples (0 where masked)."""
        if self.name == "spike":
            return last + torch.stack([x.sum(1), valid.sum(1)], -1)
        newest = valid.flip(1).to(torch.uint8).argmax(1, keepdim=True)
        value = x.flip(1).gather(1, newest).squeeze(1).to(last)
        now = torch.where(valid.any(1), value, last[..., 0])
        return torch.stack([now, last[..., 1]], -1)

    def last_value(self, last: Tensor) -> Tensor:
        """Last values, or logarithms of mean counts, (batch, channel)."""
        value, n = last.unbind(-1)
        if self.name == "spike":
            value = ((value + 0.1) / (n + 1.0)).log()
        return value.to(self.vector.dtype)

    def forget(self, source: Source, tau: float) -> Source:
        """The state without the tokens that no step after `tau` sees."""
        oldest = tau + self.step - self.reach
        if isinstance(self.tokenizer.core, EventSetTokenizer):
            tokens = newer_events(source.tokens, oldest)
        else:
            n = int((source.tokens.times <= oldest).all(0).sum())
            # Copies: a view would keep all that has ever been pushed alive.
            tokens = Tokens(*(part[:, n:].clone() for part in source.tokens))
        n = int((source.known <= oldest).all(0).sum())
        vectors = source.vectors if source.vectors.shape[1] == 1 else source.vectors[:, n:].clone()
        arrived = Arrived(*(part.clone() for part in source.arrived))
        known = source.known[:, n:].clone()
        return replace(source, tokens=tokens, vectors=vectors, known=known, arrived=arrived)
