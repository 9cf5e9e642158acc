"""Event tokens: every spike is one token at its own time."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from neuros_neurofm.tokenizers._channel_set import Tokenised
from neuros_neurofm.tokenizers._events import Spikes, spikes_of_counts, whole_counts
from neuros_neurofm.tokenizers._memory import NOTHING, Memory
from neuros_neurofm.tokenizers._patches import patch_signal, token_times
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

__all__ = ["EventSetTokenizer", "newer_events"]

# Padding lies where no window of the fusion reaches: as many empty tokens at the end of the window
# would be gathered with the last spikes.
_PADDING_S = 1e9


class EventSetTokenizer(nn.Module):
    r"""Token of a spike of unit u: $W v_u + s$ with the unit vector $v_u$ and a learned value $s$.

    Args:
        modality: Name used in messages.
        d_model: Width of the tokens.
        unit_dim: Width of the unit vectors.
        size: Bins per patch; inferred unit vectors are renewed at the end of each patch.
        sampling_rate: Bins per second, or None: times of counts are then in bins.
        dropout: Dropout on the tokens.
    """

    def __init__(
        self,
        modality: str,
        *,
        d_model: int,
        unit_dim: int,
        size: int,
        sampling_rate: float | None,
        dropout: float,
    ) -> None:
        super().__init__()
        self.modality = modality
        self.size = size
        self.sampling_rate = sampling_rate
        self.units = UnitEmbedding(unit_dim)
        self.read = nn.Linear(unit_dim, d_model, bias=False)
        self.spike = nn.Parameter(torch.randn(d_model))
        self.dropout = nn.Dropout(dropout)

    def extra_repr(self) -> str:
        """Sizes for `repr`."""
        return (
            f"{self.modality} events, patch={self.size} samples, sampling_rate={self.sampling_rate}"
        )

    def calibrate(self, x: Tensor, units: Sequence[str], mask: Tensor | None) -> None:
        """Counts have no mean and deviation to fix."""
        del x, units, mask
        raise ValueError(f"{self.modality}: counts are not standardised, nothing to calibrate")

    def forward(
        self,
        x: Tensor,
        *,
        units: Sequence[str] | None,
        mask: Tensor | None,
        times: Tensor | None,
        coords: Tensor | None,
        rate: float | None = None,
        spikes: Spikes | None = None,
    ) -> Tokenised:
        """Tokens of the counts `x`, at the times of `spikes` or else at the ends of the bins."""
        samples = self._checked(x, mask, times, rate, NOTHING)
        vectors, known = self._vectors(samples, units, coords, NOTHING)
        tokens = self._tokens(samples, spikes, vectors)
        return Tokenised(tokens, vectors, samples.x, samples.valid, self.size, known)

    def init_state(self, batch: int, channels: int) -> TokenizerState:
        """The state before the first bin."""
        return first_state(self.spike, batch, channels)

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
        spikes: Spikes | None = None,
    ) -> tuple[Tokenised, TokenizerState]:
        """Tokens of the spikes of the chunk; the bins of a patch in progress wait in the state.

        They wait for the statistics that the spikes of later patches are read with. The bins of
        `spikes` are those of the chunk, their times those of the stream.
        """
        memory = Memory(state.memory)
        new = self._checked(x, mask, times, rate, memory)
        whole, waiting = split_waiting(waiting_and_new(self.modality, state, new), self.size)
        vectors, known = self._vectors(whole, units, coords, memory)
        tokens = self._tokens(new, spikes, vectors, waiting=state.x.shape[1])
        kept = {**state.memory, **memory.after, "vectors": vectors[:, -1:].clone()}
        tokenised = Tokenised(tokens, vectors, whole.x, whole.valid, self.size, known)
        return tokenised, TokenizerState(kept, *waiting)

    def skip(
        self,
        n: int,
        state: TokenizerState,
        *,
        units: Sequence[str] | None,
        coords: Tensor | None,
        rate: float | None = None,
    ) -> tuple[Tokenised, TokenizerState]:
        """Like `advance` with `n` masked bins, at a cost that does not grow with `n`."""
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
            dtype=self.spike.dtype,
            counts=True,
            memory=memory,
        )

    def _vectors(
        self,
        samples: Samples,
        units: Sequence[str] | None,
        coords: Tensor | None,
        memory: Memory,
    ) -> tuple[Tensor, Tensor]:
        """Unit vectors before the first patch and after each, and when these are known."""
        x, valid, at = samples
        if x.shape[1]:
            known, _ = token_times(at, valid.any(-1), self.size, memory)
            patched = patch_signal(x, valid, self.size)
            inner = memory.at("units")
            return self.units(*patched, units=units, coords=coords, memory=inner), known
        before = None if memory.past is None else memory.past.get("vectors")
        if before is None:
            none = x.new_zeros(x.shape[0], 1, self.size, x.shape[2])
            before = self.units(none, none.bool(), units=units, coords=coords)[:, :1]
        return before, at

    def _tokens(
        self,
        samples: Samples,
        spikes: Spikes | None,
        vectors: Float[Tensor, "rows steps unit dim"],
        *,
        waiting: int = 0,
    ) -> Tokens:
        """One token per spike; `waiting` bins of the first patch lie before the samples."""
        if spikes is None:
            whole_counts(self.modality, samples.x)
            spikes = spikes_of_counts(samples.x, samples.times)
        batch = samples.x.shape[0]
        rows, bins, units, times = _sorted(spikes, samples.valid)
        n = rows.bincount(minlength=batch)
        place = torch.arange(rows.shape[0], device=rows.device) - (n.cumsum(0) - n)[rows]
        # One empty token where no row has a spike: no sequence is without any.
        width = max(1, int(n.max()))
        # Before its own patch is complete a unit is known from the patches before.
        row = rows.clamp_max(vectors.shape[0] - 1)
        step = ((waiting + bins) // self.size).clamp_max(vectors.shape[1] - 1)
        read = self.dropout(self.read(vectors[row, step, units]) + self.spike)
        values = read.new_zeros(batch, width, read.shape[-1]).index_put((rows, place), read)
        at = times.new_full((batch, width), _PADDING_S).index_put((rows, place), times)
        return Tokens(values, at, torch.arange(width, device=rows.device) < n.unsqueeze(-1))


def newer_events(tokens: Tokens, time: float) -> Tokens:
    """The tokens after a time, each row sorted and padded to the longest."""
    keep = tokens.mask & (tokens.times > time)
    times = tokens.times.masked_fill(~keep, _PADDING_S)
    order = times.argsort(dim=1, stable=True)[:, : int(keep.sum(1).max())]
    values = tokens.values.take_along_dim(order.unsqueeze(-1), 1)
    return Tokens(values, times.gather(1, order), keep.gather(1, order))


def _sorted(spikes: Spikes, valid: Bool[Tensor, "batch time unit"]) -> Spikes:
    """The spikes in valid bins, by row and time."""
    keep = valid[spikes.rows, spikes.bins, spikes.units]
    kept = Spikes(*(part[keep] for part in spikes))
    by_time = kept.times.argsort(stable=True)
    order = by_time[kept.rows[by_time].argsort(stable=True)]
    return Spikes(*(part[order] for part in kept))
