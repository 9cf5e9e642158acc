"""Which rows of a batch belong together, as runs of sorted lists instead of a square mask."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from neuros_neurofm.losses._likelihood import at_least_float32

__all__: list[str] = []

# Columns whose running sums are held at once; chosen by the time in bench_contrastive.py.
_COLUMNS = 64


class Runs(NamedTuple):
    """A mutual relation: row `order[p]` belongs to the rows at `start[p]:stop[p]` of `order`."""

    order: Int[Tensor, " batch"]
    start: Int[Tensor, " batch"]
    stop: Int[Tensor, " batch"]
    sign: int

    def sum_over(self, x: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch feature"]:
        """Signed sum of the related rows, for every row."""
        in_order = x[self.order]
        for column in range(0, x.shape[1], _COLUMNS):
            part = in_order[:, column : column + _COLUMNS]
            # Differences of running sums lose digits in float32.
            sums = x.new_zeros(len(x) + 1, part.shape[1], dtype=torch.float64)
            torch.cumsum(part, 0, dtype=sums.dtype, out=sums[1:])
            part.copy_(sums[self.stop].sub_(sums[self.start]).mul_(self.sign))
        return torch.empty_like(x).index_copy_(0, self.order, in_order)

    def sizes(self) -> Int[Tensor, " batch"]:
        """Signed number of the related rows, for every row."""
        counts = self.sign * (self.stop - self.start)
        return torch.empty_like(counts).index_copy_(0, self.order, counts)


class Positives(NamedTuple):
    """The rows that belong to each row, itself included; no runs: itself alone."""

    runs: tuple[Runs, ...]

    def sum_over(self, x: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch feature"]:
        """Sum of the rows that belong to each row."""
        if not self.runs:
            return x
        first, *others = (run.sum_over(x) for run in self.runs)
        for other in others:
            first.add_(other)
        return first

    def shares(self, like: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch 1"]:
        """One over the number of rows that belong to each row."""
        if not self.runs:
            return like.new_ones(len(like), 1)
        counts = torch.stack([run.sizes() for run in self.runs]).sum(0)
        return counts.to(like.dtype).reciprocal().unsqueeze(1)


class _Neighbours(NamedTuple):
    """Place of every row's time among the sorted times, and of the times in its window."""

    place: Int[Tensor, " batch"]
    first: Int[Tensor, " batch"]
    beyond: Int[Tensor, " batch"]
    unknown: Bool[Tensor, " batch"]


def find_positives(
    times: Num[Tensor, " batch"] | None,
    stimuli: Num[Tensor, " batch"] | None,
    sessions: Num[Tensor, " batch"] | None,
    window: float,
) -> Positives:
    """Rows of one stimulus, and rows of one session at most `window` apart."""
    runs = []
    same_stimulus = None if stimuli is None else _groups(stimuli)
    if same_stimulus is not None:
        runs.append(_runs_of_groups(same_stimulus))
    if times is not None:
        near = _neighbours(times, window)
        group = torch.zeros_like(near.place) if sessions is None else _groups(sessions)
        runs.append(_runs_of_neighbours(group, near, 1))
        if same_stimulus is not None:
            # Rows related by both were counted twice.
            both = group * (2 * len(group)) + same_stimulus
            runs.append(_runs_of_neighbours(both, near, -1))
    return Positives(tuple(runs))


def _comparable(x: Num[Tensor, " batch"]) -> Num[Tensor, " batch"]:
    """Ids or times in a type that can be searched; whole numbers keep all digits."""
    return at_least_float32(x) if x.is_floating_point() else x.long()


def _groups(ids: Num[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """A number below twice the batch, equal for equal ids; a NaN equals nothing."""
    unknown = ids.isnan()
    known = torch.where(unknown, 0, _comparable(ids))
    return _apart(torch.searchsorted(known.sort().values, known), unknown)


def _apart(group: Int[Tensor, " batch"], unknown: Bool[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """Groups, numbered below the batch, in which every unknown row is alone."""
    alone = torch.arange(len(group), device=group.device) + len(group)
    return torch.where(unknown, alone, group)


def _neighbours(times: Num[Tensor, " batch"], window: float) -> _Neighbours:
    unknown = times.isnan()
    t = torch.where(unknown, 0, _comparable(times))
    in_order = t.sort().values
    place = torch.searchsorted(in_order, t)
    reach = in_order + (window if t.is_floating_point() else int(window))
    beyond = torch.searchsorted(in_order, reach, right=True)
    # The first time whose window reaches this one: so the relation is mutual, however the sum of
    # time and window was rounded.
    first = torch.searchsorted(beyond, place, right=True)
    return _Neighbours(place, first, beyond[place], unknown)


def _runs_of_groups(group: Int[Tensor, " batch"]) -> Runs:
    in_order, order = group.sort()
    start = torch.searchsorted(in_order, in_order)
    return Runs(order, start, torch.searchsorted(in_order, in_order, right=True), 1)


def _runs_of_neighbours(group: Int[Tensor, " batch"], near: _Neighbours, sign: int) -> Runs:
    """Neighbours in time within one group; an unknown time is near no other."""
    base = _apart(_places(group), near.unknown) * (len(group) + 1)
    in_order, order = (base + near.place).sort()
    start = torch.searchsorted(in_order, (base + near.first)[order])
    return Runs(order, start, torch.searchsorted(in_order, (base + near.beyond)[order]), sign)


def _places(group: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """Groups renumbered below the batch."""
    return torch.searchsorted(group.sort().values, group)
