"""Nearest neighbours of batches of points."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["nearest"]


def nearest(
    x: Float[Tensor, "*batch sample feature"], k: int
) -> tuple[Float[Tensor, "*batch sample k"], Int[Tensor, "*batch sample k"]]:
    """Distances to the k nearest other samples, ascending, and their indices."""
    clouds = x.reshape(-1, *x.shape[-2:])
    # One cloud at a time: its distances stay in the cache, those of a batch do not (4x at 16 x
    # 1000 points).
    pairs = [_nearest_of_one(cloud, k) for cloud in clouds]
    shape = (*x.shape[:-1], k)
    distance, found = (torch.stack(side).reshape(shape) for side in zip(*pairs, strict=True))
    return distance, found


def _nearest_of_one(
    x: Float[Tensor, "sample feature"], k: int
) -> tuple[Float[Tensor, "sample k"], Int[Tensor, "sample k"]]:
    centred = x.detach() - x.detach().mean(0)
    # Products choose the neighbours; their distances are then formed from differences. The size
    # of a row's own sample changes no order within the row, so it is left out.
    gap = torch.addmm(centred.square().sum(-1), centred, centred.T, alpha=-2)
    gap.fill_diagonal_(float("inf"))
    if k <= 2:
        # Two passes for the minimum cost less than one selection.
        first = _argmin(gap)
        parts = [first]
        if k == 2:
            parts.append(_argmin(gap.scatter_(-1, first, float("inf"))))
        found = torch.cat(parts, -1)
    else:
        found = gap.topk(k, dim=-1, largest=False).indices
    beside = x.index_select(0, found.flatten()).reshape(*found.shape, x.shape[-1])
    distance, order = (beside - x.unsqueeze(1)).square().sum(-1).sqrt().sort(-1)
    return distance, found.gather(-1, order)


def _argmin(gap: Float[Tensor, "sample other"]) -> Int[Tensor, "sample one"]:
    # NumPy's search along a row is vectorised where that of torch is not.
    if gap.is_cuda:
        return gap.argmin(-1, keepdim=True)
    return torch.as_tensor(gap.numpy().argmin(-1)).unsqueeze(-1)
