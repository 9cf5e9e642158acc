"""Random graphs that keep what a null hypothesis keeps, all rewired at once."""

import math

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

__all__ = ["erdos_nulls", "swapped_nulls"]

# Graphs so dense that nearly every swap is refused still end.
_MOST_ROUNDS_PER_SWAP = 20


def erdos_nulls(
    adjacency: Bool[Tensor, "graph node node"],
    negative: Bool[Tensor, "graph node node"],
    generator: torch.Generator | None,
) -> tuple[Bool[Tensor, "graph node node"], Bool[Tensor, "graph node node"]]:
    """As many edges, as many of them negative, in places drawn uniformly."""
    n = adjacency.shape[-1]
    drawn = torch.rand(adjacency.shape, generator=generator, device=adjacency.device)
    drawn.diagonal(dim1=-2, dim2=-1).fill_(2.0)
    rank = drawn.flatten(1).argsort(dim=1).argsort(dim=1).view(-1, n, n)
    n_edges = adjacency.sum(dim=(-2, -1))[:, None, None]
    n_negative = negative.sum(dim=(-2, -1))[:, None, None]
    return rank < n_edges, rank < n_negative


def swapped_nulls(
    adjacency: Bool[Tensor, "graph node node"],
    negative: Bool[Tensor, "graph node node"],
    n_swaps: int,
    generator: torch.Generator | None,
    *,
    reciprocal: bool,
) -> tuple[Bool[Tensor, "graph node node"], Bool[Tensor, "graph node node"]]:
    """Graphs of the same in- and out-degrees; with `reciprocal` of the same mutual degrees too."""
    if not reciprocal:
        density = float(adjacency.float().mean(dim=(-2, -1)).max())
        slots = _Slots(adjacency, negative, ends_negative=negative)
        _advance(slots, adjacency, n_swaps, density, generator, mirrored=False, flip=False)
        return slots.dense()
    mutual = adjacency & adjacency.mT
    linked = adjacency | adjacency.mT
    density = float(linked.float().mean(dim=(-2, -1)).max())
    single = _Slots(adjacency & ~mutual, negative, ends_negative=negative)
    upper = torch.triu(mutual)
    double = _Slots(upper, negative, ends_negative=negative.mT)
    occupied = linked
    for slots, flip in ((single, False), (double, True)):
        occupied = _advance(slots, occupied, n_swaps, density, generator, mirrored=True, flip=flip)
    # The moved mutual edges change where single ones may go: a second pass mixes the two kinds.
    _advance(single, occupied, n_swaps, density, generator, mirrored=True, flip=False)
    first, first_negative = single.dense()
    there, there_negative = double.dense()
    back, back_negative = double.dense(reverse=True)
    return first | there | back, first_negative | there_negative | back_negative


class _Slots:
    """Edges as places of a list; an end is twice its node, plus 1 where what it sends is < 0."""

    def __init__(
        self,
        edges: Bool[Tensor, "graph node node"],
        negative: Bool[Tensor, "graph node node"],
        ends_negative: Bool[Tensor, "graph node node"],
    ) -> None:
        self.n = edges.shape[-1]
        count = edges.sum(dim=(-2, -1))
        flat = edges.flatten(1)
        # Graphs with fewer edges than the longest are filled up with places that stay empty.
        cells = flat.byte().argsort(dim=1, descending=True, stable=True)[:, : int(count.max())]
        self.real = flat.gather(1, cells)
        source, target = cells // self.n, cells % self.n
        self.source = 2 * source + negative.flatten(1).gather(1, cells).long()
        self.target = 2 * target + ends_negative.flatten(1).gather(1, cells).long()

    def dense(
        self, *, reverse: bool = False
    ) -> tuple[Bool[Tensor, "graph node node"], Bool[Tensor, "graph node node"]]:
        sends, receives = (self.target, self.source) if reverse else (self.source, self.target)
        cell = (sends >> 1) * self.n + (receives >> 1)
        shape = (len(cell), self.n * self.n)
        held = torch.zeros(shape, dtype=torch.int16, device=cell.device)
        edges = held.scatter_add(1, cell, self.real.short()) > 0
        signs = held.scatter_add(1, cell, (self.real & (sends % 2 == 1)).short()) > 0
        return edges.view(-1, self.n, self.n), signs.view(-1, self.n, self.n)


def _advance(
    slots: _Slots,
    occupied: Bool[Tensor, "graph node node"],
    n_swaps: int,
    density: float,
    generator: torch.Generator | None,
    *,
    mirrored: bool,
    flip: bool,
) -> Bool[Tensor, "graph node node"]:
    """Swap partners of the edges, `n_swaps` times each on average; where edges are then."""
    # Half of the pairs are awake; their two cells must be free and untouched by other proposals.
    free = max((1 - density) ** 2 * (1 - density / 2) ** 2 / 2, 1 / _MOST_ROUNDS_PER_SWAP)
    held = torch.triu(occupied) if mirrored else occupied
    cells = held.flatten(1).short()
    if slots.source.shape[1] > 1:
        for _ in range(math.ceil(n_swaps / free)):
            cells = _swap(slots, cells, generator, mirrored=mirrored, flip=flip)
    after = cells.view_as(occupied) > 0
    return after | after.mT if mirrored else after


def _swap(
    slots: _Slots,
    cells: Tensor,
    generator: torch.Generator | None,
    *,
    mirrored: bool,
    flip: bool,
) -> Tensor:
    """Propose a -> b, c -> d to become a -> d, c -> b for half of all random pairs at once.

    A pair goes through when its new cells are free and no other pair's old or new cells are among
    its own four. The four cells are the same seen from the graph after the swaps, so the reverse
    move is as likely and all graphs of the same degrees are equally likely in the end.
    """
    source, target = slots.source, slots.target
    drawn = torch.rand(source.shape, generator=generator, device=source.device)
    order = drawn.argsort(dim=1)
    half = source.shape[1] // 2
    one, two = order[:, :half], order[:, half : 2 * half]
    a, b, c, d = (x.gather(1, i) for i in (one, two) for x in (source, target))
    if flip:
        turn = torch.rand(c.shape, generator=generator, device=c.device) < 0.5
        c, d = torch.where(turn, d, c), torch.where(turn, c, d)

    def cell(x: Tensor, y: Tensor) -> Int64[Tensor, "graph pair"]:
        u, v = x >> 1, y >> 1
        if mirrored:
            u, v = torch.minimum(u, v), torch.maximum(u, v)
        return u * slots.n + v

    old = torch.cat([cell(a, b), cell(c, d)], dim=1)
    new = torch.cat([cell(a, d), cell(c, b)], dim=1)
    # Without pairs that rest, small graphs move in lockstep and never reach all others.
    awake = torch.rand(one.shape, generator=generator, device=source.device) < 0.5
    awake &= slots.real.gather(1, one) & slots.real.gather(1, two)
    weight = awake.repeat(1, 2).short()
    touched = torch.zeros_like(cells).scatter_add(1, old, weight).scatter_add(1, new, weight)
    clear = (touched.gather(1, old) == 1) & (touched.gather(1, new) == 1)
    clear &= cells.gather(1, new) == 0
    loop_free = (a >> 1 != d >> 1) & (c >> 1 != b >> 1)
    accepted = clear[:, :half] & clear[:, half:] & awake & loop_free
    slots.source = source.scatter(1, two, c)
    slots.target = target.scatter(1, one, torch.where(accepted, d, b)).scatter(
        1, two, torch.where(accepted, b, d)
    )
    change = accepted.repeat(1, 2).short()
    return cells.scatter_add(1, new, change).scatter_add(1, old, -change)
