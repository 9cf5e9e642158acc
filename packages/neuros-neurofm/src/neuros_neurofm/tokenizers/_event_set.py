"""Event tokens: every spike is one token at its own time."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from neuros_neurofm.tokenizers._channel_set import Tokenised
from neuros_neurofm.tokenizers._events import Spikes, spikes_of_counts, whole_counts
from neuros_neurofm.tokenizers._patches import (
    checked_signal,
    patch_signal,
    sample_times,
    token_times,
)
from neuros_neurofm.tokenizers._tokens import Tokens
from neuros_neurofm.tokenizers._units import UnitEmbedding

__all__ = ["EventSetTokenizer"]

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
        dtype = self.spike.dtype
        clean, valid = checked_signal(self.modality, x, mask, dtype, counts=True)
        seen = valid.any(-1)
        step = self.sampling_rate or rate or 1.0
        at = sample_times(self.modality, seen, rate=step, times=times)
        patched = patch_signal(clean, valid, self.size)
        vectors = self.units(*patched, units=units, coords=coords)
        if spikes is None:
            whole_counts(self.modality, clean)
            spikes = spikes_of_counts(clean, at)
        tokens = self._tokens(spikes, valid, vectors)
        known, _ = token_times(at, seen, self.size)
        return Tokenised(tokens, vectors, clean, valid, self.size, known)

    def _tokens(
        self,
        spikes: Spikes,
        valid: Bool[Tensor, "batch time unit"],
        vectors: Float[Tensor, "rows steps unit dim"],
    ) -> Tokens:
        batch = valid.shape[0]
        rows, bins, units, times = _sorted(spikes, valid)
        n = rows.bincount(minlength=batch)
        place = torch.arange(rows.shape[0], device=rows.device) - (n.cumsum(0) - n)[rows]
        # One empty token where no row has a spike: no sequence is without any.
        width = max(1, int(n.max()))
        # Before its own patch is complete a unit is known from the patches before.
        row = rows.clamp_max(vectors.shape[0] - 1)
        step = (bins // self.size).clamp_max(vectors.shape[1] - 1)
        read = self.dropout(self.read(vectors[row, step, units]) + self.spike)
        values = read.new_zeros(batch, width, read.shape[-1]).index_put((rows, place), read)
        at = times.new_full((batch, width), _PADDING_S).index_put((rows, place), times)
        return Tokens(values, at, torch.arange(width, device=rows.device) < n.unsqueeze(-1))


def _sorted(spikes: Spikes, valid: Bool[Tensor, "batch time unit"]) -> Spikes:
    """The spikes in valid bins, by row and time."""
    keep = valid[spikes.rows, spikes.bins, spikes.units]
    kept = Spikes(*(part[keep] for part in spikes))
    by_time = kept.times.argsort(stable=True)
    order = by_time[kept.rows[by_time].argsort(stable=True)]
    return Spikes(*(part[order] for part in kept))
