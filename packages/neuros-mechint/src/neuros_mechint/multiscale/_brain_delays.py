"""Sums over connections of what regions sent some steps ago."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["DelayLine", "Edges", "connected"]


class Edges(NamedTuple):
    """Connections of weight other than zero, ordered by the region that they reach.

    Attributes:
        weights: Weight of each, (edge,).
        delays: Delay of each in steps, (edge,).
        origins: Row that each starts from, (edge,).
        offsets: First edge of each row reached, and the number of edges, (row + 1,).
        depth: How many steps have to be kept.
    """

    weights: Tensor
    delays: Tensor
    origins: Tensor
    offsets: Tensor
    depth: int


def connected(
    weights: Float[Tensor, "to origin"], delays: Int[Tensor, "to origin"], copies: int
) -> Edges:
    """Connections of `copies` quantities that travel along the same weights and delays."""
    n = weights.shape[0]
    to, origin = weights.nonzero(as_tuple=True)
    shift = torch.arange(copies, device=weights.device)[:, None] * n
    counts = torch.bincount(to, minlength=n).repeat(copies)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    reached = delays[to, origin]
    return Edges(
        weights[to, origin].repeat(copies),
        reached.repeat(copies),
        (origin + shift).reshape(-1),
        offsets,
        int(reached.max()) + 1 if len(reached) else 1,
    )


class DelayLine:
    """What was sent in the last steps, in a ring, and its delayed sums.

    Every row is written twice, a ring's length apart, so that the last steps always lie in one
    piece of memory and the connections read from fixed places in it.

    Args:
        edges: The connections.
        past: What every row sent before the first step, (copies, region, set).
    """

    def __init__(self, edges: Edges, past: Float[Tensor, "copies region sets"]) -> None:
        self.edges = edges
        self._shape = past.shape
        self._rows = past.shape[0] * past.shape[1]
        depth = edges.depth
        self._ring = past.reshape(1, self._rows, -1).repeat(2 * depth, 1, 1)
        self._step = 0
        self._places = (depth - 1 - edges.delays) * self._rows + edges.origins

    def send(self, values: Tensor) -> Tensor:
        """The sums (copies, region, set) received in the step that sends these values."""
        depth = self.edges.depth
        slot = self._step % depth
        rows = values.reshape(self._rows, -1)
        self._ring[slot] = rows
        self._ring[slot + depth] = rows
        self._step += 1
        table = self._ring[slot + 1 : slot + 1 + depth].view(depth * self._rows, -1)
        sums: Tensor = torch.nn.functional.embedding_bag(
            self._places,
            table,
            self.edges.offsets,
            mode="sum",
            per_sample_weights=self.edges.weights,
            include_last_offset=True,
        )
        return sums.view(self._shape)

    def snapshot(self) -> tuple[Tensor, int]:
        """A copy of what is kept, to go back to."""
        return self._ring.clone(), self._step

    def restore(self, kept: tuple[Tensor, int]) -> None:
        """Go back to a snapshot."""
        self._ring.copy_(kept[0])
        self._step = kept[1]
