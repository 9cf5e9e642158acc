"""Learned vectors of named channels, and vectors inferred from the data of unnamed ones."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from neuros_neurofm.ops._rms_norm import rms_norm
from neuros_neurofm.tokenizers._id_table import IdTable, checked_ids
from neuros_neurofm.tokenizers._memory import NOTHING, Memory
from neuros_neurofm.tokenizers._patches import checked_signal
from neuros_neurofm.tokenizers._statistics import N_STATISTICS, unit_statistics

__all__ = ["UnitEmbedding"]

_N_COORDS = 3


class UnitEmbedding(nn.Module):
    """One vector per channel: learned where the id is known, inferred from its data otherwise.

    The inferred vector is a function of label-free statistics of the channel (level, spread, Fano
    factor, autocorrelation at eight octave lags, amount of data, optional coordinates), cumulative
    up to the current patch. A new session therefore runs at once, and `extend` starts its units
    from that value. In training a call uses the inferred vectors for all channels with probability
    `id_dropout`, so that the inference is trained although every training unit has an id.

    Args:
        dim: Length of the vectors.
        id_dropout: Probability, per training call, of treating every id as unknown.

    Examples:
        >>> units = UnitEmbedding(8)
        >>> units.extend(["probe0/1", "probe0/2"])
        >>> units.ids, units.subset(["probe0/2"]).shape
        (('probe0/1', 'probe0/2'), torch.Size([1, 8]))
    """

    def __init__(self, dim: int, *, id_dropout: float = 0.1) -> None:
        super().__init__()
        if not 0.0 <= id_dropout <= 1.0:
            raise ValueError(f"id_dropout must be a probability in [0, 1], got {id_dropout}")
        self.dim = dim
        self.id_dropout = id_dropout
        self.table = IdTable()
        self.weight = nn.Parameter(torch.empty(0, dim))
        self.infer = nn.Sequential(
            nn.Linear(N_STATISTICS + _N_COORDS + 1, dim),
            nn.GELU(),
            nn.Linear(dim, dim),
        )

    @property
    def ids(self) -> tuple[str, ...]:
        """Known ids, in the order of the rows of `weight`."""
        return self.table.ids

    def extra_repr(self) -> str:
        """Sizes for `repr`."""
        return f"dim={self.dim}, n_ids={len(self.table)}, id_dropout={self.id_dropout}"

    def extend(
        self,
        ids: Sequence[str],
        x: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        coords: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Adds learned vectors for new ids; `weight` becomes a new parameter.

        Call it before the optimiser is built, or rebuild the optimiser.

        Args:
            ids: New, unique ids.
            x: Recording of these channels, (batch, time, channel): the vectors then start from
                their inferred value, averaged over rows. Without it they start from unit noise.
            mask: True = valid, broadcastable to `x`.
            coords: Positions in metres, (channel, 3).
            generator: Source of the noise.

        Raises:
            ValueError: an id is known already or occurs twice, or `x` has another channel count.
        """
        if x is None:
            shape = (len(ids), self.dim)
            fresh = torch.randn(shape, generator=generator).to(self.weight)
        else:
            self._check_ids(ids, x)
            clean, valid = checked_signal("units", x, mask, self.weight.dtype)
            with torch.no_grad():
                seen = self.inferred(clean.unsqueeze(1), valid.unsqueeze(1), coords)
            fresh = seen[:, -1].mean(0)
        self.table.append(ids)
        trainable = self.weight.requires_grad
        weight = torch.cat([self.weight.detach(), fresh.detach()])
        self.weight = nn.Parameter(weight, requires_grad=trainable)

    def subset(self, ids: Sequence[str]) -> Tensor:
        """Learned vectors of `ids`, (id, dim).

        Raises:
            KeyError: an id is unknown.
        """
        rows = self.table.rows(ids)
        unknown = [name for name, row in zip(ids, rows, strict=True) if row < 0]
        if unknown:
            raise KeyError(f"unknown units {unknown[:5]}; add them with extend()")
        return self.weight[rows]

    def inferred(
        self,
        x: Float[Tensor, "batch patch sample channel"],
        valid: Bool[Tensor, "batch patch sample channel"],
        coords: Tensor | None = None,
        memory: Memory = NOTHING,
    ) -> Float[Tensor, "batch patches channel dim"]:
        """Vectors from the data alone: before the first patch, then after each patch."""
        statistics = unit_statistics(x, valid, memory)
        place = statistics.new_zeros(*statistics.shape[:-1], _N_COORDS + 1)
        if coords is not None:
            place[..., :_N_COORDS] = _checked_coords(coords, x.shape[-1]).to(place)
            place[..., _N_COORDS] = 1.0
        return rms_norm(self.infer(torch.cat([statistics, place], dim=-1)), 1e-6)

    def forward(
        self,
        x: Float[Tensor, "batch patch sample channel"],
        valid: Bool[Tensor, "batch patch sample channel"],
        *,
        units: Sequence[str] | None = None,
        coords: Tensor | None = None,
        memory: Memory = NOTHING,
    ) -> Float[Tensor, "rows steps channel dim"]:
        """Vectors of the channels before the first patch and after each patch.

        The two leading axes have length 1 where every id is known: the vectors are then the same
        for all rows and patches.
        """
        rows = [-1] * x.shape[-1] if units is None else self._rows(units, x)
        if self.training and self.id_dropout and torch.rand(()) < self.id_dropout:
            rows = [-1] * len(rows)
        if min(rows) >= 0:
            return self.weight[rows][None, None]
        inferred = self.inferred(x, valid, coords, memory)
        if max(rows) < 0:
            return inferred
        known = torch.tensor(rows, device=x.device)
        learned = self.weight[known.clamp_min(0)]
        return torch.where((known >= 0).unsqueeze(-1), learned.to(inferred.dtype), inferred)

    def _rows(self, units: Sequence[str], x: Tensor) -> list[int]:
        self._check_ids(units, x)
        return self.table.rows(units)

    def _check_ids(self, units: Sequence[str], x: Tensor) -> None:
        checked_ids(units)
        if len(units) != x.shape[-1]:
            raise ValueError(f"units must name the {x.shape[-1]} channels of x, got {len(units)}")

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        # The table grows: a checkpoint decides how many rows there are.
        stored = state_dict.get(f"{prefix}weight")
        if stored is not None and stored.shape[0] != self.weight.shape[0]:
            fresh = self.weight.new_empty(stored.shape[0], self.dim)
            self.weight = nn.Parameter(fresh, requires_grad=self.weight.requires_grad)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _checked_coords(coords: Tensor, channels: int) -> Tensor:
    if coords.shape != (channels, _N_COORDS) or not bool(torch.isfinite(coords).all()):
        raise ValueError(
            f"coords must be finite positions ({channels}, 3) in metres, got {tuple(coords.shape)}"
        )
    return coords
