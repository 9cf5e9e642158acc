"""Searches for the segmentation of least penalised cost."""

import torch
from jaxtyping import Float64
from torch import Tensor

from neuros_mechint.dynamics._change_costs import Cost

__all__ = ["binary_segmentation", "pruned_partition"]


def pruned_partition(
    cost: Cost, penalty: Float64[Tensor, "series"], n: int, min_size: int
) -> list[list[int]]:
    """Least sum of costs plus the penalty of every change, exactly; starts no optimum can have go.

    All series advance together; a start goes when no series can use it any more.
    """
    best = torch.full((len(penalty), n + 1), torch.inf, dtype=penalty.dtype, device=penalty.device)
    best[:, 0] = -penalty
    before = torch.zeros(len(penalty), n + 1, dtype=torch.int64, device=penalty.device)
    starts = torch.zeros(0, dtype=torch.int64, device=penalty.device)
    leaves: list[tuple[int, Tensor]] = []
    for end in range(min_size, n + 1):
        new = end - min_size
        if new == 0 or new >= min_size:
            starts = torch.cat([starts, torch.tensor([new], device=penalty.device)])
        costs = cost(starts, torch.full_like(starts, end))
        total = best[:, starts] + costs + penalty[:, None]
        best[:, end], place = total.min(dim=1)
        before[:, end] = starts[place]
        # A start is lost once best + cost exceeds the optimum here, from the next whole segment on.
        hopeless = (best[:, starts] + costs > best[:, end, None]).all(0)
        leaves.append((end + min_size, starts[hopeless]))
        if leaves[0][0] <= end + 1:
            starts = starts[~torch.isin(starts, leaves.pop(0)[1])]
    return [_traced(row, n) for row in before.tolist()]


def binary_segmentation(
    cost: Cost, penalty: Float64[Tensor, "series"], n: int, min_size: int
) -> list[list[int]]:
    """Split where the cost falls most, as long as it falls by more than the penalty.

    One series after the other: each is split elsewhere, so the segments of a batch share no shape.
    """
    found: list[list[int]] = []
    for k, charge in enumerate(penalty.tolist()):
        points: list[int] = []
        segments = [(0, n)]
        while segments:
            start, end = segments.pop()
            if end - start < 2 * min_size:
                continue
            middle = torch.arange(start + min_size, end - min_size + 1, device=penalty.device)
            low, high = torch.full_like(middle, start), torch.full_like(middle, end)
            whole = cost(low[:1], high[:1])[k]
            gain = whole - cost(low, middle)[k] - cost(middle, high)[k]
            if float(gain.max()) > charge:
                point = int(middle[gain.argmax()])
                points.append(point)
                segments += [(start, point), (point, end)]
        found.append(sorted(points))
    return found


def _traced(before: list[int], n: int) -> list[int]:
    points = []
    end = before[n]
    while end > 0:
        points.append(end)
        end = before[end]
    return points[::-1]
