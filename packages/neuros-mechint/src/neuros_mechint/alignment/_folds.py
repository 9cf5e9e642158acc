"""Which samples are held out together, and which may change places."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["cluster_codes_of", "cluster_folds", "contiguous_folds", "permutation_orders"]

Labels = Sequence[Any] | NDArray[Any] | Tensor


def contiguous_folds(n_samples: int, n_folds: int) -> list[Int[Tensor, "held"]]:
    """Neighbouring samples of each fold; the first folds are the longer ones."""
    return list(torch.arange(n_samples).tensor_split(n_folds))


def cluster_codes_of(
    n_samples: int, groups: Labels | None, block: int | None
) -> Int[Tensor, "sample"] | None:
    """Number of the group of each sample, of its block, or of its block within its group.

    Raises:
        ValueError: When labels do not fit the samples.
    """
    codes = None if groups is None else _codes(groups, n_samples)
    if block is None:
        return codes
    if codes is None:
        return torch.arange(n_samples) // block
    place = torch.zeros(n_samples, dtype=torch.long)
    for group in range(int(codes.max()) + 1):
        of_group = codes == group
        place[of_group] = torch.arange(int(of_group.sum())) // block
    pairs = codes * (int(place.max()) + 1) + place
    return _codes(pairs, n_samples)


def cluster_folds(codes: Int[Tensor, "sample"], n_folds: int) -> list[Int[Tensor, "held"]]:
    """Whole clusters dealt to the folds: the largest first, each to the smallest fold so far.

    Raises:
        ValueError: When there are fewer clusters than folds.
    """
    sizes = torch.bincount(codes)
    if len(sizes) < n_folds:
        raise ValueError(
            f"cv={n_folds} folds need as many groups or blocks, got {len(sizes)}; lower cv, or "
            "pass finer ones"
        )
    fold_of = torch.zeros(len(sizes), dtype=torch.long)
    filled = torch.zeros(n_folds, dtype=torch.long)
    for cluster in sizes.argsort(descending=True, stable=True):
        fold = filled.argmin()
        fold_of[cluster] = fold
        filled[fold] += sizes[cluster]
    return [(fold_of[codes] == fold).nonzero()[:, 0] for fold in range(n_folds)]


def permutation_orders(
    n_samples: int,
    n_perm: int,
    *,
    groups: Labels | None,
    block: int | None,
    generator: torch.Generator | None,
) -> Int[Tensor, "perm sample"]:
    """Orders that move samples within their group only, and blocks of neighbours as a whole.

    Raises:
        ValueError: When nothing can change places.
    """
    codes = (
        torch.zeros(n_samples, dtype=torch.long) if groups is None else _codes(groups, n_samples)
    )
    parts = [(codes == group).nonzero()[:, 0] for group in range(int(codes.max()) + 1)]
    step = block or 1
    pieces = [[part[k : k + step] for k in range(0, len(part), step)] for part in parts]
    if max(len(piece) for piece in pieces) < 2:
        raise ValueError(
            "nothing can change places: every group holds a single sample or block; pass larger "
            "groups or a smaller block"
        )
    orders = torch.empty(n_perm, n_samples, dtype=torch.long)
    for part, piece in zip(parts, pieces, strict=True):
        # NumPy sorts short rows six times as fast; float64 keys do not tie.
        keys = torch.rand(n_perm, len(piece), generator=generator, dtype=torch.float64)
        shuffled = torch.from_numpy(keys.numpy().argsort(-1))
        if block is None:
            orders[:, part] = part[shuffled]
            continue
        for row, order in enumerate(shuffled.tolist()):
            orders[row, part] = torch.cat([piece[k] for k in order])
    return orders


def _codes(groups: Labels, n_samples: int) -> Int[Tensor, "sample"]:
    found = groups.detach().cpu().numpy() if isinstance(groups, Tensor) else np.asarray(groups)
    if found.shape != (n_samples,):
        raise ValueError(
            f"groups needs one label per sample, {n_samples} of them, got shape {found.shape}"
        )
    return torch.from_numpy(np.unique(found, return_inverse=True)[1].astype(np.int64))
