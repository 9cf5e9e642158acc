"""Per-channel standardisation that never looks ahead, or that calibration has fixed."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuros_neurofm.tokenizers._id_table import IdTable, checked_ids
from neuros_neurofm.tokenizers._memory import NOTHING, Memory
from neuros_neurofm.tokenizers._patches import Patched, checked_signal
from neuros_neurofm.tokenizers._statistics import Moments, cumulative_moments

__all__ = ["CausalNormalizer"]

_TINY = 1e-20


class CausalNormalizer(nn.Module):
    """Subtracts the running mean and divides by the running deviation of each channel.

    Each sample is standardised by all valid samples up to the end of its own patch. What that
    removes, the level and the amplitude themselves, is returned beside it. Channels that
    `calibrate` has seen use their stored mean and deviation instead.
    """

    stored: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.table = IdTable()
        self.register_buffer("stored", torch.empty(0, 2))

    def calibrate(
        self, modality: str, x: Tensor, units: Sequence[str], mask: Tensor | None
    ) -> None:
        """Stores mean and deviation of named channels; a second call replaces the first."""
        clean, valid = checked_signal(modality, x, mask, self.stored.dtype)
        checked_ids(units)
        if len(units) != x.shape[-1]:
            raise ValueError(
                f"{modality}: units must name the {x.shape[-1]} channels of x, got {len(units)}"
            )
        # Rows are pieces of one recording: their samples are pooled.
        pooled = Patched(clean.flatten(0, 1)[None, None], valid.flatten(0, 1)[None, None])
        moments = cumulative_moments(*pooled)
        if bool((moments.var == 0).any()):
            empty = [u for u, v in zip(units, moments.var[0, 0].tolist(), strict=True) if v == 0]
            raise ValueError(
                f"{modality}: calibration needs samples that vary, but {empty[:5]} have none; "
                f"leave these channels out"
            )
        values = torch.stack([moments.mean, moments.var.sqrt()], dim=-1)[0, 0]
        rows = self.table.rows(units)
        known = [i for i, row in enumerate(rows) if row >= 0]
        new = [i for i, row in enumerate(rows) if row < 0]
        stored = self.stored.clone()
        stored[[rows[i] for i in known]] = values[known]
        self.table.append([units[i] for i in new])
        self.stored = torch.cat([stored, values[new]])

    def forward(
        self, patched: Patched, units: Sequence[str] | None, memory: Memory = NOTHING
    ) -> tuple[
        Float[Tensor, "batch patch sample channel"], Float[Tensor, "batch patch channel level"]
    ]:
        """The standardised signal (0 where invalid), and amplitude and level per patch."""
        moments = cumulative_moments(patched.x, patched.valid, memory)
        mean, std = moments.mean, (moments.var + _TINY).sqrt()
        reference_mean, reference_std = torch.zeros_like(mean), torch.ones_like(std)
        if units is not None and len(self.table):
            mean, std, reference_mean, reference_std = self._fixed(units, moments)
        z = (patched.x - mean.unsqueeze(2)) / std.unsqueeze(2) * patched.valid
        # Bounded: volts give a constant near -1, standardised data move around 0.
        running = 0.5 * (moments.var + _TINY).log()
        amplitude = (running / 4 - reference_std.log() / 4).tanh()
        level = ((moments.mean - reference_mean) / reference_std).tanh()
        seen = (moments.n > 0).to(z.dtype)
        return z, torch.stack([amplitude * seen, level * seen], dim=-1)

    def _fixed(self, units: Sequence[str], moments: Moments) -> tuple[Tensor, ...]:
        rows = torch.tensor(self.table.rows(units), device=moments.mean.device)
        fixed = rows >= 0
        stored = self.stored[rows.clamp_min(0)]
        mean, std = stored[:, 0], stored[:, 1]
        running = (moments.var + _TINY).sqrt()
        return (
            torch.where(fixed, mean, moments.mean),
            torch.where(fixed, std, running),
            torch.where(fixed, mean, torch.zeros_like(moments.mean)),
            torch.where(fixed, std, torch.ones_like(running)),
        )

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        # Calibration grows the table: a checkpoint decides how many rows there are.
        stored = state_dict.get(f"{prefix}stored")
        if stored is not None and stored.shape[0] != self.stored.shape[0]:
            self.stored = self.stored.new_empty(stored.shape[0], 2)
        super()._load_from_state_dict(state_dict, prefix, *args)
